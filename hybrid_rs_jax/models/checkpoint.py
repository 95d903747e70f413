"""Networks from config.json, and their weights from safetensors, without torch."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hybrid_rs_jax._files import kind_of
from hybrid_rs_jax.models._attention import Implementation, check_implementation
from hybrid_rs_jax.models._hub import checkpoint_folder
from hybrid_rs_jax.models._keys import KeyTable, Target
from hybrid_rs_jax.models._original_llava import image_processing, is_original, translate
from hybrid_rs_jax.models._safetensors import StoredTensor, checkpoint_tensors
from hybrid_rs_jax.models._settings import Fields, read_json_object
from hybrid_rs_jax.models._vision_language import DECODERS, TOWERS
from hybrid_rs_jax.models.gemma3 import Gemma3
from hybrid_rs_jax.models.image_processing import ImagePreprocessor
from hybrid_rs_jax.models.llava import Llava
from hybrid_rs_jax.models.llava_next import LlavaNext
from hybrid_rs_jax.models.llava_onevision import LlavaOnevision
from hybrid_rs_jax.models.qwen2_5_vl import Qwen25VL
from hybrid_rs_jax.models.sharding import named_parameters, parameter_shardings

__all__ = ["ARCHITECTURES", "from_config", "from_pretrained", "load_config", "load_preprocessor"]

ARCHITECTURES: dict[str, type[Any]] = {
    "llava_onevision": LlavaOnevision,
    "llava_next": LlavaNext,
    "llava": Llava,
    "qwen2_5_vl": Qwen25VL,
    "gemma3": Gemma3,
    "shieldgemma2": Gemma3,
    **DECODERS,
    **TOWERS,
}
_MOST_FAULTS = 8


def load_config(source: str | os.PathLike[str]) -> dict[str, Any]:
    """config.json of a checkpoint, in the layout of transformers.

    Args:
      source: a folder or a hub id.

    Returns:
      The contents of the file.

    Raises:
      ValueError: if it is absent, not JSON, or of a quantised checkpoint.

    >>> import json, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    ...     load_config(folder)["model_type"]
    'qwen2'
    """
    config = _stored_config(checkpoint_folder(source))
    return translate(config) if is_original(config) else config


def load_preprocessor(source: str | os.PathLike[str]) -> ImagePreprocessor:
    """The image processing of a checkpoint; for the original layout that of its code, whatever files lie there.

    Args:
      source: a folder or a hub id.

    Returns:
      The image processing, in JAX.

    Raises:
      ValueError: one sentence, for a missing or broken file, an unknown processor or an illegal value.
    """
    folder = checkpoint_folder(source)
    config = _stored_config(folder)
    if is_original(config):
        return ImagePreprocessor.from_config(image_processing(config))
    return ImagePreprocessor.from_pretrained(folder)


def _stored_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if kind_of(path) != "file":
        raise ValueError(f"{folder} holds no config.json.")
    config = read_json_object(path)
    if config.get("quantization_config"):
        raise ValueError(f"{path} is of a quantised checkpoint; give one with float weights.")
    return config


def from_config(
    config: Mapping[str, Any],
    *,
    dtype: Any = jnp.float32,
    param_dtype: Any = None,
    attention: Implementation = "auto",
    seed: int = 0,
) -> Any:
    """A network with random weights, as wide as keeps the size of activations; drawn on the host, nothing is compiled.

    Args:
      config: the contents of config.json.
      dtype: dtype of the computation, float32 or bfloat16.
      param_dtype: dtype of the weights; None for `dtype`.
      attention: "xla", "cudnn", or "auto".
      seed: of the random weights.

    Returns:
      A network of `ARCHITECTURES`.

    Raises:
      ValueError: for an architecture or a setting that is not supported.

    >>> config = {"model_type": "qwen2", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32}
    >>> config |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    >>> type(from_config(config)).__name__
    'Qwen2'
    """
    cls = _architecture(config)
    settings, options = cls.read_config(config), _options(dtype, param_dtype, attention)
    network = nnx.eval_shape(lambda: cls(settings, rngs=nnx.Rngs(0), **options))
    generator = np.random.default_rng(seed)
    for name, parameter in named_parameters(network).items():
        parameter.set_value(jnp.asarray(_draw(name, parameter.shape, generator), parameter.dtype))
    return network


def from_pretrained(
    source: str | os.PathLike[str],
    *,
    dtype: Any = jnp.float32,
    param_dtype: Any = None,
    attention: Implementation = "auto",
    mesh: jax.sharding.Mesh | None = None,
) -> Any:
    """A network with the weights of a checkpoint.

    Tensors go one at a time from the memory map of their file to their device, dtype and sharding, so that the host
    holds about one tensor beside what the devices hold. All faults of the checkpoint are found from the headers of
    its files, before any weight is read.

    Args:
      source: a folder or a hub id, in the layout of transformers (any version) or of the original LLaVA repository.
      dtype: dtype of the computation, float32 or bfloat16.
      param_dtype: dtype of the weights; None for `dtype`.
      attention: "xla", "cudnn", or "auto".
      mesh: a mesh with the axes of `sharding.make_mesh`; None for JAX's default device.

    Returns:
      A network as of `from_config`.

    Raises:
      ValueError: for what the network cannot take. Missing, unknown and misshapen tensors are all named in one error.
    """
    folder = checkpoint_folder(source)
    config = load_config(folder)
    cls = _architecture(config)
    settings, options = cls.read_config(config), _options(dtype, param_dtype, attention)
    tensors = checkpoint_tensors(folder)
    head = next((name for name in tensors if name.rsplit(".", 2)[-2:] == ["lm_head", "weight"]), None)
    if head is None and _is_tied(settings) is None:
        settings = _tied(settings)
    network = nnx.eval_shape(lambda: cls(settings, rngs=nnx.Rngs(0), **options))
    parameters, table = named_parameters(network), network.key_table()
    sources, faults = _assign(tensors, parameters, table)
    if head is not None and _is_tied(settings):
        faults += _tie_faults(head, tensors, table)
    if faults:
        raise ValueError(f"The checkpoint in {folder} does not fit {config['model_type']}: {_capped(faults)}.")
    shardings = parameter_shardings(network, mesh)
    for name, (stored, target) in sources.items():
        parameters[name].set_value(_load(stored, target, parameters[name], shardings[name]))
    return network


def _architecture(config: Mapping[str, Any]) -> type[Any]:
    return ARCHITECTURES[Fields(config).choice("model_type", ARCHITECTURES)]


def _capped(faults: Sequence[str]) -> str:
    """The first faults, and how many more there are: a tower that is missing has hundreds."""
    shown = "; ".join(faults[:_MOST_FAULTS])
    return shown if len(faults) <= _MOST_FAULTS else f"{shown}; and {len(faults) - _MOST_FAULTS} more"


def _options(dtype: Any, param_dtype: Any, attention: Implementation) -> dict[str, Any]:
    """Checked here: JAX adds a note of its own to an error that is raised while it builds the network."""
    check_implementation(attention)
    param_dtype = dtype if param_dtype is None else param_dtype
    for name, value in (("dtype", dtype), ("param_dtype", param_dtype)):
        if jnp.dtype(value) not in (jnp.float32, jnp.bfloat16):
            raise ValueError(f"{name} must be float32 or bfloat16, got {jnp.dtype(value)}.")
    return {"dtype": dtype, "param_dtype": param_dtype, "attention": attention}


def _draw(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Scales are one, biases zero, maps normal with variance 1 / inputs, embeddings with 1 / features."""
    kind = name.rsplit(".", 1)[-1]
    if kind in ("scale", "bias"):
        return np.full(shape, kind == "scale", np.float32)
    inputs = math.prod(shape[:-1]) if kind.endswith("kernel") else shape[-1]
    return generator.standard_normal(shape, np.float32) * np.float32(inputs**-0.5)


