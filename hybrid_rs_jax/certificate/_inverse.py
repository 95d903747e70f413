"""The inverse: the smallest clean probability that certifies a `rho`.

Along the frontier `V(w; rho) = tau` has one root `w`, and `F(w; rho)` is the smallest `p_A` there. At any other `w` the
dual bound solved for `p_A`, `p = F + (tau - V) / t`, still certifies; so a rounded root gives a sound answer.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

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
from hybrid_rs_jax.certificate._knapsack import share_of

__all__ = ["required"]

MAX_STEPS = 100


class _Split(NamedTuple):
    """The knapsack filled by adversarial mass up to `tau`."""

    anchor: Array
    filled: Array
    left: Array
    below: Array  # clean mass under the split atom, with p_0
    above: Array  # clean mass of the split atom and what lies above


def required(channel: Channel, tau: Probability, rho: Array) -> Probability:
    """Smallest `p_A` (rounded up, its complement rounded down) with `V*(rho) > tau`; complement < 0 where none does."""
    dtype = rho.dtype
    u = unit(dtype)
    tiny = jnp.finfo(dtype).tiny
    split = _fill(channel, tau)
    still = rho <= 0
    moving = jnp.maximum(rho, dtype.type(smallest_rho(dtype)))
    zero, one = jnp.zeros_like(moving), jnp.ones_like(moving)
    everything, nothing = Probability(one, zero), Probability(zero, one)

    shares = share_of(split.filled, split.left), share_of(split.filled, tau.complement), share_of(tau.p, split.left)
    guess, low, high, z_tau = normal_quantiles(*shares, tau)
    low, high = jnp.minimum(low, guess) - 1e-9, jnp.maximum(high, guess) + 1e-9

    def step(bracket: Bracket, kept: tuple[()], _: Array) -> tuple[Bracket, tuple[()], Array]:
        at = dual(channel, nothing, Threshold(split.anchor, bracket.at + moving), moving)
        short = tau.p - at.accepted
        left = bracket.cut(short > 0)
        settled = jnp.abs(short) <= at.accepted_noise + 4 * u * tau.p
        done = settled | _costs_nothing(short, at, tau) | left.is_narrow(4 * u)
        z = ndtri(jnp.clip(at.accepted, tiny, 1 - u))
        proposal = left.at + (z_tau - z) * normal_pdf(z) / jnp.maximum(at.slope, tiny)
        return left.moved(proposal, at.slope > 0), kept, done

    end = search(step, Bracket(low, high, guess), (), still, MAX_STEPS)
    threshold = Threshold(split.anchor, end.bracket.at + moving)

    from_zero = dual(channel, nothing, threshold, moving)  # gap = -F
    from_one = dual(channel, everything, threshold, moving)  # gap = 1 - F
    # the whole rounding of the dual value, turned into clean probability
    short = tau.p - from_zero.accepted
    near_one = from_one.gap < 0.5
    noise = jnp.where(near_one, from_one.noise, from_zero.noise) + 4 * u * tau.p
    extra = (short + 2 * noise) / jnp.maximum(from_zero.multiplier, tiny)
    p = (-from_zero.gap + extra) * (1 + 8 * u)
    complement = (from_one.gap - extra) * (1 - 8 * u)

    t = jnp.exp(split.anchor)
    share = split.filled / jnp.maximum(t, tiny)
    fuzz = (8 * channel.rounding * (jnp.abs(split.anchor) + 40) + 8 * channel.terms) * u
    p = jnp.where(still, (split.below + share) * (1 + fuzz), p)
    complement = jnp.where(still, split.above * (1 - fuzz) - share * (1 + fuzz), complement)

    impossible = tau.p >= channel.reachable * (1 - u * channel.reachable_error)
    complement = jnp.where(impossible, -one, complement)
    p = jnp.where(near_one | (p > 0.5), 1 - complement * (1 - 4 * u), p)
    return Probability(p, jnp.where(p > 0.5, complement, 1 - p))


def _costs_nothing(short: Array, at: Dual, tau: Probability) -> Array:
    """Is what the answer still loses to the offset far below what it gives away for rounding?

    Let `p(v) = F + (tau - V)/t` be the dual solved for p, and `s = tau - V`. With `t dF/dv = dV/dv = slope` and
    `dt/dv = rho t`, `dp/dv = -rho s/t`: zero where `V = tau`. A shortfall s there means an offset by `s / slope`, so

        p(v) - p = rho s^2 / (2 t slope).

    The answer is raised by at least `2 (4 u tau) / t` for rounding. `s^2 <= 1e-17 tau slope` keeps the loss below
    `rho / 178` of that; and `|s| <= slope / 10` the offset within a tenth of a standard deviation, where the expansion
    is good. Both cost tightness at worst: p(v) certifies at every v.
    """
    return (jnp.square(short) <= 1e-17 * tau.p * at.slope) & (jnp.abs(short) <= 0.1 * at.slope)


def _fill(channel: Channel, tau: Probability) -> _Split:
    p_below = jnp.cumsum(channel.p, axis=0)
    p_above = jnp.flip(jnp.cumsum(jnp.flip(channel.p, 0), axis=0), 0)
    q_below = jnp.cumsum(channel.q, axis=0)
    zero = jnp.zeros_like(tau.p)

    def visit(k: Array, split: _Split) -> _Split:
        q = channel.q[k]
        under = jnp.where(k > 0, q_below[k - 1], jnp.zeros_like(q))
        crossing = (q > 0) & (tau.p - under > 0) & (k < channel.atoms)
        clean = channel.p_0 + jnp.where(k > 0, p_below[k - 1], jnp.zeros_like(q))
        new = _Split(channel.log_ratio[k] + zero, tau.p - under, under + q - tau.p, clean + zero, p_above[k] + zero)
        return _Split(*(jnp.where(crossing, n, o) for n, o in zip(new, split, strict=True)))

    split = jax.lax.fori_loop(0, channel.atoms, visit, _Split(zero, zero, zero, zero, zero))
    tiny = jnp.finfo(zero.dtype).tiny
    return split._replace(filled=jnp.maximum(split.filled, tiny), left=jnp.maximum(split.left, tiny))
