"""Counts in, certificates out: the public `certify`, and what it returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np

from hybrid_rs_jax._checks import (
    check_draws,
    check_level,
    check_risk,
    check_side,
    check_tau,
    check_total_variation,
)
from hybrid_rs_jax.certificate.certify import Side, certified_counts, worst_case_scores
from hybrid_rs_jax.certificate.samples import certified_samples, samples_for, worst_case_of_samples
from hybrid_rs_jax.confidence import FixedSample, SamplingPlan
from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.kernels.edits import Budget
from hybrid_rs_jax.results.building import build_statement
from hybrid_rs_jax.results.counts import Counts
from hybrid_rs_jax.results.exits import Exits
from hybrid_rs_jax.results.result import Bounds, OneSided
from hybrid_rs_jax.results.statement import Statement

__all__ = ["Certificate", "Decision", "Decisions", "certify", "certify_counts", "certify_decisions"]

Decision = Literal["unsafe", "safe", "both"]
_SIDES: tuple[Side, Side] = ("above", "below")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Certificate(OneSided, Exits):
    """What is proven about the smoothed scores of B inputs, for each of D discrete budgets.

    With probability at least `1 - alpha` over the draws (per input), for every budget `d` of `budgets` with
    `radius[b, d] >= 0`: whatever at most `d` tokens and an l2 pixel change of at most `radius[b, d]` do to input `b`,
    the SMOOTHED score stays above `tau` (below it, for side "below").

    Attributes:
      counts: ids, successes and draws.
      radius: float64[B, D] in the units of sigma, at most the true one; 0: only `eps = 0` is certified; -1: not even
        that.
      budget: int64[B], largest certified budget (at `eps = 0`); -1: none, the input abstains.
      bound: confidence bound on the clean smoothed score, float64[B] (one shared sample) or float64[B, D]; with
        conditional draws on the score of each sample, float64[B, S]: a lower one,
        rounded down, for side "above" (there it is also called `p_a`); an upper one, rounded up, for "below".
      complement: `1 - bound`, rounded to the other side, with its digits near one.
      statement: everything that the guarantee depends on.
    """

    @property
    def sided(self) -> tuple[OneSided, ...]:
        """Itself."""
        return (self,)

    @property
    def p_a(self) -> np.ndarray:
        """The lower bound on the clean smoothed score, `p_A`; side "below" has an upper bound and no `p_a`."""
        if self.side == "below":
            raise AttributeError("A certificate of side 'below' has an upper_bound on the clean score, and no p_a.")
        return self.bound

    @property
    def lower_bound(self) -> Bounds | None:
        """Side "above": bound and complement."""
        return Bounds(self.bound, self.complement) if self.side == "above" else None

    @property
    def upper_bound(self) -> Bounds | None:
        """Side "below": bound and complement."""
        return Bounds(self.bound, self.complement) if self.side == "below" else None

    @property
    def smoothing(self) -> HybridSmoothing:
        """The smoothing distribution."""
        return self.statement.noise.smoothing

    @property
    def simultaneous(self) -> bool:
        """One sample serves all budgets, which hold together at risk `alpha`."""
        return self.statement.simultaneous

    @property
    def risk_per_statement(self) -> float:
        """Risk spent on each confidence bound."""
        return self.statement.risk.per_statement

    def worst_case(self, epsilon: float) -> np.ndarray:
        """Certified bound on the smoothed score at every budget and l2 budget `epsilon`, float64[B, D].

        A lower one, rounded down, or an upper one, rounded up, for side "below".
        """
        delta = self.statement.noise.total_variation
        if (samples := self.statement.samples) is not None:
            bounds = (self.bound, self.complement)
            return worst_case_of_samples(*bounds, samples, self.budgets, epsilon, self.smoothing, self.side, delta)
        return worst_case_scores(self.bound, self.complement, self.budgets, epsilon, self.smoothing, self.side, delta)

    def needed_samples(self) -> np.ndarray:
        """Draws that each budget needs at `eps = 0` if all agree, int64[D]: below that no model can be certified."""
        return np.array(self.statement.needs.draws, np.int64)

    def taken(self, rows: slice | np.ndarray) -> Certificate:
        """The certificates of some of the inputs; the statement stays what it is."""
        columns = {name: getattr(self, name)[rows] for name in ("radius", "budget", "bound", "complement")}
        return dataclasses.replace(self, counts=self.counts.taken(rows), **columns)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Decisions(Exits):
    """Two certificates of the same inputs, each at half of the risk: certified unsafe, certified safe, or neither.

    The two cannot contradict each other: a lower bound above tau excludes an upper one below it.

    Attributes:
      radius, budget: those of the decision that is certified; -1 where none is.
      unsafe, safe: the two certificates, each with a statement of its own.
    """

    unsafe: Certificate
    safe: Certificate

    @classmethod
    def of(cls, unsafe: Certificate, safe: Certificate) -> Decisions:
        """Both decisions about the same counts."""
        is_safe = (unsafe.budget < 0) & (safe.budget >= 0)
        radius = np.where(is_safe[:, None], safe.radius, unsafe.radius)
        return cls(unsafe.counts, radius, np.where(is_safe, safe.budget, unsafe.budget), unsafe, safe)

    @property
    def statements(self) -> tuple[Statement, ...]:
        """That of the unsafe decision, and that of the safe one."""
        return (self.unsafe.statement, self.safe.statement)

    @property
    def sided(self) -> tuple[OneSided, ...]:
        """Unsafe, then safe."""
        return (self.unsafe, self.safe)

    @property
    def more_radii(self) -> dict[str, np.ndarray]:
        """Where samples differ by budget both decisions may certify something, at different budgets."""
        if self.counts.labels is None:
            return {}
        return {"radius_unsafe": self.unsafe.radius, "radius_safe": self.safe.radius}

    @property
    def lower_bound(self) -> Bounds | None:
        """What "unsafe" rests on."""
        return self.unsafe.lower_bound

    @property
    def upper_bound(self) -> Bounds | None:
        """What "safe" rests on."""
        return self.safe.upper_bound

    @property
    def decision(self) -> np.ndarray:
        """Of each input: "unsafe", "safe" or "abstain"."""
        return np.where(self.unsafe.budget >= 0, "unsafe", np.where(self.safe.budget >= 0, "safe", "abstain"))

    def taken(self, rows: slice | np.ndarray) -> Decisions:
        """The decisions about some of the inputs."""
        return Decisions.of(self.unsafe.taken(rows), self.safe.taken(rows))


def certify(
    counts: object,
    n: object,
    smoothing: HybridSmoothing,
    tau: float,
    alpha: float,
    budgets: Sequence[Budget] = range(9),
    *,
    side: str = "above",
    plan: SamplingPlan | None = None,
    ids: Sequence[str] | None = None,
    total_variation: float = 0.0,
) -> Certificate:
    """Certify inputs from their Monte Carlo counts.

    `p_A` is the one-sided Clopper-Pearson bound, or that of the plan by which the draws were stopped; the radius at
    budget d is `sup{r : V(p_A - delta; d, r) > tau + delta}` (Theorem 4.2, with the total variation delta), rounded
    down.

    Args:
      counts: successes, int[B] for one sample per input shared by all budgets (noise on all eligible positions), or
        int[B, D] for one sample per budget. A single input may be a scalar. With `Conditional` always int[B, D]: in the
        draws of column j the positions of `budgets[j]` were resampled; of a family of sets the least count (the largest
        for side "below").
      n: draws, broadcasting against `counts`.
      smoothing: the smoothing distribution that the draws came from.
      tau: decision threshold in (0, 1); see `detection_threshold`. It may be chosen after the draws.
      alpha: risk level per input in (0, 1), chosen BEFORE the counts are seen.
      budgets: the D discrete budgets, increasing; for the deletion kernel also `Edits`, each covering the one before.
      side: "above": certify that the score stays above `tau` (Unsafe); "below": that it stays below (Safe). Whoever
        asks for both spends `alpha` on each.
      plan: the plan that stopped the draws; None where `n` was fixed before the first draw. Clopper-Pearson on counts
        that were stopped early would claim too much.
      ids: names of the inputs, all different; "0", "1", ... if None.
      total_variation: distance between the noise that was drawn and the ideal one, in [0, 1): for the draws of `sample`
        and `sample_counts` `smoothing.total_variation(pixels)`, about 1e-14 for a small picture; 0: the draws are taken
        for ideal.

    Returns:
      bounds rounded outwards, radii rounded down.

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
    chosen = smoothing.check_budgets(budgets)
    given = check_draws("successes", counts, 0), check_draws("n", n)
    successes, draws = (np.atleast_1d(x) for x in np.broadcast_arrays(*given))
    if smoothing.conditional and successes.ndim == 1:
        if len(chosen) > 1:
            raise ValueError(
                f"Conditional draws need counts of their own for each budget, shape [B, {len(chosen)}], got "
                f"{list(given[0].shape)}: one count is never taken for several budgets."
            )
        successes, draws = successes[:, None], draws[:, None]
    if successes.ndim > 2 or (successes.ndim == 2 and successes.shape[1] != len(chosen)):
        raise ValueError(f"counts must have shape [B] or [B, {len(chosen)}] (inputs, budgets), got {successes.shape}.")
    names = tuple(map(str, range(len(successes)))) if ids is None else tuple(map(str, ids))
    if len(names) != len(successes) or len(set(names)) != len(names):
        raise ValueError(
            f"ids must be {len(successes)} different names, got {len(names)}, {len(set(names))} different."
        )
    samples = samples_for(chosen) if smoothing.conditional else None
    per_budget = chosen if successes.ndim == 2 and samples is None else None
    if isinstance(plan, FixedSample):
        plan.lower_bound(draws, successes, 0.5)  # refuses what is not complete
        plan = None
    return certify_counts(
        Counts(
            names,
            successes,
            draws,
            budgets=per_budget,
            plan=plan,
            samples=samples,
            total_variation=check_total_variation(total_variation),
        ),
        smoothing,
        check_level("tau", check_tau(tau)),
        check_level("alpha", check_risk(alpha)),
        chosen,
        _side(side),
    )


