"""Counts in, certificates out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from hybrid_rs_jax._checks import check_budgets, check_epsilon, check_risk, check_side, check_tau
from hybrid_rs_jax.certificate.bounds import (
    certified_radius,
    largest_probability,
    required_samples,
    worst_case_bounds,
)
from hybrid_rs_jax.confidence import (
    LowerBound,
    SamplingPlan,
    UpperBound,
    clopper_pearson_bound,
    clopper_pearson_upper_bound,
)
from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["Certificate", "certify"]


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What is proven about the smoothed scores of B inputs, for each of D discrete budgets.

    With probability at least `1 - alpha` over the draws (per input), for every budget `d` of `budgets` with
    `radius[b, d] >= 0`: whatever at most `d` tokens and an l2 pixel change of at most `radius[b, d]` do to input `b`,
    the SMOOTHED score stays above `tau` (below it, for side "below").

    Attributes:
      successes, n: the counts, int64[B] (one shared sample) or int64[B, D] (one sample per budget).
      p_a: confidence bound on the clean smoothed score, same shape: a lower one, or an upper one for side "below".
      complement: `1 - p_a`, with its digits near one.
      radius: float64[B, D] in the units of sigma; 0: only `eps = 0` is certified; -1: not even that.
      budget: int64[B], largest certified budget (at `eps = 0`); -1: none, the input abstains.
      budgets: the D discrete budgets.
      simultaneous: True: one sample, all budgets hold together at risk `alpha`. False: one sample per budget, each
        bounded at `alpha / D`, so that all hold together at risk `alpha`.
      side: "above": the input is certified as positive (Unsafe); "below": as negative (Safe).
      plan: how the draws were stopped, which decides the bound; None: a number fixed beforehand.
    """

    successes: np.ndarray
    n: np.ndarray
    p_a: np.ndarray
    complement: np.ndarray
    radius: np.ndarray
    budget: np.ndarray
    budgets: tuple[int, ...]
    smoothing: HybridSmoothing
    tau: float
    alpha: float
    simultaneous: bool
    side: str = "above"
    plan: SamplingPlan | None = None

    def worst_case(self, epsilon: float) -> np.ndarray:
        """Certified bound on the smoothed score at every budget and l2 budget `epsilon`, float64[B, D].

        A lower one, or an upper one for side "below".
        """
        p, complement = (x if x.ndim == 2 else x[:, None] for x in (self.p_a, self.complement))
        if self.side == "below":
            d = np.asarray(self.budgets)
            return np.asarray(largest_probability(p, d, epsilon, self.smoothing, complement=complement))
        lower, _ = worst_case_bounds(p, np.asarray(self.budgets), epsilon, self.smoothing, complement=complement)
        return lower

    def certified_accuracy(self, epsilon: object) -> np.ndarray:
        """Share of inputs certified at each budget and each `epsilon`, float64[D, *epsilon]."""
        epsilon = check_epsilon(epsilon)
        certified = self.radius.T.reshape(len(self.budgets), -1, *(1,) * epsilon.ndim) >= epsilon
        return certified.mean(axis=1)

    def needed_samples(self) -> np.ndarray:
        """Draws that each budget needs at `eps = 0` if all agree, int64[D]: below that no model can be certified."""
        return needed_samples(self.budgets, self.smoothing, self.tau, self.risk_per_statement, self.side)

    @property
    def risk_per_statement(self) -> float:
        """Risk spent on each confidence bound."""
        return self.alpha if self.simultaneous else self.alpha / len(self.budgets)

    def statement(self) -> dict[str, Any]:
        """Everything that the guarantee depends on, ready for JSON."""
        kernel = self.smoothing.discrete
        noise = None if kernel is None else {"kernel": type(kernel).__name__, **_fields(kernel)}
        return {
            "claim": f"the smoothed score stays {self.side} tau",
            "tau": self.tau,
            "alpha": self.alpha,
            "risk": "simultaneous over budgets" if self.simultaneous else "alpha split evenly over budgets",
            "bound": "one-sided Clopper-Pearson" if self.plan is None else f"that of the plan {self.plan.describe()}",
            "discrete": noise,
            "sigma": self.smoothing.sigma,
            "budgets": list(self.budgets),
        }


