"""Run a core over any number of lanes: few compiled shapes, flat memory, float64 on the CPU whatever the caller uses.

Lanes are cut into blocks and padded to a fixed set of sizes, atoms are padded to powers of two, and the number of real
atoms is an argument. So a call compiles at most once per (block size, atom capacity), and never again for new values.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from hybrid_rs_jax._jax import float64_on_cpu
from hybrid_rs_jax.certificate._dual import Probability
from hybrid_rs_jax.certificate._radius import MAX_STEPS
from hybrid_rs_jax.certificate._solve import solve_radius, solve_required, solve_worst_case
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio

__all__ = ["radius_lanes", "required_lanes", "worst_case_lanes"]

BLOCKS = (1, 16, 256, 4096)
_WORKERS = min(8, os.cpu_count() or 1)
# Most lanes are done after this many steps; the few that are not get a pass of their own.
_FIRST_PASS = 10

Lanes = tuple[np.ndarray, ...]


def worst_case_lanes(ratio: LikelihoodRatio, p: np.ndarray, complement: np.ndarray, rho: np.ndarray) -> Lanes:
    """`(lower, upper)` of the worst-case score for lanes that share one likelihood ratio."""

    def block(padded: LikelihoodRatio, count: Any, p: Any, complement: Any, rho: Any) -> tuple[Any, ...]:
        result = solve_worst_case(padded, Probability(p, complement), rho, count)
        return result.lower, result.upper

    return _run(block, ratio, (p, complement, rho))


def radius_lanes(
    ratio: LikelihoodRatio,
    p: np.ndarray,
    complement: np.ndarray,
    tau: np.ndarray,
    tau_complement: np.ndarray,
    *,
    most_steps: int = MAX_STEPS,
) -> np.ndarray:
    """Certified `rho` for lanes that share one likelihood ratio; without a step 0 says no more than "not -1"."""

    def block(
        padded: LikelihoodRatio, count: Any, p: Any, q: Any, tau: Any, tau_q: Any, max_steps: Any
    ) -> tuple[Any, ...]:
        result = solve_radius(padded, Probability(p, q), Probability(tau, tau_q), max_steps, count)
        return result.rho, result.finished

    columns = (p, complement, tau, tau_complement)
    size = _block_size(p.size)
    rho, finished = _run(block, ratio, columns, size, min(_FIRST_PASS, most_steps))
    late = np.flatnonzero(~finished)
    if late.size and most_steps > _FIRST_PASS:
        # in blocks of the same size: idle lanes cost less than compiling for another shape
        again, _ = _run(block, ratio, tuple(column[late] for column in columns), size, most_steps)
        rho[late] = again
    return rho


def required_lanes(ratio: LikelihoodRatio, tau: np.ndarray, tau_complement: np.ndarray, rho: np.ndarray) -> Lanes:
    """`(p, 1 - p)` that certify `rho` at `tau`, for lanes that share one likelihood ratio."""

    def block(padded: LikelihoodRatio, count: Any, tau: Any, tau_q: Any, rho: Any) -> tuple[Any, ...]:
        return tuple(solve_required(padded, Probability(tau, tau_q), rho, count))

    return _run(block, ratio, (tau, tau_complement, rho))


def _run(
    block: Callable[..., tuple[Any, ...]],
    ratio: LikelihoodRatio,
    columns: Sequence[np.ndarray],
    size: int | None = None,
    *options: int,
) -> Lanes:
    """Cut the columns into blocks, run them on a few threads, and put the results together again."""
    lanes = columns[0].size
    size = _block_size(lanes) if size is None else size
    padded, count = _pad_atoms(ratio), np.int32(ratio.atoms)

    def one(start: int) -> tuple[np.ndarray, ...]:
        with float64_on_cpu():  # in each worker: settings are properties of a thread
            parts = [_pad(column[start : start + size], size) for column in columns]
            return tuple(np.asarray(x) for x in block(padded, count, *parts, *map(np.int32, options)))

    starts = range(0, lanes, size)
    if len(starts) <= 1:
        results = [one(start) for start in starts]
    else:
        with ThreadPoolExecutor(_WORKERS) as pool:
            results = list(pool.map(one, starts))
    return tuple(np.concatenate(column)[:lanes] for column in zip(*results, strict=True))


def _block_size(lanes: int) -> int:
    return next((block for block in BLOCKS if block >= lanes), BLOCKS[-1])


def _pad(column: np.ndarray, size: int) -> np.ndarray:
    """Repeat the last lane up to the block size: a lane that is solved anyway costs no further steps."""
    return np.pad(column, (0, size - column.size), mode="edge")


def _pad_atoms(ratio: LikelihoodRatio) -> LikelihoodRatio:
    capacity = max(32, 1 << (ratio.atoms - 1).bit_length())
    extra = (0, capacity - ratio.atoms)

    def pad(x: Any, value: float | None) -> np.ndarray:
        x = np.asarray(x, np.float64)
        return np.pad(x, extra, mode="edge") if value is None else np.pad(x, extra, constant_values=value)

    return LikelihoodRatio(
        pad(ratio.log_ratio, None),
        pad(ratio.log_p, -np.inf),
        pad(ratio.log_q, -np.inf),
        np.float64(ratio.p_0),
        np.float64(ratio.q_inf),
        np.float64(ratio.rounding),
    )
