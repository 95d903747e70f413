"""Denoisers on disk, in the layout of diffusers: config.json, safetensors, scheduler_config.json."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hybrid_rs_jax._files import atomic_folder, check_target_folder, kind_of, read_text
from hybrid_rs_jax._json import parse_json
from hybrid_rs_jax.models._hub import checkpoint_folder
from hybrid_rs_jax.models.denoiser.config import UNetConfig
from hybrid_rs_jax.models.denoiser.denoiser import Denoiser
from hybrid_rs_jax.models.denoiser.schedule import Rule, read_rule
from hybrid_rs_jax.models.denoiser.unet import UNet

__all__ = ["fashion_denoiser", "load_denoiser", "save_denoiser", "stored_shapes", "write_folder"]

NETWORK, SCHEDULER = "config.json", "scheduler_config.json"
WEIGHTS, INDEX = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"
#: Names of attention layers in older files.
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack")
FLOATS = ("F64", "F32", "F16", "BF16")


def load_denoiser(path: str | os.PathLike[str], *, dtype: Any = jnp.float32) -> Denoiser:
    """A denoiser `(images, sigma) -> images` with the weights of a folder; units are those of pictures in [0, 1].

    Args:
      path: a folder or a hub id: a pipeline (`model_index.json`, `unet/`, `scheduler/`) or all files side by side.
        Weights are safetensors; no file is unpickled.
      dtype: of weights and computation, float32 or bfloat16; group norms are float32 at any.

    Returns:
      The denoiser.

    Raises:
      ValueError: for what cannot be used. Missing, unknown and misshapen tensors are all named in one error.

    >>> load_denoiser("google/ddpm-cifar10-32")(images, sigma=0.5)  # doctest: +SKIP
    """
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"dtype must be float32 or bfloat16, got {jnp.dtype(dtype)}.")
    folder = checkpoint_folder(path)
    config_file = _first(folder, (f"unet/{NETWORK}", NETWORK))
    rule_file = _first(folder, (f"scheduler/{SCHEDULER}", f"unet/{SCHEDULER}", SCHEDULER))
    config, rule = _settings(config_file, UNetConfig.read), _settings(rule_file, read_rule)
    size = _settings(config_file, _read_size)
    files = _weight_files(config_file.parent)
    network = nnx.eval_shape(lambda: UNet(config, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0)))
    _fill(network, files, config_file.parent)
    return Denoiser(network, rule, _digest(files), size)


def fashion_denoiser() -> Denoiser:
    """The small denoiser that the package brings along: 28 x 28 grey pictures, trained on Fashion-MNIST.

    It is told the very level of the noise, sigma .1 to 1.25; `experiments/train_denoiser.py` trained it.

    Returns:
      The denoiser, float32.

    >>> fashion_denoiser().config.picture_channels
    1
    """
    return load_denoiser(Path(__file__).parent.parent / "weights" / "fashion_denoiser")


def save_denoiser(denoiser: Denoiser, folder: str | os.PathLike[str], *, dtype: Any = np.float32) -> None:
    """Write a folder that `load_denoiser` reads, and diffusers too.

    Args:
      denoiser: its parameters are rounded to `dtype`.
      folder: must not exist, or be empty.
      dtype: of the stored weights: float32 or float16.

    Raises:
      BadInputError: if the folder cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_denoiser(fashion_denoiser(), folder, dtype=np.float16)
    ...     load_denoiser(folder).config.picture_channels
    1
    """
    tensors = {}
    for name, leaf in _leaves(denoiser.functional()[1]):
        axes = _stored_axes(leaf.ndim)
        tensors[_stored_name(name)] = np.asarray(leaf, np.dtype(dtype)).transpose(axes)
    write_folder(Path(folder), denoiser.config, denoiser.rule, tensors, denoiser.size)


def write_folder(
    folder: Path,
    config: UNetConfig,
    rule: Rule,
    tensors: Mapping[str, np.ndarray],
    size: tuple[int, int] | None = None,
) -> None:
    """Write a pipeline of diffusers; tensors have their names and orders of axes on disk."""
    from safetensors.numpy import save_file

    check_target_folder(folder)
    scheduler = rule.write()
    if config.out_channels != config.in_channels:
        scheduler["variance_type"] = "learned_range"
    sides = {} if size is None else {"sample_size": size[0] if size[0] == size[1] else list(size)}
    with atomic_folder(folder) as made:
        for part, content in (
            ("unet/" + NETWORK, config.write() | sides),
            ("scheduler/" + SCHEDULER, scheduler),
            ("model_index.json", _index(rule)),
        ):
            (made / part).parent.mkdir(exist_ok=True)
            (made / part).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        # rows in C order: what is written is the memory behind the array
        contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        save_file(contiguous, made / "unet" / WEIGHTS, {"format": "pt"})
        shutil.copymode(made / "unet" / NETWORK, made / "unet" / WEIGHTS)  # safetensors lets nobody else read it


def stored_shapes(network: UNet) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor on disk."""
    return {
        _stored_name(name): tuple(leaf.shape[axis] for axis in _stored_axes(len(leaf.shape)))
        for name, leaf in _leaves(nnx.state(network, nnx.Param))
    }