def _side(side: str) -> Side:
    return "above" if check_side(side) == "above" else "below"


def certify_counts(
    counts: Counts,
    smoothing: HybridSmoothing,
    tau: float,
    alpha: float,
    budgets: Sequence[Budget],
    side: Side = "above",
    *,
    decisions: int = 1,
) -> Certificate:
    """Certify counts that know where they come from: plan, ties, and the total variation of the noise of a run.

    Args:
      counts: from `read_counts`, or built by hand.
      smoothing, tau, alpha, budgets, side: as for `certify`.
      decisions: 2 where this is one of two decisions that share `alpha`.

    Returns:
      The certificate of all inputs, radii rounded down.

    Raises:
      ValueError: if an argument is out of range, or the shapes do not fit.

    >>> from hybrid_rs_jax import HybridSmoothing
    >>> counts = Counts(("a",), np.array([98]), np.array([100]))
    >>> bool(certify_counts(counts, HybridSmoothing(None, 0.5), 0.5, 0.01, [0]).radius[0, 0] > 0.5)
    True
    """
    chosen = smoothing.check_budgets(budgets)
    alpha = float(check_risk(alpha))
    if counts.votes is not None:
        raise ValueError("The counts are votes per class; certify_classes certifies those.")
    if counts.budgets is not None and counts.budgets != chosen:
        raise ValueError(f"budgets must be those of the counts, {list(counts.budgets)}, got {list(chosen)}.")
    statement = build_statement(counts, smoothing, tau, alpha, chosen, side, decisions)
    drawn, delta = (counts.certain(side), counts.n), statement.noise.total_variation
    if counts.samples is None:
        risk = statement.risk.per_statement
        found = certified_counts(
            *drawn, smoothing, tau, risk, chosen, side=side, plan=counts.plan, total_variation=delta
        )
    else:
        risk = statement.risk.own
        found = certified_samples(
            *drawn, counts.samples, smoothing, tau, risk, chosen, side=side, plan=counts.plan, total_variation=delta
        )
    return Certificate(counts, found.radius, found.budget, found.bound, found.complement, statement)


