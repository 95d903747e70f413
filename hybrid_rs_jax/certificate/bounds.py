"""The host API: NumPy or scalars in, NumPy float64 out; all arguments broadcast.

Work is done in float64 on the CPU inside a scoped x64 context, so neither `jax.config` nor the caller's default device
matters, and nothing depends on the caller's own arithmetic.

A discrete budget `d` is a number of tokens changed; for the deletion kernel a number of tokens inserted, or `Edits`.
With `Conditional` the score `p_a` comes from draws in which the positions of that `d` were always resampled: it
belongs to one `d`, and is not broadcast over several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from hybrid_rs_jax._checks import (
    MOST_DRAWS,
    SEARCHED_BUDGET,
    check_budget,
    check_complement,
    check_epsilon,
    check_risk,
    check_side,
    check_tau,
)
from hybrid_rs_jax.certificate import _batches
from hybrid_rs_jax.certificate._budgets import check_lanes
from hybrid_rs_jax.certificate._still import least_probability
from hybrid_rs_jax.confidence import LowerBound, clopper_pearson_bound
from hybrid_rs_jax.kernels import Edits, HybridSmoothing
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio

__all__ = [
    "certified_budget",
    "certified_radius",
    "largest_probability",
    "required_probability",
    "required_samples",
    "worst_case_probability",
]

_UP, _DOWN = 1 + 2.0**-51, 1 - 2.0**-51


def worst_case_probability(
    p_a: object, d: object, epsilon: object, smoothing: HybridSmoothing, *, complement: object = None
) -> np.ndarray | float:
    """Certified lower bound on the smoothed score under every attack of `d` tokens and l2 budget `epsilon`.

    `V*(d, eps) = min_h E_Q[h]` over tests with `E_P[h] = p_A` (paper Theorem 4.2, method section 3).

    Args:
      p_a: lower bound on the clean smoothed score, in [0, 1].
      d: discrete budget, a non-negative integer, or `Edits`.
      epsilon: l2 budget in the units of sigma, at least 0.
      smoothing: the smoothing distribution. Without a discrete kernel `d > 0` gives 0, without sigma `epsilon > 0`.
      complement: `1 - p_a`, where it is known to more digits (see `clopper_pearson_bound`); where it claims more than
        `p_a` does, `1 - p_a` is taken.

    Returns:
      float64 of the broadcast shape, at most the true worst case; a float for scalars.

    Raises:
      ValueError: if an argument is out of range, or one conditional score is given for several budgets.

    >>> from hybrid_rs_jax import HybridSmoothing, UniformKernel
    >>> smoothing = HybridSmoothing(UniformKernel(beta=0.25, vocab_size=32_000), sigma=0.5)
    >>> round(worst_case_probability(0.999, d=1, epsilon=0.5, smoothing=smoothing), 4)
    0.2378
    """
    lower, _ = worst_case_bounds(p_a, d, epsilon, smoothing, complement=complement)
    return _scalar(lower)


def worst_case_bounds(
    p_a: object, d: object, epsilon: object, smoothing: HybridSmoothing, *, complement: object = None
) -> tuple[np.ndarray, np.ndarray]:
    """`worst_case_probability` with an upper bound beside it: how tight the number is. Shapes [*broadcast]."""
    p, q = check_complement("p_a", p_a, complement)
    epsilon = check_epsilon(epsilon)
    budgets = check_lanes(d, smoothing, np.asarray(p_a).shape)
    p, q, lanes_budget, epsilon = np.broadcast_arrays(p, q, budgets.place, epsilon)
    rho, lost = _rho(epsilon, smoothing)

    def solve(ratio: LikelihoodRatio, lanes: np.ndarray) -> np.ndarray:
        return np.stack(_batches.worst_case_lanes(ratio, p.flat[lanes], q.flat[lanes], rho.flat[lanes]))

    bounds = _per_budget(budgets.values, lanes_budget, smoothing, solve, rows=2, worst=np.minimum)
    lower, upper = (np.where(lost, 0.0, row.reshape(p.shape)) for row in bounds)
    return lower, upper


def largest_probability(
    p_b: object, d: object, epsilon: object, smoothing: HybridSmoothing, *, complement: object = None
) -> np.ndarray | float:
    """Certified upper bound on the score that an attack can cause: the other side, for "the score stays below".

    `V_max(p) = 1 - V_min(1 - p)`: the worst case of the complementary event, so adversarial mass that the clean input
    never produces counts in full (method section 3, "upper side").

    Args:
      p_b: UPPER bound on the clean smoothed score, in [0, 1].
      d: discrete budget, a non-negative integer, or `Edits`.
      epsilon: l2 budget in the units of sigma, at least 0.
      smoothing: the smoothing distribution.
      complement: `1 - p_b`, where it is known to more digits.

    Returns:
      float64 of the broadcast shape, at least the true value; a float for scalars.

    Raises:
      ValueError: if an argument is out of range, or one conditional score is given for several budgets.

    >>> from hybrid_rs_jax import HybridSmoothing, UniformKernel
    >>> smoothing = HybridSmoothing(UniformKernel(beta=0.25, vocab_size=32_000), sigma=0.5)
    >>> round(largest_probability(1e-3, d=1, epsilon=0.5, smoothing=smoothing), 4)
    0.7622
    """
    p, q = check_complement("p_b", p_b, complement, upper=True)
    check_lanes(d, smoothing, np.asarray(p_b).shape)
    lower, _ = worst_case_bounds(q, d, epsilon, smoothing, complement=p)
    return _scalar(np.minimum(1.0, (1.0 - lower) * _UP))


def certified_radius(
    p_a: object,
    d: object,
    smoothing: HybridSmoothing,
    tau: object,
    *,
    side: str = "above",
    complement: object = None,
) -> np.ndarray | float:
    """Largest certified l2 radius: no attack of `d` tokens within it moves the smoothed score across `tau`.

    `r = sigma sup{rho : V*(rho) > tau}` (section 4), rounded down: the dual bound at the returned radius exceeds `tau`.

    Args:
      p_a: bound on the clean smoothed score in [0, 1]: a lower one for side "above", an upper one for "below".
      d: discrete budget, a non-negative integer, or `Edits`.
      smoothing: the smoothing distribution.
      tau: decision threshold in (0, 1).
      side: "above": the score stays above `tau`; "below": it stays below.
      complement: `1 - p_a`, where it is known to more digits.

    Returns:
      float64 in the units of sigma, at most the true radius; 0 where only `eps = 0` is certified, -1 where not even
      that is, inf where `p_a = 1`. A float for scalars.

    Raises:
      ValueError: if an argument is out of range.

    >>> from hybrid_rs_jax import HybridSmoothing, UniformKernel
    >>> smoothing = HybridSmoothing(UniformKernel(beta=0.25, vocab_size=32_000), sigma=0.5)
    >>> certified_radius(0.999, d=[0, 1, 2, 9], smoothing=smoothing, tau=4.6e-5).round(3).tolist()
    [3.501, 3.109, 2.665, -1.0]
    """
    check_side(side)
    p, q = check_complement("p_a", p_a, complement, upper=side == "below")
    tau_p = check_tau(tau)
    tau_q = np.asarray(1 - tau_p)
    if side == "below":
        p, q, tau_p, tau_q = q, p, tau_q * _UP, tau_p
    budgets = check_lanes(d, smoothing, np.asarray(p_a).shape)
    p, q, lanes_budget, tau_p, tau_q = np.broadcast_arrays(p, q, budgets.place, tau_p, tau_q)

    def solve(ratio: LikelihoodRatio, lanes: np.ndarray) -> np.ndarray:
        columns = (column.flat[lanes] for column in (p, q, tau_p, tau_q))
        return _batches.radius_lanes(ratio, *columns)[None]

    rho = _per_budget(budgets.values, lanes_budget, smoothing, solve, rows=1, worst=np.minimum)[0].reshape(p.shape)
    if smoothing.sigma is None:
        return _scalar(np.where(rho >= 0, 0.0, -1.0))
    return _scalar(np.where(rho > 0, rho * smoothing.sigma * _DOWN, rho))


def certified_budget(
    p_a: object,
    smoothing: HybridSmoothing,
    tau: object,
    epsilon: object = 0.0,
    *,
    complement: object = None,
    max_budget: int | None = None,
) -> np.ndarray | int:
    """Largest discrete budget `d` that is certified together with `epsilon`.

    The worst case falls with `d`, so the smallest certifying probability is compared at `d = 0, 1, 2, 4, ...` and then
    by bisection: any number of inputs costs O(log d) solves per distinct `(tau, epsilon)`.

    Args:
      p_a: lower bound on the clean smoothed score, in [0, 1].
      smoothing: the smoothing distribution.
      tau: decision threshold in (0, 1).
      epsilon: l2 budget in the units of sigma, at least 0.
      complement: `1 - p_a`, where it is known to more digits.
      max_budget: look no further; default 16,384, or the number of categorical fields. Deletion: tokens inserted.

    Returns:
      int64 of the broadcast shape, an int for scalars, at most the true one: -1 where not even `d = 0` is certified;
      `max_budget` means "at least that".

    Raises:
      ValueError: if an argument is out of range, or draws are conditional: each score belongs to its own `d` then.

    >>> from hybrid_rs_jax import HybridSmoothing, UniformKernel
    >>> smoothing = HybridSmoothing(UniformKernel(beta=0.25, vocab_size=32_000), sigma=0.5)
    >>> certified_budget([0.5, 0.999, 0.99999], smoothing, tau=4.6e-5).tolist()
    [0, 4, 7]
    """
    if smoothing.conditional:
        raise ValueError(
            "certified_budget has no meaning for conditional draws: each score belongs to its own d, got one for all."
        )
    p, q = check_complement("p_a", p_a, complement)
    tau_p, epsilon = check_tau(tau), check_epsilon(epsilon)
    p, q, tau_p, epsilon = np.broadcast_arrays(p, q, tau_p, epsilon)
    shape = p.shape
    p, q, tau_p, epsilon = p.ravel(), q.ravel(), tau_p.ravel(), epsilon.ravel()
    fields = getattr(smoothing.discrete, "cardinalities", None)
    limit = SEARCHED_BUDGET if max_budget is None else check_budget(max_budget)
    limit = limit if fields is None else min(limit, len(fields))
    if smoothing.discrete is None:
        limit = 0

    def certified(lanes: np.ndarray, d: np.ndarray) -> np.ndarray:
        lower, _ = worst_case_bounds(p[lanes], d, epsilon[lanes], smoothing, complement=q[lanes])
        return lower > tau_p[lanes]

    low = np.full(p.size, -1, np.int64)  # certified
    high = np.full(p.size, limit + 1, np.int64)  # not certified, or beyond the limit
    probe = np.zeros(p.size, np.int64)
    while (open_ := np.flatnonzero(high - low > 1)).size:
        d = probe[open_]
        good = certified(open_, d)
        low[open_], high[open_] = np.where(good, d, low[open_]), np.where(good, high[open_], d)
        growing = high == limit + 1
        probe = np.where(growing, np.minimum(np.maximum(2 * low, 1), limit), (low + high) // 2)
    return _scalar(low.reshape(shape))


def required_probability(d: object, epsilon: object, smoothing: HybridSmoothing, tau: object) -> np.ndarray | float:
    """Smallest clean probability `p_A` that certifies `(d, epsilon)` at `tau`.

    The inverse of `certified_radius`, solved along the frontier: `V(c; rho) = tau`, `p = F(c; rho)` (method section 3,
    "inverse").

    Args:
      d: discrete budget, a non-negative integer, or `Edits`.
      epsilon: l2 budget in the units of sigma, at least 0.
      smoothing: the smoothing distribution.
      tau: decision threshold in (0, 1).

    Returns:
      float64 of the broadcast shape, rounded up: every `p_A` from there on certifies; inf where none does. A float for
      scalars.

    Raises:
      ValueError: if an argument is out of range.

    >>> from hybrid_rs_jax import HybridSmoothing, UniformKernel
    >>> smoothing = HybridSmoothing(UniformKernel(beta=0.25, vocab_size=32_000), sigma=0.5)
    >>> required_probability(1, 0.0, smoothing, tau=4.6e-5).__round__(6)
    0.750038
    """
    p, complement = required_bound(d, epsilon, smoothing, tau)
    return _scalar(np.where(complement < 0, np.inf, p))


def required_bound(d: object, epsilon: object, smoothing: HybridSmoothing, tau: object) -> LowerBound:
    """`required_probability` and its complement, negative where no probability certifies."""
    tau_p, epsilon = check_tau(tau), check_epsilon(epsilon)
    budgets = check_lanes(d, smoothing)
    lanes_budget, epsilon, tau_p = np.broadcast_arrays(budgets.place, epsilon, tau_p)
    rho, lost = _rho(epsilon, smoothing)

    def solve(ratio: LikelihoodRatio, lanes: np.ndarray) -> np.ndarray:
        t, r = tau_p.flat[lanes], rho.flat[lanes]
        if not r.any():
            p, complement = least_probability(ratio, t)
            return np.stack([p, -complement])
        p, complement = _batches.required_lanes(ratio, t, 1 - t, r)
        for widen in 2.0 ** np.arange(-50, -10, 4):
            lower, _ = _batches.worst_case_lanes(ratio, np.clip(p, 0, 1), np.clip(complement, 0, 1), r)
            short = (lower <= t) & (complement >= 0)
            if not short.any():
                break
            # the forward solver must agree; it may need a few more units in the last place
            p, complement = (
                np.where(short, p * (1 + widen), p),
                np.where(short, complement * (1 - widen), complement),
            )
        else:
            complement = np.where(short, -1.0, complement)
        return np.stack([p, -complement])

    p, minus = _per_budget(budgets.values, lanes_budget, smoothing, solve, rows=2, worst=np.maximum)
    p, complement = p.reshape(tau_p.shape), -minus.reshape(tau_p.shape)
    # near one the complement has the digits: the float64 just above, whose own complement is exact
    above = 1 - np.clip(complement, 0, 1)
    above = np.where(1 - above > complement, np.nextafter(above, 2), above)
    p = np.where((p > 0.5) & (complement >= 0), above, p)
    return LowerBound(np.minimum(p, 1.0), np.where(lost, -1.0, complement))


def required_samples(
    d: object, epsilon: object, smoothing: HybridSmoothing, tau: object, alpha: object
) -> np.ndarray | int:
    """Number of draws that certify `(d, epsilon)` if every draw succeeds: the least that any input needs.

    Smallest n with `alpha^(1/n) >= required_probability(d, epsilon)` (method section 4).

    Args:
      d: discrete budget, a non-negative integer, or `Edits`.
      epsilon: l2 budget in the units of sigma, at least 0.
      smoothing: the smoothing distribution.
      tau: decision threshold in (0, 1).
      alpha: risk level in [1e-200, 1).

    Returns:
      int64 of the broadcast shape, rounded up, an int for scalars; -1 where no number of draws (up to 2^53) suffices.

    Raises:
      ValueError: if an argument is out of range.

    >>> from hybrid_rs_jax import HybridSmoothing, UniformKernel
    >>> smoothing = HybridSmoothing(UniformKernel(beta=0.25, vocab_size=32_000), sigma=0.5)
    >>> required_samples([1, 2, 3, 6], 0.0, smoothing, tau=4.6e-5, alpha=0.01).tolist()
    [17, 72, 294, 23155]
    """
    need = required_bound(d, epsilon, smoothing, tau)
    alpha = check_risk(alpha)
    p, complement, alpha = np.broadcast_arrays(need.p, need.complement, alpha)
    possible = complement > 0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        guess = np.ceil(np.log(alpha) / np.log1p(-np.where(possible, complement, 0.5)))
    possible = possible & (guess < MOST_DRAWS)
    n = np.where(possible, guess, 1).astype(np.int64)

    def enough(n: np.ndarray) -> np.ndarray:
        draws = np.clip(n, 1, MOST_DRAWS)
        bound = clopper_pearson_bound(draws, draws, alpha)
        return np.asarray((n >= 1) & np.where(p > 0.5, bound.complement <= complement, bound.p >= p))

    n = np.where(enough(np.asarray(n - 1)), n - 1, n)
    for _ in range(3):
        n = np.where(enough(n), n, n + 1)
    return _scalar(np.where(possible, n, -1))


def _per_budget(
    budgets: list[int | Edits],
    index: np.ndarray,
    smoothing: HybridSmoothing,
    solve: Callable[[LikelihoodRatio, np.ndarray], np.ndarray],
    rows: int,
    worst: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Group lanes by budget, solve each group for every candidate law, keep the worst. Shape [rows, lanes]."""
    result = np.empty((rows, index.size))
    for number, lanes in _groups(index.ravel()):
        parts = [solve(ratio, lanes) for ratio in smoothing.likelihood_ratios(budgets[number])]
        value = parts[0]
        for part in parts[1:]:
            value = worst(value, part)
        result[:, lanes] = value
    return result


def _groups(d: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    order = np.argsort(d, kind="stable")
    values, starts = np.unique(d[order], return_index=True)
    yield from zip(values.tolist(), np.split(order, starts[1:]), strict=True) if d.size else ()


def _rho(epsilon: np.ndarray, smoothing: HybridSmoothing) -> tuple[np.ndarray, np.ndarray]:
    """`eps / sigma`, rounded up, and where pixels change that carry no noise."""
    if smoothing.sigma is None:
        return np.zeros(epsilon.shape), np.asarray(epsilon > 0)
    with np.errstate(over="ignore"):
        rho = np.minimum(epsilon / smoothing.sigma * _UP, np.finfo(np.float64).max)
    return np.asarray(rho), np.zeros(epsilon.shape, bool)


def _scalar(array: np.ndarray | np.generic):  # type: ignore[no-untyped-def]
    return array.item() if array.ndim == 0 else array
