"""Any Python callable as an encoder: a PyTorch model, a program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hybrid_rs_jax._checks import check_whole
from hybrid_rs_jax.classifiers._pairs import host_pairs, qualified_name
from hybrid_rs_jax.features.units import checked_features

__all__ = ["HostEncoder"]


class HostEncoder:
    """A function of NumPy arrays that is called on the host.

    Args:
      function: `(tokens, images) -> features`, int32 [b, l] and float32 [b, h, w, c] to floats [b, features]. Its
        arrays are copies.
      batch_size: most pairs per call, at least 1; None gives it whole batches.
      max_in_flight: most calls at the same time, at least 1.
      name: what a run's header calls it; None takes the function's own name.
      digest: what tells its weights and settings from others; None checks the name alone when a run is resumed.

    Raises:
      ValueError: for a size or a number of calls that is out of range.

    >>> encoder = HostEncoder(lambda tokens, images: images.reshape(len(images), -1))
    >>> encoder(np.zeros((2, 1), np.int32), np.ones((2, 2, 2, 1), np.float32)).shape
    (2, 4)
    """

    on_host = True

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        batch_size: int | None = None,
        max_in_flight: int = 1,
        name: str | None = None,
        digest: str | None = None,
    ):
        self.batch_size = None if batch_size is None else check_whole("batch_size", batch_size, 1)
        self.max_in_flight = check_whole("max_in_flight", max_in_flight, 1)
        self.name, self.digest = qualified_name(function) if name is None else name, digest
        self._function = function

    def __call__(self, tokens: Any, images: Any) -> np.ndarray:
        """Encode each pair.

        Raises:
          ValueError: shapes or dtypes do not fit, or the function returned something else than finite vectors that are
            not zero.
        """
        tokens, images = host_pairs(tokens, images)
        size = self.batch_size or max(len(tokens), 1)
        pieces = [slice(start, start + size) for start in range(0, len(tokens), size)]
        parts = [
            checked_features(self._function(tokens[piece].copy(), images[piece].copy()), len(tokens[piece]))
            for piece in pieces
        ]
        return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)

    def describe(self) -> dict[str, object]:
        """Name and digest, for a run's header."""
        return {"name": self.name, "digest": self.digest}
