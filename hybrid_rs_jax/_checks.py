"""Checks of arguments and their sentences: the only home of number, probability, budget, alphabet and shape checks.

Each check returns the value in the form that the caller computes with, or raises a ValueError of one sentence that
names the argument, the legal range and the value. Casts come first and ranges after, so that nothing wraps: the
uint64 difference 3 - 5 is a number near 2^64 here, and is refused as such.
"""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Callable
from typing import Any

import numpy as np

# Risk. Below about 1e-250 SciPy's incomplete beta is wrong (at 1e-300 a bound's tail is 3e7 times alpha); down to
# 1e-200 bounds were held against 300-bit arithmetic. The law of a sequential test was checked down to 1e-100.
SMALLEST_ALPHA, SMALLEST_TEST_ALPHA = 1e-200, 1e-100
# Draws: above 2^53 not every integer is a float64, and a bound could rest on a rounded count; the law of a sequential
# test is a table over draws and failures.
MOST_DRAWS, MOST_TEST_DRAWS = 2**53, 10**7
# Unsafe copies that flag an input: the tail of the rule is summed term by term.
MOST_FLAGS = 100_000
# Pixel noise, l2 budgets in its units: within these limits no product of them leaves the range of float64.
SMALLEST_SIGMA, LARGEST_SIGMA = 1e-12, 1e12
# Discrete budgets, from the outermost limit to the innermost:
#   a likelihood ratio has 2d + 1 atoms, beyond a million a slip of the keyboard would fill the memory;
#   a search for the largest certified budget looks no further than 16,384;
#   a table with a column per budget ends at 1,000, it would take hours.
LARGEST_BUDGET, SEARCHED_BUDGET, TABULATED_BUDGET = 1_000_000, 1 << 14, 1_000
# Alphabets: tokens are int32.
LARGEST_ALPHABET = 2**31 - 1

# A pair (p, 1 - p) whose parts were rounded outwards differs from a sum of 1 by no more than the first number; a sum
# further off than the second one is a mistake and not rounding.
_ROUNDED_PAIR, _WRONG_PAIR = 2.0**-46, 1e-9


def check_probability(name: str, values: object) -> np.ndarray:
    """Numbers in [0, 1], float64."""
    return _numbers(name, values, lambda x: (x >= 0) & (x <= 1), "lie in [0, 1]")


def check_open_unit(name: str, values: object) -> np.ndarray:
    """Numbers strictly between 0 and 1, float64."""
    return _numbers(name, values, lambda x: (x > 0) & (x < 1), "lie in (0, 1)")


def check_tau(values: object) -> np.ndarray:
    """Decision thresholds, float64."""
    return check_open_unit("tau", values)


def check_risk(values: object, name: str = "alpha", smallest: float = SMALLEST_ALPHA) -> np.ndarray:
    """Risk levels, float64: of a bound, or of several that share it."""
    legal = f"lie in [{smallest:g}, 1)"
    risks = _numbers(name, values, lambda x: (x > 0) & (x < 1), legal)
    return _numbers(name, risks, lambda x: x >= smallest, f"{legal}, as must the part of it that each bound has")


def check_epsilon(values: object, name: str = "epsilon") -> np.ndarray:
    """L2 budgets, float64."""
    return _numbers(name, values, lambda x: (x >= 0) & np.isfinite(x), "be finite and at least 0")


def check_sigma(value: object, name: str = "sigma") -> float:
    """One standard deviation of the pixel noise."""
    legal = f"be one number in {SMALLEST_SIGMA:g}..{LARGEST_SIGMA:g}"
    number = _numbers(name, value, lambda x: (x >= SMALLEST_SIGMA) & (x <= LARGEST_SIGMA), legal)
    if number.ndim:
        raise ValueError(f"{name} must {legal}, got {_shown(value)}.")
    return float(number)


