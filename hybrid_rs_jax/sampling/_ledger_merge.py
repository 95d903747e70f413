"""Several ledgers become one: runs on different inputs, or on different parts of the samples of the same inputs."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hybrid_rs_jax.sampling._ledger_errors import LedgerError, reading, writing
from hybrid_rs_jax.sampling._ledger_files import (
    LEDGER_FILE,
    close_writer,
    create_file,
    flush_folder,
    open_reader,
    open_writer,
    read_history,
)
from hybrid_rs_jax.sampling._ledger_header import difference_text, differences
from hybrid_rs_jax.sampling._ledger_rows import add_inputs, add_skip
from hybrid_rs_jax.sampling._ledger_schema import ADD_RANGE, ADD_VOTE, SHARED

__all__ = ["merge"]


class _Source(NamedTuple):
    folder: Path
    connection: sqlite3.Connection
    history: list[str]


def merge(target: Path, sources: Sequence[Path]) -> None:
    """Copy the counts of several runs with the same header into a new run folder.

    The sources are only read, and may be in use by a writer: what is committed at that moment is copied. An input that
    one source skipped and another one has draws of is in use. The parts of one sample can come from several sources
    where the number of draws is fixed; a plan that stops early decides on each input in one run.

    Args:
      target: the new run folder, which must not exist (or be empty).
      sources: run folders.

    Raises:
      LedgerError: if the target exists, a source cannot be read, the headers differ (one line per field), an input has
        another digest or index, or a draw is in two sources; the target is then not made.
    """
    target, folders = Path(target), [Path(source) for source in sources]
    if not folders:
        raise LedgerError("sources must name at least one run folder, got none.")
    _check_target(target)
    with contextlib.ExitStack() as cleanup:
        runs = [_open(folder, cleanup) for folder in folders]
        for other in runs[1:]:
            _check_same_header(runs[0], other)
        with _new_folder(target) as folder:
            create_file(folder, max((run.history for run in runs), key=len))
            connection = open_writer(folder / LEDGER_FILE)
            try:
                with writing(folder / LEDGER_FILE):
                    connection.execute("BEGIN IMMEDIATE")
                    _copy(connection, runs)
                    connection.execute("COMMIT")
            finally:
                close_writer(connection)


def _open(folder: Path, cleanup: contextlib.ExitStack) -> _Source:
    path = folder / LEDGER_FILE
    connection = open_reader(path, cleanup)
    with reading(path):
        connection.execute("BEGIN")  # one state of the source for all that follows
    return _Source(folder, connection, read_history(connection, path))


def _check_same_header(one: _Source, other: _Source) -> None:
    found = differences(json.loads(one.history[-1]), json.loads(other.history[-1]))
    if found:
        lines = "\n  ".join(difference_text(each, f"{one.folder} has", f"{other.folder} has") for each in found)
        raise LedgerError(f"{one.folder} and {other.folder} are different runs, which cannot be merged:\n  {lines}")


def _copy(connection: sqlite3.Connection, runs: Sequence[_Source]) -> None:
    plan = json.loads(runs[0].history[-1]).get("plan")
    joinable = not isinstance(plan, dict) or plan.get("plan") == "fixed"
    for run in runs:
        try:
            with _rows(run, "SELECT id, input, digest FROM inputs") as rows:
                add_inputs(connection, rows)
            if not joinable:
                _check_apart(connection, run)
            _copy_rows(connection, ADD_VOTE, run, "SELECT input, budget, first, label, successes FROM votes")
            _copy_rows(connection, ADD_RANGE, run, "SELECT input, budget, first, count, successes, ties FROM ranges")
        except LedgerError as error:
            raise LedgerError(f"{run.folder} cannot be merged with the runs named before it: {error}") from error
    for run in runs:
        with _rows(run, "SELECT input, drawn, id, reason FROM skipped") as rows:
            for index, drawn, name, reason in rows:
                query = "SELECT coalesce(sum(count), 0) FROM ranges WHERE input = ?"
                if connection.execute(query, (index,)).fetchone() == (drawn,):
                    add_skip(connection, index, name, reason)


def _copy_rows(connection: sqlite3.Connection, statement: str, run: _Source, query: str) -> None:
    """Copy votes or ranges; a range whose draws are there already is refused."""
    last: list[Any] = []
    with _rows(run, query, last) as rows:
        try:
            connection.executemany(statement, rows)
        except sqlite3.IntegrityError as error:
            raise LedgerError(f"{_place(connection, last[0], last[1])}, from draw {last[2]} on: {error}.") from error


@contextlib.contextmanager
def _rows(run: _Source, query: str, last: list[Any] | None = None) -> Iterator[Iterator[tuple[Any, ...]]]:
    """Rows of a source, one at a time; `last` holds the one that was taken last."""

    def rows() -> Generator[tuple[Any, ...], None, None]:
        with reading(run.folder / LEDGER_FILE):  # what the reader of the rows raises does not come through here
            for row in run.connection.execute(query):
                if last is not None:
                    last[:] = row
                yield row

    with contextlib.closing(rows()) as opened:
        yield opened


def _check_apart(connection: sqlite3.Connection, run: _Source) -> None:
    """A plan that stops early looks at the whole sample of an input: its parts cannot be drawn apart."""
    query = "SELECT 1 FROM ranges WHERE input = ? AND budget = ? LIMIT 1"
    with _rows(run, "SELECT DISTINCT input, budget FROM ranges") as rows:
        for index, budget in rows:
            if connection.execute(query, (index, budget)).fetchall():
                raise LedgerError(
                    f"{_place(connection, index, budget)} has draws in both, and its plan stops early, so all of its "
                    "draws must come from one run."
                )


def _place(connection: sqlite3.Connection, index: int, budget: int) -> str:
    ((name,),) = connection.execute("SELECT id FROM inputs WHERE input = ?", (index,))
    return f"input {name!r}" + ("" if budget == SHARED else f" with budget {budget}")


def _check_target(target: Path) -> None:
    with writing(target):
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise LedgerError(f"{target} already exists; choose another name for the merged run.")
        target.absolute().parent.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that gets its name on success and is removed on failure."""
    target = target.absolute()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    with writing(target):
        temporary.mkdir()
    try:
        yield temporary
        with writing(target):
            temporary.rename(target)  # fails where somebody has put something there meanwhile
            flush_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
