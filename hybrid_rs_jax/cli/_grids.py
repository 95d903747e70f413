"""Grids of numbers on the command line: `0.9,0.99`, `start:stop:count`, `log:start:stop:count`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np

__all__ = ["float_grid", "integer_grid"]

MOST_VALUES = 1_000_000


def float_grid(legal: Callable[[float], bool], where: str) -> Callable[[str], np.ndarray]:
    """Parser of a float64 grid whose values must be `legal`; `where` says what that means.

    >>> float_grid(lambda x: x >= 0, "at least 0")("0:1:3").tolist()
    [0.0, 0.5, 1.0]
    """

    def parse(text: str) -> np.ndarray:
        values = _values(text)
        bad = [value for value in values.tolist() if not (math.isfinite(value) and legal(value))]
        if bad:
            raise argparse.ArgumentTypeError(f"must hold numbers {where}, got {bad[0]!r}")
        return values

    return parse


def integer_grid(low: int, high: int) -> Callable[[str], np.ndarray]:
    """Parser of an int64 grid within `low..high`."""

    def parse(text: str) -> np.ndarray:
        values = _values(text)
        bad = [v for v in values.tolist() if not (math.isfinite(v) and v == math.floor(v) and low <= v <= high)]
        if bad:
            raise argparse.ArgumentTypeError(f"must hold integers in {low}..{high}, got {bad[0]!r}")
        return values.astype(np.int64)

    return parse


def _values(text: str) -> np.ndarray:
    parts = text.split(":")
    try:
        if len(parts) == 1:
            return np.array([float(part) for part in text.split(",")], np.float64)
        spacing = parts.pop(0) if parts[0] == "log" else "linear"
        start, stop, count = float(parts[0]), float(parts[1]), int(parts[2])
        if len(parts) != 3:
            raise ValueError
    except (ValueError, IndexError):
        raise argparse.ArgumentTypeError(
            f"must be a list like 0.9,0.99, or start:stop:count, or log:start:stop:count, got {text}"
        ) from None
    if not 1 <= count <= MOST_VALUES:
        raise argparse.ArgumentTypeError(f"must have a count in 1..{MOST_VALUES}, got {count}")
    if not (math.isfinite(start) and math.isfinite(stop)):
        raise argparse.ArgumentTypeError(f"must have a finite start and stop, got {text}")
    if spacing == "linear":
        return np.linspace(start, stop, count)
    if not (start > 0 and stop > 0):
        raise argparse.ArgumentTypeError(f"must have a positive start and stop after log:, got {text}")
    return np.geomspace(start, stop, count)
