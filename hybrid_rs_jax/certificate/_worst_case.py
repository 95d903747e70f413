"""Worst-case smoothed score at a fixed `rho`: one root of `F = p_A`, then the dual bound at that threshold."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hybrid_rs_jax.certificate._dual import (
    Channel,
    Dual,
    Probability,
    Threshold,
    dual,
    normal_quantile,
    smallest_rho,
    unit,
)
from hybrid_rs_jax.certificate._knapsack import knapsack, offset_bracket

__all__ = ["WorstCase", "newton_offset", "worst_case"]

MAX_STEPS = 100


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
    bracket = offset_bracket(split, p_a, channel.p_0)
    z_a = normal_quantile(p_a)
    tolerance = 2 * float(jnp.finfo(dtype).eps)

    class State(NamedTuple):
        offset: Array
        low: Array
        high: Array
        lower: Array
        best: Array
        done: Array
        steps: Array

    def step(state: State) -> State:
        at = dual(channel, p_a, Threshold(split.anchor, state.offset), rho)
        better = at.lower > state.lower
        lower = jnp.where(better, at.lower, state.lower)
        best = jnp.where(better, state.offset, state.best)
        low = jnp.where(at.gap > 0, state.offset, state.low)
        high = jnp.where(at.gap > 0, state.high, state.offset)
        # The dual loses t gap^2 / (2 dF/dw) to a gap: nothing to gain once that is below the rounding.
        rate = at.slope / at.multiplier
        second_order = (at.multiplier * jnp.square(at.gap) <= 0.02 * at.noise * rate) & (jnp.abs(at.gap) <= 0.1 * rate)
        vanished = at.multiplier <= jnp.finfo(dtype).tiny
        settled = (jnp.abs(at.gap) <= at.gap_noise) | second_order | vanished
        narrow = high - low <= tolerance * (jnp.abs(low) + jnp.abs(high))
        done = state.done | settled | narrow
        offset = newton_offset(at, p_a, z_a, state.offset, low, high)
        return State(jnp.where(done, state.offset, offset), low, high, lower, best, done, state.steps + 1)

    def unfinished(state: State) -> Array:
        return (state.steps < MAX_STEPS) & ~jnp.all(state.done)

    zero = jnp.zeros_like(rho)
    trivial = still | (split.lower <= 0) | (p_a.complement == 0)
    start = State(bracket.guess, bracket.low, bracket.high, zero, bracket.guess, trivial, jnp.zeros((), jnp.int32))
    end = jax.lax.while_loop(unfinished, step, start)

    upper = _feasible_value(channel, p_a, Threshold(split.anchor, end.offset), rho)
    # adding pixels to the attack cannot help the defender
    lower = jnp.minimum(end.lower, split.upper)
    upper = jnp.where(raised, split.upper, jnp.minimum(upper, split.upper))
    lower = jnp.where(trivial, split.lower, lower)
    upper = jnp.where(trivial, split.upper, upper)
    best = Threshold(split.anchor, end.best)
    return WorstCase(lower, jnp.maximum(upper, lower), best, end.steps)


def newton_offset(at: Dual, p_a: Probability, z_a: Array, offset: Array, low: Array, high: Array) -> Array:
    """One Newton step for `F = p_A` on the scale `Phi^-1(F)`, on which one Gaussian is a straight line.

    A step that would leave the bracket, or that comes from a flat stretch, is replaced by bisection.
    """
    tiny = jnp.finfo(offset.dtype).tiny
    reached = Probability(jnp.maximum(p_a.p - at.gap, tiny), jnp.maximum(p_a.complement + at.gap, tiny))
    z = normal_quantile(reached)
    density = jnp.exp(-z * z / 2) * offset.dtype.type(0.3989422804014327)
    rate = at.slope / at.multiplier  # dF/dw
    proposal = offset + (z_a - z) * density / jnp.where(rate > 0, rate, 1)
    # A root found to the last digits sits on the bracket's edge, so edges are inside.
    slack = 4 * jnp.finfo(offset.dtype).eps * jnp.abs(offset)
    # where F or 1 - F is all rounding, its quantile says nothing
    visible = jnp.minimum(reached.p, reached.complement) > at.gap_noise
    inside = visible & (rate > 0) & (proposal >= low - slack) & (proposal <= high + slack)
    return jnp.where(inside, jnp.clip(proposal, low, high), low + (high - low) / 2)


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
