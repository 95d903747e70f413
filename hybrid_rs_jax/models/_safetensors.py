"""Safetensors files, read as memory maps: a tensor is in memory when it is asked for, and needs no torch."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np

__all__ = ["StoredTensor", "checkpoint_tensors"]

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
HEADER_LIMIT = 100_000_000  # bytes; the format's own


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies on disk.

    Attributes:
      path: the file.
      dtype: the format's own name, as in "BF16".
      shape: sizes of its axes.
      start: offset of its first byte in the file.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def is_float(self) -> bool:
        """Whether `read` can give it."""
        return self.dtype in DTYPES

    def read(self) -> np.ndarray:
        """A read-only view of the file; pages are loaded as they are touched, and dropped with the view."""
        return np.memmap(self.path, DTYPES[self.dtype], "r", self.start, self.shape or (1,)).reshape(self.shape)


def checkpoint_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint, in the order of its files.

    Args:
      folder: holds `model.safetensors`, or the shards that `model.safetensors.index.json` names.

    Raises:
      ValueError: if files are absent, cut off or no safetensors files, or a name appears twice.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in _files(folder):
        stored = _header(path)
        if twice := sorted(stored.keys() & tensors.keys()):
            raise ValueError(f"{path.name} repeats tensors of another file of {folder}: {', '.join(twice)}.")
        tensors |= stored
    return tensors


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        found = sorted(path.name for path in folder.glob("*.bin"))
        advice = f"; {', '.join(found)} must be converted to safetensors first" if found else ""
        raise ValueError(f"{folder} holds neither {SINGLE} nor {INDEX}{advice}.")
    try:
        names = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{folder / INDEX} is no index of a sharded checkpoint: {error!r}.") from error
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise ValueError(f"{folder} lacks {len(missing)} of {len(names)} shards: {', '.join(missing)}.")
    return [folder / name for name in sorted(names)]


def _header(path: Path) -> dict[str, StoredTensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, HEADER_LIMIT):
            raise ValueError(f"{path} is no safetensors file or is cut off: it has {size} bytes.")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            tensors = {name: _stored(path, entry, 8 + length) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} has a broken safetensors header: {error}.") from error
    needed = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if needed > size:
        raise ValueError(f"{path} is cut off: its header speaks of {needed} bytes, the file has {size}.")
    return tensors


def _stored(path: Path, entry: dict, data: int) -> StoredTensor:
    shape, (start, end) = tuple(int(side) for side in entry["shape"]), entry["data_offsets"]
    tensor = StoredTensor(path, entry["dtype"], shape, data + start)
    if tensor.is_float and (start < 0 or math.prod(shape) * DTYPES[tensor.dtype].itemsize != end - start):
        raise ValueError(f"shape {shape} of {tensor.dtype} does not take the {end - start} bytes that it is given")
    return tensor
