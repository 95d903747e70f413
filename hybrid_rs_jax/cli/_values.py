"""Values on the command line: each parser reads one text, and refuses it with "must ..., got ..."."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from cyclopts import Parameter

from hybrid_rs_jax._checks import LARGEST_SIGMA, SMALLEST_ALPHA, SMALLEST_SIGMA, TABULATED_BUDGET

__all__ = [
    "LARGEST",
    "MAX_BUDGET",
    "SMALLEST",
    "at_least_zero",
    "cosine",
    "flag",
    "image_size",
    "integer",
    "integer_grid",
    "labels",
    "number_grid",
    "open_unit",
    "pixel_range",
    "positive",
    "renaming",
    "risk_level",
    "shard",
    "target",
]

MAX_BUDGET = TABULATED_BUDGET
SMALLEST, LARGEST = SMALLEST_SIGMA, LARGEST_SIGMA
MOST_VALUES = 1_000_000


def flag(parse: Callable[[str], Any], metavar: str, **more: Any) -> Parameter:
    """How the command line reads a flag whose one value is `parse`d."""
    return Parameter(
        converter=lambda _, tokens: parse(tokens[0].value),
        n_tokens=1,
        metavar=metavar,
        allow_leading_hyphen=True,  # a negative number is refused by its range, not as an unknown flag
        **more,
    )


def open_unit(text: str) -> float:
    """A number in (0, 1)."""
    value = _number(text)
    if not 0 < value < 1:
        raise ValueError(f"must lie in (0, 1), got {text}")
    return value


def cosine(text: str) -> float:
    """A cosine that can be certified."""
    value = _number(text)
    if not 0 <= value < 1:
        raise ValueError(f"must lie in [0, 1), got {text}")
    return value


def risk_level(text: str) -> float:
    """A risk level, as the library takes it."""
    value = _number(text)
    if not SMALLEST_ALPHA <= value < 1:
        raise ValueError(f"must lie in [{SMALLEST_ALPHA}, 1), got {text}")
    return value


def positive(text: str) -> float:
    """A positive number within `SMALLEST..LARGEST`."""
    value = _number(text)
    if not SMALLEST <= value <= LARGEST:
        raise ValueError(f"must be positive, in {SMALLEST:g}..{LARGEST:g}, got {text}")
    return value


def at_least_zero(text: str) -> float:
    """A number of at least 0."""
    value = _number(text)
    if not 0 <= value <= LARGEST:
        raise ValueError(f"must be at least 0 and at most {LARGEST:g}, got {text}")
    return value


def integer(low: int, high: int) -> Callable[[str], int]:
    """A parser of integers in `low..high`."""

    def parse(text: str) -> int:
        value = int(text) if text.strip().lstrip("+-").isdecimal() and len(text) < 40 else None
        if value is None or not low <= value <= high:
            raise ValueError(f"must be an integer in {low}..{high}, got {text}")
        return value

    return parse


def number_grid(legal: Callable[[float], bool], where: str) -> Callable[[str], np.ndarray]:
    """A parser of float64 grids whose values must be `legal`; `where` says what that means.

    A grid is a list `0.9,0.99`, or `start:stop:count`, or `log:start:stop:count`.

    >>> number_grid(lambda x: x >= 0, "at least 0")("0:1:3").tolist()
    [0.0, 0.5, 1.0]
    """

    def parse(text: str) -> np.ndarray:
        values = _grid(text, "0.9,0.99")
        bad = [value for value in values.tolist() if not (math.isfinite(value) and legal(value))]
        if bad:
            raise ValueError(f"must hold numbers {where}, got {bad[0]!r}")
        return values

    return parse


def integer_grid(low: int, high: int) -> Callable[[str], np.ndarray]:
    """A parser of int64 grids within `low..high`.

    >>> integer_grid(0, 9)("0:8:5").tolist()
    [0, 2, 4, 6, 8]
    """

    def parse(text: str) -> np.ndarray:
        values = _grid(text, "0,1,2")
        bad = [v for v in values.tolist() if not (math.isfinite(v) and v == math.floor(v) and low <= v <= high)]
        if bad:
            raise ValueError(f"must hold integers in {low}..{high}, got {bad[0]!r}")
        return values.astype(np.int64)

    return parse


def target(text: str) -> tuple[int, float]:
    """`d=2,eps=0.5` as a pair."""
    fields = dict(part.partition("=")[::2] for part in text.replace(" ", "").split(","))
    if set(fields) != {"d", "eps"}:
        raise ValueError(f"must look like d=2,eps=0.5, got {text}")
    return integer(0, MAX_BUDGET)(fields["d"]), at_least_zero(fields["eps"])


def similarity_target(text: str) -> tuple[float, float, int]:
    """`cosine=0.5,eps=0.25` or `cosine=0.5,eps=0.25,d=1` as a triple; d is 0 where it is not said."""
    fields = dict(part.partition("=")[::2] for part in text.replace(" ", "").split(","))
    if not {"cosine", "eps"} <= set(fields) <= {"cosine", "eps", "d"}:
        raise ValueError(f"must look like cosine=0.5,eps=0.25 or cosine=0.5,eps=0.25,d=1, got {text}")
    return cosine(fields["cosine"]), at_least_zero(fields["eps"]), integer(0, MAX_BUDGET)(fields.get("d", "0"))


def renaming(text: str) -> tuple[tuple[str, str], ...]:
    """What a table calls our columns: "successes=n_A,id=name"."""
    pairs = [piece.partition("=")[::2] for piece in text.split(",")]
    found = {ours.strip(): theirs.strip() for ours, theirs in pairs}
    legal = ("id", "successes", "n", "budget")
    if not set(found) <= set(legal) or not all(found.values()) or len(found) < len(pairs):
        raise ValueError(f"must be pairs like successes=n_A,id=name of {', '.join(legal)}, got {text}")
    return tuple(found.items())


def shard(text: str) -> tuple[int, int]:
    """`I/K`: every K-th input from the I-th on."""
    part, slash, parts = text.partition("/")
    if not slash:
        raise ValueError(f"must look like 0/4, got {text}")
    index, number = integer(0, 2**20)(part), integer(0, 2**20)(parts)
    if not 0 <= index < number:
        raise ValueError(f"must be I/K with 0 <= I < K, got {text}")
    return index, number


def image_size(text: str) -> tuple[int, int]:
    """`384x384`, height and width."""
    height, cross, width = text.lower().partition("x")
    if not cross:
        raise ValueError(f"must look like 384x384 (height x width), got {text}")
    parse = integer(1, 2**14)
    return parse(height), parse(width)


def labels(text: str) -> tuple[str, str]:
    """`Unsafe,Safe`."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip() for part in parts):
        raise ValueError(f"must be two labels like Unsafe,Safe, got {text}")
    return parts[0], parts[1]


