"""Inputs of a run: an index in memory, images read one at a time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from hybrid_rs_jax._files import atomic_file
from hybrid_rs_jax.data.images import UnreadableImageError, read_image
from hybrid_rs_jax.errors import BadInputError

__all__ = ["Record", "Sample", "Samples", "Unreadable", "write_index"]


@dataclass(frozen=True)
class Record:
    """One line of an index: an input whose image is still on the disk."""

    id: str
    text: str
    image: Path
    label: str | None


@dataclass(frozen=True, eq=False)
class Sample:
    """An input: a text, an image in [0, 1], and a label where the data have one."""

    id: str
    text: str
    image: Float32[np.ndarray, "h w 3"]
    label: str | None


@dataclass(frozen=True)
class Unreadable:
    """An input that is skipped, with the reason: a sentence without the final point."""

    id: str
    reason: str


class Samples:
    """A data set: iterating reads the images one after the other and holds none of them.

    An image that cannot be used gives an `Unreadable` in its place, so that a run goes on with the rest.

    Args:
      records: the index; ids must be different.

    Raises:
      BadInputError: if an id appears twice.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = tuple(records)
        seen: set[str] = set()
        for record in self.records:
            if record.id in seen:
                raise BadInputError(f"id {record.id!r} appears twice; every id must be different.")
            seen.add(record.id)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, row: int) -> Sample | Unreadable:
        record = self.records[row]
        try:
            return Sample(record.id, record.text, read_image(record.image), record.label)
        except UnreadableImageError as error:
            return Unreadable(record.id, str(error))

    def __iter__(self) -> Iterator[Sample | Unreadable]:
        return (self[row] for row in range(len(self)))

    def first(self, limit: int) -> Samples:
        """The first inputs of the index, at most `limit` of them."""
        return Samples(self.records[: max(limit, 0)])

    def select(self, ids: Collection[str]) -> Samples:
        """The inputs with these ids, in the order of the index."""
        wanted = set(ids)
        return Samples([record for record in self.records if record.id in wanted])

    def digest(self) -> str:
        """SHA-256 of the index (ids, texts, names of the image files, labels), not of the pixels."""
        rows = [[record.id, record.text, record.image.name, record.label] for record in self.records]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def write_index(path: Path, samples: Samples, force: bool = False) -> None:
    """Write the index as JSON lines (id, text, image, label) that `open_data` reads; image paths relative to it."""
    folder = path.resolve().parent
    with atomic_file(path, force) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in samples.records:
            image = Path(os.path.relpath(record.image.resolve(), folder)).as_posix()
            row = {"id": record.id, "text": record.text, "image": image, "label": record.label}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
