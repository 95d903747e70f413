"""Worst-case smoothed score at a fixed `rho`: one root of `F = p_A`, then the dual bound at that threshold."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hybrid_rs_jax.certificate._bracket import Bracket, search
from hybrid_rs_jax.certificate._dual import (
    Channel,
    Dual,
    Probability,
    Threshold,
    dual,
    normal_pdf,
    normal_quantile,
    smallest_rho,
    unit,
)
from hybrid_rs_jax.certificate._knapsack import knapsack, offset_bracket

__all__ = ["WorstCase", "newton_step", "worst_case"]

MAX_STEPS = 100


class _Best(NamedTuple):
    """The largest lower bound so far, and the offset that proves it."""

    lower: Float[Array, "*lanes"]
    offset: Float[Array, "*lanes"]


class WorstCase(NamedTuple):
    """Sound bounds on the worst-case score and where they were found."""

    lower: Float[Array, "*lanes"]
    upper: Float[Array, "*lanes"]
    threshold: Threshold
    steps: Array


def worst_case(channel: Channel, p_a: Probability, rho: Array) -> WorstCase:
    """Bounds `lower <= V*(rho) <= upper`, lanes of shape `rho.shape`."""
    dtype = rho.dtype
    split = knapsack(channel, p_a)
    still = rho <= 0
    raised = rho < smallest_rho(dtype)  # sound for the lower bound alone
    rho = jnp.maximum(rho, dtype.type(smallest_rho(dtype)))
    z_a = normal_quantile(p_a)
    tolerance = 2 * float(jnp.finfo(dtype).eps)

    def step(bracket: Bracket, best: _Best, _: Array) -> tuple[Bracket, _Best, Array]:
        at = dual(channel, p_a, Threshold(split.anchor, bracket.at), rho)
        better = at.lower > best.lower
        best = _Best(jnp.where(better, at.lower, best.lower), jnp.where(better, bracket.at, best.offset))
        left = bracket.cut(at.gap > 0)
        # The dual loses t gap^2 / (2 dF/dw) to a gap: nothing to gain once that is below the rounding.
        rate = at.slope / at.multiplier
        second_order = (at.multiplier * jnp.square(at.gap) <= 0.02 * at.noise * rate) & (jnp.abs(at.gap) <= 0.1 * rate)
        vanished = at.multiplier <= jnp.finfo(dtype).tiny
        settled = (jnp.abs(at.gap) <= at.gap_noise) | second_order | vanished
        return newton_step(left, at, p_a, z_a), best, settled | left.is_narrow(tolerance)

    trivial = still | (split.lower <= 0) | (p_a.complement == 0)
    bracket = offset_bracket(split, p_a, channel.p_0)
    end = search(step, bracket, _Best(jnp.zeros_like(rho), bracket.at), trivial, MAX_STEPS)

    upper = _feasible_value(channel, p_a, Threshold(split.anchor, end.bracket.at), rho)
    # adding pixels to the attack cannot help the defender
    lower = jnp.minimum(end.kept.lower, split.upper)
    upper = jnp.where(raised, split.upper, jnp.minimum(upper, split.upper))
    lower = jnp.where(trivial, split.lower, lower)
    upper = jnp.where(trivial, split.upper, upper)
    best = Threshold(split.anchor, end.kept.offset)
    return WorstCase(lower, jnp.maximum(upper, lower), best, end.steps)


def newton_step(left: Bracket, at: Dual, p_a: Probability, z_a: Array) -> Bracket:
    """One Newton step for `F = p_A` on the scale `Phi^-1(F)`, on which one Gaussian is a straight line.

    Args:
      left: the bracket of the offset `w`, cut at its point, where `at` was evaluated.
      at: the dual there.
      p_a: the clean probability to be reached, with `z_a = Phi^-1(p_A)`.
    """
    tiny = jnp.finfo(z_a.dtype).tiny
    reached = Probability(jnp.maximum(p_a.p - at.gap, tiny), jnp.maximum(p_a.complement + at.gap, tiny))
    z = normal_quantile(reached)
    rate = at.slope / at.multiplier  # dF/dw
    proposal = left.at + (z_a - z) * normal_pdf(z) / jnp.where(rate > 0, rate, 1)
    # where F or 1 - F is all rounding, its quantile says nothing
    visible = jnp.minimum(reached.p, reached.complement) > at.gap_noise
    return left.moved(proposal, visible & (rate > 0), 4 * jnp.finfo(z_a.dtype).eps * jnp.abs(left.at))


def _feasible_value(channel: Channel, p_a: Probability, threshold: Threshold, rho: Array) -> Array:
    """Adversarial mass of a test that accepts at least `p_A` clean mass: an upper bound on the worst case.

    The threshold is moved ahead until it accepts enough; where it still does not, the test is filled up at random.
    Every threshold on the way gives an upper bound, and the best one is kept.
    """
    u = unit(rho.dtype)
    tiny = jnp.finfo(rho.dtype).tiny

    def improve(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        best, offset = state
        at = dual(channel, p_a, Threshold(threshold.anchor, offset), rho)
        short = jnp.maximum(at.gap + at.gap_noise, 0)
        rest = jnp.maximum(p_a.complement + at.gap - at.gap_noise, tiny)
        filled = jnp.minimum(short / rest, 1) * channel.reachable * (1 + u * channel.reachable_error)
        # the same test for a rho that the caller rounded up by a few units: it accepts a little more
        rounded = 8 * u * rho * at.slope
        value = (at.accepted + at.accepted_noise + rounded + filled) * (1 + 16 * u) + 1e10 * tiny
        rate = at.slope / jnp.maximum(at.multiplier, tiny)
        ahead = jnp.clip((at.gap + 2 * at.gap_noise) / jnp.maximum(rate, tiny), -1, 1)
        return jnp.minimum(best, value), offset + ahead

    best, _ = jax.lax.fori_loop(0, 3, improve, (jnp.ones_like(rho), threshold.offset))
    nothing = (channel.p_0 > 0) & (p_a.p <= channel.p_0 * (1 - 8 * u * channel.rounding))
    return jnp.where(nothing, 0, best)
