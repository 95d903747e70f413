"""What classifiers on the host share: the check of their input, and names for a run's header."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["host_pairs", "pairs_text", "qualified_name"]


def host_pairs(tokens: Any, images: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays on the host, as int32 [b, l] and float32 [b, h, w, c].

    Raises:
      ValueError: for other shapes, tokens that are not integers, or pixels that are not floats.
    """
    tokens, images = np.asarray(tokens), np.asarray(images)
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
        raise ValueError(f"tokens must be integers [b, l], got {tokens.dtype} of shape {tokens.shape}.")
    if tokens.size and not -(2**31) <= int(tokens.min()) <= int(tokens.max()) < 2**31:
        raise ValueError(f"tokens must fit into int32, got values from {tokens.min()} to {tokens.max()}.")
    if images.ndim != 4 or images.dtype.kind != "f":
        raise ValueError(f"images must be floats [b, h, w, c], got {images.dtype} of shape {images.shape}.")
    if len(tokens) != len(images):
        raise ValueError(f"tokens and images must hold the same pairs, got {len(tokens)} and {len(images)}.")
    return tokens.astype(np.int32, copy=False), images.astype(np.float32, copy=False)


def pairs_text(tokens: np.ndarray, images: np.ndarray) -> str:
    """What a classifier is called with, in a few words.

    >>> pairs_text(np.array([[3, 7]], np.int32), np.zeros((1, 8, 8, 3), np.float32))
    'tokens int32[1, 2] from 3 to 7, images float32[1, 8, 8, 3]'
    """
    span = f" from {tokens.min()} to {tokens.max()}" if tokens.size else ""
    return f"tokens {tokens.dtype}{list(tokens.shape)}{span}, images {images.dtype}{list(images.shape)}"


def qualified_name(thing: Any) -> str:
    """Module and name of a function, or of the type of any other callable."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"
