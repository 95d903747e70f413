"""What the threshold tau means for a filter that runs a finite number of noisy copies."""

from __future__ import annotations

import math

from hybrid_rs_jax._checks import check_open_unit, check_whole

__all__ = ["detection_threshold"]


def detection_threshold(samples: int, miss_probability: float) -> float:
    """Smoothed score above which a filter of `samples` noisy copies misses with at most `miss_probability`.

    A filter that flags an input when at least one of `m` fresh noisy copies is unsafe detects a score above `tau` with
    probability at least `1 - (1 - tau)^m`; solved for tau: `tau = 1 - a^(1/m)`. With `m = 100_000` and `a = 0.01` this
    is the papers' `4.6e-5`.

    Args:
      samples: number m of noisy copies at run time, at least 1.
      miss_probability: a, in (0, 1).

    Returns:
      tau, rounded up.

    Raises:
      ValueError: if an argument is out of range.

    >>> round(detection_threshold(100_000, 0.01), 8)
    4.605e-05
    """
    samples = check_whole("samples", samples, 1)
    miss_probability = float(check_open_unit("miss_probability", miss_probability))
    return min(-math.expm1(math.log(miss_probability) / samples) * (1 + 2.0**-50), 1.0)
