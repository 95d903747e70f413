"""The uniform replacement kernel."""

from __future__ import annotations

import dataclasses
import functools
from decimal import Decimal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key, UInt32

from hybrid_rs_jax._checks import LARGEST_ALPHABET, check_alphabet, check_budget, check_whole
from hybrid_rs_jax.kernels._threefry import TOKEN_SYMBOLS, Words, random_words
from hybrid_rs_jax.kernels._traced import Number, is_traced, uniform_law
from hybrid_rs_jax.kernels._trinomial import log_decimal, log_trinomial_power
from hybrid_rs_jax.kernels.base import drawn_probability, hit_limits, hits, sample_tokens
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio, identity, singular

__all__ = ["ReplacingNoise", "UniformKernel", "uniform_likelihood_ratio"]


@dataclasses.dataclass(frozen=True)
class UniformKernel:
    """Keep a token with probability `1 - beta`, else draw one of the other `V - 1` symbols uniformly (paper A.8).

    For `d` changed positions the ratio takes the 2d+1 values `m L`, `m = -d..d`, with
    `L = log((1 - beta)(V - 1) / beta)`; the paper's O(d^2) table over `(i, j)` (A.13) depends on `m = i - j` only.
    `L = 0` and `L < 0` are legal; `beta = 0` and `beta = 1` give singular masses.

    Args:
      beta: replacement probability, in [0, 1]; kept as it is drawn, a multiple of 2^-32. Inside of `jax.grad`, `jit` or
        `vmap` it may be traced: then it is taken as it is, must lie in (0, 1), and `likelihood_ratio` differentiates.
      vocab_size: size V of the alphabet that the noise draws from, in 2..2^31-1. Tokens are 0..V-1; the attacker's
        tokens and the padding symbol belong to it.

    Raises:
      ValueError: if an argument is out of range.

    >>> UniformKernel(beta=0.25, vocab_size=512).likelihood_ratio(2).atoms
    5
    """

    beta: Number
    vocab_size: int

    def __post_init__(self) -> None:
        if not is_traced(self.beta):
            object.__setattr__(self, "beta", drawn_probability("beta", self.beta))
        object.__setattr__(self, "vocab_size", check_whole("vocab_size", self.vocab_size, 2, LARGEST_ALPHABET))

    def likelihood_ratio(self, d: int) -> LikelihoodRatio:
        """The 2d+1 atoms for `d` changed positions (fewer where masses vanish); masses exact to the last bit."""
        if is_traced(self.beta):
            return uniform_law(jnp.asarray(self.beta), self.vocab_size, check_budget(d))
        return uniform_likelihood_ratio(self.beta, self.vocab_size, check_budget(d))

    def likelihood_ratios(self, d: int) -> tuple[LikelihoodRatio, ...]:
        """One candidate: by symmetry all changes of `d` positions have the same law."""
        return (self.likelihood_ratio(d),)

    def sample(
        self, key: Key[Array, ""], tokens: Int[Array, "*shape"], eligible: Bool[Array, "*shape"] | None = None
    ) -> Int[Array, "*shape"]:
        """One noisy copy; jit and vmap friendly. Positions that are not `eligible` are kept."""
        return sample_tokens(self.noise(), key, tokens, eligible)

    def noise(self) -> ReplacingNoise:
        """The sampler with its numbers, for a compiled program."""
        return ReplacingNoise(*hit_limits(self.beta), np.uint32(self.vocab_size))

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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ReplacingNoise:
    """Replaces a token, where a word is at most `last`, by one of the other symbols of its alphabet.

    Attributes:
      last, possible: hit limits, scalars or one per position; see `hit_limits`.
      size: symbols V of the alphabet, uint32, a scalar or one per position.
    """

    last: Any
    possible: Any
    size: Any

    def __call__(
        self, words: Words, tokens: Int[Array, "*shape"], eligible: Bool[Array, "*shape"] | None
    ) -> Int[Array, "*shape"]:
        """One noisy copy. A shift by 1..V-1 modulo V is uniform over the other symbols."""
        hit, top = hits(words, tokens.shape, self.last, self.possible)
        if eligible is not None:
            hit = hit & eligible
        size = jnp.broadcast_to(jnp.asarray(self.size), tokens.shape)
        shift = below((top, *random_words(words, TOKEN_SYMBOLS, tokens.shape)), size - 1) + 1
        moved = tokens.astype(jnp.uint32) + shift
        moved = jnp.where(moved >= size, moved - size, moved)
        return jnp.where(hit, moved.astype(tokens.dtype), tokens)


def below(digits: tuple[Array, Array, Array], limit: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """A uniform integer in 0..limit-1 from 96 uniform bits, three words with the high one first.

    `floor(U limit / 2^96)`: each integer has its probability within 2^-96, that is within a factor 1 +- 2^-65 of
    1/limit. All arithmetic is in 32-bit words.
    """
    carry = jnp.zeros_like(limit)
    for digit in reversed(digits):
        high, low = _product(digit, limit)
        carry = high + (low + carry < low).astype(jnp.uint32)
    return carry


def _product(a: UInt32[Array, "*shape"], b: UInt32[Array, "*shape"]) -> tuple[Array, Array]:
    """High and low word of the 64-bit product, by the schoolbook on 16-bit digits."""
    half, mask = jnp.uint32(16), jnp.uint32(0xFFFF)
    a_high, a_low, b_high, b_low = a >> half, a & mask, b >> half, b & mask
    middle = a_high * b_low + ((a_low * b_low) >> half)
    other = a_low * b_high + (middle & mask)
    return a_high * b_high + (middle >> half) + (other >> half), a * b
