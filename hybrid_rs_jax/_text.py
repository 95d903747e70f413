"""Numbers as text, on the safe side: what is guaranteed is floored, what is required is rounded up."""

from __future__ import annotations

import decimal
import math
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

__all__ = [
    "DASH",
    "budget_text",
    "ceil_probability_text",
    "ceil_text",
    "counted",
    "floor_text",
    "joined",
    "mean",
    "percent_text",
    "probability_text",
    "radius_text",
    "setting_text",
    "span_text",
]

#: Stands for "not certified" (-1 in files).
DASH = "—"
_CONTEXT = decimal.Context(prec=800, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
_MOST_DECIMALS = 17


def floor_text(value: float, decimals: int = 3) -> str:
    """`value` with so many decimals, never above it: 0.9996 becomes 0.999.

    >>> floor_text(0.9996)
    '0.999'
    """
    return _rounded(value, decimals, ROUND_FLOOR)


def ceil_text(value: float, decimals: int = 3) -> str:
    """`value` with so many decimals, never below it.

    >>> ceil_text(0.0011)
    '0.002'
    """
    return _rounded(value, decimals, ROUND_CEILING)


def radius_text(radius: float, decimals: int = 3) -> str:
    """A certified radius, floored; a dash where nothing is certified (-1)."""
    return DASH if radius < 0 else floor_text(radius, decimals)


def budget_text(budget: int) -> str:
    """A certified discrete budget; a dash where not even d = 0 is certified (-1)."""
    return DASH if budget < 0 else str(budget)


def probability_text(p: float) -> str:
    """A lower bound on a probability, floored, with as many nines as it has.

    >>> probability_text(0.99953961), probability_text(0.25), probability_text(4.6057e-05)
    ('0.99953', '0.250', '4.6e-05')
    """
    if 0 < p < 1e-3:
        exponent = math.floor(math.log10(p))
        return f"{_rounded(Decimal(p).scaleb(-exponent, _CONTEXT), 1, ROUND_FLOOR)}e{exponent:03d}"
    return _rounded(p, _decimals(min(p, 1 - p)), ROUND_FLOOR)


def ceil_probability_text(p: float, complement: float) -> str:
    """A probability that is needed, rounded up; `1 - x` where it is too close to one to be read otherwise.

    >>> ceil_probability_text(0.750038, 0.249962), ceil_probability_text(1 - 2.5e-10, 2.5e-10)
    ('0.751', '1 - 2.5e-10')
    """
    if complement < 1e-8:
        return f"1 - {probability_text(complement)}"
    if p < 1e-3:
        exponent = math.floor(math.log10(p)) if p > 0 else 0
        return f"{_rounded(Decimal(p).scaleb(-exponent, _CONTEXT), 1, ROUND_CEILING)}e{exponent:03d}"
    return _rounded(p, _decimals(min(p, complement)), ROUND_CEILING)


def percent_text(part: int, whole: int) -> str:
    """A share in percent, floored to one decimal: 2 of 3 is 66.6 %."""
    tenths = 1000 * part // whole
    return f"{tenths // 10}.{tenths % 10} %"


def mean(values: Iterable[float]) -> float:
    """Mean of certified values, where one that is not certified (-1) counts as 0."""
    certified = [max(float(value), 0.0) for value in values]
    return math.fsum(certified) / len(certified)


def setting_text(value: float) -> str:
    """A parameter with up to six digits; all of them where fewer would say 0 or 1.

    >>> setting_text(4.605064e-05), setting_text(1 - 2**-53)
    ('4.60506e-05', '0.9999999999999999')
    """
    text = f"{value:.6g}"
    return repr(value) if text in ("0", "1") and value not in (0, 1) else text


def span_text(budgets: Iterable[int]) -> str:
    """Budgets as "0..8", or "1, 3, 6" where there are gaps."""
    values = list(budgets)
    if len(values) > 2 and values == list(range(values[0], values[-1] + 1)):
        return f"{values[0]}..{values[-1]}"
    return ", ".join(str(value) for value in values)


def counted(number: int, noun: str) -> str:
    """A number of things: "1 input", "20 inputs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def joined(names: Iterable[object], last: str = "and") -> str:
    """Names as an English list."""
    words = [str(name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def _decimals(small: float) -> int:
    """Three decimals, or more where the second digit of `small` comes later."""
    if small <= 0:
        return 3
    return min(max(3, 1 - math.floor(math.log10(small))), _MOST_DECIMALS)


def _rounded(value: float | Decimal, decimals: int, rounding: str) -> str:
    if not math.isfinite(value):
        return str(float(value))
    rounded = Decimal(value).quantize(Decimal(1).scaleb(-decimals), rounding=rounding, context=_CONTEXT)
    return f"{_CONTEXT.add(rounded, Decimal(0)):f}"  # adding zero turns a negative zero into a plain one
