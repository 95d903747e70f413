"""Arrays that a guard is called with: what is wrong with them, in a sentence."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

__all__ = ["check_pairs", "float_pixels"]


def check_pairs(tokens: Any, images: Any, text_length: int, vocab_size: int, size: tuple[int, int]) -> None:
    """Refuse what is no batch of symbols [batch, text_length] with pictures [batch, height, width, 3].

    Values of symbols are looked at outside of a trace only.

    Raises:
      ValueError: for another shape, symbols that are no integers, or lie outside of 0..vocab_size-1.
    """
    if np.ndim(tokens) != 2 or np.shape(tokens)[1] != text_length:
        raise ValueError(f"tokens must have shape [batch, {text_length}], got {list(np.shape(tokens))}.")
    wanted = [np.shape(tokens)[0], *size, 3]
    if list(np.shape(images)) != wanted:
        raise ValueError(f"images must have shape {wanted}, got {list(np.shape(images))}.")
    if not jnp.issubdtype(jnp.result_type(tokens), jnp.integer):
        raise ValueError(f"tokens must be integers, got {jnp.result_type(tokens)}.")
    if not isinstance(tokens, jax.core.Tracer):
        values = np.asarray(tokens)
        outside = values[(values < 0) | (values >= vocab_size)]
        if outside.size:
            raise ValueError(f"tokens must lie in the noise alphabet 0..{vocab_size - 1}, got {outside[0]}.")


def float_pixels(image: Any) -> Float32[np.ndarray, "h w 3"]:
    """Finite float32 pixels with channels last.

    Raises:
      ValueError: for another shape, integers, or values that are not finite in float32.
    """
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"image must have shape [height, width, 3], got {list(pixels.shape)}.")
    if not jnp.issubdtype(pixels.dtype, jnp.floating):
        raise ValueError(f"image must hold floats in [0, 1], got {pixels.dtype}; divide 8-bit pixels by 255.")
    with np.errstate(over="ignore"):
        pixels = pixels.astype(np.float32)
    if not np.isfinite(pixels).all():
        raise ValueError(f"image must hold finite numbers of float32, got {pixels[~np.isfinite(pixels)][0]}.")
    return pixels