def _fill(network: UNet, files: list[Path], folder: Path) -> None:
    """Read every parameter from the files; name everything that does not fit in one error."""
    parameters = dict(_leaves(nnx.state(network, nnx.Param)))
    wanted = {_stored_name(name): name for name in parameters}
    faults, found, values = [], set(), {}
    for path in files:
        with _open(path) as file:
            for stored in file.keys():  # noqa: SIM118 (not a mapping)
                current = _current_name(stored)
                name = wanted.get(current)
                if name is None or name in found:
                    faults.append(f"{stored} is unknown" if name is None else f"{stored} appears twice")
                    continue
                found.add(name)
                part = file.get_slice(stored)
                shape, kind = tuple(part.get_shape()), part.get_dtype()
                leaf = parameters[name]
                expected = tuple(leaf.shape[axis] for axis in _stored_axes(len(leaf.shape)))
                if shape[: len(expected)] != expected or any(side != 1 for side in shape[len(expected) :]):
                    faults.append(f"{stored} has shape {list(shape)}, not {list(expected)}")
                elif kind not in FLOATS:
                    faults.append(f"{stored} has dtype {kind}, which is no float of 16 bits or more")
                elif not faults:
                    values[name] = _parameter(file.get_tensor(stored), expected, leaf.dtype)
    faults += [f"{stored} is missing" for stored, name in wanted.items() if name not in found]
    if faults:
        shown = "; ".join(faults[:20]) + (f"; and {len(faults) - 20} more" if len(faults) > 20 else "")
        raise ValueError(f"The weights in {folder} do not fit its {NETWORK}: {shown}.")
    state = nnx.state(network, nnx.Param)
    nnx.update(network, jax.tree_util.tree_map_with_path(lambda path, _: values[_path_name(path)], state))


def _parameter(stored: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    value = np.asarray(stored).reshape(shape)
    inverse = np.argsort(_stored_axes(len(shape)))
    return jnp.asarray(np.ascontiguousarray(value.transpose(inverse)).astype(dtype))


def _open(path: Path) -> Any:
    import safetensors

    try:
        return safetensors.safe_open(path, framework="flax")
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}.") from error


def _weight_files(folder: Path) -> list[Path]:
    if kind_of(folder / WEIGHTS) == "file":
        return [folder / WEIGHTS]
    if kind_of(folder / INDEX) != "file":
        found = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
        advice = (
            f"; {', '.join(found)} may hold pickled objects, which are never opened: convert them to safetensors first "
            "(python -m hybrid_rs_jax.models.denoiser.convert --help)"
            if found
            else ""
        )
        raise ValueError(f"{folder} holds no {WEIGHTS}{advice}.")
    try:
        index: Any = parse_json(read_text(folder / INDEX), str(folder / INDEX))
        names = set(index["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{folder / INDEX} is no index of a sharded checkpoint: {error!r}.") from error
    if bad := sorted(str(name) for name in names if Path(str(name)).name != name or kind_of(folder / name) != "file"):
        raise ValueError(f"{folder} lacks {len(bad)} of {len(names)} shards: {', '.join(bad)}.")
    return [folder / name for name in sorted(names)]


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if kind_of(folder / name) == "file":
            return folder / name
    raise ValueError(f"{folder} holds no {' or '.join(names)}; a denoiser is a folder in the layout of diffusers.")


def _settings(path: Path, read: Any) -> Any:
    try:
        content = parse_json(read_text(path), str(path))
        if not isinstance(content, Mapping):
            raise ValueError(f"It must hold one JSON object, got {type(content).__name__}.")
        return read(content)
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"{path} cannot be used. {_sentence(error)}") from error


def _read_size(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of the pictures that the network was trained on, where config.json says them."""
    given = config.get("sample_size")
    if given is None:
        return None
    sides = [given, given] if isinstance(given, int) else given
    if not isinstance(sides, list) or len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        raise ValueError(f"sample_size must be an integer of at least 1 or two of them, got {given!r}.")
    return sides[0], sides[1]


def _sentence(error: Exception) -> str:
    text = str(error) if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError) else ""
    return text or f"It is not what diffusers writes: {error}."


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _index(rule: Rule) -> dict[str, object]:
    scheduler = rule.write()["_class_name"]
    return {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", scheduler],
        "unet": ["diffusers", "UNet2DModel"],
    }


def _leaves(state: Any) -> list[tuple[str, Any]]:
    return [(_path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def _path_name(path: Any) -> str:
    parts = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in path]
    return ".".join(part for part in parts if part not in ("", "value"))


def _stored_name(name: str) -> str:
    """Parameters have the names of diffusers, but for the last part."""
    owner, _, kind = name.rpartition(".")
    return f"{owner}.{'weight' if kind in ('kernel', 'scale') else kind}"


def _current_name(stored: str) -> str:
    owner, _, kind = stored.rpartition(".")
    rest, _, layer = owner.rpartition(".")
    return f"{rest}.{RENAMED[layer]}.{kind}" if layer in RENAMED and ".attentions." in owner else stored


def _stored_axes(ndim: int) -> tuple[int, ...]:
    """Convolutions are stored as [out, in, height, width], linear maps as [out, in]."""
    return {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[ndim]
