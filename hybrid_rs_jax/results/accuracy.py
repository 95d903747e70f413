"""Certified accuracy against (d, eps): how many inputs are proven at each pair of budgets, and how many rightly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from hybrid_rs_jax._text import joined, percent_text, setting_text
from hybrid_rs_jax.kernels.edits import Budget
from hybrid_rs_jax.results.classes import ClassCertificate
from hybrid_rs_jax.results.facts import Facts
from hybrid_rs_jax.results.result import Result

__all__ = ["AccuracyTable", "accuracy_by", "accuracy_table"]

_UNSAFE, _SAFE = ("unsafe", "1", "true", "yes"), ("safe", "0", "false", "no")


@dataclasses.dataclass(frozen=True, eq=False)
class AccuracyTable:
    """Counts of inputs at D discrete budgets and E pixel budgets.

    Attributes:
      budgets, epsilon: the two axes; epsilon in the unit of sigma.
      inputs: number of inputs.
      certified: int64[D, E], inputs whose radius at d is at least eps.
      labelled: inputs whose label is known.
      right: int64[D, E], of these, inputs that are certified to be what their label says; None without labels.
      labels_are: why labels that are there were not used, in a sentence; empty otherwise.
    """

    budgets: tuple[Budget, ...]
    epsilon: tuple[float, ...]
    inputs: int
    certified: np.ndarray
    labelled: int = 0
    right: np.ndarray | None = None
    labels_are: str = ""

    def table(self, right: bool = False) -> tuple[list[str], list[list[str]]]:
        """Header and rows as text, shares floored, up to the last d at which an input is certified.

        Args:
          right: show those that are right, of the labelled inputs.
        """
        counts, whole = (
            (self.right, self.labelled) if right and self.right is not None else (self.certified, self.inputs)
        )
        header = ["d", *(f"eps = {setting_text(level)}" for level in self.epsilon)]
        rows = [
            [str(d), *(f"{int(count)} ({percent_text(int(count), whole)})" for count in line)]
            for d, line in zip(self.budgets, counts, strict=True)
        ]
        reached = np.flatnonzero(self.certified.any(axis=1))
        rows = rows[: int(reached[-1]) + 1 if reached.size else 1]
        return header, rows

    def record(self) -> dict[str, object]:
        """The table as JSON has it."""
        right = {} if self.right is None else {"labelled": self.labelled, "right": self.right.tolist()}
        return {
            "budgets": [str(d) if not isinstance(d, int) else d for d in self.budgets],
            "epsilon": list(self.epsilon),
            "inputs": self.inputs,
            "certified": self.certified.tolist(),
            **right,
        }

    def long(self) -> tuple[list[str], list[tuple[object, ...]]]:
        """Header and one row per (d, eps)."""
        header = [
            "d",
            "epsilon",
            "inputs",
            "certified",
            "share",
            *([] if self.right is None else ["labelled", "right"]),
        ]
        rows: list[tuple[object, ...]] = []
        for place, d in enumerate(self.budgets):
            for column, level in enumerate(self.epsilon):
                count = int(self.certified[place, column])
                more = () if self.right is None else (self.labelled, int(self.right[place, column]))
                rows.append((str(d), level, self.inputs, count, count / self.inputs, *more))
        return header, rows


def accuracy_table(result: Result, epsilon: object) -> AccuracyTable:
    """Certified shares of a result, and with a column `label` the share that is certified and right.

    Labels say unsafe or safe (1 or 0, true or false, yes or no), or for votes per class the number of the class. Where
    a run knows the names that its estimator has for the classes, labels are these names.

    Args:
      result: certificates.
      epsilon: pixel budgets, at least 0, in the unit of sigma.

    Raises:
      ValueError: for an epsilon that is negative or not finite.

    >>> from hybrid_rs_jax import HybridSmoothing, certify
    >>> found = certify([100, 99, 0], 100, HybridSmoothing(None, 0.5), tau=0.5, alpha=0.01, budgets=[0])
    >>> accuracy_table(found, [0, 0.5]).certified.tolist()
    [[2, 2]]
    """
    levels = np.atleast_1d(np.asarray(epsilon, np.float64))
    if (bad := ~(np.isfinite(levels) & (levels >= 0))).any():
        raise ValueError(f"epsilon must be finite and at least 0, got {levels[bad].flat[0]}.")
    proven = result.radius[:, :, None] >= levels
    table = AccuracyTable(result.budgets, tuple(levels.tolist()), len(result), proven.sum(axis=0))
    column = next((column.values for column in result.counts.others if column.name.casefold() == "label"), None)
    if column is None or not any(cell.strip() for cell in column):
        return table
    names, classes = _names(result), isinstance(result, ClassCertificate)
    labels = [_label(cell, names, classes) for cell in column]
    odd = [cell for cell, label in zip(column, labels, strict=True) if label is None and cell.strip()]
    if odd:
        legal = "the number of a class" if classes else "unsafe or safe (1 or 0)"
        if names:
            legal += f" or one of {joined(names)}"
        why = f"The labels are not used: each must be {legal}, got {odd[0]!r:.60}."
        return dataclasses.replace(table, labels_are=why)
    known = np.array([label is not None for label in labels])
    same = np.array([label == said for label, said in zip(labels, _said(result), strict=True)]) & known
    return dataclasses.replace(table, labelled=int(known.sum()), right=proven[same].sum(axis=0))


def accuracy_by(result: Result, epsilon: object, column: str) -> dict[str, AccuracyTable]:
    """A table for the inputs of each value of a column of the data (group, say), in order; "" where there is none.

    Raises:
      ValueError: if there is no such column.
    """
    names = [each.name for each in result.counts.others]
    if column not in names:
        raise ValueError(f"there is no column {column!r}; the inputs have {joined(names) or 'none'}")
    cells = np.array(result.counts.others[names.index(column)].values, object)
    return {
        value: accuracy_table(result.taken(np.flatnonzero(cells == value)), epsilon) for value in sorted(set(cells))
    }


def _label(cell: str, names: Mapping[str, int], classes: bool) -> int | None:
    """1 for Unsafe and 0 for Safe, or a class; None for what is neither."""
    text = cell.strip().casefold()
    if text in names:
        return names[text]
    if classes:
        return int(text) if text.isdecimal() else None
    return 1 if text in _UNSAFE else 0 if text in _SAFE else None


def _names(result: Result) -> dict[str, int]:
    """Names of the classes in the run's header, with their numbers."""
    run = result.counts.run
    described = None if run is None else run.facts.get("classifier")
    names = described.get("class_names") if isinstance(described, Facts) else None
    return {str(name).casefold(): number for number, name in enumerate(names)} if isinstance(names, tuple) else {}


def _said(result: Result) -> list[int]:
    """What is certified of each input, as labels have it."""
    if isinstance(result, ClassCertificate):
        return [int(label) for label in result.label]
    if result.decision is not None:
        return [1 if word == "unsafe" else 0 if word == "safe" else -1 for word in result.decision.tolist()]
    return [1 if result.statements[0].side == "above" else 0] * len(result)
