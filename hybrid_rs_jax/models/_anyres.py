"""Any-resolution tiles: which grid a picture is cut into, and which of its features are kept.

All of it is static: it depends on the picture's size and config.json, never on pixels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

__all__ = ["TilePlan", "best_resolution", "interpolation", "tile_plan"]


@dataclasses.dataclass(frozen=True)
class TilePlan:
    """What becomes of the tiles' features for pictures of one size.

    Attributes:
      rows: tiles on top of each other.
      columns: tiles side by side.
      patches: patches along each side of a tile.
      top, left: features cut off on each side, where the picture was padded.
      height, width: feature rows and columns that are kept.
      out_height, out_width: what they are resized to; the same unless the limit on tiles is exceeded.
    """

    rows: int
    columns: int
    patches: int
    top: int
    left: int
    height: int
    width: int
    out_height: int
    out_width: int

    @property
    def tiles(self) -> int:
        """Tiles without the base view."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        """Positions that the picture takes in the text: base view, then rows that each end in a newline."""
        return self.patches**2 + self.out_height * (self.out_width + 1)

    @property
    def resized(self) -> bool:
        """Whether the features are interpolated."""
        return (self.out_height, self.out_width) != (self.height, self.width)


def best_resolution(size: tuple[int, int], pinpoints: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The resolution that keeps most of the picture's pixels, and among those the one with the least padding.

    Args:
      size: height and width of the picture.
      pinpoints: heights and widths to choose from; the first one wins a tie.
    """
    height, width = size

    def merit(candidate: Sequence[int]) -> tuple[int, int]:
        scale = min(candidate[1] / width, candidate[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - candidate[0] * candidate[1]

    rows, columns = max(pinpoints, key=merit)
    return int(rows), int(columns)


def tile_plan(
    size: tuple[int, int], pinpoints: Sequence[Sequence[int]], tile: int, patch: int, limit: int | None
) -> TilePlan:
    """Plan for pictures of one size.

    Args:
      size: height and width of the picture, at least 1 each.
      pinpoints: resolutions that the checkpoint was trained on, multiples of `tile`.
      tile: height and width of a tile in pixels.
      patch: height and width of a patch in pixels.
      limit: features are resized to about those of `limit` tiles when they exceed them by a fifth; None for no limit.

    Raises:
      ValueError: for a size below 1.
    """
    height, width = (int(side) for side in size)
    if height < 1 or width < 1:
        raise ValueError(f"image_size must hold a height and a width of at least 1, got {tuple(size)}.")
    best_height, best_width = best_resolution((height, width), pinpoints)
    rows, columns, patches = best_height // tile, best_width // tile, tile // patch
    full = (rows * patches, columns * patches)
    top, left = _padding((height, width), full)
    kept = (full[0] - 2 * top, full[1] - 2 * left)
    return TilePlan(rows, columns, patches, top, left, *kept, *_limited(kept, patches, limit))


def interpolation(inputs: int, outputs: int) -> Float32[np.ndarray, "outputs inputs"]:
    """Matrix of a bilinear resize along one axis, pixel centres at halves, no smoothing before it."""
    centres = np.maximum((np.arange(outputs) + 0.5) * (inputs / outputs) - 0.5, 0.0)
    low = np.minimum(np.floor(centres).astype(np.int64), inputs - 1)
    high = np.minimum(low + 1, inputs - 1)
    share = centres - low
    matrix = np.zeros((outputs, inputs))
    np.add.at(matrix, (np.arange(outputs), low), 1 - share)
    np.add.at(matrix, (np.arange(outputs), high), share)
    return matrix.astype(np.float32)


def _padding(size: tuple[int, int], full: tuple[int, int]) -> tuple[int, int]:
    """Feature rows above and columns left of the picture; the far sides have as many."""
    (height, width), (rows, columns) = size, full
    if width / height > columns / rows:
        inner = int(round(height * (columns / width), 7))
        return (rows - inner) // 2, 0
    inner = int(round(width * (rows / height), 7))
    return 0, (columns - inner) // 2


def _limited(kept: tuple[int, int], patches: int, limit: int | None) -> tuple[int, int]:
    height, width = kept
    if limit is None:
        return height, width
    ratio = math.sqrt(height * width / (limit * patches**2))
    if ratio <= 1.1:
        return height, width
    return int(height // ratio), int(width // ratio)
