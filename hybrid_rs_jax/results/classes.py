"""Votes per class in, certificates of the smoothed top-1 decision out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from hybrid_rs_jax._checks import check_level, check_risk, check_total_variation
from hybrid_rs_jax.certificate.classes import (
    certified_classes,
    certified_classes_of_samples,
    checked_sample_votes,
    checked_votes,
)
from hybrid_rs_jax.certificate.samples import samples_for
from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.kernels.edits import Budget
from hybrid_rs_jax.results.building import build_statement
from hybrid_rs_jax.results.counts import Counts
from hybrid_rs_jax.results.exits import Exits
from hybrid_rs_jax.results.result import Bounds
from hybrid_rs_jax.results.statement import Statement

__all__ = ["ClassCertificate", "certify_class_counts", "certify_classes"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ClassCertificate(Exits):
    """What is proven about the smoothed top-1 decision of B inputs, for each of D discrete budgets.

    With probability at least `1 - alpha` over the draws (per input), for every budget with `radius[b, d] >= 0`: within
    that budget and radius, class `label[b]` has the largest smoothed score.

    Attributes:
      counts: ids, votes and draws.
      radius: float64[B, D] in the units of sigma; -1: not certified at this budget.
      budget: int64[B], largest certified budget; -1: the input abstains.
      label: int64[B], the class with most votes.
      p_a, p_a_complement: lower confidence bound on its score, rounded down, float64[B], and `1 - p_a`.
      p_b, p_b_complement: upper confidence bound on the score of every other class, rounded up, and `1 - p_b`.
      statement: everything that the guarantee depends on; all bounds of an input hold together at its alpha.
    """

    label: np.ndarray
    p_a: np.ndarray
    p_a_complement: np.ndarray
    p_b: np.ndarray
    p_b_complement: np.ndarray
    statement: Statement

    @property
    def statements(self) -> tuple[Statement, ...]:
        """The one statement."""
        return (self.statement,)

    @property
    def lower_bound(self) -> Bounds | None:
        """Of the class with most votes."""
        return Bounds(self.p_a, self.p_a_complement)

    @property
    def upper_bound(self) -> Bounds | None:
        """Of every other class."""
        return Bounds(self.p_b, self.p_b_complement)

    @property
    def votes(self) -> np.ndarray:
        """int64[B, C]."""
        assert self.counts.votes is not None
        return self.counts.votes

    @property
    def count_columns(self) -> dict[str, np.ndarray]:
        """The leading class, and the votes of each."""
        return {"label": self.label, "votes": self.votes}

    @property
    def smoothing(self) -> HybridSmoothing:
        """The smoothing distribution."""
        return self.statement.noise.smoothing

    def taken(self, rows: slice | np.ndarray) -> ClassCertificate:
        """The certificates of some of the inputs; the statement stays what it is."""
        names = ("radius", "budget", "label", "p_a", "p_a_complement", "p_b", "p_b_complement")
        columns = {name: getattr(self, name)[rows] for name in names}
        return dataclasses.replace(self, counts=self.counts.taken(rows), **columns)


def certify_classes(
    votes: object,
    smoothing: HybridSmoothing,
    alpha: float,
    budgets: Sequence[Budget] = range(9),
    n: object = None,
    *,
    total_variation: float = 0.0,
) -> ClassCertificate:
    """Certify the smoothed top-1 decision from votes per class.

    A budget (d, eps) is certified when some level t separates the classes in the worst case (Theorem 4.2 on both
    sides). The class may be chosen on the votes that certify it: the risk covers the bounds of all classes.

    Args:
      votes: int[B, C] votes of each class, C at least 2; with `Conditional` int[B, D, C], where in the draws of column
        j the positions of `budgets[j]` were resampled.
      smoothing: the smoothing distribution that the draws came from.
      alpha: risk level per input in (0, 1), chosen BEFORE the votes are seen. With two classes one bound per class is
        needed, at `alpha / 2`; with more a lower and an upper one, at `alpha / (2 C)`.
      budgets: the D discrete budgets, increasing.
      n: draws of each input, int or int[B] (conditional: broadcasting to [B, D]), fixed beforehand; those without a
        vote count for no class. None: the sum of the votes, right only if every draw gave a vote.
      total_variation: distance between the noise that was drawn and the ideal one, as for `certify`.

    Returns:
      bounds rounded outwards, radii rounded down.

    Raises:
      ValueError: if an argument is out of range, or the shapes do not fit.

    >>> from hybrid_rs_jax import HybridSmoothing
    >>> certificate = certify_classes([[10, 980, 10], [340, 330, 330]], HybridSmoothing(None, 0.5), 0.01, [0])
    >>> certificate.label.tolist(), certificate.radius.round(2).tolist()
    ([1, 0], [[0.95], [-1.0]])
    """
    chosen = smoothing.check_budgets(budgets)
    samples = samples_for(chosen) if smoothing.conditional else None
    array, draws = checked_votes(votes, n) if samples is None else checked_sample_votes(votes, n, len(samples))
    ids = tuple(map(str, range(len(array))))
    delta = check_total_variation(total_variation)
    counts = Counts(ids, np.zeros(draws.shape, np.int64), draws, votes=array, total_variation=delta, samples=samples)
    return certify_class_counts(counts, smoothing, alpha, chosen)


def certify_class_counts(
    counts: Counts, smoothing: HybridSmoothing, alpha: float, budgets: Sequence[Budget]
) -> ClassCertificate:
    """`certify_classes` for counts that know where they come from.

    Args:
      counts: with votes per class.
      smoothing, alpha, budgets: as for `certify_classes`.

    Returns:
      The certificate.

    Raises:
      ValueError: if an argument is out of range, or each budget has votes of its own.

    >>> from hybrid_rs_jax import HybridSmoothing
    >>> counts = Counts(("a",), np.zeros(1, np.int64), np.array([100]), votes=np.array([[97, 3, 0]]))
    >>> bool(certify_class_counts(counts, HybridSmoothing(None, 0.5), 0.01, [0]).radius[0, 0] > 0.5)
    True
    """
    if counts.budgets is not None or counts.votes is None:
        raise ValueError("Votes per class are certified from one sample for all budgets, not from one per budget.")
    chosen = smoothing.check_budgets(budgets)
    alpha = check_level("alpha", check_risk(alpha))
    statement = build_statement(counts, smoothing, None, alpha, chosen)
    delta = statement.noise.total_variation
    ties = 0 if counts.ties is None else counts.ties
    if counts.samples is None:
        votes, draws = checked_votes(counts.votes, counts.n)
        found = certified_classes(votes, draws, smoothing, alpha, chosen, ties=ties, total_variation=delta)
    else:
        votes, draws = checked_sample_votes(counts.votes, counts.n, len(counts.samples))
        found = certified_classes_of_samples(
            votes, draws, counts.samples, smoothing, alpha, chosen, total_variation=delta
        )
    whole = dataclasses.replace(counts, votes=votes, n=draws)
    bounds = (found.p_a, found.p_a_complement, found.p_b, found.p_b_complement)
    return ClassCertificate(whole, found.radius, found.budget, found.label, *bounds, statement)
