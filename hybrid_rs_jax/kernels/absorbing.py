"""The absorbing (masking) kernel."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from hybrid_rs_jax._checks import check_budget, check_tokens
from hybrid_rs_jax.kernels._threefry import Words
from hybrid_rs_jax.kernels._traced import Number, absorbing_law, is_traced
from hybrid_rs_jax.kernels.base import drawn_probability, hit_limits, hits, sample_tokens
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio, identity, singular

__all__ = ["AbsorbingKernel", "MaskingNoise"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MaskingNoise:
    """Masks where a word is at most `last`, if `possible`."""

    last: Any
    possible: Any
    mask_token: Any

    def __call__(
        self, words: Words, tokens: Int[Array, "*shape"], eligible: Bool[Array, "*shape"] | None
    ) -> Int[Array, "*shape"]:
        """One noisy copy."""
        hit, _ = hits(words, tokens.shape, self.last, self.possible)
        if eligible is not None:
            hit = hit & eligible
        return jnp.where(hit, jnp.asarray(self.mask_token).astype(tokens.dtype), tokens)


@dataclasses.dataclass(frozen=True)
class AbsorbingKernel:
    """Keep a token with probability `1 - beta`, else write the mask symbol (paper A.8).

    For `d` changed positions there is one atom of ratio 1 with mass `beta^d` (all of them masked) and singular masses
    `p_0 = q_inf = 1 - beta^d`. The worst case over all tokens, the mask symbol included.

    Args:
      beta: masking probability, in [0, 1]; kept as it is drawn, a multiple of 2^-32. Inside of `jax.grad`, `jit` or
        `vmap` it may be traced: then it is taken as it is, must lie in (0, 1), and `likelihood_ratio` differentiates.
      mask_token: id of the mask symbol.

    >>> AbsorbingKernel(beta=0.5).likelihood_ratio(2).p_0
    0.75
    """

    beta: Number
    mask_token: int = 0

    def __post_init__(self) -> None:
        if not is_traced(self.beta):
            object.__setattr__(self, "beta", drawn_probability("beta", self.beta))

    def likelihood_ratio(self, d: int) -> LikelihoodRatio:
        """One atom of mass `beta^d`, the rest singular."""
        d = check_budget(d)
        if is_traced(self.beta):
            return absorbing_law(jnp.asarray(self.beta), d)
        if d == 0 or self.beta == 1.0:
            return identity()
        if self.beta == 0.0:
            return singular()
        log_mass = d * math.log(self.beta)
        shared, rest = np.full(1, log_mass), -math.expm1(log_mass)
        return LikelihoodRatio(np.zeros(1), shared, shared, rest, rest, 3.0)

    def likelihood_ratios(self, d: int) -> tuple[LikelihoodRatio, ...]:
        """One candidate: all changes of `d` positions have the same law."""
        return (self.likelihood_ratio(d),)

    def sample(
        self, key: Key[Array, ""], tokens: Int[Array, "*shape"], eligible: Bool[Array, "*shape"] | None = None
    ) -> Int[Array, "*shape"]:
        """One noisy copy; jit and vmap friendly. Positions that are not `eligible` are kept."""
        return sample_tokens(self.noise(), key, tokens, eligible)

    def noise(self) -> MaskingNoise:
        """The sampler with its numbers, for a compiled program."""
        return MaskingNoise(*hit_limits(self.beta), np.int32(self.mask_token))

    def check_tokens(self, tokens: object) -> None:
        """Every integer token is covered: masking draws from no alphabet."""
        check_tokens(tokens)
