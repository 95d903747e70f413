"""A table over the frontier: certify any number of inputs by one sorted look-up each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from hybrid_rs_jax._checks import check_budgets, check_probability, check_tau, check_whole
from hybrid_rs_jax.certificate.bounds import required_bound
from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["FrontierTable", "frontier_table"]


@dataclasses.dataclass(frozen=True)
class FrontierTable:
    """For each budget, the clean probability that each radius of a grid needs.

    Attributes:
      budgets: the D discrete budgets.
      radius: float64[K], increasing from 0.
      probability: float64[D, K], the smallest certifying `p_A` (rounded up), non-decreasing; inf where none certifies.
    """

    budgets: tuple[int, ...]
    radius: np.ndarray
    probability: np.ndarray

    def certified_radius(self, p_a: object) -> np.ndarray:
        """Certified radius of every `p_a` at every budget, rounded down to the grid; -1 where none.

        Args:
          p_a: lower bounds on clean smoothed scores in [0, 1], float64[B].

        Returns:
          float64[B, D], at most the true radius and short of it by at most one grid step.
        """
        p_a = np.atleast_1d(check_probability("p_a", p_a))
        grid = np.concatenate([[-1.0], self.radius])
        return np.stack([grid[np.searchsorted(row, p_a, side="right")] for row in self.probability], axis=-1)


def frontier_table(budgets: Sequence[int], smoothing: HybridSmoothing, tau: float, size: int = 4096) -> FrontierTable:
    """Tabulate the frontier for one smoothing distribution and threshold.

    The grid runs evenly from 0 to the radius of `p_A = 1 - 2^-53` without any token change, the largest radius that a
    float64 `p_A < 1` can have; each entry is a `required_probability`, hence sound by itself.

    Args:
      budgets: discrete budgets.
      smoothing: the smoothing distribution.
      tau: decision threshold in (0, 1).
      size: number K of radii; the look-up falls short by at most `largest radius / (K - 1)`.

    >>> from hybrid_rs_jax import HybridSmoothing, UniformKernel
    >>> table = frontier_table(range(3), HybridSmoothing(UniformKernel(0.25, 32_000), 0.5), tau=4.6e-5, size=513)
    >>> table.certified_radius([0.999]).round(2).tolist()
    [[3.49, 3.1, 2.66]]
    """
    size, tau = check_whole("size", size, 2), float(check_tau(tau))
    budgets = check_budgets(budgets, increasing=False)
    sigma = smoothing.sigma
    largest = 0.0 if sigma is None else sigma * float(-ndtri(2.0**-53) - ndtri(tau))
    radius = np.linspace(0.0, max(largest, 0.0), size) if sigma is not None else np.zeros(1)
    need = required_bound(np.asarray(budgets)[:, None], radius[None], smoothing, tau)
    probability = np.where(need.complement < 0, np.inf, need.p)
    # rounding may disturb the order by a unit in the last place; a larger requirement is on the safe side
    return FrontierTable(budgets, radius, np.maximum.accumulate(probability, axis=1))
