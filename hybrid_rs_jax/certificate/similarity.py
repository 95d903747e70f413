"""Certified similarity of smoothed features: from the law of a score to a bound under attack (method 6 and 11)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float

from hybrid_rs_jax._checks import check_epsilon, check_probability, check_risk
from hybrid_rs_jax._text import counted, setting_text, up_text
from hybrid_rs_jax.certificate.bounds import certified_radius, worst_case_probability
from hybrid_rs_jax.certificate.certify import shifted
from hybrid_rs_jax.confidence import mean_lower_bound_from_histogram
from hybrid_rs_jax.confidence.score_law import RANKS, LawBand, ScoreLaw, law_band, score_ranks
from hybrid_rs_jax.kernels import Edits, HybridSmoothing

__all__ = ["REFERENCES", "FeatureCertificate", "certify_features"]

#: What the features of noisy copies are compared with, and how a statement names it.
REFERENCES = {
    "clean": "the unit feature of the clean input (computed once, before the draws)",
    "pairs": "the smoothed feature of the clean input",
    "fixed": "a vector that was fixed before the draws",
}
#: Distances in the table from which radii are read: what lies between two of them is lost, never claimed.
_COLUMNS = 8192
#: Sums here have at most a few thousand terms in [0, 1].
_ROUNDING = 2.0**-40


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureCertificate:
    """What is proven about the smoothed features of B inputs, at each of D discrete budgets.

    The score of a draw is `S = (1 + <f(z), u>)/2`: f(z) the unit feature of a noisy copy z, u a unit vector that was
    fixed before the draws, or ("pairs") the unit feature of a second, independent noisy copy of the clean input. With
    probability at least `1 - alpha` over the draws, per input, for all budgets, eps and similarities at once: whatever
    an attack of at most d tokens and an l2 pixel change of at most eps does, the cosine of the attacked SMOOTHED
    feature with the reference is at least `similarity(eps)`.

    Attributes:
      law: histograms of the scores, [B, bins], or [B, D, bins] with conditional draws. Where it has a plan of looks,
        each input is bounded at the look at which it stopped.
      smoothing: the smoothing distribution.
      alpha: risk per input. Half of it bounds the law of the score, and is shared by the looks of a plan; half its
        mean, at every number of draws at once. With conditional draws each of the D laws gets its share.
      budgets: the D discrete budgets.
      reference: "clean", "pairs" or "fixed", see `REFERENCES`.
      total_variation: distance delta between the noise that was drawn and the ideal one. It is subtracted twice: from
        the scores that were drawn, and from those of the deployed noise.
    """

    law: ScoreLaw
    smoothing: HybridSmoothing
    alpha: float
    budgets: tuple[int | Edits, ...] = (0,)
    reference: str = "clean"
    total_variation: float = 0.0

    def __len__(self) -> int:
        return len(self.law)

    def similarity(self, epsilon: float) -> Float[np.ndarray, "inputs budgets"]:
        """Certified cosine at the l2 budget `epsilon`: `2 B - 1`, B the larger of the two bounds on the score.

        Args:
          epsilon: in the units of sigma, at least 0.

        Returns:
          float64[B, D], rounded down; -1 where `2 B - 1` is negative: a cosine is bounded by an inner product only
          where that is not negative, so nothing is certified there.
        """
        return self._by_look(lambda part, _: _cosine(np.maximum(part._law_bound(epsilon), part._mean_bound(epsilon))))

    def mean_similarity(self, epsilon: float) -> Float[np.ndarray, "inputs budgets"]:
        """The paper's bound `2 V(E S) - 1` (Theorem 3.2), from the mean of the score alone, at half of alpha."""
        return self._by_look(lambda part, _: _cosine(part._mean_bound(epsilon)))

    def radius(self, similarity: object = 0.5) -> Float[np.ndarray, "inputs budgets"]:
        """Certified l2 radius within which the cosine stays at least `similarity`.

        Args:
          similarity: cosine in [0, 1), one for all inputs or one for each.

        Returns:
          float64[B, D] in the units of sigma, at most the radius that the bounds prove, short of it by less than 1e-3
          sigma; 0 where only `eps = 0` is certified, -1 where not even that is.
        """
        score = self._score(similarity)

        def larger(part: FeatureCertificate, rows: np.ndarray) -> np.ndarray:
            own = score[rows]
            return np.maximum(part._nested(part._law_radius(own)), part._nested(part._mean_radius(own)))

        return self._by_look(larger)

    def mean_radius(self, similarity: object = 0.5) -> Float[np.ndarray, "inputs budgets"]:
        """`radius` from the mean of the score alone, at half of alpha: the paper's (Eq. 6 of method section 6)."""
        score = self._score(similarity)
        return self._by_look(lambda part, rows: part._nested(part._mean_radius(score[rows])))

    @property
    def statement(self) -> str:
        """What is promised, and what it depends on."""
        law = self.law
        risk = f"Except with probability at most {setting_text(self.alpha)} per input"
        laws = f", shared evenly by the laws of {len(self.budgets)} budgets" if self.smoothing.conditional else ""
        return (
            f"{risk} over the draws, at all budgets, eps and similarities at once: the cosine between the "
            f"attacked smoothed feature (mean of unit features over the noise) and {REFERENCES[self.reference]} is at "
            f"least the number that is given; -1 means that nothing is certified. {self._draws_text} of the "
            f"score (1 + cos)/2, counted in {law.edges.size - 1} bins at their lower edges; half of the "
            f"risk bounds the law of the score at {self._ranks_text} that were fixed "
            f"before the draws, half its mean{laws}. Total variation between the noise drawn and the ideal one: "
            f"{up_text(self.total_variation)}, subtracted."
        )

    @property
    def _draws_text(self) -> str:
        least, most = int(self.law.n.min()), int(self.law.n.max())
        if self.law.plan is None:
            return counted(most, "draw")
        looks = ", ".join(map(str, self.law.plan.sizes))
        drawn = counted(most, "draw") if least == most else f"{least:,} to {most:,} draws"
        return f"Each input was stopped at one of the looks {looks}, fixed before the draws, after {drawn}"

    @property
    def _ranks_text(self) -> str:
        if self.law.plan is None:
            return counted(self.band.level.size - 1, "rank")
        shares = ", ".join(map(up_text, self.law.plan.weights))
        return f"no more than {RANKS} ranks of each look (shares of the looks: {shares})"

    def _by_look(self, bound: Callable[[FeatureCertificate, np.ndarray], np.ndarray]) -> np.ndarray:
        """A bound [B, D] of all inputs, from those of the inputs of each look."""
        found = np.empty((len(self), len(self.budgets)))
        for rows, part in self._parts:
            found[rows] = bound(part, rows)
        return found

    @cached_property
    def _parts(self) -> list[tuple[np.ndarray, FeatureCertificate]]:
        """Rows of the inputs with the same number of draws, which share a band, and their certificate."""
        draws = self.law.n if self.law.n.ndim == 1 else self.law.n[:, 0]
        sizes = np.unique(draws)
        if self.law.plan is None or sizes.size == 1:
            return [(np.arange(len(self)), self)]
        groups = [np.flatnonzero(draws == n) for n in sizes]
        return [
            (rows, dataclasses.replace(self, law=dataclasses.replace(self.law, counts=self.law.counts[rows])))
            for rows in groups
        ]

    @cached_property
    def band(self) -> LawBand:
        """Lower bounds on the law of the score, at half of the risk."""
        return law_band(self.law, self._share)

    @cached_property
    def mean(self) -> Float[np.ndarray, "inputs budgets"]:
        """Lower bounds on the mean of the score, at half of the risk; [B, 1], or [B, D] with conditional draws.

        They hold at every number of draws at once, so that looks cost them nothing.
        """
        bound = mean_lower_bound_from_histogram(self.law.counts, self.law.edges[:-1], self._share)
        return np.asarray(bound).reshape(len(self), -1)

    @property
    def _share(self) -> float:
        laws = self.law.counts.shape[1] if self.law.counts.ndim == 3 else 1
        return self.alpha / (2 * laws)

    @property
    def _lanes(self) -> np.ndarray:
        """The budgets as an array."""
        edits = any(isinstance(d, Edits) for d in self.budgets)
        return np.array(self.budgets, object) if edits else np.array(self.budgets, np.int64)

    def _score(self, similarity: object) -> np.ndarray:
        """The score [B, 1] that a bound must reach for a cosine, rounded up."""
        cosine = check_probability("similarity", similarity)
        if cosine.shape not in ((), (len(self),)):
            raise ValueError(
                f"similarity must be one number or one for each of {len(self)} inputs, got {cosine.shape}."
            )
        if np.any(cosine >= 1):
            raise ValueError(f"similarity must lie in [0, 1), got {cosine.max()}.")
        return np.broadcast_to((1 + cosine) / 2 * (1 + 2.0**-51), (len(self),))[:, None]

    def _mean_bound(self, epsilon: float) -> np.ndarray:
        level, complement = shifted(self.mean, 1 - self.mean, "above", self.total_variation)
        found = worst_case_probability(level, self._lanes, epsilon, self.smoothing, complement=complement)
        return self._nested(np.asarray(found) - self.total_variation)

    def _law_bound(self, epsilon: float) -> np.ndarray:
        """`sum_j (b_(j+1) - b_j) V(P(S >= b_(j+1)))`, where V takes one value per rank."""
        worst = self._worst_cases(check_epsilon([epsilon]))[:, :, 0]
        return self._nested(_rounded_down(np.einsum("idr,rd->id", self._widths, worst)) - self.total_variation)

    @property
    def _widths(self) -> np.ndarray:
        width = self.band.width if self.band.width.ndim == 3 else self.band.width[:, None]
        return np.broadcast_to(width, (len(self), len(self.budgets), width.shape[2]))

    @cached_property
    def _levels(self) -> tuple[np.ndarray, np.ndarray]:
        """Levels of the band for the ideal noise, and their complements."""
        return shifted(self.band.level, self.band.complement, "above", self.total_variation)

    def _worst_cases(self, epsilon: np.ndarray) -> np.ndarray:
        """V at the levels of the band, [ranks, budgets, eps]."""
        shape = (self.band.level.size, len(self.budgets), 1)  # with conditional draws, each budget has its own levels
        level, complement = (np.broadcast_to(x[:, None, None], shape) for x in self._levels)
        lanes = self._lanes[None, :, None]
        return np.asarray(worst_case_probability(level, lanes, epsilon, self.smoothing, complement=complement))

    def _mean_radius(self, score: np.ndarray) -> np.ndarray:
        level, complement = shifted(self.mean, 1 - self.mean, "above", self.total_variation)
        goal = np.minimum(score + self.total_variation * (1 + 2.0**-50), 1 - 2.0**-53)
        return np.asarray(certified_radius(level, self._lanes, self.smoothing, goal, complement=complement))

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances up to the largest that any level certifies, [columns], and V there, [ranks, budgets, columns]."""
        sigma, best = self.smoothing.sigma, (self._levels[0][0], self._levels[1][0])
        most = 0.0
        if sigma is not None:
            found = certified_radius(best[0], 0, HybridSmoothing(None, sigma), 0.5, complement=best[1])
            most = min(max(float(found), 0.0), 64 * sigma)
        epsilon = np.linspace(0, most, _COLUMNS if most > 0 else 1)
        return epsilon, self._worst_cases(epsilon)

    def _law_radius(self, score: np.ndarray) -> np.ndarray:
        """The largest distance of the table at which the law bound reaches the score: it falls along the table."""
        epsilon, worst = self._table
        goal = score[:, 0] + self.total_variation * (1 + 2.0**-50)
        radius = np.empty((len(self), len(self.budgets)))
        for j in range(len(self.budgets)):
            width, column = self._widths[:, j], worst[:, j].T
            low, high = np.full(len(self), -1), np.full(len(self), epsilon.size)  # reached, and not reached
            while np.any(high - low > 1):
                middle = np.where(high - low > 1, (low + high) // 2, np.maximum(low, 0))
                reached = _rounded_down(np.einsum("ir,ir->i", width, column[middle])) >= goal
                open_ = high - low > 1
                low, high = np.where(open_ & reached, middle, low), np.where(open_ & ~reached, middle, high)
            radius[:, j] = np.where(low >= 0, epsilon[low], -1.0)
        return radius

    def _nested(self, values: np.ndarray) -> np.ndarray:
        """Conditional draws: what holds for a budget holds for those before it (method section 8)."""
        if not self.smoothing.conditional:
            return values
        return np.maximum.accumulate(values[:, ::-1], axis=1)[:, ::-1]


def certify_features(
    law_or_scores: object,
    smoothing: HybridSmoothing,
    alpha: float,
    budgets: Sequence[int] = (0,),
    *,
    reference: str = "clean",
    total_variation: float = 0.0,
) -> FeatureCertificate:
    """Certify the cosine similarity of smoothed features from draws of the score `S = (1 + cos)/2`.

    For S in [0, 1] each level set `{S > t}` is a 0/1 event, to which the bound V of the smoothing applies:
    `E_attacked S >= int_0^1 V(P(S > t)) dt >= V(E S)` (method 11). The law is bounded at ranks that are fixed before
    the draws, the mean by a betting mixture; each at `alpha / 2`, and the larger bound counts.

    Args:
      law_or_scores: a `ScoreLaw`, or scores in [0, 1] of shape [inputs, draws]; with conditional draws
        [inputs, budgets, draws], one law for each budget. The number of draws was fixed beforehand, or is a look of the
        law's plan.
      smoothing: the smoothing distribution that the draws came from.
      alpha: risk per input in (0, 1), chosen before the draws.
      budgets: discrete budgets, increasing.
      reference: what the cosines were taken with, "clean", "pairs" or "fixed" (a vector fixed before the draws).
      total_variation: distance between the noise that was drawn and the ideal one, `smoothing.total_variation(pixels)`
        (twice that for pairs), in [0, 1); 0 for draws of the ideal noise.

    Returns:
      The certificate of all inputs; cosines and radii rounded down, -1 where nothing is certified.

    Raises:
      ValueError: if an argument is out of range, or the shapes do not fit.

    >>> from hybrid_rs_jax.kernels import HybridSmoothing
    >>> scores = np.random.default_rng(0).beta(200, 5, (1, 10_000))
    >>> certificate = certify_features(scores, HybridSmoothing(None, 1.0), alpha=0.01)
    >>> bool(certificate.radius(0.5)[0, 0] > 2.2), bool(certificate.similarity(1.5)[0, 0] > 0.75)
    (True, True)
    """
    if reference not in REFERENCES:
        raise ValueError(f"reference must be 'clean', 'pairs' or 'fixed', got {reference!r}.")
    law = law_or_scores if isinstance(law_or_scores, ScoreLaw) else ScoreLaw.of(law_or_scores)
    risk, delta = float(check_risk(alpha)), float(check_probability("total_variation", total_variation))
    if delta >= 1:
        raise ValueError(f"total_variation must lie in [0, 1), got {delta}.")
    checked = smoothing.check_budgets(budgets)
    own = law.counts.shape[1] if law.counts.ndim == 3 else None
    if own is not None and own != len(checked):
        raise ValueError(f"There must be a law for each of the {len(checked)} budgets, got {own}.")
    if smoothing.conditional and own is None and len(checked) > 1:
        raise ValueError(
            f"A law from conditional draws belongs to one budget: give laws [inputs, {len(checked)}, bins], got "
            f"{list(law.counts.shape)}."
        )
    found = FeatureCertificate(law, smoothing, risk, checked, reference, delta)
    check_risk(found._share * min(_rank_share(law, int(n)) for n in np.unique(law.n)))
    return found


def _rank_share(law: ScoreLaw, n: int) -> float:
    """What each rank has of the risk of a law with n draws."""
    return (1.0 if law.plan is None else float(law.plan.share(n))) / score_ranks(n).size


def _cosine(score: np.ndarray) -> np.ndarray:
    return np.where(score >= 0.5, 2 * score - 1, -1.0)


def _rounded_down(sums: np.ndarray) -> np.ndarray:
    """Sums of products of numbers in [0, 1], lowered by more than their rounding."""
    return sums * (1 - _ROUNDING)
