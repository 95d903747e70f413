"""What the threshold tau means for a filter that runs a finite number of noisy copies."""

from __future__ import annotations

import decimal
import math
from decimal import Decimal

import numpy as np
from scipy import special

from hybrid_rs_jax._checks import MOST_DRAWS, MOST_FLAGS, check_open_unit, check_probability, check_whole

__all__ = ["copies_needed", "detection_threshold", "miss_probability_at"]

# 50 digits: a tail of 100,000 terms has lost fewer than ten of them, `_OUTWARDS` covers far more than that.
_CONTEXT = decimal.Context(prec=50, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
_OUTWARDS = Decimal("1." + 39 * "0" + "1")


def detection_threshold(samples: int, miss_probability: float, flags: int = 1) -> float:
    """Smoothed score above which a filter "flag at `flags` of `samples` unsafe copies" rarely misses.

    A filter that flags an input when at least `k` of `m` fresh noisy copies are unsafe misses a score `s` with
    probability `P[Bin(m, s) < k]`, which falls with `s`. Solved for the score (method section 10):
    `tau = BetaInv(1 - a; k, m - k + 1)`, and `1 - a^(1/m)` for `k = 1`. With `m = 100_000`, `a = 0.01` and `k = 1` this
    is the papers' `4.6e-5`. SciPy's inverse is only the start of the search: the value that comes back is the smallest
    float64 at which the binomial tail itself, summed in 50 digits and rounded up, is at most `a`.

    Args:
      samples: number m of noisy copies at run time, in 1..2^53.
      miss_probability: a, in (0, 1); per request, given that the certificate is right.
      flags: number k of unsafe copies that flag an input, in 1..min(m, 100,000).

    Returns:
      tau, rounded up: every score of at least tau is missed with probability at most `a`.

    Raises:
      ValueError: if an argument is out of range.

    >>> round(detection_threshold(100_000, 0.01), 8), round(detection_threshold(53, 0.01, flags=2), 4)
    (4.605e-05, 0.1188)
    """
    m = check_whole("samples", samples, 1, MOST_DRAWS)
    a = float(check_open_unit("miss_probability", miss_probability))
    k = check_whole("flags", flags, 1, min(m, MOST_FLAGS))
    target = Decimal(a)

    def kept(tau: float) -> bool:
        return _tail(m, k, tau) <= target

    start = -math.expm1(math.log(a) / m) if k == 1 else float(special.betainccinv(k, m - k + 1, a))
    start = min(max(start, math.ulp(0.0)), 1.0) if math.isfinite(start) else 0.5
    low, high, step = start, start, 2.0**-46
    while low > 0 and kept(low):
        low, step = max(low * (1 - step), 0.0) if step < 1 else 0.0, 16 * step
    step = 2.0**-46
    while not kept(high):
        high, step = min(high * (1 + step), 1.0), 16 * step
    while (middle := low + (high - low) / 2) not in (low, high):
        low, high = (low, middle) if kept(middle) else (middle, high)
    return high


def copies_needed(score: float, miss_probability: float) -> int:
    """The fewest copies m of a filter "flag at one unsafe copy" whose `detection_threshold` is at most `score`.

    Args:
      score: smoothed score, in [0, 1].
      miss_probability: a, in (0, 1).

    Returns:
      m; -1 where the score is 0 or would need 2^53 copies or more. From 2^41 copies on a relative 2^-40 more.

    Raises:
      ValueError: if an argument is out of range.

    >>> copies_needed(4.6e-5, 0.01)
    100111
    """
    a = float(check_open_unit("miss_probability", miss_probability))
    score = float(check_probability("score", score))
    if score in (0.0, 1.0):
        return 1 if score else -1
    copies = math.log(a) / math.log1p(-score) * (1 - 1e-12)
    if copies >= MOST_DRAWS:
        return -1
    number = max(math.ceil(copies), 1)
    while detection_threshold(number, a) > score:
        number += max(number >> 40, 1)
    return number


def miss_probability_at(score: float, samples: int, flags: int = 1) -> float:
    """`P[Bin(m, s) < k]`, rounded up: how often a filter of k of m copies misses a score of exactly `s`.

    Args:
      score: smoothed score s, in [0, 1].
      samples: copies m, in 1..2^53.
      flags: unsafe copies k that flag an input, in 1..min(m, 100,000).

    Returns:
      probability in [0, 1], at least the exact one.

    Raises:
      ValueError: if an argument is out of range.

    >>> round(miss_probability_at(0.05, samples=100), 4), round(miss_probability_at(0.05, samples=100, flags=2), 4)
    (0.0059, 0.0371)
    """
    m = check_whole("samples", samples, 1, MOST_DRAWS)
    k = check_whole("flags", flags, 1, min(m, MOST_FLAGS))
    tail = _tail(m, k, float(check_probability("score", score)))
    return min(float(np.nextafter(float(tail), 2)), 1.0) if tail else 0.0


def _tail(m: int, k: int, score: float) -> Decimal:
    """`P[Bin(m, score) < k]`, rounded up: `sum_{j<k} C(m, j) s^j (1-s)^(m-j)` term by term, all of them positive."""
    if score >= 1:
        return Decimal(0)  # k <= m
    with decimal.localcontext(_CONTEXT):
        hit = Decimal(score)
        miss = 1 - hit
        odds = hit / miss
        term = total = miss**m
        for j in range(k - 1):
            term = term * ((m - j) * odds) / (j + 1)
            total += term
        return total * _OUTWARDS
