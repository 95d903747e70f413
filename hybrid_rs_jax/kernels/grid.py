"""Pixel noise on a grid: what is drawn is what is certified, for every classifier, floats included.

A certified picture is an array of whole numbers `k`, its levels: pixel `h k` with a step `h`. Noise adds an integer
`Z`, whose law does not depend on the picture and is that of a rounded normal; the classifier gets `h (k + Z)` as a
float, a function of an integer. Since rounding a Gaussian comes after drawing it, the Gaussian certificate holds as it
is, but for the `total_variation` between the table of 2^-64 and the exact law.

Noise of a picture is drawn by `noisy_pixels` alone: in the sampling engine, at run time, in attacks and in experiments.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from hybrid_rs_jax.kernels._alias import alias_table, half_width
from hybrid_rs_jax.kernels._threefry import IMAGE, Words, random_words

__all__ = [
    "GRID_STEP",
    "PixelNoise",
    "check_pictures",
    "draw_levels",
    "noisy_pixels",
    "off_grid_radius",
    "pixel_noise",
    "round_to_grid",
    "to_levels",
    "to_pixels",
    "total_variation",
]

#: The grid of pictures in files: 8 bits for 0..1.
GRID_STEP = 1 / 255
#: Levels stay far from the ends of int32.
MOST_LEVELS = 2**30
#: Pictures lie in [0, 1], attacked ones about there: what is further away has another unit.
_PICTURE_RANGE = (-15.0, 16.0)
#: Sizes that tables are padded to, so that a sweep over sigma compiles one program for each size.
_TABLE_SIZES = (1 << 12, 1 << 16, 1 << 21)
_CHUNK = 1 << 22


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["threshold_high", "threshold_low", "alias", "shift", "centre", "step"],
    meta_fields=["dtype"],
)
@dataclasses.dataclass(frozen=True)
class PixelNoise:
    """The alias table as arrays of 32-bit numbers, arguments of a compiled program.

    Attributes:
      threshold_high, threshold_low: upper and lower 32 bits of each cell's threshold; alias: its other outcome.
      shift: 32 less the number of bits that choose a cell.
      centre: the outcome that stands for 0.
      step: `h`, in float32, or in float64 where the pixels are.
      dtype: of the noisy pixels.
    """

    threshold_high: Any
    threshold_low: Any
    alias: Any
    shift: Any
    centre: Any
    step: Any
    dtype: np.dtype[Any]


@functools.lru_cache(maxsize=64)
def pixel_noise(sigma: float, step: float, dtype: np.dtype[Any]) -> PixelNoise:
    """Noise of standard deviation `sigma` on the grid of step `step`, for pixels in `dtype`.

    Raises:
      ValueError: if `sigma` is more than 2^16 steps.
    """
    table = alias_table(sigma, step)
    cells = len(table.alias)
    padding = (0, next(size for size in _TABLE_SIZES if size >= cells) - cells)
    wide = np.float64 if dtype == np.float64 else np.float32
    return PixelNoise(
        np.pad((table.threshold >> np.uint64(32)).astype(np.uint32), padding),
        np.pad((table.threshold & np.uint64(0xFFFFFFFF)).astype(np.uint32), padding),
        np.pad(table.alias, padding),
        np.uint32(32 - table.bits),
        np.int32(table.centre),
        wide(step),
        dtype,
    )


def noisy_pixels(words: Words, levels: Int32[Array, "*pixels"], noise: PixelNoise) -> Float[Array, "*pixels"]:
    """One noisy copy of a picture: `h (k + Z)`, the same integers on every device and in every dtype."""
    # in one row: an innermost axis of 3 colours would keep the processor from taking several pixels at a time
    flat = levels.reshape(-1)
    return to_pixels(flat + draw_levels(words, flat.shape, noise), noise).reshape(levels.shape)


def draw_levels(words: Words, shape: tuple[int, ...], noise: PixelNoise) -> Int32[Array, "*pixels"]:
    """Independent integers `Z`, from 64 uniform bits each: the first ones choose a cell, the others an outcome."""
    high, low = random_words(words, IMAGE, shape)
    cell = (high >> noise.shift).astype(jnp.int32)
    rest = high & ((jnp.uint32(1) << noise.shift) - jnp.uint32(1))
    threshold = jnp.asarray(noise.threshold_high)[cell]
    own = (rest < threshold) | ((rest == threshold) & (low < jnp.asarray(noise.threshold_low)[cell]))
    return jnp.where(own, cell, jnp.asarray(noise.alias)[cell]) - noise.centre


def to_pixels(levels: Int32[Array, "*pixels"], noise: PixelNoise) -> Float[Array, "*pixels"]:
    """The pixels `h k` of levels, in the dtype of the noise."""
    step = jnp.asarray(noise.step)
    return (levels.astype(step.dtype) * step).astype(noise.dtype)


def to_levels(image: Float[Array, "*pixels"], noise: PixelNoise) -> Int32[Array, "*pixels"]:
    """The nearest level of each pixel, inside of a compiled program; `round_to_grid` does it on the host."""
    step = jnp.asarray(noise.step)
    return jnp.rint(image.astype(step.dtype) / step).astype(jnp.int32)


def round_to_grid(images: np.ndarray, step: float) -> tuple[Int32[np.ndarray, "*pixels"], float]:
    """Levels of pixels, computed in float64, and the largest change of a pixel beyond the rounding of its own dtype.

    Args:
      images: floats of any dtype and shape.
      step: `h`, positive.

    Raises:
      ValueError: for a pixel that is not finite, that the grid or the dtype has no level for, or for a picture in
        float16 or bfloat16 that is off the grid.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images must be floats in [0, 1], got {images.dtype}; pixels of 0..255 are divided by 255 first."
        )
    levels, change = np.empty(images.shape, np.int32), 0.0
    flat, out = images.reshape(-1), levels.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        out[part], moved = _round(flat[part], step)
        change = max(change, moved)
    return levels, change


