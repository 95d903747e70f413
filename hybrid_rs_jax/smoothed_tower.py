"""A vision-language guard behind a smoothed tower: features of noisy copies averaged, then one pass of the decoder."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Key

from hybrid_rs_jax.classifiers import VlmGuard
from hybrid_rs_jax.features import GuardTower
from hybrid_rs_jax.features.base import Encoder
from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.smoothed_encoder import SmoothedEncoder

__all__ = ["SmoothedTower"]


@dataclasses.dataclass(frozen=True)
class SmoothedTower:
    """A LLaVA guard that sees a picture through the mean of its tower's unit features over fresh noisy copies.

    The projector reads the mean DIRECTION, times a length that was fixed beforehand: of a picture nothing reaches the
    decoder but the vector whose cosine `certify_features` certifies (laws of `features.GuardTower`, or of the same
    boosted encoder). The certificate is about that vector, in expectation, and not about the guard's answer; the tower
    is asked `copies` times and the decoder once.

    Args:
      guard: of a LLaVA network, which decides by logits.
      smoothing: the noise of the pixels; tokens carry none.
      length: of the vector that the projector reads, above 0; `length_of` measures that of clean pictures.
      copies: noisy copies per picture.
      encoder: `GuardTower(guard)` behind a denoiser, before a mapper, or both (`features.Boosted`); None: by itself.

    Raises:
      ValueError: if the guard has no such tower, tokens carry noise, or a number is out of range.
    """

    guard: VlmGuard
    smoothing: HybridSmoothing
    length: float
    copies: int = 8
    encoder: Encoder | None = None

    def __post_init__(self) -> None:
        if self.smoothing.discrete is not None or self.smoothing.sigma is None:
            raise ValueError("smoothing of a tower must be noise of the pixels alone: HybridSmoothing(None, sigma).")
        if not 0 < self.length < float("inf"):
            raise ValueError(f"length must be above 0 and finite, got {self.length}.")
        self._smoothed  # noqa: B018  a tower that is none, or too few copies, are refused here

    @staticmethod
    def length_of(guard: VlmGuard, images: Float[Array | np.ndarray, "pictures height width 3"]) -> float:
        """Mean length of the tower's features of clean pictures."""
        features = GuardTower(guard)(np.zeros((len(images), 1), np.int32), images)
        return float(np.linalg.norm(np.asarray(features, np.float64), axis=1).mean())

    def features(
        self, images: Float[Array | np.ndarray, "pictures height width 3"], key: Key[Array, ""]
    ) -> Float[np.ndarray, "pictures features"]:
        """The mean direction of each picture's features, of length 1.

        Args:
          images: as they arrive, attacked or not.
          key: must be new for each call and unknown to the attacker.
        """
        return self._smoothed(np.zeros((len(images), 1), np.int32), np.asarray(images), key)

    def margin(
        self,
        tokens: Int[Array | np.ndarray, "pictures texts length"],
        images: Float[Array | np.ndarray, "pictures height width 3"],
        key: Key[Array, ""],
    ) -> Float32[np.ndarray, "pictures texts"]:
        """Margins of several texts with each picture, above 0 for Unsafe: all texts see the same noisy copies."""
        read = self.length * self.features(images, key)
        return np.asarray(self.guard.margin_of_tower(tokens, read))

    def __call__(
        self,
        tokens: Int[Array | np.ndarray, "pictures length"],
        images: Float[Array | np.ndarray, "pictures height width 3"],
        key: Key[Array, ""],
    ) -> Bool[np.ndarray, " pictures"]:
        """Decide for each pair: True = Unsafe."""
        return self.margin(np.asarray(tokens)[:, None], images, key)[:, 0] > 0

    @cached_property
    def _smoothed(self) -> SmoothedEncoder:
        tower: Any = GuardTower(self.guard) if self.encoder is None else self.encoder
        return SmoothedEncoder(tower, self.smoothing, self.copies)
