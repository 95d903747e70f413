"""What a sampling plan is: when to stop drawing, and which bounds hold at the stop."""

from __future__ import annotations

import enum
from typing import Protocol, runtime_checkable

import numpy as np

from hybrid_rs_jax._checks import check_counts
from hybrid_rs_jax.confidence._clopper_pearson import LowerBound, UpperBound

__all__ = ["SamplingPlan", "Verdict", "counts_at"]


class Verdict(enum.IntEnum):
    """What a plan says about `successes` of `n` draws."""

    CONTINUE = 0
    REACHED = 1  # the plan's aim is met: stop
    FUTILE = 2  # the aim is out of reach for practical purposes: stop
    EXHAUSTED = 3  # all draws are spent; for a fixed sample simply: done


@runtime_checkable
class SamplingPlan(Protocol):
    """When to stop drawing, fixed before the first draw, and the bounds that hold at the stop.

    Sampling may stop only at a look: the smallest `n` in `looks` at which `verdict` is not `CONTINUE`. The bounds hold
    for the counts of that stop and any one `alpha` in (0, 1) that was chosen before they were seen: the least of
    several levels that certifies would be wrong more often than it says. Both are rounded outwards.
    """

    @property
    def max_samples(self) -> int:
        """Draws after which sampling stops whatever the counts."""
        ...

    @property
    def looks(self) -> np.ndarray:
        """The only numbers of draws at which sampling may stop: int64, increasing, the last one is `max_samples`."""
        ...

    def verdict(self, n: object, successes: object) -> np.ndarray:
        """`Verdict` codes, int8, broadcast; `CONTINUE` where `n` is not a look."""
        ...

    def lower_bound(self, n: object, successes: object, alpha: object) -> LowerBound:
        """Lower confidence bound on the proportion at the stop; below it with probability at most `alpha`."""
        ...

    def upper_bound(self, n: object, successes: object, alpha: object) -> UpperBound:
        """Upper confidence bound on the proportion at the stop; above it with probability at most `alpha`."""
        ...

    def describe(self) -> dict[str, object]:
        """Everything that defines the plan, as JSON; `plan_from` rebuilds an equal plan."""
        ...


def counts_at(n: object, successes: object, max_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Checked draws and successes of a plan, int64, broadcast against each other."""
    successes, draws = check_counts(successes, n, least=0, most=max_samples, most_is=", the plan's max_samples")
    return draws, successes
