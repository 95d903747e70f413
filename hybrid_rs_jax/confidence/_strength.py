"""Confidence bounds after a sequential stop, from one fixed order of all outcomes."""

from __future__ import annotations

import functools

import numpy as np
import scipy  # scipy.optimize is loaded where it is first used
from scipy import special

from hybrid_rs_jax.confidence._paths import Boundary, Odds, Outcomes, log_sum, outcomes

__all__ = ["outcome_index", "outwards", "stopped_lower", "stopped_upper"]

_FARTHEST = 700.0  # log odds; beyond, the bound is 0 or 1
# `expit` of an exact argument is good to 2 units in the last place; the margin is four times that.
_ROUND = 8 * float(np.finfo(np.float64).eps)


@functools.lru_cache(maxsize=16)
def _places(boundary: Boundary, reference: Odds) -> tuple[np.ndarray, np.ndarray]:
    """The outcomes as sorted numbers, and the place of each in the order of strength."""
    law = outcomes(boundary, reference)
    keys = law.n * (boundary.looks[-1] + 1) + law.failures
    by_key = np.argsort(keys)
    return keys[by_key], by_key


def outcome_index(boundary: Boundary, reference: Odds, n: np.ndarray, failures: np.ndarray) -> np.ndarray:
    """Place of each (draws, failures) in the order, strongest first; -1 where sampling cannot have stopped."""
    keys, places = _places(boundary, reference)
    wanted = n * (boundary.looks[-1] + 1) + failures
    at = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    return np.where(keys[at] == wanted, places[at], -1)


@functools.lru_cache(maxsize=1 << 16)
def stopped_lower(boundary: Boundary, reference: Odds, index: int, alpha: float, margin: float) -> tuple[float, float]:
    """The largest p (and its complement) at which an outcome at least as strong has probability at most alpha.

    Whatever the true p, the outcomes whose bound exceeds it lie at the strong end and weigh at most alpha: this needs
    no assumption on the order, and holds for every alpha by itself. `margin` covers the rounding of the law. Rounded
    down.
    """
    law = outcomes(boundary, reference)
    logit = _logit_at(law, slice(0, index + 1), index, np.log(alpha) - margin, 1.0)
    return outwards(logit)


@functools.lru_cache(maxsize=1 << 16)
def stopped_upper(boundary: Boundary, reference: Odds, index: int, alpha: float, margin: float) -> tuple[float, float]:
    """The smallest p (and its complement) at which an outcome at most as strong has probability at most alpha.

    The mirror image of `stopped_lower`; rounded up.
    """
    law = outcomes(boundary, reference)
    logit = _logit_at(law, slice(index, None), index, np.log(alpha) - margin, -1.0)
    complement, p = outwards(-logit)
    return p, complement


def outwards(logit: float) -> tuple[float, float]:
    """Proportion, rounded down, and complement, rounded up."""
    return float(special.expit(logit)) * (1 - _ROUND), min(float(special.expit(-logit)) * (1 + _ROUND), 1.0)


def _logit_at(law: Outcomes, part: slice, near: int, target: float, side: float) -> float:
    """Log odds at which the outcomes of `part` have the log probability `target`, on the side where they have less.

    Their probability grows with `side * logit`. The search brackets the target by doubling steps from the share of
    successes of the outcome `near`, and closes in by Brent's method. Brent's root is off by its tolerance (1e-13, a
    few units of a logit of at most 700); so the last loop steps to the low side until the log probability that is
    computed there is itself at most `target`. What that leaves is the rounding of the law, which the caller has taken
    off `target` (`rounding_margin`), and of turning log odds into a proportion (`outwards`).

    Args:
      law: all outcomes, strongest first.
      part: the outcomes whose probability is meant, one end of the order.
      near: an outcome to start from.
      target: log of the risk that they may have.
      side: 1 where their probability grows with the log odds, -1 where it falls.

    Returns:
      log odds, sound as a lower bound for side 1 and as an upper bound for side -1; `-side` times infinity where
      700 is not low enough.
    """

    def excess(x: float) -> float:
        return log_sum(law.log_probability(Odds.of_logit(side * x), part)) - target

    hits, misses = float(law.n[near] - law.failures[near]), float(law.failures[near])
    low = high = side * float(np.log((hits + 0.5) / (misses + 0.5)))
    step = 1.0
    while excess(low) > 0:
        if low <= -_FARTHEST:
            return -side * np.inf
        low, high, step = max(low - step, -_FARTHEST), low, 2 * step
    while high <= low or excess(high) <= 0:
        low, high, step = high, min(high + step, _FARTHEST), 2 * step
        if low == high:
            return side * low
    x = float(scipy.optimize.brentq(excess, low, high, xtol=1e-13, rtol=1e-14, disp=False))
    step = 1e-14 * max(abs(x), 1.0)
    while excess(x) > 0:
        x, step = x - step, 2 * step
    return side * x
