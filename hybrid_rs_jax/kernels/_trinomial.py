"""Powers of a trinomial, to the last bit of float64: the clean masses of the uniform kernel.

Changing `d` positions of a uniform kernel convolves `(keep, other, swap)` with itself `d` times. Sums of logarithms
lose digits as `d` grows, and linear float64 underflows, so the coefficients are computed in decimal arithmetic, whose
exponent is unbounded, and only then rounded to a float64 logarithm.
"""

from __future__ import annotations

import decimal
import math
from decimal import Decimal

import numpy as np

_CONTEXT = decimal.Context(prec=36, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
# ln 10 in two parts; the high one has 21 trailing zero bits, so its product with a decimal exponent is exact
_LN10_HIGH = math.ldexp(round(math.ldexp(math.log(10.0), 30)), -30)
_LN10_LOW = float(_CONTEXT.subtract(_CONTEXT.ln(Decimal(10)), Decimal(_LN10_HIGH)))


def log_trinomial_power(keep: Decimal, other: Decimal, swap: Decimal, d: int) -> np.ndarray:
    """Logarithms of the coefficients of `(keep + other x + swap x^2)^d`, shape [2d + 1].

    From `f = g^d`, `f' g = d g' f`: the coefficients obey

        f_{k+1} keep (k+1) = (d - k) other f_k + (2d - k + 1) swap f_{k-1},

    whose terms are all positive for `k < d`, hence stable; the upper half is the lower half of the reversed trinomial.
    Cost O(d). `keep` and `swap` are positive. A zero coefficient gives `-inf`.
    """
    lower = _lower_half(keep, other, swap, d)
    upper = _lower_half(swap, other, keep, d)
    return np.array([log_decimal(x) for x in lower] + [log_decimal(x) for x in upper[-2::-1]])


def log_binomial_power(first: Decimal, second: Decimal, d: int) -> np.ndarray:
    """Logarithms of the coefficients of `(first + second x)^d`, both positive, shape [d + 1]."""
    return np.array([log_decimal(x) for x in _lower_half(first, second, Decimal(0), d)])


def _lower_half(keep: Decimal, other: Decimal, swap: Decimal, d: int) -> list[Decimal]:
    with decimal.localcontext(_CONTEXT):
        inverse_keep = 1 / keep
        other, swap = other * inverse_keep, swap * inverse_keep
        before, here = Decimal(0), keep**d
        coefficients = [here]
        for k in range(d):
            after = ((d - k) * other * here + (2 * d - k + 1) * swap * before) / (k + 1)
            before, here = here, after
            coefficients.append(here)
    return coefficients


def log_decimal(value: Decimal) -> float:
    """Natural logarithm of a non-negative decimal, within `(|log| + 4) 2^-53`; `log 0 = -inf`."""
    if not value:
        return -math.inf
    if Decimal("0.5") < value < 2:
        return math.log1p(float(value - 1))
    exponent = value.adjusted()
    if -300 < exponent < 300:
        return math.log(float(value))
    mantissa = float(value.scaleb(-exponent, context=_CONTEXT))
    return exponent * _LN10_HIGH + (exponent * _LN10_LOW + math.log(mantissa))
