"""The uniform replacement kernel."""

from __future__ import annotations

import dataclasses
import functools
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from hybrid_rs_jax._checks import LARGEST_ALPHABET, check_alphabet, check_budget, check_probability, check_whole
from hybrid_rs_jax.kernels._trinomial import log_decimal, log_trinomial_power
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio, identity, singular

__all__ = ["UniformKernel", "bernoulli", "replace_uniformly", "uniform_likelihood_ratio"]


@dataclasses.dataclass(frozen=True)
class UniformKernel:
    """Keep a token with probability `1 - beta`, else draw one of the other `V - 1` symbols uniformly (paper A.8).

    For `d` changed positions the ratio takes the 2d+1 values `m L`, `m = -d..d`, with
    `L = log((1 - beta)(V - 1) / beta)`; the paper's O(d^2) table over `(i, j)` (A.13) depends on `m = i - j` only.
    `L = 0` and `L < 0` are legal; `beta = 0` and `beta = 1` give singular masses.

    Args:
      beta: replacement probability, in [0, 1].
      vocab_size: size V of the alphabet that the noise draws from, at least 2. Tokens are 0..V-1; the attacker's
        tokens and the padding symbol belong to it.

    Raises:
      ValueError: if an argument is out of range.

    >>> UniformKernel(beta=0.25, vocab_size=512).likelihood_ratio(2).atoms
    5
    """

    beta: float
    vocab_size: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", float(check_probability("beta", self.beta)))
        object.__setattr__(self, "vocab_size", check_whole("vocab_size", self.vocab_size, 2, LARGEST_ALPHABET))

    def likelihood_ratio(self, d: int) -> LikelihoodRatio:
        """The 2d+1 atoms for `d` changed positions (fewer where masses vanish); masses exact to the last bit."""
        return uniform_likelihood_ratio(self.beta, self.vocab_size, check_budget(d))

    def likelihood_ratios(self, d: int) -> tuple[LikelihoodRatio, ...]:
        """One candidate: by symmetry all changes of `d` positions have the same law."""
        return (self.likelihood_ratio(d),)

    def sample(
        self, key: Key[Array, ""], tokens: Int[Array, "*shape"], eligible: Bool[Array, "*shape"] | None = None
    ) -> Int[Array, "*shape"]:
        """One noisy copy; jit and vmap friendly. Positions that are not `eligible` are kept."""
        return replace_uniformly(key, tokens, self.beta, self.vocab_size, eligible)

    def check_tokens(self, tokens: object) -> None:
        """Raise a ValueError when a token lies outside of 0..V-1: the certificate would not cover it."""
        check_alphabet(tokens, self.vocab_size)


@functools.lru_cache(maxsize=4096)
def uniform_likelihood_ratio(beta: float, vocab_size: int, d: int) -> LikelihoodRatio:
    """Atoms of the uniform kernel, `q_m = p_{-m}`, sorted by ratio."""
    if d == 0:
        return identity()
    if beta == 0.0:
        return singular()
    keep, replace, others = 1 - Decimal(beta), Decimal(beta), vocab_size - 1
    if beta == 1.0:
        # a draw is never the symbol it started from, so each side has an outcome that the other one lacks
        log_other = d * log_decimal(Decimal(vocab_size - 2) / others)
        shared = np.full(1, log_other)
        rest = float(-np.expm1(log_other))
        return LikelihoodRatio(np.zeros(1), shared, shared, rest, rest, 2.0)
    log_p = log_trinomial_power(keep, replace * (vocab_size - 2) / others, replace / others, d)
    log_step = log_decimal(keep * others / replace)
    log_ratio = np.arange(-d, d + 1) * log_step
    log_q = log_p[::-1]
    if log_step < 0:
        log_ratio, log_p, log_q = log_ratio[::-1], log_p[::-1], log_q[::-1]
    keep_atom = log_p > -np.inf
    return LikelihoodRatio(log_ratio[keep_atom], log_p[keep_atom], log_q[keep_atom], 0.0, 0.0, 1.0)


def replace_uniformly(
    key: Key[Array, ""],
    tokens: Int[Array, "*shape"],
    beta: float | np.ndarray,
    alphabet: int | np.ndarray,
    eligible: Bool[Array, "*shape"] | None,
) -> Int[Array, "*shape"]:
    """Replace each eligible token with probability `beta` by one of the other symbols of its alphabet.

    A shift by 1..V-1 modulo V is uniform over the other symbols. `beta` and `alphabet` broadcast against `tokens`. The
    shift is drawn and added in int32: in the tokens' own dtype the sum could overflow (int16 and V = 32,000).
    """
    key_hit, key_shift = jax.random.split(key)
    hit = bernoulli(key_hit, tokens.shape, beta)
    if eligible is not None:
        hit = hit & eligible
    size = jnp.broadcast_to(jnp.asarray(alphabet, jnp.int32), tokens.shape)
    shift = jax.random.randint(key_shift, tokens.shape, jnp.ones((), jnp.int32), size, dtype=jnp.int32)
    moved = (tokens.astype(jnp.int32) + shift) % size
    return jnp.where(hit, moved.astype(tokens.dtype), tokens)


def bernoulli(key: Key[Array, ""], shape: tuple[int, ...], probability: float | np.ndarray) -> Bool[Array, "*shape"]:
    """Independent events of the given probability, within 2^-33: a float32 uniform would be off by up to 2^-24."""
    threshold = np.rint(np.asarray(probability, np.float64) * 2.0**32).astype(np.uint64)
    last = np.maximum(threshold, 1) - 1
    bits = jax.random.bits(key, shape, dtype=jnp.uint32)
    return (bits <= jnp.asarray(last.astype(np.uint32))) & jnp.asarray(threshold > 0)