def pixel_range(text: str) -> tuple[float, float]:
    """`0,255`: the values that become 0 and 1."""
    low, comma, high = text.partition(",")
    values = _number(low), _number(high)
    if not comma or not (math.isfinite(values[0]) and math.isfinite(values[1]) and values[0] < values[1]):
        raise ValueError(f"must be two numbers like 0,255, the first one smaller, got {text}")
    return values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _grid(text: str, example: str) -> np.ndarray:
    parts = text.split(":")
    try:
        if len(parts) == 1:
            return np.array([float(part) for part in text.split(",")], np.float64)
        spacing = parts.pop(0) if parts[0] == "log" else "linear"
        start, stop, count = float(parts[0]), float(parts[1]), int(parts[2])
        if len(parts) != 3:
            raise ValueError
    except (ValueError, IndexError):
        raise ValueError(
            f"must be a list like {example}, or start:stop:count, or log:start:stop:count, got {text}"
        ) from None
    if not 1 <= count <= MOST_VALUES:
        raise ValueError(f"must have a count in 1..{MOST_VALUES}, got {count}")
    if not (math.isfinite(start) and math.isfinite(stop)):
        raise ValueError(f"must have a finite start and stop, got {text}")
    if spacing == "linear":
        return np.linspace(start, stop, count)
    if not (start > 0 and stop > 0):
        raise ValueError(f"must have a positive start and stop after log:, got {text}")
    return np.geomspace(start, stop, count)
