"""Texts and pictures on the disk as the inputs of a run, encoded for a guard one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hybrid_rs_jax.data import Samples, Unreadable
from hybrid_rs_jax.data.inputs import Input
from hybrid_rs_jax.errors import UnreadableInputError

__all__ = ["GuardInputs"]


class GuardInputs:
    """A data set as a guard is shown it.

    Args:
      samples: index of texts and pictures.
      guard: encodes them.
    """

    def __init__(self, samples: Samples, guard: Any):
        self._samples, self._guard = samples, guard

    @property
    def ids(self) -> Sequence[str]:
        """Names from the index."""
        return [record.id for record in self._samples.records]

    @property
    def eligible(self) -> np.ndarray:
        """Positions with noise: bool[L] where they are the same for all inputs, else an empty bool[0, L]."""
        length = self._guard.text_length
        shared = self._guard.settings.threat == "l0"
        return np.ones(length, bool) if shared else np.zeros((0, length), bool)

    def read(self, position: int) -> Input:
        """One input.

        Raises:
          UnreadableInputError: if the picture cannot be read, or the text does not fit the region or the alphabet.
        """
        sample = self._samples[position]
        if isinstance(sample, Unreadable):
            raise UnreadableInputError(f"{sample.reason[:1].upper()}{sample.reason[1:]}.")
        try:
            return Input(*self._guard.encode(sample.text, sample.image))
        except ValueError as error:
            raise UnreadableInputError(str(error)) from error
