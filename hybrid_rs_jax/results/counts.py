"""Read counts: CSV, JSON lines or a run folder. Whatever is not plainly right is refused by line and value."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_rs_jax._files import read_text
from hybrid_rs_jax._text import counted, joined, span_text
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.results._ledger_table import LedgerTable, ledger_table
from hybrid_rs_jax.results.runs import read_run, with_noise
from hybrid_rs_jax.sampling.ledger import LEDGER_FILE, Ledger

__all__ = ["Counts", "read_counts"]

COLUMNS = ("id", "successes", "n")
#: Counts are compared in float64 further on, which holds integers up to here.
MOST_DRAWS = 2**53
_RESULT = re.compile(r'\s*\{\s*"statement"')
_INTEGER = re.compile(r"[+-]?[0-9]+")


@dataclasses.dataclass(frozen=True)
class Counts:
    """Monte Carlo counts of B inputs.

    Attributes:
      ids: names of the inputs, all different.
      successes, n: int64[B] for one sample per input, int64[B, D] for one sample per input and budget.
      budgets: the D budgets where there is one sample per budget, else None.
      run: for a run folder what its ledger or `run.json` says about the noise and the classifier, else None.
      plan: the sampling plan that the draws were stopped by (`SamplingPlan.describe`), None: a fixed number of draws.
      votes: int64[B, classes] or int64[B, D, classes] where a run counts votes per class; `successes` are then 0, for
        which class is certified must be decided without these draws.
      skipped: (id, reason) of the inputs that a run gave up; they are not among the B.
      unfinished: inputs whose draws are not complete, where no bound holds yet; they are not among the B.
    """

    ids: list[str]
    successes: np.ndarray
    n: np.ndarray
    budgets: tuple[int, ...] | None
    run: dict[str, Any] | None
    plan: dict[str, Any] | None = None
    votes: np.ndarray | None = None
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    unfinished: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class _Row:
    line: int
    id: str
    successes: int
    n: int
    budget: int | None


def read_counts(path: Path) -> Counts:
    """Read a run folder, a CSV file with the columns `id, successes, n[, budget]`, or JSON lines with these keys.

    Raises:
      BadInputError: one sentence with file, line, value and legal range.
    """
    run = None
    if path.is_dir():
        if (path / LEDGER_FILE).is_file():
            return _read_ledger(path)
        run = read_run(path)
        path = path / "counts.csv"
    text = read_text(path)
    rows = list(_json_rows(path, text) if text.lstrip()[:1] in ("{", "[") else _csv_rows(path, text))
    if not rows:
        raise BadInputError(f"{path} holds no counts: expected one line per input with {joined(COLUMNS)}.")
    budgets, ordered = _arrange(path, rows)
    shape = (len(ordered),) if budgets is None else (len(ordered) // len(budgets), len(budgets))
    return Counts(
        ids=[row.id for row in ordered[:: 1 if budgets is None else len(budgets)]],
        successes=np.array([row.successes for row in ordered], np.int64).reshape(shape),
        n=np.array([row.n for row in ordered], np.int64).reshape(shape),
        budgets=budgets,
        run=run,
    )


def _read_ledger(folder: Path) -> Counts:
    """Counts of the inputs whose draws are complete.

    With a fixed number of draws those that are there count, from the first one on without a gap: when a run was ended
    has nothing to do with what it drew. A plan that stops early has a bound only where it stopped.
    """
    with library_sentences(), Ledger.open(folder) as ledger:
        run, table = with_noise(ledger.path, ledger.header), ledger_table(ledger.counts())
        earlier = [header.get("samples") for header in ledger.history[:-1]]
    if earlier:
        run = {**run, "extended_from": earlier}
    budgets = tuple(sorted(run.get("budgets") or ())) if run.get("mode") == "per budget" else None
    columns = np.array([-1] if budgets is None else budgets, np.int64)
    unknown = ~np.isin(table.budget, columns)
    if np.any(unknown):
        found = int(table.budget[unknown][0])
        what = "a sample for all budgets" if found < 0 else f"a sample of its own for budget {found}"
        legal = "one sample for all budgets" if budgets is None else f"samples for the budgets {span_text(budgets)}"
        raise BadInputError(
            f"{folder}: input {table.ids[int(np.argmax(unknown))]!r} has {what}, its header says {legal}."
        )
    used = table.contiguous & _stopped(folder, run.get("plan"), table)
    # a row of the grid per input, complete where each of its columns has been used
    index, row = np.unique(table.index, return_inverse=True)
    cell = (row, np.searchsorted(columns, table.budget))
    complete = _grid(cell, used, (index.size, columns.size)).astype(bool).all(axis=1)
    names = dict(zip(row.tolist(), table.ids, strict=True))
    unfinished = [names[number] for number in np.flatnonzero(~complete).tolist()] + table.undrawn
    if not complete.any():
        raise BadInputError(
            f"{folder} holds no finished input yet: {counted(len(unfinished), 'input')} unfinished, "
            f"{len(table.skipped)} skipped; `hybrid-rs sample --resume` continues it."
        )

    def column(values: np.ndarray) -> np.ndarray:
        whole = _grid(cell, values, (index.size, columns.size))[complete]
        return whole[:, 0] if budgets is None else whole

    return Counts(
        ids=[names[number] for number in np.flatnonzero(complete).tolist()],
        successes=column(table.successes),
        n=column(table.n),
        budgets=budgets,
        run=run,
        plan=run.get("plan"),
        votes=None if table.votes is None else column(table.votes),
        skipped=table.skipped,
        unfinished=unfinished,
    )


def _stopped(folder: Path, description: dict[str, Any] | None, table: LedgerTable) -> np.ndarray:
    """bool[R], where the plan has stopped; a fixed number of draws may be cut short."""
    if description is None or description.get("plan") == "fixed":
        return np.ones(table.n.shape, bool)
    if table.votes is not None:
        kind = description.get("plan")
        raise BadInputError(f"{folder}: votes per class have no plan that stops early, got {kind!r}.")
    from hybrid_rs_jax.confidence import Verdict, plan_from  # SciPy is heavy, and --help needs none of it

    with library_sentences():
        return plan_from(description).verdict(table.n, table.successes) != Verdict.CONTINUE


def _grid(cell: tuple[np.ndarray, np.ndarray], values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """int64[inputs, budgets, ...] from one value per row of the ledger, 0 where there is none."""
    grid = np.zeros((*shape, *values.shape[1:]), np.int64)
    grid[cell] = values
    return grid


def _csv_rows(path: Path, text: str) -> Iterator[_Row]:
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not any(header):
            raise BadInputError(f"{path} holds no counts: expected a header line {','.join(COLUMNS)}.")
        _check_names(path, 1, header)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                wanted = f"{len(header)} values ({', '.join(header)})"
                raise BadInputError(f"{path}, line {reader.line_num}: expected {wanted}, got {len(row)}.")
            yield _row(path, reader.line_num, dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise BadInputError(f"{path}, line {reader.line_num} is not legal CSV: {error}.") from error


def _json_rows(path: Path, text: str) -> Iterator[_Row]:
    if _RESULT.match(text):
        raise BadInputError(f"{path} is a result of certify, not counts; `hybrid-rs plot` can show it.")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            pairs = json.loads(line, object_pairs_hook=lambda pairs: pairs)
        except (ValueError, RecursionError) as error:
            what = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            hint = " (each line must be one JSON object of its own)" if number == 1 else ""
            raise BadInputError(f"{path}, line {number} is not legal JSON: {what}{hint}.") from error
        if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
            raise BadInputError(f'{path}, line {number}: expected an object {{"id", "successes", "n"}}.')
        _check_names(path, number, [name for name, _ in pairs])
        yield _row(path, number, dict(pairs))


def _check_names(path: Path, line: int, names: list[str]) -> None:
    missing = [name for name in COLUMNS if name not in names]
    unknown = [name for name in names if name not in (*COLUMNS, "budget")]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    legal = "legal are id, successes, n and, where each budget has its own sample, budget"
    if missing:
        raise BadInputError(f"{path}, line {line}: missing column {joined(missing)}; {legal}.")
    if unknown:
        raise BadInputError(f"{path}, line {line}: unknown column {joined(map(repr, unknown))}; {legal}.")
    if twice:
        raise BadInputError(f"{path}, line {line}: column {joined(twice)} appears twice; {legal}.")


def _row(path: Path, line: int, values: Mapping[str, object]) -> _Row:
    where = f"{path}, line {line}"
    n = _integer(where, "n", values["n"], 1, MOST_DRAWS)
    successes = _integer(where, "successes", values["successes"], 0, n)
    budget = _integer(where, "budget", values["budget"], 0, 1000) if "budget" in values else None
    name = values["id"]
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        raise BadInputError(f"{where}: id must be a name or an integer, got {json.dumps(name, default=str)}.")
    return _Row(line, str(name).strip(), successes, n, budget)


def _integer(where: str, name: str, value: object, low: int, high: int) -> int:
    legal = f"{low}..{high}" + (" (n)" if name == "successes" else "")
    number = value
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()) and len(value) < 40:
        number = int(value)
    if isinstance(number, bool) or not isinstance(number, int):
        shown = value if isinstance(value, str) and value else json.dumps(value, default=str)
        raise BadInputError(f"{where}: {name} must be an integer in {legal}, got {shown}.")
    if not low <= number <= high:
        raise BadInputError(f"{where}: {name} must be in {legal}, got {number}.")
    return number


def _arrange(path: Path, rows: list[_Row]) -> tuple[tuple[int, ...] | None, list[_Row]]:
    """Budgets, and rows by input (in order of appearance) and budget."""
    per_budget = rows[0].budget is not None
    inputs: dict[str, dict[int | None, _Row]] = {}
    for row in rows:
        if (row.budget is not None) != per_budget:
            raise BadInputError(f"{path}, line {row.line}: budget is given on some lines and not on others.")
        seen = inputs.setdefault(row.id, {})
        if row.budget in seen:
            where = "" if row.budget is None else f" with budget {row.budget}"
            raise BadInputError(
                f"{path}, line {row.line}: id {row.id!r}{where} appears again, after line {seen[row.budget].line}; "
                "every id must be different."
            )
        seen[row.budget] = row
    if not per_budget:
        return None, rows
    budgets = tuple(sorted(budget for budget in inputs[rows[0].id] if budget is not None))
    for name, seen in inputs.items():
        if set(seen) != set(budgets):
            have = sorted(budget for budget in seen if budget is not None)
            line = max(row.line for row in seen.values())
            raise BadInputError(
                f"{path}, line {line}: id {name!r} has the budgets {span_text(have)}, but {rows[0].id!r} has "
                f"{span_text(budgets)}; every id must have the same budgets."
            )
    return budgets, list(_by_budget(inputs.values(), budgets))


def _by_budget(inputs: Iterable[dict[int | None, _Row]], budgets: tuple[int, ...]) -> Iterator[_Row]:
    for seen in inputs:
        for budget in budgets:
            yield seen[budget]
