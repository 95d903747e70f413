"""The law of a discrete log likelihood ratio: all that a certificate needs to know about a discrete kernel.

For a clean and an adversarial input a kernel gives two laws P and Q. They are kept as atoms
`(l_i, p_i, q_i)` with `l_i = log(q_i / p_i)`, in the log domain, plus two singular masses: `p_0`, the clean mass
that the adversary never produces (`l = -inf`), and `q_inf`, the adversarial mass that the clean input never produces
(`l = +inf`). `sum p_i + p_0 = 1` and `sum q_i + q_inf = 1`.

The *trade-off function* of (P, Q) maps a clean probability to the smallest adversarial probability that a test with
this clean probability can have (Eq. (1) of the paper). Functions here that change the atoms say in which direction
the trade-off function may move; it never moves up.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float
from scipy.special import logsumexp

__all__ = ["LikelihoodRatio", "coarsen", "compose", "compose_all", "identity", "singular"]

_UNIT = 2.0**-53
#: An atom list longer than this is put on a grid by `compose_all` (pessimistically).
MAX_ATOMS = 8192


@dataclasses.dataclass(frozen=True)
class LikelihoodRatio:
    """Atoms of a discrete log likelihood ratio, sorted by increasing ratio.

    Args:
      log_ratio: `l_i = log(q_i / p_i)`, finite, non-decreasing.
      log_p: log of the clean masses `p_i`; `-inf` marks padding.
      log_q: log of the adversarial masses `q_i`.
      p_0: clean mass on which the adversary puts nothing, in [0, 1].
      q_inf: adversarial mass on which the clean input puts nothing, in [0, 1]. A lower bound never counts it.
      rounding: at least 1; every stored mass is within a relative `rounding * (|log mass| + 4) * 2^-53` of the exact
        one, p_0 and q_inf within `(4 * rounding + 4) * 2^-53`. Log ratios are good to a few units in the last place of
        the numbers that they were added up from; their error costs a certificate second order only.

    It is a pytree of arrays. One likelihood ratio has fields of shape [atoms]; a batch puts lanes on trailing axes.

    >>> round(float(np.exp(identity().log_p).sum()), 3)
    1.0
    """

    log_ratio: Float[Array | np.ndarray, "atoms *lanes"]
    log_p: Float[Array | np.ndarray, "atoms *lanes"]
    log_q: Float[Array | np.ndarray, "atoms *lanes"]
    p_0: Float[Array | np.ndarray, "*lanes"] | float = 0.0
    q_inf: Float[Array | np.ndarray, "*lanes"] | float = 0.0
    rounding: Float[Array | np.ndarray, "*lanes"] | float = 1.0

    @property
    def atoms(self) -> int:
        """Number of stored atoms, padding included."""
        return int(self.log_ratio.shape[0])

    @classmethod
    def from_masses(cls, p: Sequence[float] | np.ndarray, q: Sequence[float] | np.ndarray) -> LikelihoodRatio:
        """Build the law from the two probability vectors over the same finite set.

        Outcomes with equal ratios stay separate atoms, which changes no certificate.

        Args:
          p: clean masses, shape [outcomes], non-negative, summing to 1 within 1e-9.
          q: adversarial masses, the same.

        Raises:
          ValueError: if a vector is not a probability vector or the shapes differ.

        >>> LikelihoodRatio.from_masses([0.5, 0.5, 0.0], [0.25, 0.5, 0.25]).q_inf
        0.25
        """
        p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
        if p.ndim != 1 or p.shape != q.shape:
            raise ValueError(f"p and q must be vectors of one length, got shapes {p.shape} and {q.shape}.")
        for name, masses in (("p", p), ("q", q)):
            if not np.all(masses >= 0) or not abs(masses.sum() - 1) <= 1e-9:
                raise ValueError(
                    f"{name} must hold non-negative masses that sum to 1, "
                    f"got the sum {masses.sum()} and the least mass {masses.min(initial=np.inf)}."
                )
        both = (p > 0) & (q > 0)
        log_p, log_q = np.log(p[both]), np.log(q[both])
        order = np.argsort(log_q - log_p, kind="stable")
        return _checked(
            (log_q - log_p)[order],
            log_p[order],
            log_q[order],
            float(p[q == 0].sum()),
            float(q[p == 0].sum()),
            rounding=2.0,
        )


def _leaves(ratio: LikelihoodRatio) -> tuple[tuple[object, ...], None]:
    return tuple(getattr(ratio, field.name) for field in dataclasses.fields(ratio)), None


def _rebuild(_: None, leaves: Iterable[object]) -> LikelihoodRatio:
    """Put leaves back without `__init__`: transformations also build trees of axes, tracers and placeholders."""
    ratio = object.__new__(LikelihoodRatio)
    for field, leaf in zip(dataclasses.fields(LikelihoodRatio), leaves, strict=True):
        object.__setattr__(ratio, field.name, leaf)
    return ratio


jax.tree_util.register_pytree_node(LikelihoodRatio, _leaves, _rebuild)


def _checked(
    log_ratio: np.ndarray,
    log_p: np.ndarray,
    log_q: np.ndarray,
    p_0: float,
    q_inf: float,
    rounding: float,
) -> LikelihoodRatio:
    """Drop atoms without mass, keep at least one, and assert the invariants that the certificate rests on."""
    keep = (log_p > -np.inf) & (log_q > -np.inf)
    log_ratio, log_p, log_q = log_ratio[keep], log_p[keep], log_q[keep]
    if log_ratio.size == 0:
        log_ratio, log_p, log_q = np.zeros(1), np.full(1, -np.inf), np.full(1, -np.inf)
    assert np.all(np.isfinite(log_ratio)), "log ratios must be finite; singular masses go to p_0 and q_inf"
    assert np.all(np.diff(log_ratio) >= 0), "atoms must be sorted by log ratio"
    assert 0 <= p_0 <= 1, f"p_0 = {p_0}"
    assert 0 <= q_inf <= 1, f"q_inf = {q_inf}"
    return LikelihoodRatio(log_ratio, log_p, log_q, p_0, q_inf, rounding)


def identity() -> LikelihoodRatio:
    """No discrete change: one atom, ratio 1."""
    return LikelihoodRatio(np.zeros(1), np.zeros(1), np.zeros(1), 0.0, 0.0, 1.0)


def singular() -> LikelihoodRatio:
    """A change that the noise does not hide at all: disjoint laws, nothing can be certified."""
    return LikelihoodRatio(np.zeros(1), np.full(1, -np.inf), np.full(1, -np.inf), 1.0, 1.0, 1.0)


def compose(first: LikelihoodRatio, second: LikelihoodRatio) -> LikelihoodRatio:
    """Two independent channels side by side: log ratios add, masses multiply, equal ratios merge.

    Exact up to rounding, which the result's `rounding` accounts for. Shapes [a] and [b] give at most [a * b].

    >>> compose(identity(), identity()).atoms
    1
    """
    pairs = [np.add.outer(x, y).ravel() for x, y in _fields(first, second)]
    order = np.argsort(pairs[0], kind="stable")
    log_ratio, log_p, log_q = (pair[order] for pair in pairs)
    starts = _starts_of_equal_runs(log_ratio)
    return _checked(
        log_ratio[starts],
        _logsumexp_runs(log_p, starts),
        _logsumexp_runs(log_q, starts),
        _either(first.p_0, second.p_0),
        _either(first.q_inf, second.q_inf),
        rounding=_merged_rounding(float(first.rounding) + float(second.rounding), _longest(starts, log_p.size)),
    )


def compose_all(parts: Iterable[LikelihoodRatio], max_atoms: int = MAX_ATOMS) -> LikelihoodRatio:
    """Compose many independent channels, coarsening whenever more than `max_atoms` atoms appear.

    The trade-off function of the result is at most the exact one (equal to it, up to rounding, below `max_atoms`).
    """

    def step(left: LikelihoodRatio, right: LikelihoodRatio) -> LikelihoodRatio:
        return coarsen(compose(left, right), max_atoms)

    parts = tuple(parts)
    return functools.reduce(step, parts) if parts else identity()


def coarsen(ratio: LikelihoodRatio, max_atoms: int) -> LikelihoodRatio:
    """Put the atoms on an even grid of log ratios, pessimistically.

    An atom between two grid points is split over them so that its clean and its adversarial mass are kept. Under the
    clean law this spreads the ratio without moving its mean, so the ratio grows in convex order and the trade-off
    function can only go down; the loss is of second order in the grid step, where rounding to one neighbour would be
    of first order (and rounding to the nearest one would be unsound).

    Args:
      ratio: one likelihood ratio, fields of shape [atoms].
      max_atoms: largest number of atoms to return, at least 2.
    """
    if ratio.atoms <= max_atoms:
        return ratio
    log_ratio, log_p = np.asarray(ratio.log_ratio), np.asarray(ratio.log_p)
    grid = np.linspace(log_ratio[0], log_ratio[-1], max_atoms)
    grid[-1] = np.nextafter(log_ratio[-1], np.inf)
    cell = np.clip(np.searchsorted(grid, log_ratio, side="right") - 1, 0, max_atoms - 2)
    step = grid[cell + 1] - grid[cell]
    # The ratio is first lowered by more than all rounding in it: the adversarial mean may only fall.
    guard = 8 * (float(ratio.rounding) + 1) * _UNIT * (np.abs(log_ratio) + step + 1)
    offset = np.maximum(log_ratio - grid[cell] - guard, 0.0)
    with np.errstate(divide="ignore"):
        log_total = np.log(-np.expm1(-step))
        log_up = offset - step + np.log(-np.expm1(-offset)) - log_total
        log_down = np.log(-np.expm1(offset - step)) - log_total
    log_mass = np.full(max_atoms, -np.inf)
    np.logaddexp.at(log_mass, cell, log_p + log_down)
    np.logaddexp.at(log_mass, cell + 1, log_p + log_up)
    return _checked(
        grid,
        log_mass,
        log_mass + grid,
        float(ratio.p_0),
        float(ratio.q_inf),
        rounding=_merged_rounding(float(ratio.rounding) + 4.0, 2 * int(np.bincount(cell).max())),
    )


def _fields(first: LikelihoodRatio, second: LikelihoodRatio) -> list[tuple[np.ndarray, np.ndarray]]:
    names = ("log_ratio", "log_p", "log_q")
    return [(np.asarray(getattr(first, name)), np.asarray(getattr(second, name))) for name in names]


def _either(a: object, b: object) -> float:
    """Mass of the union of two independent events, `a + b - ab`, without cancellation."""
    x, y = float(np.asarray(a)), float(np.asarray(b))
    return min(1.0, x + y * (1.0 - x))


def _merged_rounding(rounding: float, members: int) -> float:
    """Rounding R of a mass m that sums up to `members` masses m_j, each within `rounding` r of its exact value.

    In units of 2^-53, by the definition of `rounding`, the exact m_j differ by at most `r (|log m_j| + 4)`.

    - *A product* `log m = a + b` of masses with r_1 and r_2 needs no more than `r_1 + r_2`: of
      `(r_1 + r_2)(|a| + |b| + 4)` the factors leave `r_1 |b| + r_2 |a|`, at least the `|a + b|` of rounding the sum.
    - *Sharing.* The m_j err by `sum_j (m_j/m) r (|log m_j| + 4)`. The mean of `|log m_j|` under the weights `m_j/m` is
      `|log m|` plus their entropy, at most `log members`: together `r (|log m| + 4 + log members)`, which is at most
      `r (1 + log(members)/4)(|log m| + 4)`.
    - *Adding them up*, by `logsumexp`: the differences to the largest and `exp` cost at most 5 units, the sum
      `members - 1`, `log` 2, and adding the largest back `|log m|`: at most `(3 + members/4)(|log m| + 4)`.
    """
    if members == 1:
        return rounding
    return rounding * (1.0 + math.log(members) / 4.0) + 3.0 + members / 4.0


def _longest(starts: np.ndarray, size: int) -> int:
    return int(np.diff(np.append(starts, size)).max())


def _starts_of_equal_runs(sorted_values: np.ndarray) -> np.ndarray:
    """Index of the first member of each run of values that differ by rounding only.

    Merging ratios that differ by a few units in the last place costs a second-order error, which the dual bound's
    threshold term covers.
    """
    scale = np.maximum(np.abs(sorted_values), 1.0)
    new_run = np.diff(sorted_values) > 8 * np.finfo(np.float64).eps * scale[1:]
    return np.concatenate([[0], np.flatnonzero(new_run) + 1])


def _logsumexp_runs(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    stops = np.append(starts[1:], values.size)
    if starts.size == values.size:
        return values
    return np.array([logsumexp(values[i:j]) for i, j in zip(starts, stops, strict=True)])
