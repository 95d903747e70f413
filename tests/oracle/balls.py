"""Exact rationals and balls: numbers as they were passed, precision as it is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from flint import arb, ctx, fmpq

Real = float | int | fmpq | arb
Bound = fmpq | arb
Enclosure = tuple[Bound, Bound]

BITS = 256
MAX_BITS = 4096


class Undecided(ArithmeticError):
    """The balls still overlap at the highest precision."""


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """Ball arithmetic of `bits` bits inside the block."""
    saved = ctx.prec
    ctx.prec = bits
    try:
        yield
    finally:
        ctx.prec = saved


def exact(x: float | int | fmpq) -> fmpq:
    """The rational number that a float is."""
    return x if isinstance(x, fmpq) else fmpq(*x.as_integer_ratio())


def quotient(epsilon: float, sigma: float) -> fmpq:
    """The ratio rho = epsilon / sigma of two floats, without rounding."""
    return exact(epsilon) / exact(sigma)


def exact_or_ball(rho: Real) -> fmpq | arb:
    """A ball as it is, but zero; any other number exactly."""
    if isinstance(rho, arb):
        return fmpq(0) if rho.is_zero() else rho
    return exact(rho)


def ball(x: fmpq | arb) -> arb:
    """The number as a ball of the present precision."""
    return x if isinstance(x, arb) else arb(x)


def centre(x: arb) -> arb:
    """The centre of a ball: an exact number."""
    return arb(x.mid())


def log_float(x: fmpq) -> float:
    """The logarithm, rounded once; -inf at 0."""
    if x == 0:
        return -math.inf
    with precision(128):
        return float(arb(x).log())
