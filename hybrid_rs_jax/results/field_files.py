"""The table of the field's own certification scripts: idx, label, predict, radius, correct, time, tab-separated.

It holds radii and no counts: what it says of certificates is taken from it as it stands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hybrid_rs_jax._files import first_line
from hybrid_rs_jax._tables import Table, read_table
from hybrid_rs_jax._text import floor_text, percent_text, setting_text
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.results.accuracy import AccuracyTable

__all__ = ["FieldTable", "compared_fields", "field_accuracy", "is_field_file", "read_field"]

_NEEDED = ("idx", "label", "predict", "radius", "correct")
_MOST = 2**31
#: Radii at which tables are held side by side.
_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)


def is_field_file(path: Path) -> bool:
    """Whether the first line of a file names the columns, separated by tabs."""
    return set(_NEEDED) <= set(first_line(path).split("\t"))


@dataclasses.dataclass(frozen=True, eq=False)
class FieldTable:
    """What the table says of B inputs.

    Attributes:
      radius: float64[B], in the unit of whoever wrote it.
      decided: bool[B], inputs that did not abstain; right: bool[B], those whose prediction is the label.
    """

    radius: np.ndarray
    decided: np.ndarray
    right: np.ndarray

    def __len__(self) -> int:
        return len(self.radius)

    @property
    def mean_radius(self) -> float:
        """The average certified radius of the field: over all inputs, one that is not right counts as 0."""
        return float(np.where(self.decided & self.right, self.radius, 0.0).mean())


def read_field(path: Path) -> FieldTable:
    """Read a table; predict is -1 where an input abstained.

    Raises:
      BadInputError: one sentence with the line and the value.
    """
    table = read_table(path, _NEEDED, ("time",))
    if not len(table):
        raise BadInputError(f"{path} holds no inputs.")
    right = table.integers("correct", 0, 1) == 1
    return FieldTable(_radii(table), table.integers("predict", -1, _MOST) >= 0, right)


def field_accuracy(path: Path, epsilon: np.ndarray) -> AccuracyTable:
    """Inputs with a prediction and a radius of at least eps, and those of them whose prediction is right.

    Args:
      path: the table.
      epsilon: l2 budgets in the unit of the radii, rising.

    Raises:
      BadInputError: as `read_field`.
    """
    table = read_field(path)
    levels = np.asarray(epsilon, np.float64)
    far = table.decided[:, None] & (table.radius[:, None] >= levels)
    shares = (far.sum(axis=0)[None], len(table), (far & table.right[:, None]).sum(axis=0)[None])
    return AccuracyTable((0,), tuple(levels.tolist()), len(table), *shares)


def compared_fields(tables: Mapping[str, FieldTable]) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text: the share that is right and certified at each eps, and the average radius.

    >>> table = FieldTable(np.array([0.0, 0.5, 1.5]), np.ones(3, bool), np.ones(3, bool))
    >>> compared_fields({"a.tsv": table})[1]
    [['a.tsv', '3', '100.0 %', '66.6 %', '66.6 %', '33.3 %', '33.3 %', '33.3 %', '0.666']]
    """
    header = ["", "inputs", *(f"eps = {setting_text(level)}" for level in _LEVELS), "mean radius"]
    rows = []
    for name, table in tables.items():
        counts = [int((table.decided & table.right & (table.radius >= level)).sum()) for level in _LEVELS]
        shares = [percent_text(count, len(table)) for count in counts]
        rows.append([name, f"{len(table):,}", *shares, floor_text(table.mean_radius, 3)])
    return header, rows


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
