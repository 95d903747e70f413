"""The plan that everybody knows: a fixed number of draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from hybrid_rs_jax._checks import check_open_unit, check_probability, check_risk, check_whole
from hybrid_rs_jax.confidence._clopper_pearson import (
    LowerBound,
    UpperBound,
    clopper_pearson_bound,
    clopper_pearson_upper_bound,
)
from hybrid_rs_jax.confidence._plan import Verdict, counts_at

__all__ = ["FixedSample", "samples_for_share"]

_BLOCK, _MOST = 1 << 14, 10**12


@dataclasses.dataclass(frozen=True)
class FixedSample:
    """Draw exactly `n` times, then bound the proportion by Clopper-Pearson.

    Args:
      n: number of draws, at least 1.

    Raises:
      ValueError: if `n` is not such an integer.

    >>> float(FixedSample(16).lower_bound(16, 16, alpha=0.01).p).__round__(6)
    0.749894
    """

    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", check_whole("n", self.n, 1))

    @property
    def max_samples(self) -> int:
        """`n`."""
        return self.n

    @property
    def looks(self) -> np.ndarray:
        """The one look, at `n`."""
        return np.array([self.n], np.int64)

    def verdict(self, n: object, successes: object) -> np.ndarray:
        """`EXHAUSTED` (done) at `n`, `CONTINUE` before."""
        draws, _ = counts_at(n, successes, self.n)
        return np.where(draws == self.n, Verdict.EXHAUSTED, Verdict.CONTINUE).astype(np.int8)

    def lower_bound(self, n: object, successes: object, alpha: object) -> LowerBound:
        """`clopper_pearson_bound`: at most the exact bound."""
        return clopper_pearson_bound(*self._complete(n, successes), alpha)

    def upper_bound(self, n: object, successes: object, alpha: object) -> UpperBound:
        """`clopper_pearson_upper_bound`: at least the exact bound."""
        return clopper_pearson_upper_bound(*self._complete(n, successes), alpha)

    def describe(self) -> dict[str, object]:
        """JSON-able settings."""
        return {"plan": "fixed", "n": self.n}

    def _complete(self, n: object, successes: object) -> tuple[np.ndarray, np.ndarray]:
        draws, k = counts_at(n, successes, self.n)
        if np.any(draws != self.n):
            raise ValueError(f"n must be {self.n}, where this plan stops, got {draws[draws != self.n].flat[0]}.")
        return k, draws


def samples_for_share(share: float, p_star: float, alpha: float, complement_star: float | None = None) -> int | None:
    """The smallest n at which `floor(share n)` successes of n draws prove `p >= p_star` by Clopper-Pearson.

    What an input that abstained would have needed, had it gone on as it began. The floor makes the bound rise and fall
    with n; every n from the result on up to the next drop of the floor, but not every larger one, is enough too.

    Args:
      share: share of successes, in [0, 1].
      p_star: the proportion to prove, in (0, 1).
      alpha: risk level in [1e-200, 1).
      complement_star: `1 - p_star`, for a p* so close to 1 that `p_star` has lost its digits.

    Returns:
      n, or None where no number of draws up to 10^12 is enough: the share is not, or hardly, above `p_star`.

    Raises:
      ValueError: if an argument is out of range.

    >>> samples_for_share(1.0, 0.75, 0.01), samples_for_share(0.7, 0.75, 0.01)
    (17, None)
    """
    share, p_star = float(check_probability("share", share)), float(check_open_unit("p_star", p_star))
    rest = 1 - p_star if complement_star is None else float(check_open_unit("complement_star", complement_star))
    alpha = float(check_risk(alpha))
    if share <= p_star and 1 - share >= rest:
        return None

    def tail(k: Any, n: Any) -> np.ndarray:
        """Probability of k successes or more at p*."""
        if p_star > 0.5:
            return np.asarray(special.betaincc(n - k + 1.0, k, rest))
        return np.asarray(special.betainc(k, n - k + 1.0, p_star))

    start = _least_conceivable(share, tail, alpha)
    if start is None:
        return None
    while True:
        n = np.arange(start, start + _BLOCK)
        k = np.floor(share * n * (1 + 2.0**-50)).astype(np.int64)
        close = tail(np.maximum(k, 1), n) <= alpha * (1 + 1e-6)
        places = np.flatnonzero(close & (k > 0))
        for some in (places[:1], places[1:]):  # nearly always the first one it is
            bound = clopper_pearson_bound(k[some], n[some], alpha)
            enough = bound.complement <= rest if p_star > 0.5 else bound.p >= p_star
            if enough.any():
                return int(n[some[np.argmax(enough)]])
        start += _BLOCK


def _least_conceivable(share: float, tail: Callable[[Any, Any], np.ndarray], alpha: float) -> int | None:
    """Draws below which not even `share n` successes, not rounded down, are enough; None above `_MOST`."""

    def enough(n: int) -> bool:
        return bool(tail(share * n, n) <= alpha * (1 + 1e-6))

    low, high = 0, 1
    while not enough(high):
        low, high = high, 2 * high
        if high > _MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
