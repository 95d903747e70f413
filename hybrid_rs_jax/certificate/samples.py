"""Certificates from several samples of draws: ordinary ones, and conditional ones for single budgets.

An ordinary sample is about all budgets. A conditional one is about its own budget, and about all smaller ones, whose
sets of positions lie in its sets. Each sample has its part of alpha, fixed before drawing, and a budget gets the best
of the bounds about it (method section 8).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from hybrid_rs_jax.certificate.certify import (
    CertifiedCounts,
    Side,
    certified_counts,
    largest_budget,
    needed_samples,
    worst_case_scores,
)
from hybrid_rs_jax.confidence import SamplingPlan
from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.kernels.edits import Budget

__all__ = ["Sample", "certified_samples", "needed_by_sample", "samples_for", "worst_case_of_samples"]


@dataclasses.dataclass(frozen=True)
class Sample:
    """Draws that one confidence bound rests on.

    Attributes:
      covers: it is a statement about the first `covers` budgets.
      share: part of alpha that is spent on it, in (0, 1]; those of all samples add up to 1 at most.
      forced: None for ordinary draws; else the budget whose positions were resampled (masked, deleted) in every draw.
      sets: number of sets of positions that were drawn, each with so many draws; the counts are those of the weakest.
    """

    covers: int
    share: float
    forced: Budget | None = None
    sets: int = 1

    def smoothing(self, deployed: HybridSmoothing) -> HybridSmoothing:
        """The smoothing whose ratio goes with these draws."""
        return deployed if self.forced is None else deployed.forcing()

    def risk(self, whole: float) -> float:
        """Its part of the risk of all samples together."""
        exact = math.frexp(self.share)[0] == 0.5  # a power of two
        return whole * self.share if exact else math.nextafter(whole * self.share, 0.0)

    def budgets(self, budgets: Sequence[Budget]) -> tuple[Budget, ...]:
        """The budgets at which its bound is solved: all that it covers, or the one whose positions were forced."""
        return tuple(budgets[: self.covers]) if self.forced is None else (self.forced,)

    def spread(self, columns: np.ndarray, budgets: int, missing: float) -> np.ndarray:
        """[B, 1 or covers] as [B, budgets], with `missing` where the sample says nothing."""
        whole = np.full((len(columns), budgets), missing)
        whole[:, : self.covers] = columns
        return whole


def samples_for(budgets: Sequence[Budget]) -> tuple[Sample, ...]:
    """One conditional sample for each budget, at equal parts of alpha."""
    share = 1 / len(budgets)
    return tuple(Sample(place + 1, share, budget) for place, budget in enumerate(budgets))


def certified_samples(
    successes: np.ndarray,
    n: np.ndarray,
    samples: Sequence[Sample],
    smoothing: HybridSmoothing,
    tau: float,
    risk: float,
    budgets: Sequence[Budget],
    *,
    side: Side = "above",
    plan: SamplingPlan | None = None,
    total_variation: float = 0.0,
) -> CertifiedCounts:
    """Bounds and radii of B inputs from S samples each; each budget has the largest radius that a sample proves.

    Args:
      successes, n: int[B, S]; of a family of sets the least count, or the largest for side "below".
      samples: what each column is.
      smoothing: the smoothing distribution that is deployed.
      tau, side, total_variation: as for `certified_counts`.
      risk: of all samples together, in (0, 1).
      budgets: the D discrete budgets, each covering the one before.
      plan: the plan that stopped each of them early, or None.

    Returns:
      `bound` and `complement` are float64[B, S], one for each sample; `radius` float64[B, D] does not grow with d.
    """
    radius = np.full((len(successes), len(budgets)), -1.0)
    bounds, rests = [], []
    for place, sample in enumerate(samples):
        found = certified_counts(
            successes[:, place],
            n[:, place],
            sample.smoothing(smoothing),
            tau,
            sample.risk(risk),
            sample.budgets(budgets),
            side=side,
            plan=plan,
            total_variation=total_variation,
        )
        bounds.append(found.bound)
        rests.append(found.complement)
        radius = np.maximum(radius, sample.spread(found.radius, len(budgets), -1.0))
    return CertifiedCounts(np.stack(bounds, 1), np.stack(rests, 1), radius, largest_budget(radius, budgets))


def worst_case_of_samples(
    bound: np.ndarray,
    complement: np.ndarray,
    samples: Sequence[Sample],
    budgets: Sequence[Budget],
    epsilon: float,
    smoothing: HybridSmoothing,
    side: Side = "above",
    total_variation: float = 0.0,
) -> np.ndarray:
    """Certified bound on the score under attack, float64[B, D]: at each budget the best that a sample proves."""
    above = side == "above"
    best = np.full((len(bound), len(budgets)), 0.0 if above else 1.0)
    for place, sample in enumerate(samples):
        own = (bound[:, place], complement[:, place], sample.budgets(budgets), epsilon, sample.smoothing(smoothing))
        scores = sample.spread(worst_case_scores(*own, side, total_variation), len(budgets), 0.0 if above else 1.0)
        best = np.maximum(best, scores) if above else np.minimum(best, scores)
    return best


def needed_by_sample(
    samples: Sequence[Sample],
    budgets: Sequence[Budget],
    smoothing: HybridSmoothing,
    tau: float,
    risk: float,
    side: Side = "above",
    *,
    plan: SamplingPlan | None = None,
    total_variation: float = 0.0,
) -> np.ndarray:
    """Draws that each sample (each set of it) needs at `eps = 0` if all agree, int64[S, D]; -1 where none suffice."""
    needed = np.full((len(samples), len(budgets)), -1, np.int64)
    for place, sample in enumerate(samples):
        needed[place, : sample.covers] = needed_samples(
            sample.budgets(budgets),
            sample.smoothing(smoothing),
            tau,
            sample.risk(risk),
            side,
            plan=plan,
            total_variation=total_variation,
        )
    return needed
