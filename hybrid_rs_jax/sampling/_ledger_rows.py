"""Adding rows to a ledger, inside of a transaction that the caller ends; whatever is refused is named in a sentence."""

from __future__ import annotations

import operator
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hybrid_rs_jax.sampling._ledger_columns import Record
from hybrid_rs_jax.sampling._ledger_errors import LedgerError
from hybrid_rs_jax.sampling._ledger_schema import ADD_RANGE, ADD_VOTE, MOST_INPUTS, SHARED, text_seal

__all__ = ["add_inputs", "add_records", "add_skip"]


def add_inputs(connection: sqlite3.Connection, inputs: Iterable[tuple[str, int, str]]) -> None:
    """Add the inputs that are new, refuse those that contradict what is known."""
    for name, index, digest in inputs:
        index = _check_name(connection, name, index)
        rows = connection.execute("SELECT digest FROM inputs WHERE input = ?", (index,)).fetchall()
        if not rows:
            seal = text_seal(index, name, digest)
            connection.execute("INSERT INTO inputs VALUES (?, ?, ?, ?)", (index, name, digest, seal))
        elif rows[0][0] != digest:
            raise LedgerError(
                f"Input {name!r} is not the one that this run has drawn: its digest differs "
                f"(the run has {rows[0][0]}, got {digest})."
            )


def add_skip(connection: sqlite3.Connection, index: int, name: str, reason: str) -> None:
    """Mark an input as skipped at the draws that it has."""
    index = _check_name(connection, name, index)
    ((drawn,),) = connection.execute("SELECT coalesce(sum(count), 0) FROM ranges WHERE input = ?", (index,))
    query = "SELECT 1 FROM skipped WHERE input = ? AND drawn = ?"
    if not connection.execute(query, (index, drawn)).fetchall():
        row = (index, drawn, name, reason)
        connection.execute("INSERT INTO skipped VALUES (?, ?, ?, ?, ?)", (*row, text_seal(*row)))


def _check_name(connection: sqlite3.Connection, name: str, index: int) -> int:
    """One index has one name, and one name has one index."""
    index = operator.index(index)
    if not isinstance(name, str) or not name.strip():
        raise LedgerError(f"id must be a name that is not empty, got {name!r}.")
    if not 0 <= index < MOST_INPUTS:
        raise LedgerError(f"index must be in 0..{MOST_INPUTS - 1}, got {index} for input {name!r}.")
    for known_index, known in connection.execute(_SAME, (index, name, index, name)).fetchall():
        if known != name:
            raise LedgerError(
                f"Index {index} belongs to input {known!r} of this run, it cannot be that of {name!r} too."
            )
        if known_index != index:
            raise LedgerError(f"Input {name!r} has the index {known_index} in this run, it cannot have {index} too.")
    return index


_SAME = """
SELECT input, id FROM inputs WHERE input = ? OR id = ?
UNION SELECT input, id FROM skipped WHERE input = ? OR id = ?
"""


def add_records(connection: sqlite3.Connection, records: Iterable[Record | Sequence[Any]], classes: int | None) -> None:
    """Add counts; `classes` is the number of votes in each record, None for one number of successes."""
    current: Record | None = None  # the one that the database is looking at, for the sentence if it is refused

    def rows() -> Iterator[tuple[int | None, ...]]:
        nonlocal current
        for given in records:
            current = Record(*given)
            if current.budget == SHARED:
                raise LedgerError(f"budget must be None or in 0..1000, got {current.budget}.")
            budget = SHARED if current.budget is None else operator.index(current.budget)
            place = (operator.index(current.input), budget, operator.index(current.first))
            successes = None
            if classes is None:
                successes = operator.index(current.successes)
            else:
                _add_votes(connection, place, current, classes)
            yield (*place, operator.index(current.count), successes, operator.index(current.ties))

    try:
        connection.executemany(ADD_RANGE, rows())
    except sqlite3.IntegrityError as error:
        assert current is not None
        raise LedgerError(_refusal(connection, current, error)) from error
    except (TypeError, OverflowError) as error:
        kind = "successes one integer" if classes is None else f"successes {classes} votes, one integer per class"
        raise LedgerError(
            f"A record must hold integers (input, budget or None, first, count, successes, ties), {kind}; "
            f"got {current or 'one that is no sequence of these'} ({error})."
        ) from error


def _add_votes(connection: sqlite3.Connection, place: tuple[int, int, int], record: Record, classes: int) -> None:
    """Votes come before their range, which closes them; classes without a vote take no row."""
    votes = [operator.index(number) for number in record.successes]
    if len(votes) != classes:
        raise LedgerError(f"successes must hold one number per class, {classes} of them, got {len(votes)}.")
    connection.executemany(ADD_VOTE, [(*place, label, number) for label, number in enumerate(votes) if number])


def _refusal(connection: sqlite3.Connection, record: Record, error: Exception) -> str:
    rows = connection.execute("SELECT id FROM inputs WHERE input = ?", (record.input,)).fetchall()
    name = repr(rows[0][0]) if rows else f"number {record.input}"
    budget = "" if record.budget is None else f" with budget {record.budget}"
    why = str(error).removeprefix("CHECK constraint failed: ")
    return (
        f"Draws {record.first}..{record.first + record.count - 1} of input {name}{budget} cannot be recorded: {why} "
        f"(got first = {record.first}, count = {record.count}, successes = {record.successes}, ties = {record.ties})."
    )
