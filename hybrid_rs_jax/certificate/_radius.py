"""Certified radius: the largest `rho` at which the rounded-down dual bound still exceeds `tau`.

One loop moves the threshold offset `w` and `rho` together. Every evaluation gives a sandwich `D <= V*(rho) <= U`: the
dual value, and the value of a test made feasible by mixing. `D > tau` proves `rho < rho*`, `U < tau` proves
`rho > rho*`, and neither asks for a better `w` at the same `rho`. The brackets of `w` do not depend on `rho`
(`offset_bracket`), so nothing is solved twice.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hybrid_rs_jax.certificate._dual import (
    Channel,
    Probability,
    Threshold,
    dual,
    normal_quantile,
    smallest_rho,
    unit,
)
from hybrid_rs_jax.certificate._knapsack import knapsack, offset_bracket
from hybrid_rs_jax.certificate._worst_case import newton_offset

__all__ = ["Radius", "radius"]

MAX_STEPS = 120
# After this many steps an undecided rho is no longer left before it is decided, so that no cycle goes on.
PATIENCE = 16
_PDF_0 = 0.3989422804014327


class Radius(NamedTuple):
    """A sound radius in units of sigma, and the dual point that proves it."""

    rho: Float[Array, "*lanes"]
    threshold: Threshold
    finished: Array


def radius(channel: Channel, p_a: Probability, tau: Probability, max_steps: Array | int = MAX_STEPS) -> Radius:
    """Largest proven `rho` with `V*(rho) > tau`; 0 where only `rho = 0` is proven, -1 where not even that is."""
    dtype = tau.p.dtype
    u = unit(dtype)
    tiny = jnp.finfo(dtype).tiny
    split = knapsack(channel, p_a)
    bracket = offset_bracket(split, p_a, channel.p_0)
    z_a, z_tau = normal_quantile(p_a), normal_quantile(tau)
    # Without any discrete change the radius is z_a - z_tau: an upper end for every budget.
    ceiling = jnp.maximum(z_a - z_tau, tiny) * (1 + 1e-9)
    hopeless = ~(split.lower > tau.p)
    unlimited = (p_a.complement == 0) & ~hopeless

    class State(NamedTuple):
        rho: Array
        rho_low: Array
        rho_high: Array
        offset: Array
        low: Array
        high: Array
        safe: Array
        safe_offset: Array
        done: Array
        steps: Array

    def step(state: State) -> State:
        rho = state.rho
        at = dual(channel, p_a, Threshold(split.anchor, state.offset), rho)
        feasible = _mixed_value(at.gap, at.accepted, p_a, channel.reachable)
        proven = at.lower > tau.p
        better = proven & (rho > state.safe)
        safe = jnp.where(better, rho, state.safe)
        safe_offset = jnp.where(better, state.offset, state.safe_offset)
        rho_low = jnp.where(proven, jnp.maximum(rho, state.rho_low), state.rho_low)
        # how much of V* the offset may still hide, and how much radius that and the rounding are worth
        rate = at.slope / jnp.maximum(at.multiplier, tiny)
        hidden = at.multiplier * jnp.square(at.gap) / jnp.maximum(rate, tiny)
        close = (at.value > 0.5 * feasible) | ((jnp.abs(at.gap) <= 0.1 * rate) & (hidden < 0.1 * at.value))
        # t changes like e^(rho dw), dF/dw like e^(-w dw): within a tenth of that the dual is a parabola
        quadratic = jnp.abs(at.gap) * (1 + rho + jnp.abs(state.offset)) <= 0.1 * rate
        # no better offset would prove this rho: the upper end is a guide only, nothing rests on it
        settled = (jnp.abs(at.gap) <= at.gap_noise) | (state.high - state.low <= 8 * u * jnp.abs(state.offset))
        refuted = (feasible < tau.p) | (quadratic & (at.value + 4 * hidden + at.noise < tau.p)) | settled
        rho_high = jnp.where(refuted & ~proven, rho, state.rho_high)
        left = at.value + hidden - tau.p
        exhausted = proven & close & (left <= 3 * at.noise + 2e-13 * rho * at.slope)
        narrow = (rho_high - rho_low <= 8 * u * rho_high) | (rho_high <= smallest_rho(dtype))
        done = state.done | exhausted | narrow

        estimate = jnp.where(close, jnp.maximum(at.value - at.noise, 0.5 * at.value), feasible)
        estimate = jnp.clip(estimate, tiny, 1 - u)
        # far away Phi^-1(V) is nearly a straight line in rho; close by, V itself is, without the rounding of Phi^-1
        z = jax.scipy.special.ndtri(estimate)
        density = jnp.exp(-z * z / 2) * dtype.type(_PDF_0)
        far = jnp.abs(estimate - tau.p) > 1e-3 * jnp.minimum(tau.p, tau.complement)
        excess = jnp.where(far, (z - z_tau) * density, estimate - tau.p - at.noise / 2)
        proposal = rho + excess / jnp.maximum(at.slope, tiny) - 16 * u * rho
        inside = (at.slope > 0) & (proposal > rho_low) & (proposal < rho_high)
        moved = jnp.where(inside, proposal, rho_low + (rho_high - rho_low) / 2)
        stay = ~proven & ~refuted & (~close | (state.steps >= PATIENCE))
        moved = jnp.where(stay, rho, moved)

        low = jnp.where(at.gap > 0, state.offset, state.low)
        high = jnp.where(at.gap > 0, state.high, state.offset)
        offset = newton_offset(at, p_a, z_a, state.offset, low, high)
        carried = offset + (at.drift - state.offset) * (moved - rho) / rho
        offset = jnp.where(stay, offset, jnp.clip(carried, bracket.low, bracket.high))
        low = jnp.where(stay, low, bracket.low)
        high = jnp.where(stay, high, bracket.high)

        def keep(old: Array, new: Array) -> Array:
            return jnp.where(done, old, new)

        return State(
            keep(rho, moved),
            rho_low,
            rho_high,
            keep(state.offset, offset),
            low,
            high,
            safe,
            safe_offset,
            done,
            state.steps + 1,
        )

    def unfinished(state: State) -> Array:
        return (state.steps < max_steps) & ~jnp.all(state.done)

    zero = jnp.zeros_like(ceiling)
    start = State(
        ceiling / 2,
        zero,
        ceiling,
        bracket.guess,
        bracket.low,
        bracket.high,
        zero,
        bracket.guess,
        hopeless | unlimited,
        jnp.zeros((), jnp.int32),
    )
    end = jax.lax.while_loop(unfinished, step, start)
    rho = jnp.where(hopeless, -jnp.ones_like(zero), end.safe)
    rho = jnp.where(unlimited, jnp.full_like(zero, jnp.inf), rho)
    return Radius(rho, Threshold(split.anchor, end.safe_offset), end.done)


def _mixed_value(gap: Array, accepted: Array, p_a: Probability, reachable: Array) -> Array:
    """Adversarial mass of the threshold test scaled down, or filled up, to exactly `p_A` clean mass."""
    tiny = jnp.finfo(gap.dtype).tiny
    scaled = accepted * p_a.p / jnp.maximum(p_a.p - gap, tiny)
    share = gap / jnp.maximum(p_a.complement + gap, tiny)
    filled = accepted + share * jnp.maximum(reachable - accepted, 0)
    return jnp.where(gap > 0, filled, scaled)
