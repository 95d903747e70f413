"""Certified radius: the largest `rho` at which the rounded-down dual bound still exceeds `tau`.

One search moves the threshold offset `w` and `rho` together. Every look gives a sandwich `D <= V*(rho) <= U`: the dual
value, and the value of a test made feasible by mixing. `D > tau` proves `rho < rho*`, `U < tau` refutes it, and neither
asks for a better `w` at the same `rho`. The bracket of `w` does not depend on `rho` (`offset_bracket`), so nothing is
solved twice.

Where both fail the look has decided nothing, and `w` is improved at the same `rho`: the dual is a parabola in `w`
whose top `V*` lies above `D` by about `hidden = t gap^2 / rate`, `rate = dF/dw` (twice what the parabola says, to be
safe). Only what was proven is returned; whatever a look refutes, or reckons to hide, guides the search alone.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hybrid_rs_jax.certificate._bracket import Bracket, search
from hybrid_rs_jax.certificate._dual import (
    Channel,
    Dual,
    Probability,
    Threshold,
    dual,
    ndtri,
    normal_pdf,
    normal_quantiles,
    smallest_rho,
    unit,
)
from hybrid_rs_jax.certificate._knapsack import knapsack, offset_bracket
from hybrid_rs_jax.certificate._worst_case import newton_step

__all__ = ["Radius", "radius"]

MAX_STEPS = 120
# After this many steps an undecided rho is no longer left before it is decided, so that no cycle goes on.
PATIENCE = 16


class Radius(NamedTuple):
    """A sound radius in units of sigma, and the dual point that proves it."""

    rho: Float[Array, "*lanes"]
    threshold: Threshold
    finished: Array


class _Proven(NamedTuple):
    """The largest `rho` proven so far, and the offset that proves it."""

    rho: Float[Array, "*lanes"]
    offset: Float[Array, "*lanes"]


class _Look(NamedTuple):
    """What one evaluation says about `rho`, at the offset `w` of the moment."""

    at: Dual
    feasible: Float[Array, "*lanes"]  # U, the value of a feasible test: at least V*
    hidden: Float[Array, "*lanes"]  # how much of V* a better offset may still show
    proven: Bool[Array, "*lanes"]  # the rounded-down dual exceeds tau
    refuted: Bool[Array, "*lanes"]  # no offset would prove this rho, or none could be told from this one
    close: Bool[Array, "*lanes"]  # the dual is near its top: its value says how far rho may go


def radius(channel: Channel, p_a: Probability, tau: Probability, max_steps: Array | int = MAX_STEPS) -> Radius:
    """Largest proven `rho` with `V*(rho) > tau`; 0 where only `rho = 0` is proven, -1 where not even that is."""
    dtype = tau.p.dtype
    split = knapsack(channel, p_a)
    offsets = offset_bracket(split, p_a, channel.p_0)
    z_a, z_tau = normal_quantiles(p_a, tau)
    # Without any discrete change the radius is z_a - z_tau: an upper end for every budget.
    ceiling = jnp.maximum(z_a - z_tau, jnp.finfo(dtype).tiny) * (1 + 1e-9)
    hopeless = ~(split.lower > tau.p)  # not even rho = 0
    unlimited = (p_a.complement == 0) & ~hopeless  # no clean mass to give away: no radius ends it

    def step(
        brackets: tuple[Bracket, Bracket], best: _Proven, steps: Array
    ) -> tuple[tuple[Bracket, Bracket], _Proven, Array]:
        rhos, offset = brackets
        look = _look(channel, p_a, tau, Threshold(split.anchor, offset.at), rhos.at, offset)
        better = look.proven & (rhos.at > best.rho)
        best = _Proven(jnp.where(better, rhos.at, best.rho), jnp.where(better, offset.at, best.offset))
        left = rhos.cut(look.proven, look.refuted & ~look.proven)
        # an undecided rho is left early only where the dual's value is good enough to say where to go
        stay = ~look.proven & ~look.refuted & (~look.close | (steps >= PATIENCE))
        onwards = _next_rho(left, look, tau, z_tau)
        moved = left._replace(at=jnp.where(stay, left.at, onwards.at))
        nearer = newton_step(offset.cut(look.at.gap > 0), look.at, p_a, z_a)
        # at another rho the search for w begins anew, from where the root will have gone
        carried = nearer.at + (look.at.drift - offset.at) * (moved.at - rhos.at) / rhos.at
        renewed = offsets._replace(at=jnp.clip(carried, offsets.low, offsets.high))
        offset = Bracket(*(jnp.where(stay, same, new) for same, new in zip(nearer, renewed, strict=True)))
        return (moved, offset), best, _is_done(left, look, tau)

    zero = jnp.zeros_like(ceiling)
    start = Bracket(zero, ceiling, ceiling / 2), offsets
    end = search(step, start, _Proven(zero, offsets.at), hopeless | unlimited, max_steps)
    rho = jnp.where(hopeless, -jnp.ones_like(zero), end.kept.rho)
    rho = jnp.where(unlimited, jnp.full_like(zero, jnp.inf), rho)
    return Radius(rho, Threshold(split.anchor, end.kept.offset), end.done)


def _look(
    channel: Channel, p_a: Probability, tau: Probability, threshold: Threshold, rho: Array, offset: Bracket
) -> _Look:
    """Evaluate the dual and a feasible test, and say what they decide about `rho`."""
    tiny = jnp.finfo(rho.dtype).tiny
    at = dual(channel, p_a, threshold, rho)
    feasible = _mixed_value(at.gap, at.accepted, p_a, channel.reachable)
    proven = at.lower > tau.p
    rate = at.slope / jnp.maximum(at.multiplier, tiny)
    hidden = at.multiplier * jnp.square(at.gap) / jnp.maximum(rate, tiny)
    close = (at.value > 0.5 * feasible) | ((jnp.abs(at.gap) <= 0.1 * rate) & (hidden < 0.1 * at.value))
    # t changes like e^(rho dw), dF/dw like e^(-w dw): within a tenth of that the dual is a parabola
    quadratic = jnp.abs(at.gap) * (1 + rho + jnp.abs(offset.at)) <= 0.1 * rate
    # no better offset would prove this rho: the upper end is a guide only, nothing rests on it
    settled = (jnp.abs(at.gap) <= at.gap_noise) | (offset.high - offset.low <= 8 * unit(rho.dtype) * jnp.abs(offset.at))
    refuted = (feasible < tau.p) | (quadratic & (at.value + 4 * hidden + at.noise < tau.p)) | settled
    return _Look(at, feasible, hidden, proven, refuted, close)


def _is_done(left: Bracket, look: _Look, tau: Probability) -> Array:
    """Nothing to gain: what is hidden above tau is rounding or radius beyond its digits, or the bracket is closed."""
    rho, at, dtype = left.at, look.at, left.at.dtype
    above = at.value + look.hidden - tau.p
    exhausted = look.proven & look.close & (above <= 3 * at.noise + 2e-13 * rho * at.slope)
    narrow = (left.high - left.low <= 8 * unit(dtype) * left.high) | (left.high <= smallest_rho(dtype))
    return exhausted | narrow


def _next_rho(left: Bracket, look: _Look, tau: Probability, z_tau: Array) -> Bracket:
    """One Newton step for `V* = tau` in `rho`, with `dV*/drho = -slope`, a little short of the root."""
    rho, at, u = left.at, look.at, unit(left.at.dtype)
    tiny = jnp.finfo(rho.dtype).tiny
    estimate = jnp.where(look.close, jnp.maximum(at.value - at.noise, 0.5 * at.value), look.feasible)
    estimate = jnp.clip(estimate, tiny, 1 - u)
    # far away Phi^-1(V) is nearly a straight line in rho; close by, V itself is, without the rounding of Phi^-1
    z = ndtri(estimate)
    far = jnp.abs(estimate - tau.p) > 1e-3 * jnp.minimum(tau.p, tau.complement)
    excess = jnp.where(far, (z - z_tau) * normal_pdf(z), estimate - tau.p - at.noise / 2)
    proposal = rho + excess / jnp.maximum(at.slope, tiny) - 16 * u * rho
    # an end of the bracket was looked at before: going there again would say nothing new
    fresh = (proposal > left.low) & (proposal < left.high)
    return left.moved(proposal, (at.slope > 0) & fresh)


def _mixed_value(gap: Array, accepted: Array, p_a: Probability, reachable: Array) -> Array:
    """Adversarial mass of the threshold test scaled down, or filled up, to exactly `p_A` clean mass."""
    tiny = jnp.finfo(gap.dtype).tiny
    scaled = accepted * p_a.p / jnp.maximum(p_a.p - gap, tiny)
    share = gap / jnp.maximum(p_a.complement + gap, tiny)
    filled = accepted + share * jnp.maximum(reachable - accepted, 0)
    return jnp.where(gap > 0, filled, scaled)
