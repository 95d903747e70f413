"""The smoothed encoder at run time: the mean direction of features of fresh noisy copies."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from hybrid_rs_jax._checks import check_whole
from hybrid_rs_jax._jax import own_settings
from hybrid_rs_jax.classifiers.base import for_smoothing
from hybrid_rs_jax.features.base import Encoder
from hybrid_rs_jax.features.units import checked_features, unit_features
from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.kernels._threefry import fold, key_words
from hybrid_rs_jax.kernels.grid import round_to_grid
from hybrid_rs_jax.sampling.engine import check_inputs

__all__ = ["CopiesRow", "SmoothedEncoder", "copies_table"]


@dataclasses.dataclass(frozen=True)
class SmoothedEncoder:
    """`F(x) = E f(z)/|f(z)|`, estimated by the mean over fresh noisy copies z (paper, section 3).

    What `certify_features` certifies is the expectation. A few copies come near it only in proportion to
    `1/sqrt(copies)`: the mean of 8 unit vectors may lie some tenths from it.

    Args:
      encoder: the encoder, any `Encoder`.
      smoothing: the smoothing distribution.
      copies: noisy copies per input, at least 1.
      eligible: positions that carry token noise, bool[length]; None means all.
      batch_size: most noisy copies per call of the encoder.

    >>> import jax
    >>> encoder = SmoothedEncoder(lambda tokens, images: images.mean((1, 2)), HybridSmoothing(None, 0.1), copies=64)
    >>> images = np.tile(np.float32([0.6, 0.8]), (1, 8, 8, 1))
    >>> encoder(np.zeros((1, 1), np.int32), images, jax.random.key(0)).round(1).tolist()
    [[0.6, 0.8]]
    """

    encoder: Encoder
    smoothing: HybridSmoothing
    copies: int = 8
    eligible: np.ndarray | None = None
    batch_size: int = 2000

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoder", for_smoothing(self.encoder, self.smoothing))
        object.__setattr__(self, "copies", check_whole("copies", self.copies, 1))
        object.__setattr__(self, "batch_size", check_whole("batch_size", self.batch_size, 1))

    def __call__(
        self,
        tokens: Int[Array | np.ndarray, "inputs length"],
        images: Float[Array | np.ndarray, "inputs height width channels"],
        key: Key[Array, ""],
    ) -> Float[np.ndarray, "inputs features"]:
        """The mean direction of each input, divided by its length.

        Args:
          tokens, images: inputs as they arrive, attacked or not.
          key: must be new for each call and unknown to the attacker.

        Raises:
          ValueError: if shapes do not fit, or a feature is zero or not finite; or the mean of an input is zero.
        """
        return unit_features(self.mean(tokens, images, key))

    def mean(self, tokens: Any, images: Any, key: Key[Array, ""]) -> Float[np.ndarray, "inputs features"]:
        """The mean of unit features itself: its length, at most 1, says how much the copies agree."""
        tokens, images = np.asarray(tokens), np.asarray(images)
        mask, _ = check_inputs(tokens, images, self.smoothing, self.eligible)
        step = self.smoothing.grid_step
        dtype = np.dtype(jax.dtypes.canonicalize_dtype(images.dtype))
        stored = images.astype(dtype) if step is None else round_to_grid(images, step)[0]
        noise = self.smoothing.noise(dtype)
        inputs, total = len(tokens), len(tokens) * self.copies
        sums: np.ndarray | None = None
        for start in range(0, total, self.batch_size):
            number = np.arange(start, min(start + self.batch_size, total))
            row = number // self.copies
            with own_settings():
                columns = (tokens[row], stored[row], mask[row], row.astype(np.uint32), number.astype(np.uint32))
                noisy = _noisy(noise, key_words(key), *map(jnp.asarray, columns))
                unit = unit_features(checked_features(self.encoder(*noisy), number.size))
            sums = np.zeros((inputs, unit.shape[1])) if sums is None else sums
            np.add.at(sums, row, unit)
        if sums is None:
            raise ValueError("tokens and images must hold at least one input, got none.")
        return sums / self.copies


@dataclasses.dataclass(frozen=True)
class CopiesRow:
    """What the smoothed encoder gives and costs with so many copies.

    Attributes:
      copies: noisy copies per input.
      mean, least: cosine of its feature with the reference, over the inputs.
      seconds: wall time per input, without compilation.
    """

    copies: int
    mean: float
    least: float
    seconds: float


def copies_table(
    encoder: Encoder,
    tokens: Any,
    images: Any,
    smoothing: HybridSmoothing,
    reference: Any,
    copies: Sequence[int],
    key: Key[Array, ""],
    *,
    eligible: np.ndarray | None = None,
) -> list[CopiesRow]:
    """Time and cosine against the number of copies (the second paper's Table 7 in kind); measured, not certified.

    Args:
      encoder, tokens, images, smoothing, eligible: as for `SmoothedEncoder`.
      reference: vectors [inputs, features].
      copies: numbers of copies, one row each.
      key: of the noise; each row has noise of its own.
    """
    rows, towards = [], unit_features(reference)
    for number, count in enumerate(copies):
        smoothed = SmoothedEncoder(encoder, smoothing, count, eligible)
        own = jax.random.fold_in(key, number)
        smoothed(tokens, images, own)  # compiles
        begun = time.perf_counter()
        cosine = (smoothed(tokens, images, own) * towards).sum(axis=1)
        seconds = (time.perf_counter() - begun) / len(cosine)
        rows.append(CopiesRow(count, float(cosine.mean()), float(cosine.min()), seconds))
    return rows


@jax.jit
def _noisy(noise: Any, words: Any, tokens: Any, images: Any, eligible: Any, row: Any, copy: Any) -> tuple[Any, Any]:
    """One noisy copy for each row of a batch."""

    def one(own: Any, levels: Any, mask: Any, i: Any, s: Any) -> tuple[Any, Any]:
        return noise(fold(fold(words, i), s), own, levels, mask)

    return jax.vmap(one)(tokens, images, eligible, row, copy)
