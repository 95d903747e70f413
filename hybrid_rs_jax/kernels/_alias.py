"""The rounded normal as an alias table of integers (method, section 13).

`P(Z = z) = Phi((z + 1/2) h/sigma) - Phi((z - 1/2) h/sigma)` on `|z| <= ceil(9.2 sigma/h)`, rounded to multiples of
2^-64 that add up to 1 exactly. Everything is computed in decimal arithmetic of 50 digits, so the table is the same on
every machine.
"""

from __future__ import annotations

import dataclasses
import decimal
import functools
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np

__all__ = ["MOST_STEPS", "AliasTable", "alias_table", "half_width", "outcome_weights"]

#: Largest sigma/h: the table has 18.4 times as many outcomes, and building it takes 15 microseconds for each.
MOST_STEPS = 2**16
#: The support in standard deviations; beyond lie 3.6e-20, less than two units of 2^-65.
_SUPPORT = Fraction(46, 5)

_CONTEXT = decimal.Context(prec=50, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX)
_DENSITY_AT_0 = Decimal("0.398942280401432677939946059934381868475858631164934657665925829670658")  # 1/sqrt(2 pi)
_TINY = Decimal("1e-48")
#: Beyond this many standard deviations lies less than 1e-57.
_FAR = Decimal(16)
#: Widest piece that one Taylor series integrates.
_PIECE = Decimal("0.25")


@dataclasses.dataclass(frozen=True, eq=False)
class AliasTable:
    """Walker's alias table: 2^bits cells of equal mass, each shared by two outcomes.

    The first `bits` bits of 64 uniform ones choose a cell, the other `64 - bits` are compared with its threshold: below
    it the outcome is the cell's own number, else the cell's alias. An outcome `k` stands for `z = k - centre`.

    Attributes:
      bits: at least 1.
      centre: the outcome that stands for z = 0; there are `2 centre + 1` outcomes.
      threshold: in 0..2^(64 - bits), uint64[2^bits].
      alias: int32[2^bits].
    """

    bits: int
    centre: int
    threshold: np.ndarray
    alias: np.ndarray

    @property
    def outcomes(self) -> int:
        """Number of integers that may be drawn."""
        return 2 * self.centre + 1


def half_width(sigma: float, step: float) -> int:
    """`ceil(9.2 sigma/h)`: the largest integer that may be drawn.

    Raises:
      ValueError: if `sigma/h` is larger than 2^16.
    """
    ratio = Fraction(sigma) / Fraction(step)
    if ratio > MOST_STEPS:
        raise ValueError(
            f"sigma must be at most {MOST_STEPS} steps of the pixel grid, got sigma = {sigma} and a step of {step}; "
            "give a larger step."
        )
    return math.ceil(_SUPPORT * ratio)


@functools.lru_cache(maxsize=32)
def alias_table(sigma: float, step: float) -> AliasTable:
    """The table for noise of standard deviation `sigma` on a grid of step `step`."""
    weights = outcome_weights(sigma, step)
    bits = max(1, (len(weights) - 1).bit_length())
    threshold, alias = _fill(weights, bits)
    return AliasTable(bits, len(weights) // 2, threshold, alias)


def outcome_weights(sigma: float, step: float) -> list[int]:
    """`2^64 P(Z = z)` for z from `-half_width` to `half_width`, rounded by the largest remainder: they sum to 2^64."""
    width = half_width(sigma, step)
    with decimal.localcontext(_CONTEXT):
        right = _masses(Decimal(step) / Decimal(sigma), width)
        scaled = [mass * (1 << 64) for mass in right[:0:-1] + right]
        weights = [int(mass) for mass in scaled]
        remainder = [mass - weight for mass, weight in zip(scaled, weights, strict=True)]
    # the larger remainder first; of equal ones the outcome that is nearer to 0, then the positive one
    order = sorted(range(len(weights)), key=lambda k: (-remainder[k], abs(k - width), -k))
    for k in order[: (1 << 64) - sum(weights)]:
        weights[k] += 1
    return weights


def _masses(delta: Decimal, width: int) -> list[Decimal]:
    """`P(Z = z)` for z = 0..width, where a step is `delta` standard deviations."""
    half = delta / 2
    masses = [2 * _normal_mass(Decimal(0), half)]
    low = half
    for z in range(1, width + 1):
        high = (2 * z + 1) * half
        masses.append(_normal_mass(low, high))
        low = high
    return masses


def _normal_mass(low: Decimal, high: Decimal) -> Decimal:
    """`Phi(high) - Phi(low)` for `0 <= low <= high`, within 1e-45."""
    high = min(high, _FAR)
    if low >= high:
        return Decimal(0)
    pieces = math.ceil((high - low) / _PIECE)
    width = (high - low) / pieces
    return sum((_piece(low + width * (2 * i + 1) / 2, width / 2) for i in range(pieces)), Decimal(0))


def _piece(centre: Decimal, radius: Decimal) -> Decimal:
    """Integral of the density over `centre +- radius`, by its Taylor series at the centre.

    `phi(c + u) = phi(c) sum_n He_n(c) (-u)^n / n!`, of which the even terms remain; `a_n = He_n(c) r^n / n!` follows
    from `He_{n+1} = c He_n - n He_{n-1}`.
    """
    slope, bend = centre * radius, radius * radius
    before, here, total, n = Decimal(0), Decimal(1), Decimal(1), 0
    while abs(before) + abs(here) > _TINY:
        before, here = here, (slope * here - bend * before) / (n + 1)
        n += 1
        if n % 2 == 0:
            total += here / (n + 1)
    return 2 * radius * _DENSITY_AT_0 * (-centre * centre / 2).exp() * total


def _fill(weights: list[int], bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells of capacity 2^(64 - bits): one outcome below capacity and a part of one above fill a cell, exactly."""
    cells, capacity = 1 << bits, 1 << (64 - bits)
    left = weights + [0] * (cells - len(weights))
    threshold, alias = [capacity] * cells, list(range(cells))
    poor = [k for k in range(cells) if left[k] < capacity]
    rich = [k for k in range(cells) if left[k] > capacity]
    while poor:
        k, donor = poor.pop(), rich[-1]
        threshold[k], alias[k] = left[k], donor
        left[donor] -= capacity - left[k]
        if left[donor] <= capacity:
            rich.pop()
            if left[donor] < capacity:
                poor.append(donor)
    return np.array(threshold, np.uint64), np.array(alias, np.int32)
