"""A network written as a checkpoint in the Hugging Face layout, which this package and transformers load."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from hybrid_rs_jax.models._keys import Key, KeyTable, Target
from hybrid_rs_jax.models._safetensors import DTYPES, INDEX, SINGLE
from hybrid_rs_jax.models._vision_language import VisionLanguageModel
from hybrid_rs_jax.models.sharding import named_parameters

__all__ = ["save_pretrained", "stored_tensors", "write_tensors"]

#: From the loader's own names to those of published checkpoints, which every version of transformers reads.
PUBLISHED = (
    ("language_model.lm_head.", "language_model.lm_head."),
    ("language_model.", "language_model.model."),
    ("vision_tower.", "vision_tower.vision_model."),
    ("projector.", "multi_modal_projector."),
    ("image_newline", "image_newline"),
)
LAST_NORM = tuple(f"vision_tower.vision_model.post_layernorm.{kind}" for kind in ("weight", "bias"))
SHARD_BYTES = 5_000_000_000
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def save_pretrained(
    network: VisionLanguageModel,
    folder: str | os.PathLike[str],
    config: Mapping[str, Any],
    *,
    dtype: Any = jnp.bfloat16,
    files: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write config.json, the weights and other files of a checkpoint.

    Tensor names are those of published LLaVA checkpoints. Each file appears under its name only when it is whole, and
    config.json comes last, so a folder with a config.json holds all of the checkpoint.

    Args:
      network: a `LlavaOnevision` or `Llava`.
      folder: made where it does not exist.
      config: contents of config.json, as `from_config` takes them; `architectures` and `dtype` are added.
      dtype: of the stored weights: float32, float16 or bfloat16. Weights are rounded to nearest.
      files: other files by name: tokenizer.json, preprocessor_config.json and so on. A text is written as it is,
        anything else as JSON.
      shard_bytes: a file of weights holds at most that many bytes, or one tensor.

    Raises:
      ValueError: if the folder holds a checkpoint, or `config` is not the network's.
    """
    folder = Path(folder)
    _check(network, config, folder)
    parameters, stored, stored_dtype = named_parameters(network), stored_tensors(network), np.dtype(dtype)

    def blocks(name: str) -> Iterator[np.ndarray]:
        shape, target = stored[name]
        if target is None:
            yield np.full(shape, name.endswith("weight"), np.float32)
            return
        value = np.asarray(parameters[target.parameter][...])
        yield value.transpose(np.argsort(target.axes)) if target.axes else value

    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, {name: (shape, stored_dtype) for name, (shape, _) in stored.items()}, blocks, shard_bytes)
    for name, content in (files or {}).items():
        _write_text(folder / name, content if isinstance(content, str) else _json(content))
    _write_text(folder / "config.json", _json(_completed(network, config, stored_dtype)))


def stored_tensors(network: VisionLanguageModel) -> dict[str, tuple[tuple[int, ...], Target | None]]:
    """The tensors of a checkpoint of this network: name on disk to (shape on disk, the parameter that it fills).

    The norm behind the tower's last layer fills none, since nothing reads it; transformers misses it where it is
    absent. A network of shapes, as `nnx.eval_shape` makes it, will do.
    """
    table = network.key_table()
    stored: dict[str, tuple[tuple[int, ...], Target | None]] = {}
    for parameter, variable in named_parameters(network).items():
        name = _published_name(table, parameter)
        target = table.target(name)
        if target is None or target.parameter != parameter:
            raise ValueError(f"{parameter} has no name in the layout of published checkpoints.")
        stored[name] = target.stored_shape(variable.shape), target
    width = (network.config.vision.hidden_size,)
    return stored | {name: (width, None) for name in LAST_NORM}


