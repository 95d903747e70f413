"""What a sampling plan is: when to stop drawing, and which bounds hold at the stop."""

from __future__ import annotations

import enum
from typing import Any, Protocol, runtime_checkable

import numpy as np

from hybrid_rs_jax.confidence._clopper_pearson import LowerBound, UpperBound, whole_numbers

__all__ = ["SamplingPlan", "Verdict"]


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
    for the counts of that stop, for every `alpha` in (0, 1), chosen before or after. Both are rounded outwards.
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

    def describe(self) -> dict[str, Any]:
        """Everything that defines the plan, as JSON; `plan_from` rebuilds an equal plan."""
        ...


def counts_at(n: object, successes: object, max_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Checked int64 counts, broadcast against each other."""
    draws, k = np.broadcast_arrays(whole_numbers("n", n), whole_numbers("successes", successes))
    if np.any(draws > max_samples):
        raise ValueError(f"n must be at most the plan's max_samples of {max_samples}, got {draws.max()}.")
    if np.any(k > draws):
        at = np.flatnonzero(k > draws)[0]
        raise ValueError(f"successes must be at most n, got {k.flat[at]} of {draws.flat[at]}.")
    return draws, k


def check_whole(name: str, value: object, least: int, most: int | None = None) -> int:
    """One integer setting of a plan."""
    span = f"of at least {least}" if most is None else f"in {least}..{most}"
    array = np.asarray(value)
    whole = array.ndim == 0 and array.dtype.kind in "iuf"
    if not whole or not (value >= least and value % 1 == 0 and (most is None or value <= most)):  # type: ignore[operator]
        raise ValueError(f"{name} must be an integer {span}, got {value}.")
    return int(value)  # type: ignore[call-overload]


def check_open_unit(name: str, value: object) -> float:
    """One setting of a plan that is a probability strictly between 0 and 1."""
    number = float(value)  # type: ignore[arg-type]
    if not 0 < number < 1:
        raise ValueError(f"{name} must lie in (0, 1), got {value}.")
    return number
