"""Which pixels a model is shown: every view of an image as a pair of matrices, rows and columns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from hybrid_rs_jax.models._anyres import best_resolution
from hybrid_rs_jax.models._image_settings import ImageSettings
from hybrid_rs_jax.models._resize import crop_matrix, resize_matrix

__all__ = ["Canvas", "tile_canvas", "whole_canvas"]


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture `rows @ image @ columns.T` per channel, to be cut into a grid of equal tiles.

    Resizing, cropping and padding with black are all of this form.
    """

    rows: Float64[np.ndarray, "canvas_height height"]
    columns: Float64[np.ndarray, "canvas_width width"]
    grid: tuple[int, int] = (1, 1)

    def equals(self, other: Canvas) -> bool:
        """True when both show the same pixels of every image."""
        return self.grid == other.grid and all(
            np.array_equal(mine, theirs) for mine, theirs in ((self.rows, other.rows), (self.columns, other.columns))
        )


def whole_canvas(settings: ImageSettings, height: int, width: int) -> Canvas:
    """The whole image, resized and cropped."""
    if settings.area is not None:
        rows, columns = stepped_size(height, width, settings.step, settings.area)
        return Canvas(resize_matrix(height, rows, settings.method), resize_matrix(width, columns, settings.method))
    shortest = min(height, width)
    return Canvas(_one_axis(settings, height, 0, shortest), _one_axis(settings, width, 1, shortest))


def stepped_size(height: int, width: int, step: int, area: tuple[int, int]) -> tuple[int, int]:
    """Multiples of `step` near height and width, of as many pixels in all as `area` allows.

    >>> stepped_size(100, 200, 28, (56 * 56, 28 * 28 * 1280))
    (112, 196)
    """
    rounded = round(height / step) * step, round(width / step) * step
    low, high = area
    if rounded[0] * rounded[1] > high:
        shrink = math.sqrt(height * width / high)
        return tuple(max(step, math.floor(side / shrink / step) * step) for side in (height, width))  # type: ignore
    if rounded[0] * rounded[1] < low:
        grow = math.sqrt(low / (height * width))
        return tuple(math.ceil(side * grow / step) * step for side in (height, width))  # type: ignore
    return rounded


def tile_canvas(settings: ImageSettings, height: int, width: int) -> Canvas:
    """The image resized with its aspect ratio kept, centred on black, cut into tiles from left to right, then down."""
    target = best_resolution((height, width), settings.pinpoints)
    resized = _resized_within(height, width, target)
    axes = []
    for axis, (size, new, full) in enumerate(zip((height, width), resized, target, strict=True)):
        on_canvas = crop_matrix(new, -((full - new) // 2), full) @ resize_matrix(size, new, settings.method)
        blocks = [on_canvas[start : start + settings.tile] for start in range(0, full, settings.tile)]
        # a tile of another size than the model's is resized once more
        axes.append([_one_axis(settings, len(block), axis) @ block for block in blocks])
    rows, columns = axes
    return Canvas(np.concatenate(rows), np.concatenate(columns), grid=(len(rows), len(columns)))


def _resized_within(height: int, width: int, target: tuple[int, int]) -> tuple[int, int]:
    scale_height, scale_width = target[0] / height, target[1] / width
    if scale_width < scale_height:
        return min(math.ceil(height * scale_width), target[0]), target[1]
    return target[0], min(math.ceil(width * scale_height), target[1])


def _one_axis(settings: ImageSettings, size: int, axis: int, shortest: int = 0) -> np.ndarray:
    """Resizing and centre crop of one axis; `shortest` is the image's shorter edge, by default this one."""
    new_size = size
    if isinstance(settings.size, tuple):
        new_size = settings.size[axis]
    elif settings.size is not None:
        # processors with tiles make a square of every view, the others keep the aspect ratio
        square = bool(settings.pinpoints) or size == (shortest or size)
        new_size = settings.size if square else int(settings.size * size / shortest)
    matrix = resize_matrix(size, new_size, settings.method)
    if settings.crop is None:
        return matrix
    crop = settings.crop[axis]
    return crop_matrix(new_size, (new_size - crop) // 2, crop) @ matrix
