"""Worst-case score, certified radius and required clean score: enclosures, and decisions about claimed bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from flint import arb, fmpq
from scipy.special import ndtri_exp

from oracle.balls import (
    BITS,
    MAX_BITS,
    Bound,
    Enclosure,
    Real,
    Undecided,
    ball,
    centre,
    exact,
    exact_or_ball,
    log_float,
    precision,
)
from oracle.channels import Channel, Channels, each_channel
from oracle.threshold import Threshold


def knapsack(channel: Channel, p_a: Real) -> fmpq:
    """V* at rho = 0, exactly: cheapest atoms first until their clean mass is p_a, the last one split."""
    room = exact(p_a) - channel.p_0
    value = fmpq(0)
    for ratio, p, q in zip(channel.ratio, channel.p, channel.q, strict=True):
        if room <= 0:
            break
        value += q if room >= p else room * ratio
        room -= p
    return value


def inverse_knapsack(channel: Channel, tau: Real) -> fmpq | None:
    """Smallest p_a with knapsack value tau (tau > 0), exactly; None where no p_a reaches tau."""
    need, p_a = exact(tau), channel.p_0
    for ratio, p, q in zip(channel.ratio, channel.p, channel.q, strict=True):
        if need <= q:
            return p_a + need / ratio
        need -= q
        p_a += p
    return None


def worst_case_probability(channels: Channels, p_a: Real, rho: Real, relative: float = 1e-25) -> Enclosure:
    """Rigorous enclosure of V*, of relative width `relative`.

    Balls without radius, or exact rationals in the limiting cases: rho = 0, p_a = 1, p_a <= p_0.
    """
    pairs = []
    for channel in each_channel(channels):
        for pair in _enclosures(channel, p_a, rho):
            lower, upper = pair
            if upper - lower <= upper * exact(relative):
                break
        pairs.append(pair)
    return _combine(pairs, min)


def lower_bound_is_sound(channels: Channels, p_a: Real, rho: Real, value: float) -> bool:
    """Decides value <= V*. Raises `Undecided` where the two agree to thousands of bits."""
    return all(_reaches(channel, p_a, rho, exact(value)) for channel in each_channel(channels))


def upper_bound_is_sound(channels: Channels, p_a: Real, rho: Real, value: float) -> bool:
    """Decides value >= V* (of the worst of several channels)."""
    goal = exact(value)

    def bounded(channel: Channel) -> bool:
        for lower, upper in _enclosures(channel, p_a, rho):
            if upper <= goal:
                return True
            if lower > goal:
                return False
        raise Undecided(f"V* and {value} agree to {MAX_BITS} bits")

    return any(bounded(channel) for channel in each_channel(channels))


def _reaches(channel: Channel, p_a: Real, rho: Real, value: fmpq) -> bool:
    if value <= 0:
        return True
    for lower, upper in _enclosures(channel, p_a, rho):
        if lower >= value:
            return True
        if upper < value:
            return False
    raise Undecided(f"V* and {value} agree to {MAX_BITS} bits")


def _enclosures(channel: Channel, p_a: Real, rho: Real) -> Iterator[Enclosure]:
    """Ever tighter rigorous enclosures of V*, the cheapest first; exact rationals in the limiting cases."""
    p_a, rho = exact(p_a), exact_or_ball(rho)
    if not 0 <= p_a <= 1 or not rho >= 0:
        raise ValueError(f"need 0 <= p_a <= 1 and rho >= 0, got {p_a} and {rho}")
    at_zero = knapsack(channel, p_a)
    if p_a == 1 or p_a <= channel.p_0 or (isinstance(rho, fmpq) and rho == 0):
        yield at_zero, at_zero
        return
    threshold = Threshold(channel, p_a - channel.p_0, rho, clean=True)
    y = arb(threshold.float_root())
    lower = _dual(threshold, y, BITS).lower()
    yield lower.max(arb(0)), at_zero
    bits = BITS
    y = threshold.refine(y, 128, steps=2)
    while bits <= MAX_BITS:
        with precision(bits):
            y = threshold.refine(y, bits)
            lower = lower.max(_dual(threshold, y, bits).lower()).max(arb(0))
            upper = arb(at_zero).upper()
            feasible = threshold.bracket(y, bits)[1]
            if feasible is not None:
                upper = upper.min(threshold.other_mass(feasible, bits).upper())
        yield lower, upper
        bits *= 2


def _dual(threshold: Threshold, y: arb, bits: int) -> arb:
    """e^c (p_a - F(c)) + V(c): at most V*, whatever y."""
    with precision(bits):
        left, right = threshold.sides(y, bits)
        return threshold.price(y, bits) * (right - left) + threshold.other_mass(y, bits)


def _combine(pairs: list[Enclosure], pick: Callable[[Iterator[Bound]], Bound]) -> Enclosure:
    """The least or the greatest of several enclosures; ends are compared as exact numbers."""
    if len(pairs) > 1 and any(isinstance(end, arb) for pair in pairs for end in pair):
        with precision(MAX_BITS):
            pairs = [(ball(low).lower(), ball(high).upper()) for low, high in pairs]
    return pick(low for low, _ in pairs), pick(high for _, high in pairs)


def radius_is_sound(channels: Channels, p_a: Real, tau: float, rho: Real) -> bool:
    """Decides V*(rho) >= tau: rho <= rho*. Also decides a claimed required probability p_a."""
    return lower_bound_is_sound(channels, p_a, rho, tau)


def certified_radius(channels: Channels, p_a: Real, tau: float, relative: float = 1e-13) -> tuple[arb, arb]:
    """Enclosure of rho* = sup {rho: V*(rho) >= tau}, relative width at most 2 `relative` where rho* > 0.

    (-1, -1) where V*(0) < tau, (0, 0) where V*(0) = tau, infinite where p_a = 1 suffices.
    """
    return _combine([_radius(channel, p_a, tau, relative) for channel in each_channel(channels)], min)


def _radius(channel: Channel, p_a: Real, tau: float, relative: float) -> tuple[arb, arb]:
    if tau <= 0:
        raise ValueError(f"tau must be positive, got {tau}")
    p_a, goal = exact(p_a), exact(tau)
    at_zero = knapsack(channel, p_a)
    if at_zero < goal:
        return arb(-1), arb(-1)
    if p_a == 1:
        return arb("inf"), arb("inf")
    if at_zero == goal:
        return arb(0), arb(0)
    with precision(BITS):
        rho = _solve_radius(channel, p_a, goal, at_zero)
        width = exact(relative)
        for _ in range(12):
            low, high = centre(rho * (1 - width)), centre(rho * (1 + width))
            sound, unsound = _reaches(channel, p_a, low, goal), not _reaches(channel, p_a, high, goal)
            if sound and unsound:
                return low, high
            rho = high if sound else low
    raise Undecided(f"no radius found for p_a = {p_a}, tau = {tau}")


def _solve_radius(channel: Channel, p_a: fmpq, goal: fmpq, at_zero: fmpq, bits: int = 192) -> arb:
    """Safeguarded Newton for V*(rho) = tau, first on the normal scale, where the Gaussian case is linear."""
    goal_quantile = _quantile(log_float(goal), log_float(1 - goal))
    with precision(bits):
        # an upper end for every discrete law; 1e-14 for the rounding of the two float quantiles
        high = arb(_quantile(log_float(p_a), log_float(1 - p_a)) - goal_quantile) * (1 + exact(1e-12))
        high = (high if high > 0 else arb(0)) + exact(1e-14)
        low, spare, fall, rho = arb(0), arb(at_zero - goal), arb(at_zero), high
        for _ in range(300):
            value, slope = _value_and_slope(channel, p_a, rho, bits)
            miss = value - goal
            if miss.is_zero():
                return rho
            if miss > 0:
                low = rho
                high = high if high > rho else 2 * rho
            else:
                high, fall = rho, at_zero - value
            if abs(miss) < goal * exact(1e-3):
                new = centre(rho - miss / slope)
            else:
                quantile = _quantile(float(value.log()), float((1 - value).log())) if value > 0 else -math.inf
                density = (-(arb(quantile) ** 2) / 2).exp() / (2 * arb.pi()).sqrt()
                new = centre(rho - arb(quantile - goal_quantile) * density / slope)
            if new.is_finite() and abs(new - rho) < rho * exact(1e-17):
                return new
            if not (new > low and new < high):
                if low > 0:
                    new = centre((low * high).sqrt()) if high > 4 * low else centre((low + high) / 2)
                else:
                    new = centre(high * (spare / fall).min(arb(0.9)))
            rho = new
    raise Undecided("the radius iteration did not settle")


def _value_and_slope(channel: Channel, p_a: fmpq, rho: arb, bits: int) -> tuple[arb, arb]:
    """Centres of V*(rho) and of its derivative, -sum_i q_i phi(x_i - rho / 2)."""
    threshold = Threshold(channel, p_a - channel.p_0, rho, clean=True)
    y = threshold.refine(arb(threshold.float_root()), bits, steps=2)
    with precision(bits):
        return centre(_dual(threshold, y, bits)), -centre(threshold.slope(y, False, bits))


def _quantile(log_p: float, log_complement: float) -> float:
    return float(ndtri_exp(log_p)) if log_p < log_complement else -float(ndtri_exp(log_complement))


def required_probability(channels: Channels, rho: Real, tau: float) -> Enclosure:
    """Enclosure of the smallest p_a with V*(rho) >= tau > 0.

    Infinite where even p_a = 1 does not reach tau; exact rationals at rho = 0.
    """
    return _combine([_required(channel, rho, tau) for channel in each_channel(channels)], max)


def _required(channel: Channel, rho: Real, tau: float) -> Enclosure:
    if tau <= 0:
        raise ValueError(f"tau must be positive, got {tau}")
    rho, goal = exact_or_ball(rho), exact(tau)
    at_zero = inverse_knapsack(channel, goal)
    if at_zero is None:
        return arb("inf"), arb("inf")
    if (isinstance(rho, fmpq) and rho == 0) or at_zero == 1:
        return at_zero, at_zero
    threshold = Threshold(channel, goal, rho, clean=False)
    y = threshold.root(BITS)
    bits = BITS
    lower, upper = arb(0), arb(1)
    while bits <= MAX_BITS:
        with precision(bits):
            y = threshold.refine(y, bits)
            lower = arb(at_zero).lower()
            below = threshold.bracket(y, bits)[0]
            if below is not None:
                lower = lower.max((channel.p_0 + threshold.other_mass(below, bits)).lower())
            left, right = threshold.sides(y, bits)
            sufficient = channel.p_0 + threshold.other_mass(y, bits)
            sufficient += (right - left) / threshold.price(y, bits)
            upper = sufficient.upper().min(arb(1))
            if upper - lower <= (1 - lower) * exact(1e-20) and upper - lower <= upper * exact(1e-20):
                break
        bits *= 2
    return lower, upper
