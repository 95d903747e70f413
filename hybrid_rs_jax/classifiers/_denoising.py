"""From noisy pictures at the certified size to clean ones of the same size, by a denoiser that takes another size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hybrid_rs_jax.models._resize import resize_matrix

__all__ = ["Placed", "noise_gain"]

_METHOD = "bicubic"


@dataclasses.dataclass(frozen=True)
class Placed:
    """A denoiser where it stands: `placed(parameters, images, sigma)`, hashable, pictures in and out of one shape.

    Pictures are resized to `size` and back. The noise has been added before, at the certified size; resizing averages
    it, and the denoiser is told the standard deviation that is left of it in a pixel (`noise_gain`). A denoiser of grey
    pictures takes each channel of others by itself, whose noise is independent.

    Attributes:
      denoise: `denoise(parameters, images, sigma)`.
      channels: of the pictures that it takes; None: whatever comes.
      size: height and width that it takes; None: whatever comes.
      sigma: takes the place of the argument, as a plain number, for a denoiser that may not be told an array.
    """

    denoise: Callable[..., Array]
    channels: int | None = None
    size: tuple[int, int] | None = None
    sigma: float | None = None

    def __call__(
        self, parameters: Any, images: Float[Array, "batch height width channels"], sigma: Any
    ) -> Float[Array, "batch height width channels"]:
        """Estimate the clean pictures."""
        batch, height, width, channels = images.shape
        size = self.size or (height, width)
        single = self.channels == 1 and channels > 1
        x = _resized(images.astype(jnp.float32), size)
        if single:
            x = x.transpose(0, 3, 1, 2).reshape(batch * channels, *size, 1)
        sigma = sigma if self.sigma is None else self.sigma
        told = sigma if size == (height, width) else sigma * noise_gain((height, width), size)
        x = self.denoise(parameters, x, told)
        if single:
            x = x.reshape(batch, channels, *size).transpose(0, 2, 3, 1)
        return _resized(x, (height, width))


def noise_gain(size: tuple[int, int], new_size: tuple[int, int]) -> float:
    """Standard deviation of white noise of 1 after resizing, root of its mean variance over the pixels; at most 1.

    `gain^2 = |A|^2 |B|^2 / (H W)` with the matrices `A` [H, h] and `B` [W, w] of the two axes.

    >>> noise_gain((28, 28), (28, 28))
    1.0
    """
    variances = [
        float(np.square(resize_matrix(*pair, _METHOD)).sum(axis=1).mean()) for pair in zip(size, new_size, strict=True)
    ]
    return min(1.0, math.sqrt(math.prod(variances)))


def _resized(images: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b height width c"]:
    """Two matrix products; the same pictures where the size is right."""
    if images.shape[1:3] == size:
        return images
    rows, columns = (
        jnp.asarray(resize_matrix(old, new, _METHOD), jnp.float32)
        for old, new in zip(images.shape[1:3], size, strict=True)
    )
    exact = jax.lax.Precision.HIGHEST
    images = jnp.einsum("Hh,bhwc->bHwc", rows, images, precision=exact)
    return jnp.einsum("Ww,bhwc->bhWc", columns, images, precision=exact)
