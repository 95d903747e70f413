"""Resizing as two matrix products, with the weights that Pillow uses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

__all__ = ["FILTERS", "crop_matrix", "resize_matrix"]


def resize_matrix(size: int, new_size: int, method: str) -> Float64[np.ndarray, "new_size size"]:
    """The weights of one axis: `resized = matrix @ pixels`.

    Output pixel `i` is centred at `c = (i + 1/2) s` with `s = size / new_size`; a pixel at distance `x` (in units of
    `max(s, 1)`: the filter widens when the image shrinks) has the weight `filter(x)`, normalised to sum to one over
    the window `floor(c +- support + 1/2)` clipped to the image.

    Args:
      size: pixels along the axis, at least 1.
      new_size: pixels after resizing, at least 1.
      method: "bilinear", "bicubic" (a = -1/2) or "lanczos".

    Returns:
      float64; every row sums to one; the identity when the sizes are equal.

    Raises:
      ValueError: for a size below 1 or an unknown method.

    >>> resize_matrix(4, 2, "bilinear").round(3)
    array([[0.429, 0.429, 0.143, 0.   ],
           [0.   , 0.143, 0.429, 0.429]])
    """
    for name, value in (("size", size), ("new_size", new_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1 pixel, got {value}.")
    if method not in FILTERS:
        raise ValueError(f"method must be one of {', '.join(FILTERS)}, got {method!r}.")
    if size == new_size:
        return np.eye(size)
    radius, function = FILTERS[method]
    step = size / new_size
    stretch = max(step, 1.0)
    centre = (np.arange(new_size) + 0.5) * step
    # truncation towards zero, as C does it, and then the clipping
    first = np.maximum((centre - radius * stretch + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + radius * stretch + 0.5).astype(np.int64), size)
    pixel = first[:, None] + np.arange((last - first).max())
    inside = pixel < last[:, None]
    weight = np.where(inside, function((pixel - centre[:, None] + 0.5) / stretch), 0.0)
    weight /= weight.sum(axis=1, keepdims=True)
    matrix = np.zeros((new_size, size))
    row = np.broadcast_to(np.arange(new_size)[:, None], pixel.shape)
    matrix[row[inside], pixel[inside]] = weight[inside]
    return matrix


def crop_matrix(size: int, start: int, new_size: int) -> Float64[np.ndarray, "new_size size"]:
    """Row `i` picks pixel `start + i`, or is zero where that lies outside: cropping and padding with black."""
    return np.eye(new_size, size, k=start)


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution with a = -1/2."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


#: Radius of the support, and the filter itself.
FILTERS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "bilinear": (1.0, _bilinear),
    "bicubic": (2.0, _bicubic),
    "lanczos": (3.0, _lanczos),
}
