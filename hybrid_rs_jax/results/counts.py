"""Counts of inputs, and where they are read from: CSV, JSON lines or a run folder.

Whatever is not plainly right is refused by line and value.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hybrid_rs_jax._files import read_text
from hybrid_rs_jax._text import joined, span_text
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.results.runs import Run, read_run
from hybrid_rs_jax.results.statement import Provisional
from hybrid_rs_jax.sampling.ledger import LEDGER_FILE

if TYPE_CHECKING:
    from hybrid_rs_jax.certificate.certify import Side
    from hybrid_rs_jax.confidence import SamplingPlan

__all__ = ["Column", "Counts", "read_counts"]

COLUMNS = ("id", "successes", "n")
#: Counts are compared in float64 further on, which holds integers up to here.
MOST_DRAWS = 2**53
_RESULT = re.compile(r'\s*\{\s*"statement"')
_INTEGER = re.compile(r"[+-]?[0-9]+")


class Column(NamedTuple):
    """A column of a table that has nothing to do with certificates, and goes through them as it is."""

    name: str
    values: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Counts:
    """Monte Carlo counts of B inputs.

    Attributes:
      ids: names of the inputs, all different.
      successes, n: int64[B] for one sample per input, int64[B, D] for one sample per input and budget.
      ties: of the draws of `n`, those whose margin is at rounding level (they may be successes or not), same shape;
        None: not known.
      budgets: the D budgets where there is one sample per budget, else None.
      run: what a run folder says about the noise and the classifier, else None.
      plan: the plan that stopped the draws early; None: a number of draws that was fixed beforehand.
      votes: int64[B, classes] where a run counts votes per class; `successes` are then 0, for which class is certified
        must be decided without these draws.
      provisional: why a fixed number of draws did not stay what it was; None: it did.
      skipped: (id, reason) of the inputs that a run gave up; they are not among the B.
      unfinished: inputs whose draws are not complete, where no bound holds yet; they are not among the B.
      others: further columns of the table that the counts come from.
    """

    ids: tuple[str, ...]
    successes: np.ndarray
    n: np.ndarray
    ties: np.ndarray | None = None
    budgets: tuple[int, ...] | None = None
    run: Run | None = None
    plan: SamplingPlan | None = None
    votes: np.ndarray | None = None
    provisional: Provisional | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    unfinished: tuple[str, ...] = ()
    others: tuple[Column, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Counts):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))

    __hash__ = None  # type: ignore[assignment]

    @property
    def ties_left_out(self) -> bool:
        """Bounds do without ties: where every look is a statement of its own, so that any counts may be bounded there.

        A test with one order of all stops has bounds for the counts alone at which it stopped.
        """
        from hybrid_rs_jax.confidence import StagedLooks

        return self.plan is None or isinstance(self.plan, StagedLooks)

    def certain(self, side: Side) -> np.ndarray:
        """Successes that a bound rests on: without ties for a lower one, with all of them for an upper one."""
        if self.ties is None or not self.ties_left_out:
            return self.successes
        if side == "above":
            return np.maximum(self.successes - self.ties, 0)
        return np.minimum(self.successes + self.ties, self.n)

    def taken(self, rows: slice | np.ndarray) -> Counts:
        """The counts of some of the inputs."""
        ids = np.asarray(self.ids, object)[rows]
        columns = {name: getattr(self, name) for name in ("successes", "n", "ties", "votes")}
        return dataclasses.replace(
            self,
            ids=tuple(ids.tolist()),
            others=tuple(Column(c.name, tuple(np.asarray(c.values, object)[rows].tolist())) for c in self.others),
            **{name: None if column is None else column[rows] for name, column in columns.items()},
        )


def _same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(np.asarray(one), np.asarray(other))
    return one == other


@dataclasses.dataclass(frozen=True)
class _Row:
    line: int
    id: str
    successes: int
    n: int
    budget: int | None


def read_counts(path: Path, *, partial: bool = False) -> Counts:
    """Read a run folder, a CSV file with the columns `id, successes, n[, budget]`, or JSON lines with these keys.

    Args:
      path: run folder or file.
      partial: take a fixed number of draws that was cut short or extended, too; the counts then say so.

    Raises:
      BadInputError: one sentence with file, line, value and legal range.
    """
    run = None
    if path.is_dir():
        if (path / LEDGER_FILE).is_file():
            from hybrid_rs_jax.results._ledger_counts import ledger_counts

            return ledger_counts(path, partial)
        run = read_run(path)
        path = path / "counts.csv"
    text = read_text(path)
    rows = list(_json_rows(path, text) if text.lstrip()[:1] in ("{", "[") else _csv_rows(path, text))
    if not rows:
        raise BadInputError(f"{path} holds no counts: expected one line per input with {joined(COLUMNS)}.")
    budgets, ordered = _arrange(path, rows)
    shape = (len(ordered),) if budgets is None else (len(ordered) // len(budgets), len(budgets))
    return Counts(
        ids=tuple(row.id for row in ordered[:: 1 if budgets is None else len(budgets)]),
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
