"""Laws of the log ratio in JAX's arithmetic, for derivatives in the numbers of the noise.

The host computes a law in decimal arithmetic, from a number that it has checked and rounded to one that can be drawn.
Under `jax.grad`, `jit` or `vmap` a tracer stands in its place, whose value nobody knows: the law is that of the number
as it is, which must lie strictly between 0 and 1, and what the sums round is in `rounding`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float
from scipy.special import gammaln

from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio, identity

__all__ = ["Number", "absorbing_law", "is_traced", "uniform_law"]

if TYPE_CHECKING:
    # whoever reads the field outside of a transformation reads a float
    Number = float
else:
    Number = float | jax.Array

#: Each of 2d + 1 atoms is a sum of d/2 + 1 terms here.
LARGEST_TRACED_BUDGET = 1024


def is_traced(value: object) -> bool:
    """Does a transformation of JAX stand in the place of this number?"""
    return isinstance(value, jax.core.Tracer)


def uniform_law(beta: Float[Array, ""], vocab_size: int, d: int) -> LikelihoodRatio:
    """Atoms of the uniform kernel, `q_m = p_{-m}`, sorted by ratio, as `uniform_likelihood_ratio` has them.

    `p_m` sums multinomial terms over `m = k - s`: `k` tokens kept, `s` turned into the attacker's, the other `t` into a
    third symbol, `k + s + t = d`.

    Raises:
      ValueError: if `d` is more than 1024.
    """
    if d == 0:
        return identity()
    if d > LARGEST_TRACED_BUDGET:
        raise ValueError(f"d must be at most {LARGEST_TRACED_BUDGET} for a beta that JAX traces, got {d}.")
    others = vocab_size - 1
    # of two symbols none is a third one, and every other atom has no mass
    m = np.arange(-d, d + 1, 2 if vocab_size == 2 else 1)[:, None]
    both = np.arange(d // 2 + 1)[None]
    third = d - abs(m) - 2 * both
    possible = (third == 0) if vocab_size == 2 else (third >= 0)
    kept, swapped, third = np.maximum(m, 0) + both, np.maximum(-m, 0) + both, np.maximum(third, 0)
    ways = gammaln(d + 1) - gammaln(kept + 1) - gammaln(swapped + 1) - gammaln(third + 1)
    log_keep, log_swap = jnp.log1p(-beta), jnp.log(beta) - math.log(others)
    log_third = log_swap + math.log(max(vocab_size - 2, 1))
    times, c, k, s, t = (jnp.asarray(part, beta.dtype) for part in (-m[:, 0], ways, kept, swapped, third))
    terms = c + k * log_keep + s * log_swap + t * log_third
    log_clean = logsumexp(jnp.where(possible, terms, -jnp.inf), axis=1)  # of m, where log(q/p) = -m log_step
    log_step = log_keep - log_swap
    log_ratio, log_p, log_q = (
        jnp.where(log_step < 0, part, part[::-1]) for part in (times * log_step, log_clean, log_clean[::-1])
    )
    # a term errs by some units of its largest part, however small the sum of all; then so many are added up
    parts = 3 * d * math.log(d + 1) + d * (jnp.abs(log_keep) + jnp.abs(log_swap) + jnp.abs(log_third))
    return LikelihoodRatio(log_ratio, log_p, log_q, 0.0, 0.0, 4.0 + d / 4 + 2 * parts)


def absorbing_law(beta: Float[Array, ""], d: int) -> LikelihoodRatio:
    """One atom of mass `beta^d`, the rest singular."""
    if d == 0:
        return identity()
    shared = (d * jnp.log(beta))[None]
    rest = -jnp.expm1(shared[0])
    return LikelihoodRatio(jnp.zeros_like(shared), shared, shared, rest, rest, 4.0)
