"""Numbers as text, on the safe side: what is guaranteed is floored, what is required is rounded up."""

from __future__ import annotations

import decimal
import math
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from hybrid_rs_jax.errors import BadInputError

__all__ = [
    "DASH",
    "as_text",
    "at_least_text",
    "budget_text",
    "ceil_probability_text",
    "ceil_text",
    "counted",
    "down_text",
    "floor_text",
    "joined",
    "mean",
    "percent_text",
    "probability_text",
    "radius_text",
    "setting_text",
    "span_text",
    "sum_text",
    "up_text",
]

#: Stands for "not certified" (-1 in files).
DASH = "—"
_CONTEXT = decimal.Context(prec=800, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
_MOST_DECIMALS = 17
#: A number of so many digits is shown as it is; a longer one is cut to the other number of digits.
_SHORT, _DIGITS = 8, 6


def floor_text(value: float, decimals: int = 3) -> str:
    """`value` with so many decimals, never above it: 0.9996 becomes 0.999.

    >>> floor_text(0.9996)
    '0.999'
    """
    return _rounded(value, decimals, ROUND_FLOOR)


def ceil_text(value: float, decimals: int = 3) -> str:
    """`value` with so many decimals, never below it: 0.9991 becomes 1.000.

    >>> ceil_text(33.21, 1)
    '33.3'
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
    if complement <= 0:
        return "1"
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
    """A setting of the user as it was given: all digits, none added.

    >>> setting_text(4.6e-05), setting_text(1.0), setting_text(1 - 2**-53)
    ('4.6e-05', '1', '0.9999999999999999')
    """
    return repr(value).removesuffix(".0")


def down_text(value: float) -> str:
    """A number in a promise that a smaller one keeps, too: six digits, rounded down; a short number as it is.

    >>> down_text(0.9999949), down_text(4.605063966e-05), down_text(1e-7)
    ('0.9999949', '4.60506e-05', '1e-07')
    """
    return _significant(value, ROUND_FLOOR)


def up_text(value: float) -> str:
    """A number in a promise that a larger one keeps, too: six digits, rounded up; a short number as it is.

    >>> up_text(9.9994e-9), up_text(4.605063966e-05), up_text(0.3333333333333333)
    ('9.9994e-09', '4.60507e-05', '0.333334')
    """
    return _significant(value, ROUND_CEILING)


def at_least_text(p: float, complement: float) -> str:
    """A probability in "at least ...", never above it; through the complement where it is close to one.

    >>> at_least_text(0.95, 0.05), at_least_text(1 - 1e-7, 1e-7)
    ('0.95', '1 - 1e-07')
    """
    return f"1 - {up_text(complement)}" if complement < 1e-3 else down_text(p)


def sum_text(*values: float) -> str:
    """The sum of settings, in decimal as a reader adds them up: 0.01 and 0.02 give 0.03; never below it.

    >>> sum_text(0.01, 0.02)
    '0.03'
    """
    total = Decimal(0)
    for value in values:  # with all digits: the default context would round 0.01 + 1e-200 to 0.01
        total = _CONTEXT.add(total, Decimal(repr(value)))
    exact = setting_text(float(total))
    return exact if Decimal(exact) >= total else up_text(math.nextafter(float(total), math.inf))


def span_text(budgets: Iterable[int]) -> str:
    """Budgets as "0..8", or "1, 3, 6" where there are gaps."""
    values = list(budgets)
    if len(values) > 2 and values == list(range(values[0], values[-1] + 1)):
        return f"{values[0]}..{values[-1]}"
    return ", ".join(str(value) for value in values)


def counted(number: int, noun: str) -> str:
    """A number of things: "1 input", "2,000 inputs", "2 copies"."""
    several = f"{noun[:-1]}ies" if noun.endswith("copy") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else several}"


def joined(names: Iterable[object], last: str = "and") -> str:
    """Names as an English list; nothing where there is none.

    >>> joined("abc"), joined(["a", "b"], "or"), joined([])
    ('a, b and c', 'a or b', '')
    """
    words = [str(name) for name in names]
    return "".join(words) if len(words) < 2 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def as_text(value: object, what: str) -> str:
    """`value`, if it is a text that files and tokenizers can hold: ids, texts and labels of all readers pass here.

    Args:
      value: anything.
      what: how a sentence begins, as in "counts.csv, line 2: id".

    Raises:
      BadInputError: if it is no text, or holds half of a Unicode surrogate pair (which JSON and Python allow).

    >>> as_text("a", "id")
    'a'
    """
    if not isinstance(value, str):
        raise BadInputError(f"{what} must be a text, got {value!r:.80}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadInputError(f"{what} holds half of a Unicode surrogate pair, {value!r:.80}.") from error
    return str(value)


def _decimals(small: float) -> int:
    """Three decimals, or more where the second digit of `small` comes later."""
    if small <= 0:
        return 3
    return min(max(3, 1 - math.floor(math.log10(small))), _MOST_DECIMALS)


def _significant(value: float, rounding: str) -> str:
    exact = setting_text(value)
    if not math.isfinite(value) or len(exact.partition("e")[0].replace(".", "").lstrip("-0")) <= _SHORT:
        return exact
    context = decimal.Context(prec=_DIGITS, rounding=rounding, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
    return setting_text(float(context.create_decimal_from_float(value)))


def _rounded(value: float | Decimal, decimals: int, rounding: str) -> str:
    if not math.isfinite(value):
        return str(float(value))
    rounded = Decimal(value).quantize(Decimal(1).scaleb(-decimals), rounding=rounding, context=_CONTEXT)
    return f"{_CONTEXT.add(rounded, Decimal(0)):f}"  # adding zero turns a negative zero into a plain one
