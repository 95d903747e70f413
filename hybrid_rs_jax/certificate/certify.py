"""From counts to what they certify: bound on the clean score, radius per budget, largest budget. Arrays in, arrays out.

`hybrid_rs_jax.results` wraps this with ids, a statement and files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from hybrid_rs_jax._checks import check_draws
from hybrid_rs_jax.certificate.bounds import (
    certified_radius,
    largest_probability,
    required_bound,
    worst_case_bounds,
)
from hybrid_rs_jax.confidence import (
    LowerBound,
    SamplingPlan,
    StagedLooks,
    UpperBound,
    Verdict,
    clopper_pearson_bound,
    clopper_pearson_upper_bound,
)
from hybrid_rs_jax.kernels import Edits, HybridSmoothing
from hybrid_rs_jax.kernels.edits import Budget, budget_numbers

__all__ = [
    "CertifiedCounts",
    "Side",
    "certified_counts",
    "as_lanes",
    "largest_budget",
    "needed_bound",
    "needed_samples",
    "shifted",
    "worst_case_scores",
]

#: "above": the score stays above tau (Unsafe); "below": it stays below (Safe).
Side = Literal["above", "below"]
#: Counts are compared in float64 further on, which holds integers up to here.
MOST_DRAWS = 2**53


class CertifiedCounts(NamedTuple):
    """What counts of B inputs certify at D discrete budgets.

    Attributes:
      bound: confidence bound on the clean smoothed score, float64[B] or float64[B, D]: a lower one (rounded down) for
        side "above", an upper one (rounded up) for "below".
      complement: `1 - bound`, rounded to the other side, with its digits near one.
      radius: float64[B, D] in the units of sigma, at most the true one; 0: only `eps = 0` is certified; -1: not even
        that.
      budget: int64[B], largest certified budget (at `eps = 0`); -1: none, the input abstains.
    """

    bound: np.ndarray
    complement: np.ndarray
    radius: np.ndarray
    budget: np.ndarray


def certified_counts(
    successes: np.ndarray,
    n: np.ndarray,
    smoothing: HybridSmoothing,
    tau: float,
    risk: float,
    budgets: Sequence[Budget],
    *,
    side: Side = "above",
    plan: SamplingPlan | None = None,
    total_variation: float = 0.0,
) -> CertifiedCounts:
    """Bounds and radii of B inputs; inputs with equal counts are solved once.

    Side "above": `V(p_A - delta; d, r) > tau + delta`; "below": `V_max(p_B + delta; d, r) < tau - delta`, with the
    total variation `delta` between the noise that was drawn and the ideal one (method 13), which draws and deployment
    share.

    Args:
      successes, n: int[B] for one sample per input, int[B, D] for one sample per input and budget.
      smoothing: the smoothing distribution.
      tau: decision threshold in (0, 1).
      risk: risk level of each single bound, in (0, 1), chosen before the counts were seen.
      budgets: the D discrete budgets, increasing.
      side: which side of `tau` is certified.
      plan: the plan that stopped the draws early; None: `n` was fixed before the first draw.
      total_variation: delta, in [0, 1); 0: the draws are taken for ideal.

    Raises:
      ValueError: if a number is out of range.
    """
    p, complement, back = distinct_bounds(successes, n, risk, side, plan)
    if np.ndim(successes) == 1:
        radius = _radii(p[:, None], complement[:, None], as_lanes(budgets), smoothing, tau, side, total_variation)
        radius = radius[back]
    else:
        columns = []
        for d, lanes in zip(budgets, back.T, strict=True):
            used, again = np.unique(lanes, return_inverse=True)
            found = _radii(p[used], complement[used], np.asarray(d), smoothing, tau, side, total_variation)
            columns.append(found[again])
        radius = np.stack(columns, axis=1)
    return CertifiedCounts(p[back], complement[back], radius, largest_budget(radius, budgets))


def distinct_bounds(
    successes: np.ndarray, n: np.ndarray, risk: float, side: Side, plan: SamplingPlan | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`clean_bound` of the distinct counts, and for each entry of the arrays which one of them it has."""
    pairs, back = _distinct(check_draws("successes", successes, 0), check_draws("n", n))
    return *clean_bound(pairs[0], pairs[1], risk, side, plan), back


