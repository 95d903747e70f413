"""One-sided Clopper-Pearson bounds from integer counts, near one as exact as near zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special

from hybrid_rs_jax._checks import check_counts, check_risk

__all__ = [
    "LowerBound",
    "UpperBound",
    "clopper_pearson",
    "clopper_pearson_bound",
    "clopper_pearson_upper",
    "clopper_pearson_upper_bound",
]

# Margins that dominate the error of SciPy's incomplete beta functions (measured: below 1e-11 relative up to n = 1e7).
_TAIL_MARGIN = 1e-9
_ULPS = 8 * float(np.finfo(np.float64).eps)
_WIDENING = [min(_ULPS * 2.0**k, 0.5) for k in range(60)]


class LowerBound(NamedTuple):
    """A lower confidence bound and its complement, rounded down and up: `p <= exact`, `complement >= 1 - exact`."""

    p: np.ndarray
    complement: np.ndarray


class UpperBound(NamedTuple):
    """An upper confidence bound and its complement, rounded up and down: `p >= exact`, `complement <= 1 - exact`."""

    p: np.ndarray
    complement: np.ndarray


def clopper_pearson(successes: object, n: object, alpha: object) -> np.ndarray | float:
    """Lower confidence bound on a proportion from `successes` of `n` independent draws.

    The `p` with `P[Bin(n, p) >= k] = alpha`: `alpha^(1/n)` for `k = n`, 0 for `k = 0`. With probability at least
    `1 - alpha` over the draws it lies below the true proportion.

    Args:
      successes: integer k, `0 <= k <= n`; arguments broadcast.
      n: integer number of draws, at least 1.
      alpha: risk level in [1e-200, 1), spent once on this statement.

    Returns:
      float64, at most the exact bound (short of it by less than 1e-9 of a standard error).

    Raises:
      ValueError: for counts that are not integers in 0..2^53, `k > n`, or alpha outside of its range.

    >>> round(clopper_pearson(9_990, 10_000, alpha=0.01), 5)
    0.99799
    """
    return _scalar(clopper_pearson_bound(successes, n, alpha).p)


def clopper_pearson_bound(successes: object, n: object, alpha: object) -> LowerBound:
    """`clopper_pearson` together with the complement, which keeps its digits when the bound is close to one.

    Args:
      successes, n, alpha: as for `clopper_pearson`; they broadcast.

    Returns:
      `p` float64, at most the exact bound, and `complement`, at least one minus the exact bound.

    Raises:
      ValueError: as `clopper_pearson`.

    >>> bound = clopper_pearson_bound(10_000, 10_000, 0.01)
    >>> round(float(bound.p), 6), round(float(bound.complement), 6)
    (0.99954, 0.00046)
    """
    k, n, alpha = np.broadcast_arrays(*check_counts(successes, n), check_risk(alpha))
    shape = k.shape
    k, n, alpha = (np.atleast_1d(x) for x in (k, n, alpha))
    failures = n - k
    with np.errstate(divide="ignore"):
        all_agree = np.log(alpha) / n
    # exp turns the rounding of its argument, relative to it, into one of the result
    margin = _ULPS * (1 - all_agree)
    target = alpha * (1 - _TAIL_MARGIN)
    inner = (k > 0) & (failures > 0)
    a, b = np.where(inner, k, 1).astype(np.float64), np.where(inner, failures + 1, 1).astype(np.float64)
    p = _step_down(special.betaincinv(a, b, target), lambda x: special.betainc(a, b, x) <= alpha)
    rest = _step_up(special.betainccinv(b, a, target), lambda x: special.betaincc(b, a, x) <= alpha)
    p = np.where(inner, p, np.where(k == 0, 0.0, np.exp(all_agree) * (1 - margin)))
    complement = np.where(inner, rest, np.where(k == 0, 1.0, -np.expm1(all_agree) * (1 + margin)))
    return LowerBound(p.reshape(shape), np.minimum(complement, 1.0).reshape(shape))


def clopper_pearson_upper(successes: object, n: object, alpha: object) -> np.ndarray | float:
    """Upper confidence bound on a proportion from `successes` of `n` independent draws.

    The mirror image of `clopper_pearson`: one minus the lower bound on the share of failures. 1 for `k = n`,
    `1 - alpha^(1/n)` for `k = 0`. With probability at least `1 - alpha` it lies above the true proportion.

    Args:
      successes: integer k, `0 <= k <= n`; arguments broadcast.
      n: integer number of draws, at least 1.
      alpha: risk level in [1e-200, 1), spent once on this statement.

    Returns:
      float64, at least the exact bound.

    Raises:
      ValueError: for counts that are not integers in 0..2^53, `k > n`, or alpha outside of its range.

    >>> round(clopper_pearson_upper(10, 10_000, alpha=0.01), 5)
    0.00201
    """
    return _scalar(clopper_pearson_upper_bound(successes, n, alpha).p)


def clopper_pearson_upper_bound(successes: object, n: object, alpha: object) -> UpperBound:
    """`clopper_pearson_upper` together with the complement, which keeps its digits when the bound is close to one.

    Args:
      successes, n, alpha: as for `clopper_pearson_upper`; they broadcast.

    Returns:
      `p` float64, at least the exact bound, and `complement`, at most one minus the exact bound.

    Raises:
      ValueError: as `clopper_pearson_upper`.

    >>> bound = clopper_pearson_upper_bound(0, 10_000, 0.01)
    >>> round(float(bound.p), 6), round(float(bound.complement), 6)
    (0.00046, 0.99954)
    """
    k, n = check_counts(successes, n)
    failures = clopper_pearson_bound(n - k, n, alpha)
    return UpperBound(failures.complement, failures.p)


def _step_down(p: np.ndarray, holds: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Lower each value until the binomial tail at it really is at most alpha; 0 where SciPy finds no such value."""
    p = p * (1 - _ULPS)
    for step in _WIDENING:
        if (good := holds(p)).all():
            return p
        p = np.where(good, p, p * (1 - step))
    return np.where(holds(p), p, 0.0)


def _step_up(rest: np.ndarray, holds: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The same for the complement: raise it, to 1 where SciPy finds no value."""
    rest = rest * (1 + _ULPS)
    for step in _WIDENING:
        if (good := holds(rest)).all():
            return rest
        rest = np.where(good, rest, np.minimum(rest * (1 + step), 1.0))
    return np.where(holds(rest), rest, 1.0)


def _scalar(array: np.ndarray) -> np.ndarray | float:
    return float(array) if array.ndim == 0 else array