def write_tensors(
    folder: Path,
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    blocks: Callable[[str], Iterable[np.ndarray]],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `model.safetensors`, or several shards and their index, block by block.

    Args:
      folder: exists.
      tensors: shape and dtype of every tensor, in the order in which they are written.
      blocks: gives a tensor by its name, whole or in parts along its first axis; memory holds one part at a time.
      shard_bytes: a file holds at most that many bytes of tensors, or one tensor.

    Raises:
      ValueError: for a dtype that is no float, or parts that do not make up a tensor.
    """
    for name, (_, dtype) in tensors.items():
        if dtype not in NAMES:
            raise ValueError(f"The dtype of {name} must be one of {', '.join(map(str, NAMES))}, got {dtype}.")
    shards = _shards(tensors, shard_bytes)
    if len(shards) == 1:
        _write_shard(folder / SINGLE, tensors, shards[0], blocks)
        return
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / file, tensors, names, blocks)
        places |= dict.fromkeys(names, file)
    total = sum(math.prod(shape) * dtype.itemsize for shape, dtype in tensors.values())
    _write_text(folder / INDEX, _json({"metadata": {"total_size": total}, "weight_map": places}))


def _shards(tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]], shard_bytes: int) -> list[list[str]]:
    """Names of tensors that go into one file each, in their order."""
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for name, (shape, dtype) in tensors.items():
        size = math.prod(shape) * dtype.itemsize
        if shards[-1] and size > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= size
    return shards


def _write_shard(
    path: Path,
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    names: list[str],
    blocks: Callable[[str], Iterable[np.ndarray]],
) -> None:
    """A header of JSON with its length before it, then the tensors' bytes without gaps."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        shape, dtype = tensors[name]
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                for block in blocks(name):
                    file.write(np.ascontiguousarray(block.astype(tensors[name][1])).tobytes())
                if file.tell() != 8 + len(text) + header[name]["data_offsets"][1]:
                    raise ValueError(f"The parts of {name} do not make up its shape {list(tensors[name][0])}.")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check(network: VisionLanguageModel, config: Mapping[str, Any], folder: Path) -> None:
    if any((folder / name).exists() for name in ("config.json", SINGLE, INDEX)):
        raise ValueError(f"{folder} holds a checkpoint already; choose another folder.")
    read: Any = type(network)
    if read.read_config(dict(config)) != network.config:
        raise ValueError("config must describe the network, but its sizes or settings are those of another one.")
    tower = network.config.vision
    if len(network.vision_tower.layers) < tower.num_layers:
        raise ValueError(
            f"num_hidden_layers of the tower must be {len(network.vision_tower.layers)}, the layers that were built, "
            f"got {tower.num_layers}."
        )


def _completed(network: VisionLanguageModel, config: Mapping[str, Any], dtype: np.dtype) -> dict[str, Any]:
    """config.json with what transformers wants to know besides."""
    kind = type(network).__name__
    tower = {"model_type": network.config.tower, **config["vision_config"]}
    if network.config.tower == "siglip_vision_model":
        tower["vision_use_head"] = False  # or transformers would expect the weights of a pooling head
    extra = {"architectures": [f"{kind}ForConditionalGeneration"], "dtype": str(dtype)}
    return {**extra, **config, "dtype": str(dtype), "vision_config": tower}


def _published_name(table: KeyTable, parameter: str) -> str:
    for key in table.keys:
        name = _stored_name(key, parameter)
        if name is not None:
            for start, published in PUBLISHED:
                if name.startswith(start):
                    return published + name.removeprefix(start)
    raise ValueError(f"{parameter} has no name in the layout of published checkpoints.")


def _stored_name(key: Key, parameter: str) -> str | None:
    r"""The stored name that `key` maps to this parameter, if it does.

    >>> _stored_name(Key(r"layers\.(\d+)\.(fc[12])\.weight", r"layers.\1.\2.kernel"), "layers.3.fc2.kernel")
    'layers.3.fc2.weight'
    """
    pieces = _pieces(key.pattern)
    groups = pieces[1::2]
    text, *numbered = re.split(r"\\(\d)", key.parameter)
    pattern = re.escape(text)
    for number, literal in zip(numbered[::2], numbered[1::2], strict=True):
        pattern += f"(?P<g{number}>{groups[int(number) - 1]})" + re.escape(literal)
    match = re.fullmatch(pattern, parameter)
    if match is None:
        return None
    filled = [match[f"g{number}"] for number in range(1, len(groups) + 1)]
    literals = [re.sub(r"\\(.)", r"\1", literal) for literal in pieces[::2]]
    return literals[0] + "".join(value + literal for value, literal in zip(filled, literals[1:], strict=True))


def _pieces(pattern: str) -> list[str]:
    """Literal, group, literal, group, ..., literal: the pattern cut at its outermost brackets."""
    pieces, depth, escaped = [""], 0, False
    for letter in pattern:
        opens, closes = letter == "(" and not escaped, letter == ")" and not escaped
        depth -= closes
        if (opens or closes) and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += letter
        depth += opens
        escaped = letter == "\\" and not escaped
    return pieces


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
