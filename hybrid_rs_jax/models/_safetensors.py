"""Safetensors files of a checkpoint, by the format's own library: one tensor in memory at a time, and no torch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from hybrid_rs_jax._files import kind_of
from hybrid_rs_jax.models._settings import read_json_object

__all__ = [
    "INDEX",
    "SHARD_BYTES",
    "SINGLE",
    "StoredTensor",
    "checkpoint_tensors",
    "json_text",
    "write_tensors",
    "write_text",
]

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 1_000_000_000


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """One tensor on disk.

    Attributes:
      path: the file.
      name: in the file.
      dtype: the format's own name, as in "BF16".
      shape: sizes of its axes.
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        """Whether it is a float of 16 bits or more, as weights are."""
        return self.dtype in DTYPES

    def read(self, index: tuple[slice, ...] = ()) -> np.ndarray:
        """The tensor, or a part of it, as an array of its own."""
        with _opened(self.path) as file:
            return file.get_slice(self.name)[index] if index else file.get_tensor(self.name)


def checkpoint_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint; only the headers of its files are read.

    Args:
      folder: holds `model.safetensors`, or the shards that `model.safetensors.index.json` names.

    Raises:
      ValueError: if files are absent, cut off or no safetensors files, or a name appears twice.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in _files(folder):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118  (the library's object is no mapping)
                if name in tensors:
                    raise ValueError(f"{path.name} repeats a tensor of another file of {folder}: {name}.")
                part = file.get_slice(name)
                tensors[name] = StoredTensor(path, name, part.get_dtype(), tuple(part.get_shape()))
    return tensors


def write_tensors(
    folder: Path,
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    value: Callable[[str], np.ndarray],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `model.safetensors`, or several shards and their index; a file has its name only when it is whole.

    Args:
      folder: exists.
      tensors: shape and dtype of every tensor, in the order in which they are written.
      value: gives a tensor by its name. Memory holds those of one file at a time.
      shard_bytes: a file holds at most that many bytes of tensors, or one tensor.

    Raises:
      ValueError: for a dtype that is no float, or a value of another shape.
    """
    for name, (_, dtype) in tensors.items():
        if dtype not in DTYPES.values():
            raise ValueError(f"The dtype of {name} must be one of {', '.join(map(str, DTYPES.values()))}, got {dtype}.")
    sizes = {name: prod(shape) * dtype.itemsize for name, (shape, dtype) in tensors.items()}
    shards = _shards(sizes, shard_bytes)
    count = len(shards)
    files = [SINGLE] if count == 1 else [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    for file, names in zip(files, shards, strict=True):
        _write_shard(folder / file, {name: _checked(name, *tensors[name], value(name)) for name in names})
    if count > 1:
        places = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        write_text(folder / INDEX, json_text({"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}))


def json_text(content: Any) -> str:
    """JSON as the hub's files have it."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a file that has its name only when it is whole."""
    with _whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    if kind_of(folder / SINGLE) == "file":
        return [folder / SINGLE]
    if kind_of(folder / INDEX) != "file":
        found = sorted(path.name for path in folder.glob("*.bin"))
        advice = f"; {', '.join(found)} must be converted to safetensors first" if found else ""
        raise ValueError(f"{folder} holds neither {SINGLE} nor {INDEX}{advice}.")
    places = read_json_object(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(map(_is_file_name, places.values())):
        raise ValueError(
            f"{folder / INDEX} is no index of a sharded checkpoint: weight_map must name a file of the folder for each "
            "tensor."
        )
    names = sorted(set(places.values()))
    if missing := [name for name in names if kind_of(folder / name) != "file"]:
        raise ValueError(f"{folder} lacks {len(missing)} of {len(names)} shards: {', '.join(missing)}.")
    return [folder / name for name in names]


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) < 256 and value.isprintable() and value == Path(value).name


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file, open; whatever is wrong with it in one sentence."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ValueError('Weights are read with safetensors: pip install "hybrid-rs-jax[networks]".') from error
    try:
        with safe_open(path, "np") as file:
            yield file
    except SafetensorError as error:
        size, reason = path.stat().st_size, str(error).rsplit("header: ", 1)[-1].rstrip(".")
        raise ValueError(f"{path} is no safetensors file or is cut off: {reason}; it has {size} bytes.") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error


def _shards(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Names of tensors that go into one file each, in their order."""
    shards: list[list[str]] = [[]]
    room = most
    for name, size in sizes.items():
        if shards[-1] and size > room:
            shards.append([])
            room = most
        shards[-1].append(name)
        room -= size
    return shards


def _checked(name: str, shape: tuple[int, ...], dtype: np.dtype, value: np.ndarray) -> np.ndarray:
    if value.shape != shape:
        raise ValueError(f"The value of {name} must have the shape {list(shape)}, got {list(value.shape)}.")
    return np.ascontiguousarray(value.astype(dtype, copy=False)).reshape(shape)


def _write_shard(path: Path, tensors: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    with _whole(path) as temporary:
        save_file(tensors, temporary, {"format": "pt"})


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
