"""Counts from files: a table (CSV, JSON lines, Parquet), or a run folder. What is not plainly right is refused."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hybrid_rs_jax._files import beginning, kind_of, path_text
from hybrid_rs_jax._tables import Table, read_table
from hybrid_rs_jax._text import joined, span_text
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.results._ledger_counts import ledger_counts
from hybrid_rs_jax.results.columns import Column, read_columns
from hybrid_rs_jax.results.counts import Counts
from hybrid_rs_jax.results.runs import read_run
from hybrid_rs_jax.sampling.design import Design
from hybrid_rs_jax.sampling.ledger import LEDGER_FILE

__all__ = ["count_table", "read_counts"]

COLUMNS = ("id", "successes", "n")
SAMPLE = "sample"
#: Counts are compared in float64 further on, which holds integers up to here.
MOST_DRAWS = 2**53
#: A table over more discrete budgets would take hours.
MOST_BUDGET = 1000
_RESULT = re.compile(r'\s*\{\s*"statement"')


def read_counts(path: Path, *, partial: bool = False, columns: Mapping[str, str] | None = None) -> Counts:
    """Read a run folder, or a table (CSV, JSON lines, Parquet) with the columns `id, successes, n[, budget]`.

    Args:
      path: run folder or file.
      columns: of a table, what it calls id, successes, n or budget, where that is another name.
      partial: take a fixed number of draws that was cut short or extended, too; the counts then say so.

    Returns:
      Counts that know what the file or the run says of them.

    Raises:
      BadInputError: one sentence with file, line, value and legal range.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "counts.csv"
    ...     _ = path.write_text("id,successes,n\\na,98,100\\n")
    ...     counts = read_counts(path)
    >>> counts.ids, counts.successes.tolist(), counts.n.tolist()
    (('a',), [98], [100])
    """
    run = None
    if kind_of(path) == "folder":
        if columns:
            raise BadInputError(f"{path_text(path)} is a run, whose columns have their names.")
        if kind_of(path / LEDGER_FILE) == "file":
            counts = ledger_counts(path, partial)
            return dataclasses.replace(counts, others=read_columns(path, counts.ids))
        run = read_run(path)
        path = path / "counts.csv"
    _refuse_results(path)
    if run is not None and run.design is not None:
        return dataclasses.replace(_design_counts(read_table(path, COLUMNS, (SAMPLE,)), run.design), run=run)
    return dataclasses.replace(_table_counts(_named(path, columns or {})), run=run)


def _named(path: Path, columns: Mapping[str, str]) -> Table:
    """The table under our names of its columns."""
    ours = {columns.get(name, name): name for name in (*COLUMNS, "budget", "ties")}
    theirs = list(ours)
    table = read_table(path, theirs[: len(COLUMNS)], theirs[len(COLUMNS) :])
    if {"budget", "p_a"} <= set(table.columns) and any(name.startswith("radius_") for name in table.columns):
        raise BadInputError(
            f"{path_text(path)} is a result of certify, whose budget is what was certified: give the counts that it "
            "was made from, or the table without that column."
        )
    return dataclasses.replace(table, columns={ours.get(name, name): cells for name, cells in table.columns.items()})


def _table_counts(table: Table) -> Counts:
    """Columns of a table as counts: one row per input, or per input and budget."""
    if not len(table):
        raise BadInputError(f"{table.path} holds no counts: expected one line per input with {joined(COLUMNS)}.")
    n = table.integers("n", 1, MOST_DRAWS)
    successes = table.integers("successes", 0, n, "n")
    ties = table.integers("ties", 0, n, "n") if "ties" in table.columns else None
    names = table.names()
    others = tuple(
        Column(name, tuple("" if cell is None else str(cell) for cell in table.columns[name]))
        for name in table.unknown
        if "budget" not in table.columns
    )
    if "budget" not in table.columns:
        _refuse_twins(table, names, None)
        return Counts(tuple(names), successes, n, ties, others=others)
    budget = _budget_column(table)
    _refuse_twins(table, names, budget)
    order, ids, budgets = _arranged(table, names, budget)
    shape = (len(ids), len(budgets))
    ties = None if ties is None else ties[order].reshape(shape)
    return Counts(ids, successes[order].reshape(shape), n[order].reshape(shape), ties, budgets)


def count_table(counts: Counts) -> tuple[list[tuple[object, ...]], tuple[str, ...]]:
    """Rows and columns of a table that `read_counts` reads beside the header of a run."""
    if counts.samples is None:
        rows = zip(counts.ids, counts.successes.tolist(), counts.n.tolist(), strict=True)
        return list(rows), COLUMNS
    labels = counts.labels or ()
    cells = [
        (name, label, int(k), int(n))
        for name, successes, draws in zip(counts.ids, counts.successes, counts.n, strict=True)
        for label, k, n in zip(labels, successes, draws, strict=True)
    ]
    return [*cells], ("id", SAMPLE, "successes", "n")


def _design_counts(table: Table, design: Design) -> Counts:
    """Columns of a table whose rows are one per input and sample of a design."""
    labels = Counts((), np.zeros(0), np.zeros(0), samples=design.samples).labels or ()
    names = table.names()
    ids = tuple(dict.fromkeys(names))
    known = {(name, label): row for row, (name, label) in enumerate(zip(names, table.columns[SAMPLE], strict=True))}
    for name in ids:
        for label in labels:
            if (name, label) not in known:
                raise BadInputError(f"{table.path}: id {name!r} has no line with {SAMPLE} {label}.")
    if len(names) != len(ids) * len(labels):
        raise BadInputError(f"{table.path} must have {len(labels)} lines for each of {len(ids)} ids, got {len(names)}.")
    n = table.integers("n", 1, MOST_DRAWS)
    successes = table.integers("successes", 0, n, "n")
    order = np.array([[known[name, label] for label in labels] for name in ids])
    return Counts(ids, successes[order], n[order], samples=design.samples)


def _budget_column(table: Table) -> np.ndarray:
    given = [cell is not None for cell in table.columns["budget"]]
    if not all(given):
        row = given.index(not given[0])
        raise BadInputError(f"{table.place(row)}: budget is given on some lines and not on others.")
    return table.integers("budget", 0, MOST_BUDGET)


def _refuse_twins(table: Table, names: list[str], budget: np.ndarray | None) -> None:
    """Every input (and budget) has one line."""
    keys: Sequence[object] = names if budget is None else list(zip(names, budget.tolist(), strict=True))
    if len(set(keys)) == len(keys):
        return
    first: dict[object, int] = {}
    for row, key in enumerate(keys):
        if (before := first.setdefault(key, row)) != row:
            where = "" if budget is None else f" with budget {budget[row]}"
            raise BadInputError(
                f"{table.place(row)}: id {names[row]!r}{where} appears again, after {table.unit} "
                f"{table.lines[before]}; every id must be different."
            )


def _arranged(
    table: Table, names: list[str], budget: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...], tuple[int, ...]]:
    """Rows by input (in order of appearance) and budget; ids; the budgets, which all inputs must share."""
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    owner = np.array([number[name] for name in names], np.int64)
    order = np.lexsort((budget, owner))
    starts = np.searchsorted(owner[order], np.arange(len(number) + 1))
    budgets = budget[order][: starts[1]]
    ids = tuple(number)
    for name, first, end in zip(ids, starts, starts[1:], strict=False):
        have = budget[order][first:end]
        if not np.array_equal(have, budgets):
            where = table.place(int(order[first:end].max()))
            raise BadInputError(
                f"{where}: id {name!r} has the budgets {span_text(have.tolist())}, but {ids[0]!r} has "
                f"{span_text(budgets.tolist())}; every id must have the same budgets."
            )
    return order, ids, tuple(budgets.tolist())


def _refuse_results(path: Path) -> None:
    """A result of certify is no table of counts, and says so better than a parser would."""
    begins = beginning(path, 200)
    if _RESULT.match(begins):
        raise BadInputError(f"{path_text(path)} is a result of certify, not counts; `hybrid-rs plot` can show it.")
