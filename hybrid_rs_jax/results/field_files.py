"""The table of the field's own certification scripts: idx, label, predict, radius, correct, time, tab-separated.

It holds radii and no counts: what it says of certificates is taken from it as it stands.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hybrid_rs_jax._tables import Table, read_table
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.results.accuracy import AccuracyTable

__all__ = ["field_accuracy", "is_field_file"]

_NEEDED = ("idx", "label", "predict", "radius", "correct")
_MOST = 2**31


def is_field_file(path: Path) -> bool:
    """Whether the first line of a file names the columns, separated by tabs."""
    try:
        with path.open("rb") as file:
            names = file.readline(1000).decode("utf-8-sig").strip().split("\t")
    except (OSError, UnicodeDecodeError, ValueError):
        return False
    return set(_NEEDED) <= set(names)


def field_accuracy(path: Path, epsilon: np.ndarray) -> AccuracyTable:
    """Inputs with a prediction and a radius of at least eps, and those of them whose prediction is right.

    Args:
      path: the table; predict is -1 where an input abstained.
      epsilon: l2 budgets in the unit of the radii, rising.

    Raises:
      BadInputError: one sentence with the line and the value.
    """
    table = read_table(path, _NEEDED, ("time",))
    if not len(table):
        raise BadInputError(f"{path} holds no inputs.")
    radius, right = _radii(table), table.integers("correct", 0, 1) == 1
    decided = table.integers("predict", -1, _MOST) >= 0
    levels = np.asarray(epsilon, np.float64)
    far = decided[:, None] & (radius[:, None] >= levels)
    return AccuracyTable(
        (0,),
        tuple(levels.tolist()),
        len(table),
        far.sum(axis=0)[None],
        len(table),
        (far & right[:, None]).sum(axis=0)[None],
    )


def _radii(table: Table) -> np.ndarray:
    found = np.empty(len(table))
    for row, cell in enumerate(table.columns["radius"]):
        try:
            found[row] = float(str(cell))
        except ValueError:
            found[row] = np.nan
        if not 0 <= found[row] < np.inf:
            raise BadInputError(f"{table.place(row)}: radius must be a finite number of at least 0, got {cell!s:.80}.")
    return found
