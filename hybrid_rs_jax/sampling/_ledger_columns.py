"""What is read back from a ledger: tallies to go on from, counts in columns, records in columns."""

from __future__ import annotations

import dataclasses
import itertools
import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hybrid_rs_jax.sampling._ledger_errors import LedgerError
from hybrid_rs_jax.sampling._ledger_schema import SHARED

__all__ = ["LedgerCounts", "Record", "RecordColumns", "Tally", "read_counts", "read_records", "read_tallies"]


class Record(NamedTuple):
    """Counts of the draws `first..first + count - 1` of one input.

    Attributes:
      input: index of the input, registered before.
      budget: the discrete budget that this sample belongs to, 0..1000, or None: one sample for all budgets.
      first: number of the first draw, at least 0; no draw may be recorded twice.
      count: number of draws, at least 1.
      successes: how many of them the classifier called unsafe; a vector of votes where the header has `classes`.
      ties: how many of them the classifier could not decide, 0..count.
    """

    input: int
    budget: int | None
    first: int
    count: int  # type: ignore[assignment]
    successes: Any
    ties: int = 0


@dataclasses.dataclass(frozen=True)
class Tally:
    """Draws of one (input, budget) without a gap: `first..first + drawn - 1`.

    `first` is 0 except in a run on a part of the sample that is to be merged. `successes` is a tuple of votes per class
    where the header has `classes`.
    """

    first: int
    drawn: int
    successes: int | tuple[int, ...]
    ties: int


@dataclasses.dataclass(frozen=True)
class LedgerCounts:
    """Total counts, one row per (input, budget) that has draws, by index and budget.

    Attributes:
      ids, index, budget: names and indices of the R rows; budget -1: one sample for all budgets.
      n, successes, ties: int64[R]; successes are 0 where the run has votes per class instead.
      votes: int64[R, classes], or None.
      contiguous: bool[R], whether the draws are 0..n - 1, with no gap.
      skipped: (id, reason) of the inputs that the run gave up; they have no row.
      undrawn: ids that are registered, not skipped, and have no draws yet.
    """

    ids: list[str]
    index: np.ndarray
    budget: np.ndarray
    n: np.ndarray
    successes: np.ndarray
    ties: np.ndarray
    votes: np.ndarray | None
    contiguous: np.ndarray
    skipped: list[tuple[str, str]]
    undrawn: list[str]


class RecordColumns(NamedTuple):
    """Records as int64 columns, by input, budget (-1: shared) and first draw; successes -1 where there are votes."""

    input: np.ndarray
    budget: np.ndarray
    first: np.ndarray
    count: np.ndarray  # type: ignore[assignment]
    successes: np.ndarray
    ties: np.ndarray


# Ranges never overlap, so they leave no gap exactly where their counts add up to the span from first to last.
_TOTALS = """
SELECT input, budget, min(first), max(first + count), sum(count), coalesce(sum(successes), -1), sum(ties) FROM ranges
GROUP BY input, budget ORDER BY input, budget
"""
_VOTES = "SELECT input, budget, label, sum(successes) FROM votes GROUP BY input, budget, label"
# An input that was drawn further after it was skipped is in use again.
_SKIPPED = """
SELECT input, id, reason FROM skipped
WHERE drawn = (SELECT coalesce(sum(count), 0) FROM ranges WHERE ranges.input = skipped.input) ORDER BY input
"""


def read_tallies(connection: sqlite3.Connection, classes: int | None) -> dict[tuple[int, int | None], Tally]:
    """The tally of each (input, budget); a gap in the draws is refused."""
    tallies: dict[tuple[int, int | None], Tally] = {}
    votes = _read_votes(connection)
    for index, budget, first, end, drawn, successes, ties in connection.execute(_TOTALS):
        if end - first != drawn:
            raise LedgerError(_gap_sentence(connection, index, budget))
        total: int | tuple[int, ...] = successes
        if classes is not None:
            row = votes.get((index, budget), {})
            total = tuple(row.get(label, 0) for label in range(classes))
        tallies[index, None if budget == SHARED else budget] = Tally(first, drawn, total, ties)
    return tallies


def read_counts(connection: sqlite3.Connection, classes: int | None) -> LedgerCounts:
    """Totals in columns."""
    names = dict(connection.execute("SELECT input, id FROM inputs"))
    gone = {number: (name, reason) for number, name, reason in connection.execute(_SKIPPED)}
    rows = [row for row in connection.execute(_TOTALS) if row[0] not in gone]
    index, budget, first, end, n, successes, ties = _columns(rows, 7)
    return LedgerCounts(
        ids=[names[number] for number in index.tolist()],
        index=index,
        budget=budget,
        n=n,
        successes=np.maximum(successes, 0),
        ties=ties,
        votes=None if classes is None else _vote_columns(connection, index, budget, classes),
        contiguous=(first == 0) & (end == n),
        skipped=list(gone.values()),
        undrawn=[names[number] for number in sorted(names.keys() - gone.keys() - set(index.tolist()))],
    )


def read_records(connection: sqlite3.Connection) -> RecordColumns:
    """All ranges in columns."""
    query = (
        "SELECT input, budget, first, count, coalesce(successes, -1), ties FROM ranges ORDER BY input, budget, first"
    )
    return RecordColumns(*_columns(connection.execute(query).fetchall(), 6))


def _read_votes(connection: sqlite3.Connection) -> dict[tuple[int, int], dict[int, int]]:
    votes: dict[tuple[int, int], dict[int, int]] = {}
    for index, budget, label, number in connection.execute(_VOTES):
        votes.setdefault((index, budget), {})[label] = number
    return votes


def _vote_columns(connection: sqlite3.Connection, index: np.ndarray, budget: np.ndarray, classes: int) -> np.ndarray:
    table = np.zeros((index.size, classes), np.int64)
    row_of = {place: row for row, place in enumerate(zip(index.tolist(), budget.tolist(), strict=True))}
    for place, votes in _read_votes(connection).items():
        for label, number in votes.items() if place in row_of else ():
            table[row_of[place], label] = number
    return table


def _gap_sentence(connection: sqlite3.Connection, index: int, budget: int) -> str:
    """Name the first gap."""
    ((name,),) = connection.execute("SELECT id FROM inputs WHERE input = ?", (index,))
    query = "SELECT first, first + count FROM ranges WHERE input = ? AND budget = ? ORDER BY first"
    ranges = connection.execute(query, (index, budget)).fetchall()
    gap = next((end, begin - 1) for (_, end), (begin, _) in itertools.pairwise(ranges) if begin != end)
    where = "" if budget == SHARED else f" with budget {budget}"
    return (
        f"The draws {gap[0]}..{gap[1]} of input {name!r}{where} are missing between others that are recorded; "
        "merge the run that holds them before this one is resumed."
    )


def _columns(rows: Sequence[tuple[int, ...]], width: int) -> np.ndarray:
    return np.ascontiguousarray(np.array(rows, np.int64).reshape(len(rows), width).T)
