"""What the draws of a score are for: a cosine at a distance, certified at the first look that proves it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from hybrid_rs_jax._checks import check_budget, check_epsilon, check_probability, check_risk, check_whole
from hybrid_rs_jax._text import setting_text
from hybrid_rs_jax.certificate.similarity import certify_features
from hybrid_rs_jax.confidence import StagedLooks, staged_looks
from hybrid_rs_jax.confidence.score_law import ScoreLaw, score_edges
from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["SimilarityTarget"]

#: Draws at the first look; the next ones double.
_FIRST = 100


@dataclasses.dataclass(frozen=True)
class SimilarityTarget:
    """A certified cosine of at least `similarity` under `d` tokens and an l2 change of `epsilon`.

    The same as a certified radius of at least `epsilon` for the cosine `similarity`. Sampling stops at the first look
    whose own certificate reaches it. The looks are fixed before the draws and share the risk of the law of the score,
    so that what is certified at the stop holds whatever made the draws stop, for every distance and cosine.

    Args:
      similarity: cosine in [0, 1).
      epsilon: l2 distance in the units of sigma, at least 0.
      d: discrete budget, at least 0.
      alpha: risk per input in (0, 1) at which it is to be certified.

    Raises:
      ValueError: for a number out of range.

    >>> SimilarityTarget(0.5, epsilon=0.25).looks(1000).sizes
    (100, 200, 400, 1000)
    """

    similarity: float
    epsilon: float
    d: int = 0
    alpha: float = 0.01

    def __post_init__(self) -> None:
        similarity = float(check_probability("similarity", self.similarity))
        if similarity >= 1:
            raise ValueError(f"similarity must lie in [0, 1), got {similarity}.")
        object.__setattr__(self, "similarity", similarity)
        object.__setattr__(self, "epsilon", float(check_epsilon(self.epsilon)))
        object.__setattr__(self, "d", int(check_budget(self.d)))
        object.__setattr__(self, "alpha", float(check_risk(self.alpha)))

    def looks(self, n: int) -> StagedLooks:
        """The looks of at most `n` draws, and their shares of the risk."""
        return staged_looks(min(_FIRST, check_whole("n", n, 1)), n)

    def reached(
        self, law: ScoreLaw, smoothing: HybridSmoothing, *, total_variation: float = 0.0
    ) -> Bool[np.ndarray, " inputs"]:
        """Is the target certified for the inputs of a law with a plan, each at its own look?

        Args:
          law, smoothing, total_variation: as for `certify_features`; the law has the plan of `looks`.

        Raises:
          ValueError: as `certify_features`.
        """
        found = certify_features(law, smoothing, self.alpha, (self.d,), total_variation=total_variation)
        return found.similarity(self.epsilon)[:, 0] >= self.similarity

    def check(self, n: int, smoothing: HybridSmoothing, *, bins: int, total_variation: float = 0.0) -> None:
        """Refuse a target that `n` draws cannot certify even if all of them are the best there is.

        Raises:
          ValueError: if it is such a target.
        """
        best = np.zeros((1, bins), np.int64)
        best[0, -1] = n
        law = ScoreLaw(best, score_edges(bins), self.looks(n))
        if not self.reached(law, smoothing, total_variation=total_variation)[0]:
            raise ValueError(
                f"{n:,} draws certify {self.text} for no input, not even if all cosines are 1; give more draws, a "
                "smaller distance, or a smaller cosine."
            )

    @property
    def text(self) -> str:
        """The target in a few words."""
        return (
            f"a cosine of {setting_text(self.similarity)} at eps = {setting_text(self.epsilon)}, d = {self.d} "
            f"(alpha = {setting_text(self.alpha)})"
        )

    def describe(self) -> dict[str, object]:
        """JSON-able settings; `of` rebuilds an equal target."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> SimilarityTarget:
        """The target that `describe` described.

        Raises:
          ValueError: if a setting is missing, unknown or out of range.
        """
        try:
            return cls(**description)
        except TypeError as error:
            raise ValueError(f"target must hold similarity, epsilon, d and alpha, got {dict(description)}.") from error
