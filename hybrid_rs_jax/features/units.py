"""Feature vectors as directions: checked, and divided by their length."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

__all__ = ["checked_features", "unit_features"]


def checked_features(returned: Any, pairs: int) -> np.ndarray:
    """What an encoder returned for so many pairs: floats [pairs, features].

    Raises:
      ValueError: for another shape or dtype, and at the first feature that is zero or not finite.
    """
    found = np.asarray(returned)
    if found.dtype.kind == "V":  # bfloat16 is no kind of NumPy's own
        found = found.astype(np.float32)
    if found.dtype.kind != "f":
        raise ValueError(f"An encoder must return floats, got dtype {found.dtype}.")
    if found.ndim != 2 or len(found) != pairs or found.shape[1] < 1:
        raise ValueError(
            f"An encoder must return one vector per pair, shape [{pairs}, features], got {list(found.shape)}."
        )
    size = np.abs(found).max(axis=1)
    if (bad := ~((size > 0) & np.isfinite(size))).any():
        row = int(np.argmax(bad))
        what = "zero" if size[row] == 0 else "not finite"
        raise ValueError(f"The feature of pair {row} is {what}: it has no direction, so no cosine.")
    return found


def unit_features(features: Any) -> Float[np.ndarray, "pairs features"]:
    """Directions of features, float64 of length 1 up to rounding.

    Args:
      features: floats [pairs, features], finite and not zero.

    Returns:
      float64 [pairs, features].

    Raises:
      ValueError: if they are not.

    >>> unit_features([[3.0, 4.0]]).tolist()
    [[0.6, 0.8]]
    """
    found = checked_features(features, len(np.asarray(features))).astype(np.float64)
    scaled = found / np.abs(found).max(axis=1, keepdims=True)
    return scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