def check_total_variation(value: object) -> float:
    """One distance between the noise that was drawn and the ideal one."""
    legal = "be one number in [0, 1)"
    number = _numbers("total_variation", value, lambda x: (x >= 0) & (x < 1), legal)
    if number.ndim:
        raise ValueError(f"total_variation must {legal}, got {_shown(value)}.")
    return float(number)


def check_level(name: str, values: np.ndarray) -> float:
    """The one number of an array that was checked already: a threshold or a risk of all inputs."""
    if values.ndim:
        raise ValueError(f"{name} must be one number for all inputs, got {_shown(values.tolist())}.")
    return float(values)


def check_complement(
    name: str, p: object, complement: object = None, *, upper: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """A bound on a probability and its complement, broadcast; where the two disagree both say the weaker thing.

    Near one the complement has the digits that `p` has not. Beyond the rounding of `p` it may not claim more than `p`
    does: with `upper`, where `p` is an upper bound, it may not be larger than `1 - p`, else not smaller.
    """
    p = check_probability(name, p)
    if complement is None:
        return p, np.asarray(1 - p)
    low, high = np.broadcast_arrays(p, check_probability("complement", complement))
    total = low + high
    if np.any(wrong := np.abs(total - 1) > _WRONG_PAIR):
        raise ValueError(f"complement must be 1 - {name}, got a sum of {total[wrong].flat[0]}.")
    if upper:
        low, high = high, low
    # `low` bounds the event from below and `high` its complement from above
    high_claims, low_claims = total < 1 - _ROUNDED_PAIR, total > 1 + _ROUNDED_PAIR
    low, high = np.where(low_claims, 1 - high, low), np.where(high_claims, 1 - low, high)
    return (high, low) if upper else (low, high)


def check_side(side: str) -> str:
    """Which side of the threshold is certified."""
    if side not in ("above", "below"):
        raise ValueError(f"side must be 'above' or 'below', got {_shown(side)}.")
    return side


def check_whole(name: str, value: object, least: int, most: int | None = None) -> int:
    """One integer."""
    span = f"be an integer of at least {least}" if most is None else f"be an integer in {least}..{most}"
    number = _whole_numbers(name, value, least, most, span)
    if number.ndim:
        raise ValueError(f"{name} must {span}, got {_shown(value)}.")
    return int(number)


def check_budget(d: object) -> int:
    """One discrete budget."""
    number = check_budget_array(d)
    if number.ndim:
        raise ValueError(f"The discrete budget d must be one integer, got {_shown(d)}.")
    return int(number)


def check_budget_array(d: object, name: str = "The discrete budget d") -> np.ndarray:
    """Discrete budgets of any shape, int64."""
    return _whole_numbers(name, d, 0, LARGEST_BUDGET, f"be a non-negative integer of at most {LARGEST_BUDGET}")


def check_budgets(budgets: object, *, increasing: bool = True) -> tuple[int, ...]:
    """The discrete budgets of a table or certificate: not empty, and increasing unless order does not matter."""
    try:
        given = list(budgets)  # type: ignore[call-overload]
    except TypeError:
        raise ValueError(f"budgets must be a sequence such as range(4) or (0, 1, 3), got {_shown(budgets)}.") from None
    order = "increasing and " if increasing else ""
    legal = f"be non-negative integers of at most {LARGEST_BUDGET}, {order}not empty"
    values = tuple(int(d) for d in np.ravel(_whole_numbers("budgets", given, 0, LARGEST_BUDGET, legal)))
    if len(values) != len(given) or not given or (increasing and any(a >= b for a, b in itertools.pairwise(values))):
        raise ValueError(f"budgets must {legal}, got {_shown(given)}.")
    return values


def check_counts(
    successes: object, n: object, *, least: int = 1, most: int = MOST_DRAWS, most_is: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Successes and draws, int64, broadcast against each other; `most_is` says what the limit of n is."""
    draws = check_draws("n", n, least, most, most_is)
    hits, draws = np.broadcast_arrays(check_draws("successes", successes, 0), draws)
    if np.any(beyond := hits > draws):
        raise ValueError(f"successes must be at most n, got {hits[beyond].flat[0]} of {draws[beyond].flat[0]}.")
    return hits, draws


def check_draws(name: str, values: object, least: int = 1, most: int = MOST_DRAWS, most_is: str = "") -> np.ndarray:
    """Numbers of draws, int64."""
    limit = "2^53" if most == MOST_DRAWS else most
    return _whole_numbers(name, values, least, most, f"be an integer in {least}..{limit}{most_is}")


def check_alphabet(tokens: object, alphabet: int | np.ndarray) -> None:
    """Tokens within 0..alphabet-1; `alphabet` broadcasts against them. Other symbols the certificate does not cover."""
    values = check_tokens(tokens)
    outside = (values < 0) | (values >= alphabet)
    if outside.any():
        token = values[outside].flat[0]
        limit = np.broadcast_to(np.asarray(alphabet), values.shape)[outside].flat[0]
        raise ValueError(
            f"Token {token} lies outside of the noise alphabet 0..{limit - 1}; the certificate does not cover it."
        )


def check_tokens(tokens: object) -> np.ndarray:
    """Tokens of an integer dtype."""
    values = np.asarray(tokens)
    if values.dtype.kind not in "iu":
        raise ValueError(f"Tokens must be integers, got dtype {values.dtype}.")
    return values


def check_same_inputs(tokens: np.ndarray, images: np.ndarray) -> None:
    """Tokens and images of the same inputs, the leading axis."""
    if tokens.shape[:1] != images.shape[:1]:
        counts = " and ".join(str(x.shape[0] if x.ndim else "a scalar") for x in (tokens, images))
        raise ValueError(f"tokens and images must hold the same inputs, got {counts}.")


def check_mask(name: str, mask: object, shape: tuple[int, ...]) -> np.ndarray:
    """A mask bool[inputs, length] from one of `shape` or of one input; None means all positions."""
    if mask is None:
        return np.ones(shape, bool)
    values = np.asarray(mask)
    if values.shape not in (shape, shape[1:]):
        raise ValueError(f"{name} must have shape {shape[1:]} or {shape}, got {values.shape}.")
    if values.dtype.kind not in "biuf" or not np.all(zero_one := (values == 0) | (values == 1)):
        bad = _shown(mask) if values.dtype.kind not in "biuf" else values[~zero_one].flat[0]
        raise ValueError(f"{name} must hold True or False (or 1 and 0), got {bad}.")
    return np.broadcast_to(values.astype(bool), shape)


def _whole_numbers(name: str, values: object, least: int, most: int | None, legal: str) -> np.ndarray:
    def whole(x: np.ndarray) -> Any:
        inside = (x >= least) & (x <= (np.iinfo(np.int64).max if most is None else most))
        return inside & (x == np.floor(x)) if x.dtype.kind == "f" else inside

    return _checked(name, values, whole, legal).astype(np.int64)


def _numbers(name: str, values: object, good: Callable[[np.ndarray], Any], legal: str) -> np.ndarray:
    return _checked(name, values, good, legal).astype(np.float64, copy=False)


def _checked(name: str, values: object, good: Callable[[np.ndarray], Any], legal: str) -> np.ndarray:
    """Numbers, as they came or as float64, of which each is good."""
    try:
        array = np.asarray(values)
        # bfloat16; fractions, integers beyond 64 bits, JAX scalars. Only None would become NaN
        if array.dtype.kind == "V" or (array.dtype.kind == "O" and not any(x is None for x in array.flat)):
            array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.asarray("")
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must {legal}, got {_shown(values)}.")
    if np.any(bad := ~good(array)):
        raise ValueError(f"{name} must {legal}, got {array[bad].flat[0]}.")
    return array


def _shown(value: object) -> str:
    return reprlib.repr(value)