def certify_decisions(
    counts: Counts,
    smoothing: HybridSmoothing,
    tau: float,
    alpha: float,
    budgets: Sequence[Budget],
    decision: Decision = "unsafe",
) -> Certificate | Decisions:
    """`certify_counts` for one decision or both, with the draws that each budget needs computed beside it.

    Args:
      decision: "unsafe": the score stays above tau; "safe": below; "both": either, at alpha / 2 each.

    Returns:
      A `Certificate` for one decision, `Decisions` for both.

    Raises:
      ValueError: if an argument is out of range, or the shapes do not fit.

    >>> from hybrid_rs_jax import HybridSmoothing
    >>> counts = Counts(("a", "b"), np.array([98, 1]), np.array([100, 100]))
    >>> certify_decisions(counts, HybridSmoothing(None, 0.5), 0.5, 0.01, [0], "both").decision.tolist()
    ['unsafe', 'safe']
    """
    if decision == "both":
        return Decisions.of(*(_with_needs(counts, smoothing, tau, alpha, budgets, side, 2) for side in _SIDES))
    return _with_needs(counts, smoothing, tau, alpha, budgets, "above" if decision == "unsafe" else "below", 1)


def _with_needs(
    counts: Counts,
    smoothing: HybridSmoothing,
    tau: float,
    alpha: float,
    budgets: Sequence[Budget],
    side: Side,
    decisions: int,
) -> Certificate:
    statement = build_statement(counts, smoothing, float(tau), float(alpha), tuple(budgets), side, decisions)
    with ThreadPoolExecutor(1) as pool:
        needs = pool.submit(getattr, statement, "needs")
        certificate = certify_counts(counts, smoothing, tau, alpha, budgets, side, decisions=decisions)
        known = dataclasses.replace(certificate.statement, known_needs=needs.result())
    return dataclasses.replace(certificate, statement=known)
