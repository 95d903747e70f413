"""The smallest clean probability that certifies `rho = 0`, asked of the program of the radius.

Whoever certifies counts asks for radii, and then which budgets the number of draws can certify at all. The second is
the inverse at `rho = 0`, where the radius takes no step: it is -1 or not by the knapsack alone. So a search over
probabilities answers without another program to compile, and what it says is what the radius will say.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from hybrid_rs_jax.certificate import _batches
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio

__all__ = ["least_probability"]

_LANES = 256  # a block that radii are computed in
_HALF = int(np.float64(0.5).view(np.int64))


def least_probability(
    ratio: LikelihoodRatio, tau: Float[np.ndarray, " b"]
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"]]:
    """Smallest float64 `p_A` with `V*(0) > tau` and its complement, which is negative where no probability does.

    Up to 1/2 the search is over the floats `p`, beyond over the floats `1 - p`, largest first: positive floats are in
    the order of their bits.
    """
    half = np.full(tau.shape, 0.5)
    small = _certified(ratio, half, half, tau)
    zero = np.zeros_like(tau)
    possible = small | _certified(ratio, zero + 1, zero, tau)

    def good(places: Int[np.ndarray, "b k"]) -> Bool[np.ndarray, "b k"]:
        p, complement = _probability(places, small[:, None])
        levels = np.broadcast_to(tau[:, None], places.shape)
        return _certified(ratio, p.ravel(), complement.ravel(), levels.ravel()).reshape(places.shape)

    low, high = np.where(small, 0, -_HALF), np.where(small, _HALF, 0)
    each = np.arange(1, max(1, _LANES // max(1, tau.size)) + 1)
    while (high - low > 1).any():
        step = -(-(high - low) // (len(each) + 1))
        tried = np.minimum(low[:, None] + step[:, None] * each, high[:, None])
        ends = np.column_stack([low, tried, high])
        first = np.argmax(np.column_stack([good(tried) | (tried == high[:, None]), np.full(tau.shape, True)]), axis=1)
        rows = np.arange(tau.size)
        low, high = ends[rows, first], ends[rows, first + 1]
    p, complement = _probability(high, small)
    return np.where(possible, p, 1.0), np.where(possible, complement, -1.0)


def _probability(places: np.ndarray, small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A probability and its complement, from the bits of the smaller one (negative: of the complement)."""
    value = np.abs(places).view(np.float64)
    return np.where(small, value, 1 - value), np.where(small, 1 - value, value)


def _certified(ratio: LikelihoodRatio, p: np.ndarray, complement: np.ndarray, tau: np.ndarray) -> np.ndarray:
    few = (0, max(0, _LANES - p.size))  # padded to a whole block: a smaller one would be a program of its own
    lanes = (np.pad(column, few, mode="edge") for column in (p, complement, tau, 1 - tau))
    return (_batches.radius_lanes(ratio, *lanes, most_steps=0) >= 0)[: p.size]
