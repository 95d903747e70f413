"""Texts and pictures whose index is in memory: what the loaders of `index` make of a table or a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from hybrid_rs_jax.data.pictures import read_image
from hybrid_rs_jax.errors import BadInputError

__all__ = ["Dataset", "RawInput", "first_twin"]


@dataclass(frozen=True, eq=False)
class RawInput:
    """An input before it is encoded for a classifier.

    Attributes:
      id: its name.
      text: as it stands in the index.
      image: pixels in [0, 1]; [1, 1, 0] where the data are texts alone.
      label, group: what the index says of it, None where it says nothing.
    """

    id: str
    text: str
    image: Float32[np.ndarray, "h w c"]
    label: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Dataset:
    """Texts and pictures: the index is in memory, by columns; a picture is read when its input is.

    Args:
      folder: that paths of pictures are relative to.
      ids: names, all different.
      texts: one per input.
      images: paths of the picture files; empty ones where the data are texts alone.
      labels, groups: None where there is none.
      clean_images: paths of pictures from which the text that was written in them was removed, for `curate`; empty ones
        where there is none, and () where there are none at all.

    Raises:
      BadInputError: if an id appears twice.
    """

    folder: Path
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    images: tuple[str, ...]
    labels: tuple[str | None, ...]
    groups: tuple[str | None, ...]
    clean_images: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.clean_images:
            object.__setattr__(self, "clean_images", ("",) * len(self.ids))
        twice = first_twin(self.ids)
        if twice is not None:
            raise BadInputError(f"id {self.ids[twice[1]]!r} appears twice; every id must be different.")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def pictures(self) -> bool:
        """The inputs have pictures."""
        return any(self.images)

    def picture(self, index: int) -> Path:
        """Where the picture of the input at `index` should lie."""
        return self.folder / self.images[index]

    def read(self, index: int) -> RawInput:
        """The input at `index`, with its pixels.

        Raises:
          UnreadableInputError: if the picture cannot be used; a run skips the input and goes on with the rest.
        """
        image = read_image(self.picture(index)) if self.pictures else np.zeros((1, 1, 0), np.float32)
        return RawInput(self.ids[index], self.texts[index], image, self.labels[index], self.groups[index])

    def clean_image(self, index: int) -> Float32[np.ndarray, "h w 3"] | None:
        """The picture of the input at `index` without the text that is written in it; None where the index names none.

        Raises:
          UnreadableInputError: if there should be one and it cannot be used.
        """
        name = self.clean_images[index]
        return read_image(self.folder / name) if name else None

    def first(self, limit: int) -> Dataset:
        """The first inputs of the index, at most `limit` of them."""
        return self._rows(range(min(max(limit, 0), len(self))))

    def select(self, ids: Collection[str]) -> Dataset:
        """The inputs with these ids, in the order of the index."""
        wanted = set(ids)
        return self._rows([row for row, name in enumerate(self.ids) if name in wanted])

    def digest(self) -> str:
        """SHA-256 of the index (ids, texts, names of the picture files, labels), not of the pixels."""
        names = (Path(image).name for image in self.images)
        rows = [list(row) for row in zip(self.ids, self.texts, names, self.labels, strict=True)]
        for row, clean in zip(rows, self.clean_images, strict=True):
            row += [Path(clean).name] if clean else []
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def _rows(self, rows: Sequence[int]) -> Dataset:
        columns = (self.ids, self.texts, self.images, self.labels, self.groups, self.clean_images)
        return Dataset(self.folder, *(tuple(column[row] for row in rows) for column in columns))  # type: ignore[arg-type]


def first_twin(ids: Sequence[str]) -> tuple[int, int] | None:
    """Rows of the first id that was there before, and of that one."""
    rows: dict[str, int] = {}
    for row, name in enumerate(ids):
        if (earlier := rows.setdefault(name, row)) != row:
            return earlier, row
    return None