def certify(
    counts: object,
    n: object,
    smoothing: HybridSmoothing,
    tau: float,
    alpha: float,
    budgets: Sequence[int] = range(9),
    *,
    side: str = "above",
    plan: SamplingPlan | None = None,
) -> Certificate:
    """Certify inputs from their Monte Carlo counts.

    `p_A` is the one-sided Clopper-Pearson bound, or that of the plan by which the draws were stopped; the radius at
    budget d is that of `certified_radius`.

    Args:
      counts: successes, int[B] for one sample per input shared by all budgets (noise on all eligible positions), or
        int[B, D] for one sample per budget. A single input may be a scalar.
      n: draws, broadcasting against `counts`.
      smoothing: the smoothing distribution that the draws came from.
      tau: decision threshold in (0, 1); see `detection_threshold`.
      alpha: risk level per input in (0, 1).
      budgets: the D discrete budgets, increasing.
      side: "above": certify that the score stays above `tau` (Unsafe); "below": that it stays below (Safe). Whoever
        asks for both spends `alpha` on each.
      plan: the plan that stopped the draws; None where `n` was fixed before the first draw. Clopper-Pearson on counts
        that were stopped early would claim too much.

    Raises:
      ValueError: if an argument is out of range, or the shapes do not fit.

    >>> from hybrid_rs_jax import HybridSmoothing, UniformKernel
    >>> smoothing = HybridSmoothing(UniformKernel(beta=0.25, vocab_size=32_000), sigma=0.5)
    >>> certificate = certify([10_000, 8_000], 10_000, smoothing, tau=4.6e-5, alpha=0.01, budgets=range(4))
    >>> certificate.radius.round(2).tolist()
    [[3.61, 3.23, 2.81, 2.32], [2.36, 1.31, -1.0, -1.0]]
    >>> certificate.budget.tolist()
    [3, 1]
    """
    budgets, alpha, tau = check_budgets(budgets), float(check_risk(alpha)), float(check_tau(tau))
    check_side(side)
    successes, draws = (np.atleast_1d(x) for x in np.broadcast_arrays(np.asarray(counts), np.asarray(n)))
    simultaneous = successes.ndim == 1
    if successes.ndim > 2 or (not simultaneous and successes.shape[1] != len(budgets)):
        raise ValueError(f"counts must have shape [B] or [B, {len(budgets)}] (inputs, budgets), got {successes.shape}.")
    p, complement = _bound(successes, draws, alpha if simultaneous else alpha / len(budgets), side, plan)
    radius = _radii(p, complement, budgets, smoothing, tau, side)
    certified = radius >= 0
    # budgets are nested: the worst case falls with d, so the certified ones come first
    count = np.where(certified.all(axis=1), len(budgets), np.argmin(certified, axis=1))
    budget = np.where(count > 0, np.asarray(budgets)[np.maximum(count, 1) - 1], -1)
    return Certificate(
        successes.astype(np.int64),
        draws.astype(np.int64),
        p,
        complement,
        radius,
        budget,
        budgets,
        smoothing,
        tau,
        alpha,
        simultaneous,
        side,
        plan,
    )


def needed_samples(
    budgets: Sequence[int], smoothing: HybridSmoothing, tau: float, alpha: float, side: str = "above"
) -> np.ndarray:
    """Draws that each budget needs at `eps = 0` if all agree, int64[D]; -1 where no number suffices.

    Side "below" is side "above" of the other decision: `V_max(p) < tau` iff `V_min(1 - p) > 1 - tau`.
    """
    tau = tau if side == "above" else mirrored(tau)
    return np.asarray(required_samples(np.asarray(budgets), 0.0, smoothing, tau, alpha))


def mirrored(tau: float) -> float:
    """`1 - tau`, rounded up: the threshold of the other decision."""
    return min((1 - tau) * (1 + 2.0**-51), 1 - 2.0**-53)


def _bound(
    successes: np.ndarray, n: np.ndarray, alpha: float, side: str, plan: SamplingPlan | None
) -> tuple[np.ndarray, np.ndarray]:
    """Bound on the clean score from the side that the claim needs, and its complement."""
    bound: LowerBound | UpperBound
    if plan is not None:
        stopped = plan.lower_bound if side == "above" else plan.upper_bound
        bound = stopped(n, successes, alpha)
    else:
        fixed = clopper_pearson_bound if side == "above" else clopper_pearson_upper_bound
        bound = fixed(successes, n, alpha)
    return np.asarray(bound.p), np.asarray(bound.complement)


def _radii(
    p: np.ndarray, complement: np.ndarray, budgets: tuple[int, ...], smoothing: HybridSmoothing, tau: float, side: str
) -> np.ndarray:
    """Radii of shape [B, D]; inputs with equal counts are solved once."""
    d = np.asarray(budgets)
    if p.ndim == 2:
        return np.asarray(certified_radius(p, d[None], smoothing, tau, side=side, complement=complement))
    pairs, back = np.unique(np.stack([p, complement]), axis=1, return_inverse=True)
    radius = certified_radius(pairs[0][:, None], d[None], smoothing, tau, side=side, complement=pairs[1][:, None])
    return np.asarray(radius)[back.ravel()]


def _fields(kernel: object) -> dict[str, Any]:
    return {f.name: getattr(kernel, f.name) for f in dataclasses.fields(kernel)}  # type: ignore[arg-type]
