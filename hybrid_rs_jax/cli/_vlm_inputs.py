"""Texts and pictures on the disk as the inputs of a run, encoded for a guard one at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from hybrid_rs_jax.data import Dataset, Input
from hybrid_rs_jax.errors import UnreadableInputError

__all__ = ["GuardInputs"]


class GuardInputs:
    """A data set as a guard is shown it.

    Args:
      data: index of texts and pictures.
      guard: encodes them.
    """

    def __init__(self, data: Dataset, guard: Any):
        self._data, self._guard = data, guard

    @property
    def ids(self) -> Sequence[str]:
        """Names from the index."""
        return self._data.ids

    @property
    def eligible(self) -> np.ndarray:
        """Positions with noise: bool[L] where they are the same for all inputs, else an empty bool[0, L]."""
        length = self._guard.text_length
        shared = self._guard.settings.threat == "l0"
        return np.ones(length, bool) if shared else np.zeros((0, length), bool)

    def read(self, index: int) -> Input:
        """One input.

        Raises:
          UnreadableInputError: if the picture cannot be read, or the text does not fit the region or the alphabet.
        """
        raw = self._data.read(index)
        try:
            return dataclasses.replace(self._guard.encode(raw.text, raw.image), id=raw.id)
        except ValueError as error:
            raise UnreadableInputError(str(error)) from error
