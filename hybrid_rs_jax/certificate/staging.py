"""Frontier mode: a few looks at the votes, and sampling ends where more of it could hardly raise any radius."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hybrid_rs_jax._checks import check_epsilon
from hybrid_rs_jax.certificate.table import FrontierTable, frontier_table
from hybrid_rs_jax.confidence import StagedLooks, clopper_pearson_upper_bound, staged_looks
from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["frontier_plan"]

TOLERANCE = 0.1
#: Risk at which the clean score is higher than what the plan reckons with (even odds): costs radius, not soundness.
_OPTIMISM = 0.5


def frontier_plan(
    smoothing: HybridSmoothing,
    tau: float,
    alpha: float,
    max_samples: int,
    *,
    budgets: Sequence[int] = range(9),
    tolerance: float = TOLERANCE,
    first: int = 100,
) -> StagedLooks:
    """A plan that stops an input once no further draws could raise any of its radii by more than a tolerance.

    At a look with k of n successes the best that the input could still come to is the bound at `max_samples` if its
    clean score is what the votes suggest (the upper bound at even odds). Sampling ends where this would raise the
    radius of no budget by more than `tolerance`. The rule only decides how long to draw; the bound at a look holds
    for whatever made sampling stop, since the looks share alpha (union bound).

    Args:
      smoothing: the smoothing distribution.
      tau: decision threshold in (0, 1) that the radii are meant for; other ones can be certified from the same draws.
      alpha: risk level in (0, 1).
      max_samples: draws after which sampling ends in any case.
      budgets: discrete budgets whose radii matter.
      tolerance: radius in standard deviations of the pixel noise that is not worth more draws, at least 0. Without
        pixel noise: sampling ends where no further budget could be certified.
      first: draws at the first look; the next ones double.

    Raises:
      ValueError: if an argument is out of range.

    >>> from hybrid_rs_jax import UniformKernel
    >>> plan = frontier_plan(HybridSmoothing(UniformKernel(0.25, 512), 0.25), 4.6e-5, 0.01, 10_000)
    >>> plan.verdict([1_600, 1_600], [800, 1_590]).tolist()
    [1, 0]
    """
    tolerance = float(check_epsilon(tolerance, "tolerance"))
    plan = staged_looks(min(first, max_samples), max_samples)
    table = frontier_table(budgets, smoothing, tau, size=1025)
    step = tolerance * (1.0 if smoothing.sigma is None else smoothing.sigma)
    return plan.stopping([_settled(plan, int(n), table, alpha, step) for n in plan.looks])


def _settled(plan: StagedLooks, n: int, table: FrontierTable, alpha: float, step: float) -> np.ndarray:
    """For each number of successes of `n`: can no radius rise by more than `step` any more? bool[n + 1]."""
    if n == plan.max_samples:
        return np.ones(n + 1, bool)
    successes = np.arange(n + 1)
    now = _radii(plan, n, successes, table, alpha)
    highest = clopper_pearson_upper_bound(successes, n, _OPTIMISM).p
    hoped = np.minimum(np.ceil(highest * plan.max_samples), plan.max_samples).astype(np.int64)
    then = _radii(plan, plan.max_samples, hoped, table, alpha)
    return np.asarray((then - now <= step).all(axis=1))


def _radii(plan: StagedLooks, n: int, successes: np.ndarray, table: FrontierTable, alpha: float) -> np.ndarray:
    """Radii [successes, D] at the look `n`, 0 where not certified; 0 and 1 where there is no pixel noise."""
    radius = table.certified_radius(plan.lower_bound(n, successes, alpha).p)
    return np.maximum(radius, 0) if table.radius.size > 1 else radius + 1
