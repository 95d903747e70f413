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

from hybrid_rs_jax.report.errors import BadInputError
from hybrid_rs_jax.report.files import read_text
from hybrid_rs_jax.report.formatting import joined, span_text
from hybrid_rs_jax.report.runs import read_run

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
      run: what `run.json` says, for a run folder, else None.
    """

    ids: list[str]
    successes: np.ndarray
    n: np.ndarray
    budgets: tuple[int, ...] | None
    run: dict[str, Any] | None


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
