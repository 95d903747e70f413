"""Lower confidence bounds for the mean of draws in [0, 1], valid after every number of draws at once.

A gambler who doubts that the mean is at most `m` stakes a share `u` of the capital on each draw `x`: the capital is
multiplied by `1 + u (x/m - 1)`. If the mean is at most `m` the capital is a supermartingale, whatever the law of the
draws; so it ever reaches `1/alpha` with probability at most `alpha` (Ville), and a mixture of gamblers does the same
(method section 11). The bound is the largest `m` at which the mixture

    K(m) = sum_j w_j prod_i (1 + u_j (x_i/m - 1))

has reached it: weight 1/2 on `u = 1`, which is the best where draws are close to their mean, and 1/(2 G) on each of
`G = 64` arcsine nodes `u_j = sin^2(pi (j + 1/2) / (2 G))`, of which one is close to the best for any law.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from hybrid_rs_jax._checks import check_draws, check_probability, check_risk

__all__ = ["mean_lower_bound", "mean_lower_bound_from_histogram"]

_NODES = 64
_STAKES = np.append(np.sin(np.pi * (np.arange(_NODES) + 0.5) / (2 * _NODES)) ** 2, 1.0)
_LOG_WEIGHTS = np.log(np.append(np.full(_NODES, 0.5 / _NODES), 0.5))
_UNIT = 2.0**-53
_SMALLEST = 1e-300
_STEPS = 100


def mean_lower_bound(values: object, alpha: float) -> np.ndarray | float:
    """Lower confidence bound on the mean of independent draws in [0, 1], by a betting mixture (method section 11).

    The largest `m` with `K(m) >= 1/alpha`, `K(m) = sum_j w_j prod_i (1 + u_j (x_i/m - 1))`. It holds after every number
    of draws at once, so one may look, and stop, whenever one likes. Several times closer than Hoeffding where draws
    vary little (7 times at mean .95, deviation .05, n = 10,000); looser (.74) on fair coins. For 0/1 draws and a number
    fixed beforehand `clopper_pearson` is sharper.

    Args:
      values: draws in [0, 1], shape [*inputs, n] with n at least 1.
      alpha: risk level in [1e-200, 1), per input.

    Returns:
      float64[*inputs], rounded down, 0 where all draws are 0; a float for one input. With probability at least
      `1 - alpha` it lies below the mean.

    Raises:
      ValueError: if a draw or alpha is out of range, or there is none.

    >>> round(mean_lower_bound([0.9, 0.95, 1.0, 0.9] * 250, alpha=0.01), 3)
    0.932
    """
    draws = check_probability("values", values)
    if draws.ndim == 0 or draws.shape[-1] == 0:
        raise ValueError(f"values must hold at least one draw on the last axis, got shape {draws.shape}.")
    risk = float(check_risk(alpha))
    flat = draws.reshape(-1, draws.shape[-1])
    found = [_bound(*np.unique(row, return_counts=True), risk) for row in flat]
    return _shaped(np.array(found), draws.shape[:-1])


def mean_lower_bound_from_histogram(counts: object, values: object, alpha: float) -> np.ndarray | float:
    """`mean_lower_bound` of draws that were counted in bins: a function of integers, as a ledger holds them.

    Args:
      counts: number of draws in each bin, integers of shape [*inputs, bins], at least one draw per input.
      values: for each bin a number in [0, 1] that no draw in it lies below (its lower edge), shape [bins].
      alpha: risk level in [1e-200, 1), per input.

    Returns:
      float64[*inputs], rounded down: a lower bound on the mean of the binned draws, hence of the draws.

    Raises:
      ValueError: if an argument is out of range or the shapes do not fit.

    >>> round(mean_lower_bound_from_histogram([500, 250, 250], [0.9, 0.95, 1.0], alpha=0.01), 3)
    0.932
    """
    edges, risk = check_probability("values", values), float(check_risk(alpha))
    bins = check_draws("counts", counts, 0)
    if edges.ndim != 1 or bins.ndim == 0 or bins.shape[-1] != edges.size:
        raise ValueError(f"counts must have one entry per bin on the last axis, got {bins.shape} for {edges.shape}.")
    flat = bins.reshape(-1, edges.size)
    if np.any(empty := flat.sum(axis=1) < 1):
        raise ValueError(
            f"counts must hold at least one draw per input, got none for input {np.flatnonzero(empty)[0]}."
        )
    found = [_bound(edges[row > 0], row[row > 0], risk) for row in flat]
    return _shaped(np.array(found), bins.shape[:-1])


def _bound(values: np.ndarray, counts: np.ndarray, alpha: float) -> float:
    """The bound of one input from its distinct values; the capital at it, rounded down, has reached `1/alpha`.

    In `s = log m` each `log(1 - u + u x e^-s)` is convex and falls, and so is `log K`: a Newton step lands on the side
    where the capital has reached its goal, and those that follow stay there.
    """
    if not values.max() > 0:
        return 0.0
    target = -np.log(alpha) * (1 + 4 * _UNIT)
    weights, least = counts.astype(np.float64), np.log(_SMALLEST)
    share = weights / weights.sum()
    mean = share @ values
    short = np.sqrt(2 * (share @ (values - mean) ** 2) * (target + 1) / weights.sum())
    s = float(np.log(max(mean - short, mean / 2)))  # a guess: any start will do
    for _ in range(_STEPS):
        capital, slope = _log_capital_and_slope(values, weights, s)
        if s <= least and capital < target:
            return 0.0
        before, s = s, max(s - (capital - target) / slope, least) if slope < 0 else least
        if abs(s - before) < 1e-13:
            break
    root = float(np.exp(s)) * (1 - 2.0**-46)
    step = 2.0**-43
    while root >= _SMALLEST and _log_capital(values, counts, root) < target:
        root, step = root * (1 - step), min(2 * step, 0.5)
    return root if root >= _SMALLEST else 0.0


def _log_capital_and_slope(values: np.ndarray, weights: np.ndarray, s: float) -> tuple[float, float]:
    """`log K(e^s)` as it comes, and its derivative: for the search, `_log_capital` decides."""
    won = _STAKES[:, None] * (values / np.exp(s))
    factors = won + (1 - _STAKES)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(factors)
        won /= factors
    if not np.isfinite(logs[-1]).all():  # the gambler who stakes all has met a zero
        logs, won = logs[:-1], won[:-1]
    gains = logs @ weights + _LOG_WEIGHTS[: len(logs)]
    capital = float(special.logsumexp(gains))
    return capital, -float(np.exp(gains - capital) @ (won @ weights))


def _log_capital(values: np.ndarray, counts: np.ndarray, mean: float) -> float:
    """`log K(mean)`, rounded down.

    A factor `1 - u + u x/m` is a sum of positive terms and has a relative error of at most 4 units of 2^-53, its
    logarithm that error in absolute terms and one unit relative to itself; a sum over bins adds one unit for each of
    them. Nodes and weights are the ones that are stored: any nodes in [0, 1] and weights that sum to at most 1 are
    sound, and the rounding of the weights' sum is covered by the last term.
    """
    with np.errstate(divide="ignore"):
        factors = np.log((1 - _STAKES)[:, None] + _STAKES[:, None] * (values / mean))
    gains = factors @ counts.astype(np.float64) if np.isfinite(factors).all() else (factors * counts).sum(axis=1)
    lost = np.where(np.isfinite(gains), (np.abs(factors) * counts).sum(axis=1), 0.0) * (values.size + 4)
    lost = (lost + 8.0 * counts.sum()) * _UNIT
    return float(special.logsumexp(gains - lost + _LOG_WEIGHTS)) - 1e-12


def _shaped(found: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | float:
    return found.reshape(shape) if shape else float(found[0])
