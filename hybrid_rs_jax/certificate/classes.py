"""Several classes: from votes per class to the radii of the smoothed top-1 decision. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hybrid_rs_jax._checks import check_draws
from hybrid_rs_jax.certificate.bounds import certified_radius
from hybrid_rs_jax.certificate.certify import as_lanes, largest_budget, shifted
from hybrid_rs_jax.certificate.samples import Sample
from hybrid_rs_jax.confidence import clopper_pearson_bound, clopper_pearson_upper_bound
from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.kernels.edits import Budget

__all__ = [
    "CertifiedClasses",
    "certified_classes",
    "certified_classes_of_samples",
    "checked_sample_votes",
    "checked_votes",
    "class_bounds",
]

Pair = tuple[np.ndarray, np.ndarray]
#: Bisections for the level between the two scores; each one that is left out costs radius, never soundness.
_STEPS = 40


class CertifiedClasses(NamedTuple):
    """What votes of B inputs certify at D discrete budgets.

    Attributes:
      label: int64[B], the class with most votes.
      p_a, p_a_complement: lower confidence bound on its score, rounded down, float64[B], and `1 - p_a`.
      p_b, p_b_complement: upper confidence bound on the score of every other class, rounded up, and `1 - p_b`.
      radius: float64[B, D] in the units of sigma, at most the true one; -1: not certified at this budget.
      budget: int64[B], largest certified budget; -1: the input abstains.
    """

    label: np.ndarray
    p_a: np.ndarray
    p_a_complement: np.ndarray
    p_b: np.ndarray
    p_b_complement: np.ndarray
    radius: np.ndarray
    budget: np.ndarray


def certified_classes(
    votes: np.ndarray,
    n: np.ndarray,
    smoothing: HybridSmoothing,
    alpha: float,
    budgets: Sequence[int],
    *,
    ties: np.ndarray | int = 0,
    total_variation: float = 0.0,
) -> CertifiedClasses:
    """Certify the smoothed top-1 decision from checked votes.

    A budget (d, eps) is certified when some level t separates the classes in the worst case: the score of the top class
    stays above t (Theorem 4.2) and that of every other class below it. Every t gives a sound radius; the best one is
    found by bisection, since the first radius falls with t and the second one grows.

    Args:
      votes: int64[B, C]; draws of `n` without a vote count for no class.
      n: int64[B].
      smoothing: the smoothing distribution.
      alpha: risk level per input in (0, 1). With two classes one bound per class is needed, at `alpha / 2`; with more a
        lower and an upper one, at `alpha / (2 C)`.
      budgets: the D discrete budgets, increasing.
      ties: of the draws, those whose margin is at rounding level: they count against the claim.
      total_variation: distance between the noise that was drawn and the ideal one, in [0, 1).
    """
    label, top, other = class_bounds(votes, n, alpha, ties)
    radius = _separated(top, other, np.asarray(budgets), smoothing, total_variation)
    nested = np.where(np.minimum.accumulate(radius >= 0, axis=1), radius, -1.0)
    return CertifiedClasses(label, *top, *other, radius, largest_budget(nested, budgets))


def certified_classes_of_samples(
    votes: np.ndarray,
    n: np.ndarray,
    samples: Sequence[Sample],
    smoothing: HybridSmoothing,
    alpha: float,
    budgets: Sequence[Budget],
    *,
    total_variation: float = 0.0,
) -> CertifiedClasses:
    """`certified_classes` from conditional draws: votes int64[B, S, C] and draws int64[B, S], a column per sample.

    The class is the one with most votes over all samples; the bounds of all classes hold in every sample, each within
    its share of alpha, so it may be chosen on these votes. `p_a` and `p_b` are float64[B, S].
    """
    label = votes.sum(axis=1).argmax(axis=1)
    radius = np.full((len(votes), len(budgets)), -1.0)
    columns = []
    for place, sample in enumerate(samples):
        own = (votes[:, place], n[:, place], sample.risk(alpha))
        _, top, other = class_bounds(*own, label=label)
        found = _separated(top, other, as_lanes(sample.budgets(budgets)), sample.smoothing(smoothing), total_variation)
        found = np.where(np.minimum.accumulate(found >= 0, axis=1), found, -1.0)
        radius = np.maximum(radius, sample.spread(found, len(budgets), -1.0))
        columns.append((*top, *other))
    p_a, rest_a, p_b, rest_b = (np.stack(column, axis=1) for column in zip(*columns, strict=True))
    return CertifiedClasses(label, p_a, rest_a, p_b, rest_b, radius, largest_budget(radius, budgets))


def class_bounds(
    votes: np.ndarray, n: np.ndarray, alpha: float, ties: np.ndarray | int = 0, *, label: np.ndarray | None = None
) -> tuple[np.ndarray, Pair, Pair]:
    """The class with most votes, a lower bound on its score, an upper one on the others; each with its complement.

    With `label` another class takes its place: the risk covers the bounds of all.
    """
    rows, classes = np.arange(len(votes)), votes.shape[1]
    label = votes.argmax(axis=1) if label is None else label
    top = np.maximum(votes[rows, label] - ties, 0)
    lower = clopper_pearson_bound(top, n, alpha / (2 if classes == 2 else 2 * classes))
    p_b, rest_b = np.asarray(lower.complement), np.asarray(lower.p)  # the others share what the top class leaves
    if classes > 2:
        others = votes.copy()
        others[rows, label] = -1
        upper = clopper_pearson_upper_bound(np.minimum(others.max(axis=1) + ties, n), n, alpha / (2 * classes))
        sharper = upper.p < p_b
        p_b, rest_b = np.where(sharper, upper.p, p_b), np.where(sharper, upper.complement, rest_b)
    return label, (np.asarray(lower.p), np.asarray(lower.complement)), (p_b, rest_b)


def checked_votes(votes: object, n: object = None) -> tuple[np.ndarray, np.ndarray]:
    """Votes int64[B, C] and draws int64[B], or one sentence.

    Args:
      votes: integers, C at least 2.
      n: draws, broadcasting to [B]; None: the sum of the votes.
    """
    array = np.asarray(votes)
    if array.ndim != 2 or array.shape[1] < 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"votes must be integers [inputs, classes] with at least 2 classes, got {array.dtype} {list(array.shape)}."
        )
    array = check_draws("votes", array, 0)
    total = array.sum(axis=1)
    draws = total if n is None else check_draws("n", n)
    try:
        draws = np.broadcast_to(draws, total.shape)
    except ValueError:
        raise ValueError(f"n must have shape [{len(total)}], one for each input, got {list(draws.shape)}.") from None
    if np.any(draws < 1):
        raise ValueError(f"n, the draws of an input, must be at least 1, got {draws.min()}.")
    if np.any(over := total > draws):
        raise ValueError(f"votes must add up to at most n, got {total[over][0]} of {draws[over][0]}.")
    return array, draws


def checked_sample_votes(votes: object, n: object, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Votes int64[B, S, C] of conditional draws and draws int64[B, S], or one sentence."""
    array = np.asarray(votes)
    if array.ndim == 2 and samples == 1:
        array = array[:, None]
    if array.ndim != 3 or array.shape[1] != samples:
        raise ValueError(
            f"Votes of conditional draws must have shape [inputs, {samples} budgets, classes]: each sample belongs to "
            f"one budget; got {list(array.shape)}."
        )
    draws = None if n is None else np.broadcast_to(check_draws("n", n), array.shape[:2])
    columns = [checked_votes(array[:, s], None if draws is None else draws[:, s]) for s in range(samples)]
    return np.stack([found for found, _ in columns], 1), np.stack([found for _, found in columns], 1)


