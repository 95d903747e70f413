"""A result in a few lines: per budget the share that is certified and the radii; then the guarantee."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from hybrid_rs_jax._text import DASH, floor_text, mean, percent_text, radius_text
from hybrid_rs_jax.kernels.edits import Budget

if TYPE_CHECKING:
    from hybrid_rs_jax.results.result import Result

__all__ = ["BudgetSummary", "Summary", "lower_median", "summary"]

#: Sums of so many numbers are exact; beyond, the rounding of pairwise sums is subtracted.
_EXACT = 100_000


@dataclasses.dataclass(frozen=True)
class BudgetSummary:
    """One discrete budget over all inputs.

    Attributes:
      budget: d.
      certified: inputs with a certificate at d.
      mean, median: of the radius over all `inputs`, not certified counts as 0 (mean) and lies below all (median);
        the median is -1 where it is not certified.
      largest: largest radius, -1 where none is certified.
    """

    budget: Budget
    certified: int
    inputs: int
    mean: float
    median: float
    largest: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """One line per budget and the guarantee, as text (`print`) or HTML."""

    budgets: tuple[BudgetSummary, ...]
    pixels: bool
    guarantee: str

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows as text, rounded down."""
        rows = []
        for line in self.budgets:
            share = f"{line.certified} ({percent_text(line.certified, line.inputs)})" if line.inputs else DASH
            radii = [floor_text(line.mean) if line.certified else DASH, radius_text(line.median)]
            rows.append([str(line.budget), share, *radii, radius_text(line.largest)])
        columns = 5 if self.pixels else 2
        return ["d", "certified", "mean r", "median r", "largest r"][:columns], [row[:columns] for row in rows]

    def __str__(self) -> str:
        header, rows = self.table()
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = (
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)
        )
        return "\n".join([*lines, "", self.guarantee])

    def html(self) -> str:
        """A table and a paragraph, for notebooks."""
        header, rows = self.table()
        body = "".join(_line(row, "td") for row in rows)
        return f"<table>{_line(header, 'th')}{body}</table><p>{escape(self.guarantee)}</p>"


def summary(result: Result) -> Summary:
    """The summary of a result."""
    from hybrid_rs_jax.results.sentences import guarantee

    lines = []
    for d, column in zip(result.budgets, result.radius.T, strict=True):
        size = column.size
        lines.append(
            BudgetSummary(
                budget=d,
                certified=int((column >= 0).sum()),
                inputs=size,
                mean=_mean(column),
                median=float(lower_median(column)) if size else -1.0,
                largest=float(column.max()) if size else -1.0,
            )
        )
    return Summary(tuple(lines), result.statements[0].noise.pixels, guarantee(result.statements))


def lower_median(radius: np.ndarray) -> np.ndarray:
    """The median over the first axis, of an even number the lower one: -1, not certified, lies below all."""
    half = (len(radius) - 1) // 2
    return np.asarray(np.partition(radius, half, axis=0)[half])


def _mean(column: np.ndarray) -> float:
    """Mean radius, where one that is not certified counts as 0; of very many never above the exact one."""
    if column.size <= _EXACT:
        return mean(column.tolist()) if column.size else 0.0
    return float(np.maximum(column, 0.0).mean()) * (1 - 2.0**-40)


def _line(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
