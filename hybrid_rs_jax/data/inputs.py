"""Inputs of a run: clean token ids, pixels and the positions that carry noise, read one at a time."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

__all__ = ["ArrayInputs", "Input", "Inputs", "load_npz"]


class Input(NamedTuple):
    """One input as it is certified: tokens int32[L], image float32[H, W, C], eligible bool[L]."""

    tokens: np.ndarray
    image: np.ndarray
    eligible: np.ndarray

    def digest(self) -> str:
        """What identifies the input: a resumed run must find the same one."""
        whole = hashlib.sha256()
        for part in self:
            whole.update(f"{part.dtype.str} {part.shape};".encode())
            whole.update(np.ascontiguousarray(part).tobytes())
        return whole.hexdigest()


@runtime_checkable
class Inputs(Protocol):
    """A data set of which one input at a time is read; all inputs have the same shapes."""

    @property
    def ids(self) -> Sequence[str]:
        """Names, all different."""
        ...

    def read(self, position: int) -> Input:
        """The input at `position`, 0-based.

        Raises:
          UnreadableInputError: if it cannot be used.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ArrayInputs:
    """Inputs that are in memory.

    Args:
      ids: names, all different.
      tokens: int32[B, L].
      images: float32[B, H, W, C].
      eligible: bool[L] or bool[B, L].

    Raises:
      ValueError: if the numbers of inputs differ, or an id appears twice.
    """

    ids: Sequence[str]
    tokens: np.ndarray
    images: np.ndarray
    eligible: np.ndarray

    def __post_init__(self) -> None:
        number = len(self.ids)
        for name in ("tokens", "images"):
            if len(getattr(self, name)) != number:
                raise ValueError(f"{name} must hold {number} inputs, as ids does, got {len(getattr(self, name))}.")
        if self.eligible.shape not in (self.tokens.shape, self.tokens.shape[1:]):
            raise ValueError(
                f"eligible must have shape {self.tokens.shape[1:]} or {self.tokens.shape}, got {self.eligible.shape}."
            )
        if len(set(self.ids)) < number:
            twice = next(name for name in self.ids if list(self.ids).count(name) > 1)
            raise ValueError(f"ids must all be different, got {twice!r} twice.")

    def read(self, position: int) -> Input:
        """The input at `position`."""
        eligible = self.eligible if self.eligible.ndim == 1 else self.eligible[position]
        return Input(self.tokens[position], self.images[position], eligible)


def load_npz(path: Path) -> ArrayInputs:
    """Inputs from a NumPy archive with `tokens` [B, L] and `images` [B, H, W, C], optionally `ids` and `eligible`.

    Pixels are floats in [0, 1]. Without `ids` inputs are named by their number; without `eligible` all positions carry
    noise.

    Raises:
      ValueError: if the file is not such an archive: one sentence with the file and what is wrong.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a NumPy archive (.npz): {error}.") from error
    missing = [name for name in ("tokens", "images") if name not in arrays]
    if missing:
        raise ValueError(f"{path} must hold tokens and images, got {', '.join(arrays) or 'nothing'}.")
    tokens, images = arrays["tokens"], arrays["images"]
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
        raise ValueError(f"{path}: tokens must be integers [inputs, length], got {tokens.dtype} {list(tokens.shape)}.")
    if images.ndim != 4 or images.dtype.kind != "f":
        raise ValueError(
            f"{path}: images must be floats [inputs, height, width, channels], got {images.dtype} {list(images.shape)}."
        )
    if not np.isfinite(images).all():
        raise ValueError(f"{path}: images must be finite numbers, got {images[~np.isfinite(images)].flat[0]}.")
    ids = [str(name) for name in arrays["ids"].tolist()] if "ids" in arrays else [str(i) for i in range(len(tokens))]
    eligible = arrays.get("eligible", np.ones(tokens.shape[1], bool)).astype(bool)
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < 2**31:
        raise ValueError(f"{path}: tokens must lie in 0..{2**31 - 1}, got {tokens.min()}..{tokens.max()}.")
    try:
        return ArrayInputs(ids, tokens.astype(np.int32), images.astype(np.float32), eligible)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