def _separated(
    top: Pair,
    other: Pair,
    d: np.ndarray,
    smoothing: HybridSmoothing,
    delta: float,
) -> np.ndarray:
    """Largest radius over the levels that separate a score of at least `top` from one of at most `other`, [B, D]."""
    (p_a, rest_a), (p_b, rest_b) = shifted(*top, "above", delta), shifted(*other, "below", delta)
    shape = (p_a.size, d.size)
    best = np.full(shape, -1.0)
    possible = p_a > p_b
    if not possible.any():
        return best
    low, high = np.zeros(shape), np.ones(shape)
    for _ in range(_STEPS):
        level = (low + high) / 2
        # the scores of the ideal noise stay delta away from a level that separates those of the drawn one
        upper = np.minimum(np.nextafter(level + delta, 2) if delta else level, 1 - 2.0**-53)
        lower = np.maximum(np.nextafter(level - delta, -1) if delta else level, 2.0**-1000)
        above = certified_radius(p_a[:, None], d[None], smoothing, upper, complement=rest_a[:, None])
        below = certified_radius(p_b[:, None], d[None], smoothing, lower, side="below", complement=rest_b[:, None])
        safe = (upper >= level + delta) & (lower <= level - delta)
        best = np.maximum(best, np.where(safe, np.minimum(above, below), -1.0))
        too_high = above < below
        low, high = np.where(too_high, low, level), np.where(too_high, level, high)
    return np.where(possible[:, None], best, -1.0)
