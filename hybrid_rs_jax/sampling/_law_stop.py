"""When the law of an input is drawn: at a number fixed beforehand, or at the first look that proves a target."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np

from hybrid_rs_jax.certificate.similarity_target import SimilarityTarget
from hybrid_rs_jax.confidence import StagedLooks
from hybrid_rs_jax.confidence.score_law import ScoreLaw, score_edges
from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["LawStop"]


@dataclasses.dataclass(frozen=True)
class LawStop:
    """The end of the draws of each input, decided by its own counts in the order of its copies.

    Args:
      most: draws after which an input ends in any case.
      bins: of the score.
      target: ends an input earlier, at a look; None: never.
      smoothing, total_variation: as for `certify_features`.

    Raises:
      ValueError: if so many draws could not certify the target for any input.
    """

    most: int
    bins: int
    target: SimilarityTarget | None
    smoothing: HybridSmoothing
    total_variation: float = 0.0

    def __post_init__(self) -> None:
        if self.target is not None:
            self.target.check(self.most, self.smoothing, bins=self.bins, total_variation=self.total_variation)

    @cached_property
    def plan(self) -> StagedLooks | None:
        """The looks; None for a fixed number of draws."""
        return None if self.target is None else self.target.looks(self.most)

    @property
    def looks(self) -> tuple[int, ...]:
        """The only numbers of draws at which an input ends."""
        return (self.most,) if self.plan is None else self.plan.sizes

    def ended(self, counts: np.ndarray) -> bool:
        """Do these counts [bins] end their input?"""
        drawn = int(np.sum(counts))
        if drawn >= self.most:
            return True
        if self.target is None or drawn not in self.looks:
            return False
        law = ScoreLaw(np.asarray(counts, np.int64)[None], score_edges(self.bins), self.plan)
        return bool(self.target.reached(law, self.smoothing, total_variation=self.total_variation)[0])
