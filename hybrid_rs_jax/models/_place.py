"""Where a picture stands in a prompt."""

from __future__ import annotations

import dataclasses

__all__ = ["Place"]


@dataclasses.dataclass(frozen=True)
class Place:
    """The positions `start .. stop - 1` of a prompt, which hold a picture row by row; static in a compiled program.

    >>> Place(start=5, rows=2, columns=3).stop
    11

    Attributes:
      start: position of the first embedding.
      rows, columns: embeddings on top of each other and side by side.
    """

    start: int
    rows: int
    columns: int

    @property
    def stop(self) -> int:
        """The first position behind the picture."""
        return self.start + self.rows * self.columns
