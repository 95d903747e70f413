"""The discrete budgets of many problems at once: numbers of tokens, or edits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hybrid_rs_jax._checks import check_budget_array
from hybrid_rs_jax.kernels import Conditional, DeletionKernel, Edits, HybridSmoothing

__all__ = ["Budgets", "check_lanes"]


class Budgets(NamedTuple):
    """Discrete budgets of some shape: the distinct ones, and for each place the index of its own."""

    values: list[int | Edits]
    place: np.ndarray


def check_lanes(d: object, smoothing: HybridSmoothing, score_shape: tuple[int, ...] | None = None) -> Budgets:
    """Checked budgets; a score of shape `score_shape` that came from conditional draws must belong to one of them."""
    array = np.asarray(d, object) if _holds_edits(d) else check_budget_array(d)
    if array.dtype == object:
        values = list(dict.fromkeys(array.flat))
        kernel = smoothing.discrete
        if not isinstance(kernel.kernel if isinstance(kernel, Conditional) else kernel, DeletionKernel):
            raise ValueError(f"Edits are budgets of the deletion kernel, not of {kernel!r}, got {values[0]!r}.")
        index = np.array([values.index(budget) for budget in array.flat], np.int64).reshape(array.shape)
    else:
        distinct, index = np.unique(array, return_inverse=True)
        values, index = distinct.tolist(), index.reshape(array.shape)
    if smoothing.conditional and score_shape is not None:
        _check_own_scores(index, score_shape, values)
    return Budgets(values, index)


def _holds_edits(d: object) -> bool:
    if isinstance(d, (list, tuple)):
        return any(_holds_edits(part) for part in d)
    return isinstance(d, Edits) or (isinstance(d, np.ndarray) and d.dtype == object and _holds_edits(d.tolist()))


def _check_own_scores(index: np.ndarray, score_shape: tuple[int, ...], values: list[int | Edits]) -> None:
    """Conditional draws: along an axis on which d varies there must be a score for each d."""
    lengths = (1,) * (index.ndim - len(score_shape)) + tuple(score_shape)[-index.ndim :] if index.ndim else ()
    for axis, length in enumerate(lengths):
        if length == 1 and np.any(index != index.take([0], axis)):
            raise ValueError(
                f"A score from conditional draws belongs to one d: give one for each budget, got shape {score_shape} "
                f"for d = {values}."
            )