def _assign(
    tensors: dict[str, StoredTensor], parameters: Mapping[str, nnx.Param], table: KeyTable
) -> tuple[dict[str, tuple[StoredTensor, Target]], list[str]]:
    """Which stored tensor fills which parameter, in the order of the files, and everything that does not fit."""
    sources: dict[str, tuple[StoredTensor, Target]] = {}
    faults = []
    for name, stored in tensors.items():
        target = None if table.ignores(name) else table.target(name)
        if target is None or target.parameter not in parameters:
            known = table.ignores(name) or table.current_name(name).endswith("lm_head.weight")
            faults += [] if known else [f"{name} is unknown"]
        elif target.parameter in sources:
            faults.append(f"{name} fills {target.parameter} a second time")
        else:
            sources[target.parameter] = stored, target
            expected = target.stored_shape(parameters[target.parameter].shape)
            if stored.shape != expected:
                faults.append(f"{name} has shape {list(stored.shape)}, not {list(expected)}")
            elif not stored.is_float:
                faults.append(f"{name} has dtype {stored.dtype}, which is no float of 16 bits or more")
    missing = [name for name in parameters if name not in sources]
    untied = {"lm_head.kernel", "language_model.lm_head.kernel"}
    faults += [
        f"{name} is missing" + (" although config.json does not tie it to the embedding" if name in untied else "")
        for name in missing
    ]
    tower = {name for name in parameters if name.startswith("vision_tower.")}
    if tower and tower <= set(missing):
        faults.insert(0, "it holds no vision tower, which must be merged into its files first")
    return sources, faults


def _tie_faults(head: str, tensors: dict[str, StoredTensor], table: KeyTable) -> list[str]:
    """A stored output layer must equal the embedding that config.json ties it to: versions differ in which one wins."""
    embedding = next((name for name in tensors if table.current_name(name).endswith("embed_tokens.weight")), None)
    if embedding is None or tensors[head].shape != tensors[embedding].shape:
        return [f"{head} cannot be tied to the embedding"]
    count, step = tensors[head].shape[0], max(1, 2**24 // max(1, tensors[head].shape[-1]))
    parts = [(slice(start, min(start + step, count)),) for start in range(0, count, step)]
    same = all(np.array_equal(tensors[head].read(part), tensors[embedding].read(part)) for part in parts)
    return [] if same else [f"{head} differs from the embedding that config.json ties it to"]


def _load(stored: StoredTensor, target: Target, parameter: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """One parameter on its devices; of what several devices share out each part is read by itself."""

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        shared = index is not None and any(axis != slice(None) for axis in index)
        found = stored.read(target.stored_index(index) if index is not None and shared else ())
        found = found.transpose(target.axes) if target.axes else found
        return np.array(found, dtype=parameter.dtype, order="C")

    return jax.make_array_from_callback(parameter.shape, sharding, part)


def _is_tied(settings: Any) -> bool | None:
    """None where config.json does not say it, and where there is nothing to tie."""
    return getattr(getattr(settings, "text", settings), "tied", None)


def _tied(settings: Any) -> Any:
    if hasattr(settings, "text"):
        return dataclasses.replace(settings, text=_tied(settings.text))
    return dataclasses.replace(settings, tied=True) if hasattr(settings, "tied") else settings
