"""The limit `rho -> 0`: the fractional knapsack over the atoms, solved exactly, and the starting point of the solvers.

Sort by ratio, fill clean mass up to `p_A`, split the last atom. In dual form: the best of the values
`e^{l_k} (p_A - P_{<k}) + Q_{<k}` over the atoms `k`, each of which is a sound lower bound by itself.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hybrid_rs_jax.certificate._bracket import Bracket
from hybrid_rs_jax.certificate._dual import Channel, Probability, normal_quantiles, unit

__all__ = ["Knapsack", "knapsack", "offset_bracket", "share_of"]


class Knapsack(NamedTuple):
    """Worst case at `rho = 0`, and the split atom `k`, which anchors the thresholds for every `rho > 0`."""

    lower: Float[Array, "*lanes"]
    upper: Float[Array, "*lanes"]
    anchor: Float[Array, "*lanes"]  # l_k
    filled: Float[Array, "*lanes"]  # p_A - P_{<k}, the part of the split atom that is accepted
    left: Float[Array, "*lanes"]  # P_{<=k} - p_A, the part that is not


def knapsack(channel: Channel, p_a: Probability) -> Knapsack:
    """Solve the knapsack for every lane; `lower <= V*(0) <= upper`."""
    u = unit(p_a.p.dtype)
    below = jnp.cumsum(channel.p, axis=0)
    from_here = jnp.flip(jnp.cumsum(jnp.flip(channel.p, 0), axis=0), 0)
    q_below = jnp.cumsum(channel.q, axis=0)
    # the clean mass of a steeper atom underflows
    steepest = -float(np.log(jnp.finfo(p_a.p.dtype).tiny))
    largest = (jnp.max(channel.p_error, where=channel.p > 0, initial=0) + channel.terms) * u
    largest_q = (jnp.max(channel.q_error, where=channel.q > 0, initial=0) + channel.terms) * u

    def visit(k: Array, best: tuple[Array, ...]) -> tuple[Array, ...]:
        lower, upper, anchor, filled, left = best
        p, q, ratio = channel.p[k], channel.q[k], channel.log_ratio[k]
        p_below = jnp.where(k > 0, below[k - 1], jnp.zeros_like(p))
        accepted = jnp.where(k > 0, q_below[k - 1], jnp.zeros_like(q))
        last = channel.p.shape[0] - 1
        p_above = jnp.where(k < last, from_here[jnp.minimum(k + 1, last)], jnp.zeros_like(p))
        gap = jnp.where(p_a.near_one, from_here[k] - p_a.complement, p_a.p - channel.p_0 - p_below)
        side = jnp.where(p_a.near_one, from_here[k] + p_a.complement, p_a.p + channel.p_0 + p_below)
        t = jnp.exp(jnp.minimum(ratio, steepest))
        gap_noise = (largest + (4 * channel.rounding + 4) * u) * side
        # the last term: exp(l) for a rounded l, of first order here because a knapsack threshold sits on its atom
        noise = t * gap_noise + largest_q * accepted
        noise = noise + 8 * channel.rounding * u * (jnp.abs(ratio) + 1) * t * jnp.minimum(jnp.abs(gap), p)
        valid = (p > 0) & (ratio < steepest) & (k < channel.atoms)
        # dual: every atom's ratio is a multiplier; primal: accept what is below, and enough of this atom
        bound = t * gap + accepted - (1 + 16 * u) * noise
        filling = jnp.maximum(gap + gap_noise, 0)
        feasible = valid & (filling <= p * (1 - largest))
        reached = t * filling + accepted + (1 + 16 * u) * noise
        crossing = valid & (gap > 0)  # the last such atom is the one that is split
        return (
            jnp.where(valid, jnp.maximum(lower, bound), lower),
            jnp.where(feasible, jnp.minimum(upper, reached), upper),
            jnp.where(crossing, ratio, anchor),
            jnp.where(crossing, gap, filled),
            # near one the complement has the digits; without them the bracket would miss the root
            jnp.where(crossing, jnp.where(p_a.near_one, p_a.complement - p_above, p - gap), left),
        )

    zero = jnp.zeros_like(p_a.p)
    start = (zero, zero + 1, zero, zero, zero)
    lower, upper, anchor, filled, left = jax.lax.fori_loop(0, channel.atoms, visit, start)
    tiny = jnp.asarray(1e10 * float(jnp.finfo(zero.dtype).tiny), zero.dtype)
    # without clean mass to give away the defender keeps all that the adversary can reach
    certain = jnp.where(p_a.complement == 0, channel.reachable * (1 - u * channel.reachable_error), zero)
    lower = jnp.maximum(jnp.maximum(lower - tiny, certain), 0)
    reachable = jnp.minimum(channel.reachable * (1 + u * channel.reachable_error) + tiny, 1)
    upper = jnp.where(p_a.complement <= tiny, reachable, jnp.minimum(upper * (1 + 8 * u) + tiny, reachable))
    nothing = (channel.p_0 > 0) & (p_a.p <= channel.p_0 * (1 - 8 * u * channel.rounding))
    return Knapsack(
        jnp.where(nothing, 0, lower),
        jnp.maximum(jnp.where(nothing, 0, upper), lower),
        anchor,
        jnp.maximum(filled, jnp.finfo(zero.dtype).tiny),
        jnp.maximum(left, jnp.finfo(zero.dtype).tiny),
    )


def offset_bracket(split: Knapsack, p_a: Probability, p_0: Array) -> Bracket:
    """The interval of offsets `w` that holds the root of `F = p_A` for EVERY `rho`, and a guess inside.

    The root is bounded by what the split atom and everything on one side of it accept.

    Atoms below `k` accept a larger share than `Phi(w)`, atoms above a smaller one. So `F <= p_A` while
    `(1 - P_{<k}) Phi(-w) >= 1 - p_A`, and `F >= p_A` once `P_{<=k} Phi(w) >= p_A` (masses without `p_0`). The guess,
    `p_k Phi(w) = p_A - P_{<k}`, is exact as `rho -> 0`.
    """
    inside = jnp.maximum(p_a.p - p_0, jnp.finfo(p_a.p.dtype).tiny)
    low, high, guess = normal_quantiles(
        share_of(split.filled, p_a.complement), share_of(inside, split.left), share_of(split.filled, split.left)
    )
    slack = 1e-9 + 1e-9 * jnp.abs(guess)
    low, high = jnp.minimum(low, guess) - slack, jnp.maximum(high, guess) + slack
    return Bracket(low, high, guess)


def share_of(part: Array, rest: Array) -> Probability:
    """`part / (part + rest)`."""
    rest = jnp.maximum(rest, jnp.finfo(rest.dtype).tiny)
    whole = part + rest
    return Probability(part / whole, rest / whole)