def _round(pixels: np.ndarray, step: float) -> tuple[np.ndarray, float]:
    values = pixels.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"Pixels must be finite numbers, got {values[~np.isfinite(values)][0]} in {pixels.dtype}.")
    largest = np.abs(values).max(initial=0.0)
    if largest > MOST_LEVELS * step:
        raise ValueError(
            f"Pixels must lie within {MOST_LEVELS} steps of the noise grid around 0, got {largest:g} at a step of "
            f"{step:g}; rescale the data, or give HybridSmoothing a larger step."
        )
    levels = np.rint(values / step)
    if pixels.dtype.itemsize < 4:
        _check_narrow(pixels, levels, step)
        return levels, 0.0
    spacing = float(np.spacing(pixels.dtype.type(largest)))
    if spacing > step / 4:
        raise ValueError(
            f"{pixels.dtype} has steps of {spacing:g} at a pixel of {largest:g}, too coarse for a noise grid of step "
            f"{step:g}; rescale the data, give float64, or give HybridSmoothing a larger step."
        )
    moved = np.abs(values - levels * step)
    return levels, float(moved[moved > spacing].max(initial=0.0))


def _check_narrow(pixels: np.ndarray, levels: np.ndarray, step: float) -> None:
    """A 16-bit float must be what its level is rounded to, and no other level."""
    found = [(step * (levels + offset)).astype(pixels.dtype) == pixels for offset in (-1, 0, 1)]
    off = ~found[1] | found[0] | found[2]
    if off.any():
        raise ValueError(
            f"Pixels in {pixels.dtype} must be multiples of the noise grid's step {step:g} as that type rounds them, "
            f"got {float(pixels[off][0])}; give them in float32, they are then rounded to the grid."
        )


def check_pictures(images: np.ndarray) -> None:
    """Refuse what is no batch of pictures [..., height, width, channels] in [0, 1], and say how to make it one.

    Raises:
      ValueError: for pixels of 0..255, or channels first.
    """
    shape = images.shape
    if images.ndim >= 3 and shape[-3] in (1, 3, 4) and min(shape[-2:]) > 4:
        raise ValueError(
            f"Pictures must have the shape [height, width, channels], got {list(shape[-3:])}, channels first; give "
            "np.moveaxis(images, -3, -1), or give HybridSmoothing a step if these are no pictures."
        )
    if not images.size or not jnp.issubdtype(images.dtype, jnp.floating):
        return
    least, most = float(images.min()), float(images.max())
    if not math.isfinite(most - least):
        return  # `round_to_grid` names the pixel
    if least >= 0 and most > 1 and (most > _PICTURE_RANGE[1] or _whole(images)):
        raise ValueError(
            f"Pixels must lie in [0, 1], got values from {least:g} to {most:g}; divide by 255, or give "
            "HybridSmoothing a step if these are no pictures."
        )
    if least < _PICTURE_RANGE[0] or most > _PICTURE_RANGE[1]:
        raise ValueError(
            f"Pixels must lie in [0, 1], got values from {least:g} to {most:g}; rescale them, or give HybridSmoothing "
            "a step if these are no pictures."
        )


def _whole(images: np.ndarray) -> bool:
    return images.size >= 4 and bool((images == np.rint(images.astype(np.float64))).all())


def total_variation(sigma: float, step: float, pixels: int) -> float:
    """Total variation between the noise of `pixels` pixels as it is drawn and the exact rounded normal, rounded up.

    Each of the table's outcomes is within 2^-65 of its mass on average, and less than two of these units lie beyond its
    ends: `pixels (outcomes + 2) 2^-65`, at most 1. Draws and deployment both use this noise, so with `p` a bound on the
    score as drawn, `p - delta` bounds that of the exact law, and a threshold moves from `tau` to `tau + delta`.

    >>> total_variation(0.25, 1 / 255, 224 * 224 * 3) < 5e-12
    True
    """
    outcomes = 2 * half_width(sigma, step) + 1
    return min(1.0, math.nextafter(float(Fraction(int(pixels) * (outcomes + 2), 1 << 65)), math.inf))


def off_grid_radius(radius: float, step: float, pixels: int) -> float:
    """Radius against attackers whose pixels may be any real numbers, where the filter rounds them first; rounded down.

    Rounding moves each of D pixels by at most h/2: an attack within `r - h sqrt(D)/2` is within `r` after rounding, and
    so is one within `r/2`, since a pixel that moves to another level has moved by half of that at least. The result is
    `max(r/2, r - h sqrt(D)/2)`; -1 (nothing certified) and 0 stay.

    Args:
      radius: certified against pictures on the grid.
      step: of the grid, h.
      pixels: D; channels count.

    Returns:
      The radius, rounded down.

    >>> off_grid_radius(1.0, 1 / 255, 16) > 0.99
    True
    """
    if radius <= 0:
        return radius
    shorter = radius - step * math.sqrt(pixels) / 2 * (1 + 2.0**-50)
    return math.nextafter(max(radius / 2, shorter), 0.0)


def chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of a batch in pieces of some million pixels."""
    rows = max(1, _CHUNK // max(1, images[:1].size))
    for start in range(0, len(images), rows):
        yield images[start : start + rows]
