"""Certificates for classifiers with several classes: the smoothed top-1 decision."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from hybrid_rs_jax._checks import check_budgets, check_risk
from hybrid_rs_jax.certificate.bounds import certified_radius
from hybrid_rs_jax.confidence import clopper_pearson_bound, clopper_pearson_upper_bound
from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["ClassCertificate", "certify_classes"]

#: Bisections for the level between the two scores; each one that is left out costs radius, never soundness.
_STEPS = 40


@dataclasses.dataclass(frozen=True)
class ClassCertificate:
    """What is proven about the smoothed top-1 decision of B inputs, for each of D discrete budgets.

    With probability at least `1 - alpha` over the draws (per input), for every budget with `radius[b, d] >= 0`: within
    that budget and radius, class `label[b]` has the largest smoothed score.

    Attributes:
      votes: int64[B, C].
      label: int64[B], the class with most votes.
      p_a: lower confidence bound on its score, float64[B].
      p_b: upper confidence bound on the score of every other class, float64[B].
      radius: float64[B, D] in the units of sigma; -1: not certified at this budget.
      budget: int64[B], largest certified budget; -1: the input abstains.
      alpha: risk level; all bounds of an input hold together at it.
    """

    votes: np.ndarray
    label: np.ndarray
    p_a: np.ndarray
    p_b: np.ndarray
    radius: np.ndarray
    budget: np.ndarray
    budgets: tuple[int, ...]
    smoothing: HybridSmoothing
    alpha: float

    def statement(self) -> str:
        """The guarantee in one sentence."""
        return (
            f"With probability at least 1 - {self.alpha:g} over the draws, for each input by itself and for all "
            "budgets together: no attack within token budget d and l2 radius r_d changes the class with the largest "
            f"SMOOTHED score. The risk covers the bounds of all {self.votes.shape[1]} classes (union bound), so the "
            "class may be chosen on the votes that certify it."
        )


def certify_classes(
    votes: object, smoothing: HybridSmoothing, alpha: float, budgets: Sequence[int] = range(9)
) -> ClassCertificate:
    """Certify the smoothed top-1 decision from votes per class.

    A budget (d, eps) is certified when some level t separates the classes in the worst case: the score of the top class
    stays above t (Theorem 4.2) and that of every other class below it. Every t gives a sound radius; the best one is
    found by bisection, since the first radius falls with t and the second one grows.

    Args:
      votes: int[B, C] votes of each class, C at least 2; the draws of an input are their sum, fixed beforehand.
      smoothing: the smoothing distribution that the draws came from.
      alpha: risk level per input in (0, 1). With two classes one bound per class is needed, at `alpha / 2`; with more a
        lower and an upper one, at `alpha / (2 C)`.
      budgets: the D discrete budgets, increasing.

    Raises:
      ValueError: if an argument is out of range, or the shapes do not fit.

    >>> from hybrid_rs_jax import HybridSmoothing
    >>> certificate = certify_classes([[10, 980, 10], [340, 330, 330]], HybridSmoothing(None, 0.5), 0.01, [0])
    >>> certificate.label.tolist(), certificate.radius.round(2).tolist()
    ([1, 0], [[0.95], [-1.0]])
    """
    votes = np.asarray(votes)
    if votes.ndim != 2 or votes.shape[1] < 2 or votes.dtype.kind not in "iu":
        raise ValueError(
            f"votes must be integers [inputs, classes] with at least 2 classes, got {votes.dtype} {list(votes.shape)}."
        )
    if np.any(votes < 0) or np.any(votes.sum(axis=1) < 1):
        raise ValueError(f"votes must be non-negative, at least one per input, got {votes.min()}.")
    alpha, budgets = float(check_risk(alpha)), check_budgets(budgets)
    inputs, classes = votes.shape
    n, label = votes.sum(axis=1), votes.argmax(axis=1)
    lower = clopper_pearson_bound(votes[np.arange(inputs), label], n, alpha / (2 if classes == 2 else 2 * classes))
    p_b, rest_b = np.asarray(lower.complement), np.asarray(lower.p)  # the others share what the top class leaves
    if classes > 2:
        others = votes.copy()
        others[np.arange(inputs), label] = -1
        upper = clopper_pearson_upper_bound(others.max(axis=1), n, alpha / (2 * classes))
        sharper = upper.p < p_b
        p_b, rest_b = np.where(sharper, upper.p, p_b), np.where(sharper, upper.complement, rest_b)
    radius = _separated(lower.p, lower.complement, p_b, rest_b, np.asarray(budgets), smoothing)
    count = (np.minimum.accumulate(radius >= 0, axis=1)).sum(axis=1)
    budget = np.where(count > 0, np.asarray(budgets)[np.maximum(count, 1) - 1], -1)
    return ClassCertificate(votes.astype(np.int64), label, lower.p, p_b, radius, budget, budgets, smoothing, alpha)


def _separated(
    p_a: np.ndarray,
    rest_a: np.ndarray,
    p_b: np.ndarray,
    rest_b: np.ndarray,
    d: np.ndarray,
    smoothing: HybridSmoothing,
) -> np.ndarray:
    """Largest radius over the levels that separate a score of at least `p_a` from one of at most `p_b`, [B, D]."""
    shape = (p_a.size, d.size)
    best = np.full(shape, -1.0)
    possible = p_a > p_b
    if not possible.any():
        return best
    low, high = np.zeros(shape), np.ones(shape)
    for _ in range(_STEPS):
        level = (low + high) / 2
        above = certified_radius(p_a[:, None], d[None], smoothing, level, complement=rest_a[:, None])
        below = certified_radius(p_b[:, None], d[None], smoothing, level, side="below", complement=rest_b[:, None])
        best = np.maximum(best, np.minimum(above, below))
        too_high = above < below
        low, high = np.where(too_high, low, level), np.where(too_high, level, high)
    return np.where(possible[:, None], best, -1.0)
