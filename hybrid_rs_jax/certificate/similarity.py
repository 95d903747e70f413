"""Certified similarity of smoothed features: from the law of a score to a bound under attack (method 6 and 11)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float

from hybrid_rs_jax.certificate.bounds import certified_radius, worst_case_probability
from hybrid_rs_jax.confidence import mean_lower_bound
from hybrid_rs_jax.confidence.score_law import LawBand, ScoreLaw, law_band
from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["FeatureCertificate", "certify_features"]

#: Distances in the table from which radii are read: what lies between two of them is lost, never claimed.
_COLUMNS = 8192
_ROUNDING = 2.0**-44


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureCertificate:
    """What is proven about the smoothed features of B inputs, for each of D discrete budgets.

    The score of a draw is `S = (1 + cos)/2`, cos the inner product of the unit feature of a noisy copy with a unit
    vector that was fixed before the draws (the clean feature), or with the feature of another, clean, noisy copy
    (pairs). With probability at least `1 - alpha` over the draws, per input, for all budgets, eps and similarities at
    once: whatever at most d tokens and an l2 pixel change of at most eps do, the cosine of the attacked SMOOTHED feature
    with that reference is at least `similarity(eps)`.

    Attributes:
      law: the histograms of the scores.
      smoothing: the smoothing distribution of the draws.
      alpha: risk per input; half of it bounds the law of the score, half its mean.
      budgets: the D discrete budgets.
      reference: "clean" or "pairs".
    """

    law: ScoreLaw
    smoothing: HybridSmoothing
    alpha: float
    budgets: tuple[int, ...] = (0,)
    reference: str = "clean"

    def __len__(self) -> int:
        return len(self.law.counts)

    def similarity(self, epsilon: float) -> Float[np.ndarray, "inputs budgets"]:
        """Certified cosine at the l2 budget `epsilon`: `2 B - 1`, B the larger of the two bounds on the score.

        Where `2 B - 1` is negative nothing is certified: -1.
        """
        bound = np.maximum(self._law_bound(epsilon), self._mean_bound(epsilon))
        return _cosine(bound)

    def mean_similarity(self, epsilon: float) -> Float[np.ndarray, "inputs budgets"]:
        """The paper's bound `2 V(E S) - 1`, from the mean of the score alone, at half of alpha; -1 where negative."""
        return _cosine(self._mean_bound(epsilon))

    def radius(self, similarity: float = 0.5) -> Float[np.ndarray, "inputs budgets"]:
        """Certified l2 radius within which the cosine stays at least `similarity`.

        Args:
          similarity: cosine in [0, 1).

        Returns:
          float64[B, D] in the unit of sigma, at most the radius that the bounds prove, short of it by less than 1e-3
          sigma; 0 where only `eps = 0` is certified, -1 where not even that is.
        """
        if not 0 <= similarity < 1:
            raise ValueError(f"similarity must lie in [0, 1), got {similarity}.")
        score = (1 + similarity) / 2 * (1 + 2.0**-52)  # the bound must reach the score, whatever the rounding
        return np.maximum(self._law_radius(score), self._mean_radius(score))

    @cached_property
    def band(self) -> LawBand:
        """Lower bounds on the law of the score, at half of alpha."""
        return law_band(self.law, self.alpha / 2)

    @cached_property
    def mean(self) -> Float[np.ndarray, " inputs"]:
        """Lower bounds on the mean of the score, at half of alpha."""
        return mean_lower_bound_of(self.law, self.alpha / 2)

    def _mean_bound(self, epsilon: float) -> np.ndarray:
        return np.asarray(worst_case_probability(self.mean[:, None], self.budgets, epsilon, self.smoothing))

    def _law_bound(self, epsilon: float) -> np.ndarray:
        """`sum_j (b_(j+1) - b_j) V(P(S >= b_(j+1)))`, where V takes one value per rank."""
        return _rounded_down(self.band.width @ self._worst_cases(np.asarray([epsilon]))[:, :, 0])

    def _worst_cases(self, epsilon: np.ndarray) -> np.ndarray:
        """V at the levels of the band, [ranks, budgets, eps]."""
        level, complement = (x[:, None, None] for x in (self.band.level, self.band.complement))
        budgets = np.asarray(self.budgets)[None, :, None]
        return np.asarray(worst_case_probability(level, budgets, epsilon, self.smoothing, complement=complement))

    def _mean_radius(self, score: float) -> np.ndarray:
        return np.asarray(certified_radius(self.mean[:, None], self.budgets, self.smoothing, score))

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances up to the largest that any level certifies, [columns], and V there, [ranks, budgets, columns]."""
        sigma = self.smoothing.sigma
        most = 0.0
        if sigma is not None:
            most = max(float(certified_radius(self.band.level[0], 0, HybridSmoothing(None, sigma), 0.5)), 0.0)
        epsilon = np.linspace(0, most, _COLUMNS if most > 0 else 1)
        return epsilon, self._worst_cases(epsilon)

    def _law_radius(self, score: float) -> np.ndarray:
        """The largest distance of the table with a law bound of at least `score`: the bound falls along the table."""
        epsilon, worst = self._table
        radius = np.empty((len(self), len(self.budgets)))
        for j in range(len(self.budgets)):
            column = worst[:, j].T
            low, high = np.full(len(self), -1), np.full(len(self), epsilon.size)  # reached, and not reached
            while np.any(high - low > 1):
                middle = np.maximum((low + high) // 2, 0)
                reached = _rounded_down(np.einsum("ir,ir->i", self.band.width, column[middle])) >= score
                low, high = np.where(reached, middle, low), np.where(reached, high, middle)
            radius[:, j] = np.where(low >= 0, epsilon[low], -1.0)
        return radius


def certify_features(
    scores: object,
    smoothing: HybridSmoothing,
    alpha: float,
    budgets: Sequence[int] = (0,),
    *,
    reference: str = "clean",
) -> FeatureCertificate:
    """Certify the cosine similarity of smoothed features from draws of the score `S = (1 + cos)/2`.

    For S in [0, 1] each level set `{S > t}` is a 0/1 event, to which the bound V of the smoothing applies:
    `E_attacked S >= int_0^1 V(P(S > t)) dt >= V(E S)` (method 11). The law is bounded at ranks that are fixed before
    the draws, the mean by a betting mixture; each at `alpha / 2`, and the larger bound counts.

    Args:
      scores: a `ScoreLaw`, or scores in [0, 1] of shape [inputs, draws]; the number of draws was fixed beforehand.
      smoothing: the smoothing distribution that the draws came from.
      alpha: risk per input in (0, 1).
      budgets: discrete budgets, increasing.
      reference: what the cosines were taken with, "clean" or "pairs".

    Raises:
      ValueError: if an argument is out of range.

    >>> from hybrid_rs_jax.kernels import HybridSmoothing
    >>> scores = np.random.default_rng(0).beta(200, 5, (1, 10_000))
    >>> certificate = certify_features(scores, HybridSmoothing(None, 1.0), alpha=0.01)
    >>> bool(certificate.radius(0.5)[0, 0] > 2.2), bool(certificate.similarity(1.5)[0, 0] > 0.75)
    (True, True)
    """
    if reference not in ("clean", "pairs"):
        raise ValueError(f"reference must be 'clean' or 'pairs', got {reference!r}.")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}.")
    law = scores if isinstance(scores, ScoreLaw) else ScoreLaw.of(scores)
    checked = tuple(int(d) for d in budgets)
    if not checked or checked[0] < 0 or any(d != given for d, given in zip(checked, budgets, strict=True)):
        raise ValueError(f"budgets must be non-negative integers, increasing and not empty, got {list(budgets)}.")
    return FeatureCertificate(law, smoothing, alpha, checked, reference)


def _cosine(score: np.ndarray) -> np.ndarray:
    return np.where(score >= 0.5, 2 * score - 1, -1.0)


def _rounded_down(sums: np.ndarray) -> np.ndarray:
    """Sums of at most some thousand products of numbers in [0, 1], lowered by more than their rounding."""
    return sums * (1 - _ROUNDING)
