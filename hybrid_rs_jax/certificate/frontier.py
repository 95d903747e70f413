"""The frontier: which clean probability each (budget, radius) needs, and when more draws could hardly move it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from hybrid_rs_jax._checks import check_budgets, check_epsilon, check_probability, check_tau, check_whole
from hybrid_rs_jax.certificate.bounds import required_bound
from hybrid_rs_jax.confidence import StagedLooks, clopper_pearson_upper_bound, staged_looks
from hybrid_rs_jax.kernels import Edits, HybridSmoothing

__all__ = ["TOLERANCE", "FrontierTable", "frontier_plan", "frontier_table"]

#: Radius, in standard deviations of the pixel noise, that is not worth more draws.
TOLERANCE = 0.1
#: Risk at which the clean score is higher than what the plan reckons with (even odds): costs radius, not soundness.
_OPTIMISM = 0.5


@dataclasses.dataclass(frozen=True)
class FrontierTable:
    """For each budget, the clean probability that each radius of a grid needs.

    Attributes:
      budgets: the D discrete budgets.
      radius: float64[K], increasing from 0, in the units of sigma.
      probability: float64[D, K], the smallest certifying `p_A` (rounded up), non-decreasing; inf where none certifies.
      conditional: the scores come from conditional draws, so that each belongs to one budget.
    """

    budgets: tuple[int | Edits, ...]
    radius: np.ndarray
    probability: np.ndarray
    conditional: bool = False

    def certified_radius(self, p_a: object) -> np.ndarray:
        """Certified radius of every `p_a` at every budget, rounded down to the grid; -1 where none.

        Args:
          p_a: lower bounds on clean smoothed scores in [0, 1]: float64[B], or float64[B, D] with one for each budget,
            which conditional draws must have.

        Returns:
          float64[B, D] in the units of sigma, at most the true radius and short of it by at most one grid step.

        Raises:
          ValueError: if a value is no probability, the shape does not fit, or one score of conditional draws is given
            for several budgets.
        """
        scores = np.atleast_1d(check_probability("p_a", p_a))
        count = len(self.budgets)
        if scores.ndim > 2 or (scores.ndim == 2 and scores.shape[1] != count):
            raise ValueError(f"p_a must have shape [B] or [B, {count}] (inputs, budgets), got {list(scores.shape)}.")
        if self.conditional and scores.ndim == 1 and count > 1:
            raise ValueError(
                f"A score from conditional draws belongs to one d: p_a must have shape [B, {count}], got "
                f"{list(scores.shape)}."
            )
        columns = scores.T if scores.ndim == 2 else [scores] * count
        grid = np.concatenate([[-1.0], self.radius])
        found = [grid[np.searchsorted(row, p, side="right")] for row, p in zip(self.probability, columns, strict=True)]
        return np.stack(found, axis=-1)


def frontier_table(
    budgets: Sequence[int | Edits], smoothing: HybridSmoothing, tau: float, size: int = 4096
) -> FrontierTable:
    """Tabulate the frontier for one smoothing distribution and threshold (method section 3, "inverse").

    The grid runs evenly from 0 to the radius of `p_A = 1 - 2^-53` without any token change, the largest radius that a
    float64 `p_A < 1` can have; each entry is a `required_probability`, hence sound by itself.

    Args:
      budgets: the D discrete budgets, in any order.
      smoothing: the smoothing distribution.
      tau: decision threshold in (0, 1).
      size: number K of radii, at least 2; the look-up falls short by at most `largest radius / (K - 1)`.

    Returns:
      a table of needed probabilities, each rounded up.

    Raises:
      ValueError: if an argument is out of range.

    >>> from hybrid_rs_jax import HybridSmoothing, UniformKernel
    >>> table = frontier_table(range(3), HybridSmoothing(UniformKernel(0.25, 32_000), 0.5), tau=4.6e-5, size=513)
    >>> table.certified_radius([0.999]).round(2).tolist()
    [[3.49, 3.1, 2.66]]
    """
    size, tau = check_whole("size", size, 2), float(check_tau(tau))
    edits = isinstance(budgets, Sequence) and any(isinstance(d, Edits) for d in budgets)
    values = tuple(budgets) if edits else check_budgets(budgets, increasing=False)
    sigma = smoothing.sigma
    largest = 0.0 if sigma is None else sigma * float(-ndtri(2.0**-53) - ndtri(tau))
    radius = np.linspace(0.0, max(largest, 0.0), size) if sigma is not None else np.zeros(1)
    need = required_bound([[d] for d in values], radius[None], smoothing, tau)
    probability = np.where(need.complement < 0, np.inf, need.p)
    # rounding may disturb the order by a unit in the last place; a larger requirement is on the safe side
    return FrontierTable(values, radius, np.maximum.accumulate(probability, axis=1), smoothing.conditional)


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
      alpha: risk level in [1e-200, 1).
      max_samples: draws after which sampling ends in any case.
      budgets: discrete budgets whose radii matter; one only for conditional draws, each budget of which has a sample
        and a plan of its own.
      tolerance: radius in standard deviations of the pixel noise that is not worth more draws, at least 0. Without
        pixel noise: sampling ends where no further budget could be certified.
      first: draws at the first look; the next ones double.

    Returns:
      a plan of `StagedLooks`, whose bounds share alpha over the looks.

    Raises:
      ValueError: if an argument is out of range, or several budgets are given for conditional draws.

    >>> from hybrid_rs_jax import UniformKernel
    >>> plan = frontier_plan(HybridSmoothing(UniformKernel(0.25, 512), 0.25), 4.6e-5, 0.01, 10_000)
    >>> plan.verdict([1_600, 1_600], [800, 1_590]).tolist()
    [1, 0]
    """
    tolerance = float(check_epsilon(tolerance, "tolerance"))
    if smoothing.conditional and len(budgets) > 1:
        raise ValueError(f"budgets must hold one d for conditional draws, each has its own plan, got {list(budgets)}.")
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