def clean_bound(
    successes: object, n: object, risk: float, side: Side, plan: SamplingPlan | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Confidence bound on the clean score from the side that the claim needs, and its complement; rounded outwards."""
    bound: LowerBound | UpperBound
    if plan is not None:
        stopped = plan.lower_bound if side == "above" else plan.upper_bound
        bound = stopped(n, successes, risk)
    else:
        fixed = clopper_pearson_bound if side == "above" else clopper_pearson_upper_bound
        bound = fixed(successes, n, risk)
    return np.asarray(bound.p), np.asarray(bound.complement)


def worst_case_scores(
    bound: np.ndarray,
    complement: np.ndarray,
    budgets: Sequence[Budget],
    epsilon: float,
    smoothing: HybridSmoothing,
    side: Side = "above",
    total_variation: float = 0.0,
) -> np.ndarray:
    """Certified bound on the score under attack, float64[B, D]: a lower one, or an upper one for side "below".

    `V(p_A - delta) - delta`, or `V_max(p_B + delta) + delta`; rounded to the side that keeps the promise.
    """
    p, q = (x if x.ndim == 2 else x[:, None] for x in shifted(bound, complement, side, total_variation))
    d = as_lanes(budgets)
    if side == "above":
        lower, _ = worst_case_bounds(p, d, epsilon, smoothing, complement=q)
        return np.asarray(np.maximum(_down(lower - total_variation), 0.0) if total_variation else lower)
    upper = np.asarray(largest_probability(p, d, epsilon, smoothing, complement=q))
    return np.minimum(_up(upper + total_variation), 1.0) if total_variation else upper


def largest_budget(radius: np.ndarray, budgets: Sequence[Budget]) -> np.ndarray:
    """Largest certified budget of each row of radii [B, D], int64[B]; -1 where there is none.

    Budgets are nested, the worst case falls with d: the certified ones come first. Of `Edits` it is the place in
    `budgets`, 0 for the first.
    """
    certified = radius >= 0
    count = np.where(certified.all(axis=1), len(budgets), np.argmin(certified, axis=1))
    return np.where(count > 0, np.asarray(budget_numbers(budgets), np.int64)[np.maximum(count, 1) - 1], -1)


def needed_samples(
    budgets: Sequence[Budget],
    smoothing: HybridSmoothing,
    tau: float,
    risk: float,
    side: Side = "above",
    *,
    epsilon: float = 0.0,
    plan: SamplingPlan | None = None,
    total_variation: float = 0.0,
) -> np.ndarray:
    """Draws that each budget needs at `epsilon` if all agree, int64[D]; -1 where no number (of the plan) suffices.

    With a plan that stops early: the first of its looks at which agreeing draws certify the budget.
    """
    d = as_lanes(budgets)
    level = _threshold(tau, side, total_variation)
    if level is None:
        return np.full(d.shape, -1, np.int64)
    p, complement = _needed(d, smoothing, level, total_variation, epsilon)
    if plan is None:
        return _fixed_draws(p, complement, risk)
    return _planned_draws(p, complement, risk, side, plan)


def needed_bound(
    d: Budget,
    epsilon: float,
    smoothing: HybridSmoothing,
    tau: float,
    side: Side = "above",
    total_variation: float = 0.0,
) -> LowerBound:
    """The bound on the clean score that certifies `(d, epsilon)`, and its complement, both rounded to the hard side.

    Side "above": the smallest `p_A` that does; "below": `p` and `complement` are those of the share of draws that are
    NOT successes, whose lower bound must be as high. The complement is negative where no bound certifies.
    """
    level = _threshold(tau, side, total_variation)
    if level is None:
        return LowerBound(np.asarray(1.0), np.asarray(-1.0))
    p, complement = _needed(as_lanes([d]).reshape(()), smoothing, level, total_variation, epsilon)
    return LowerBound(p, complement)


def mirrored(tau: float) -> float:
    """`1 - tau`, rounded up: the threshold of the other decision."""
    return min((1 - tau) * (1 + 2.0**-51), 1 - 2.0**-53)


def as_lanes(budgets: Sequence[Budget]) -> np.ndarray:
    """Budgets as an array, of numbers where they are numbers."""
    return np.asarray(budgets, object if any(isinstance(budget, Edits) for budget in budgets) else np.int64)


def _radii(
    p: np.ndarray,
    complement: np.ndarray,
    d: np.ndarray,
    smoothing: HybridSmoothing,
    tau: float,
    side: Side,
    total_variation: float,
) -> np.ndarray:
    p, complement = shifted(p, complement, side, total_variation)
    level = _moved(tau, side, total_variation)
    if level is None:
        return np.full(np.broadcast_shapes(p.shape, d.shape), -1.0)
    return np.asarray(certified_radius(p, d, smoothing, level, side=side, complement=complement))


def shifted(p: np.ndarray, complement: np.ndarray, side: Side, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """The bound for ideal noise: lower by delta, or higher for an upper bound; rounded outwards."""
    if delta == 0:
        return p, complement
    if side == "above":
        return np.maximum(_down(p - delta), 0.0), np.minimum(_up(complement + delta), 1.0)
    return np.minimum(_up(p + delta), 1.0), np.maximum(_down(complement - delta), 0.0)


def _moved(tau: float, side: Side, delta: float) -> float | None:
    """Tau + delta above, tau - delta below, away from the claim; None where that leaves (0, 1)."""
    if delta == 0:
        return tau
    level = float(_up(np.asarray(tau + delta)) if side == "above" else _down(np.asarray(tau - delta)))
    return level if 0 < level < 1 else None


def _threshold(tau: float, side: Side, delta: float) -> float | None:
    """The level that a lower bound must exceed: side "below" is side "above" of the other decision."""
    level = _moved(tau, side, delta)
    return level if level is None or side == "above" else mirrored(level)


def _needed(
    d: np.ndarray, smoothing: HybridSmoothing, level: float, delta: float, epsilon: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Lower bound on the drawn score that certifies; its complement is negative where none does."""
    need = required_bound(d, epsilon, smoothing, level)
    p, complement = np.asarray(need.p), np.asarray(need.complement)
    if delta == 0:
        return p, complement
    less = _down(_down(complement - delta))
    rest = np.where((complement < 0) | (less <= 0), -1.0, less)
    return np.asarray(np.minimum(_up(_up(p + delta)), 1.0)), rest


def _enough(p: np.ndarray, complement: np.ndarray, need_p: np.ndarray, need_rest: np.ndarray) -> np.ndarray:
    """Does a lower bound reach the one that is needed? Near one the complement has the digits."""
    return np.asarray((need_rest > 0) & np.where(need_p > 0.5, complement <= need_rest, p >= need_p))


def _fixed_draws(p: np.ndarray, complement: np.ndarray, risk: float) -> np.ndarray:
    """The smallest n with `risk^(1/n)` high enough; -1 beyond 2^53."""
    possible = complement > 0
    with np.errstate(divide="ignore", over="ignore"):
        guess = np.ceil(np.log(risk) / np.log1p(-np.where(possible, complement, 0.5)))
    possible &= guess < MOST_DRAWS
    n = np.maximum(np.where(possible, guess, 1), 1).astype(np.int64)

    def enough(n: np.ndarray) -> np.ndarray:
        draws = np.maximum(n, 1)
        return (n >= 1) & _enough(*clopper_pearson_bound(draws, draws, risk), p, complement)

    n = np.where(enough(n - 1), n - 1, n)
    for _ in range(3):  # the guess is off by the rounding of two logarithms
        n = np.where(enough(n), n, n + 1)
    return np.where(possible, n, -1)


def _planned_draws(p: np.ndarray, complement: np.ndarray, risk: float, side: Side, plan: SamplingPlan) -> np.ndarray:
    """The first look at which sampling can stop with a bound that is high enough."""
    needed = np.full(p.shape, -1, np.int64)
    for n, agreeing in _strongest_stops(plan, side):
        k = agreeing if side == "above" else n - agreeing
        bound, rest = (float(x[0]) for x in clean_bound(np.array([k]), np.array([n]), risk, side, plan))
        bound, rest = (bound, rest) if side == "above" else (rest, bound)
        good = _enough(np.asarray(bound), np.asarray(rest), p, complement)
        needed = np.where((needed < 0) & good, n, needed)
    return needed


def _strongest_stops(plan: SamplingPlan, side: Side) -> Iterator[tuple[int, int]]:
    """For each look at which sampling can stop: the most draws that can agree there, as (draws, agreeing draws).

    Where bounds are those of one order of all stops, draws that agree stop at the strongest of them.
    """
    if not isinstance(plan, StagedLooks):
        looks = np.asarray(plan.looks)
        ends = np.asarray(plan.verdict(looks, looks if side == "above" else np.zeros_like(looks))) != Verdict.CONTINUE
        first = int(looks[np.argmax(ends)])
        yield first, first
        return
    before, going = 0, np.ones(1, bool)  # counts of agreeing draws with which sampling has gone on
    for n in np.asarray(plan.looks).tolist():
        counts = np.arange(n + 1)
        sums = np.concatenate([[0], np.cumsum(going)])
        last, first = np.minimum(counts + 1, before + 1), np.clip(counts - (n - before), 0, before + 1)
        reached = sums[last] > sums[first]
        stops = np.asarray(plan.verdict(n, counts if side == "above" else n - counts)) != Verdict.CONTINUE
        if (here := np.flatnonzero(reached & stops)).size:
            yield n, int(here[-1])
        before, going = n, reached & ~stops


def _distinct(successes: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct pairs of counts, int64[2, U], and for each entry of the arrays which one it has."""
    k, draws = np.broadcast_arrays(successes, n)
    most = int(draws.max(initial=0)) + 1
    if most < 2**31:
        values, back = np.unique(k * most + draws, return_inverse=True)
        pairs = np.stack([values // most, values % most])
    else:
        pairs, back = np.unique(np.stack([k.ravel(), draws.ravel()]), axis=1, return_inverse=True)
    return pairs, back.reshape(k.shape)


def _up(x: object) -> np.ndarray:
    return np.asarray(np.nextafter(np.asarray(x, np.float64), np.inf))


def _down(x: object) -> np.ndarray:
    return np.asarray(np.nextafter(np.asarray(x, np.float64), -np.inf))
