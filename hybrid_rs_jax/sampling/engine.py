"""Monte Carlo counts: draw noise, classify, count, all in one compiled step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int64, Key

from hybrid_rs_jax.classifiers.base import BaseClassifier
from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["sample_counts"]


def sample_counts(
    classifier: BaseClassifier,
    tokens: Int[Array | np.ndarray, "inputs length"],
    images: Float[Array | np.ndarray, "inputs height width channels"],
    smoothing: HybridSmoothing,
    n: int,
    key: Key[Array, ""],
    *,
    eligible: Bool[Array | np.ndarray, " length"] | None = None,
    batch_size: int = 2000,
    progress: Callable[[int], None] | None = None,
) -> Int64[np.ndarray, " inputs"]:
    """Number of noisy copies, out of `n` per input, that the classifier calls unsafe.

    The noise of copy `s` of input `i` depends on `(key, i, s)` alone: it is the same for every batch size and order of
    work. Batches run across input boundaries, so only the last one is padded.

    Args:
      classifier: any `BaseClassifier` that JAX can trace.
      tokens: clean token ids; each one must belong to the kernel's alphabet.
      images: clean images; the noise is added in their dtype, and not clipped.
      smoothing: the smoothing distribution.
      n: noisy copies per input, at least 1.
      key: the run key; one key gives one set of draws.
      eligible: positions that carry token noise (the attacker's positions); None means all.
      batch_size: noisy copies per step.
      progress: called with the number of copies classified so far.

    Returns:
      int64 counts, exact (an integer sum, never a float).

    Raises:
      ValueError: if shapes differ, `n` or `batch_size` is below 1, or a token is outside of the alphabet.
    """
    tokens, images = jnp.asarray(tokens), jnp.asarray(images)
    if tokens.shape[0] != images.shape[0]:
        raise ValueError(f"tokens and images must hold the same inputs, got {tokens.shape[0]} and {images.shape[0]}.")
    for name, value in (("n", n), ("batch_size", batch_size)):
        if int(value) != value or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value}.")
    n, batch_size = int(n), int(batch_size)
    if smoothing.discrete is not None:
        smoothing.discrete.check_tokens(np.asarray(tokens))
    mask = jnp.ones(tokens.shape[1:], bool) if eligible is None else jnp.asarray(eligible)
    if mask.shape != tokens.shape[1:]:
        raise ValueError(f"eligible must have one entry per token {tokens.shape[1:]}, got shape {mask.shape}.")
    counts = np.zeros(tokens.shape[0], np.int64)
    if not counts.size:
        return counts
    done = 0
    for inputs, samples, real in _batches(tokens.shape[0], n, min(batch_size, tokens.shape[0] * n)):
        unsafe = _step(classifier, smoothing, tokens, images, mask, key, inputs, samples)
        np.add.at(counts, inputs[:real], np.asarray(unsafe)[:real])
        done += real
        if progress is not None:
            progress(done)
    return counts


def _batches(inputs: int, n: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Cut the (input, copy) pairs, in order, into batches of one size; the last one repeats its last pair."""
    total = inputs * n
    for start in range(0, total, size):
        index = np.minimum(np.arange(start, start + size), total - 1)
        yield (index // n).astype(np.int32), (index % n).astype(np.int32), min(size, total - start)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _step(
    classifier: BaseClassifier,
    smoothing: HybridSmoothing,
    tokens: Array,
    images: Array,
    eligible: Array,
    key: Array,
    inputs: Any,
    samples: Any,
) -> Array:
    """Classify one noisy copy of each (input, copy) pair."""

    def draw(i: Array, s: Array) -> tuple[Array, Array]:
        return smoothing.sample(jax.random.fold_in(jax.random.fold_in(key, i), s), tokens[i], images[i], eligible)

    return classifier(*jax.vmap(draw)(inputs, samples))
