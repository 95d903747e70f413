"""The database file of a ledger: made whole or not at all, opened by one writer, read from anywhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hybrid_rs_jax.sampling._ledger_errors import LedgerError, damaged, reading, writing
from hybrid_rs_jax.sampling._ledger_header import digest
from hybrid_rs_jax.sampling._ledger_schema import check_file, create_tables

__all__ = ["LEDGER_FILE", "add_header", "close_writer", "create_file", "open_reader", "open_writer", "read_history"]

LEDGER_FILE = "ledger.sqlite"
#: Seconds that a connection waits for another one's short transaction.
_PATIENCE = 30.0


def create_file(folder: Path, bodies: Sequence[str]) -> None:
    """Put an empty ledger with these headers into `folder`, under the writer's lock; a killed attempt leaves none."""
    temporary = folder / f".{LEDGER_FILE}.tmp"
    with writing(folder / LEDGER_FILE):
        for leftover in folder.glob(f"{temporary.name}*"):
            leftover.unlink()
        connection = sqlite3.connect(temporary, isolation_level=None)
        with contextlib.closing(connection):
            connection.execute("PRAGMA synchronous = FULL")
            create_tables(connection)
            for body in bodies:
                add_header(connection, body)
        temporary.rename(folder / LEDGER_FILE)
        flush_folder(folder)


def add_header(connection: sqlite3.Connection, body: str) -> None:
    """Add a version of the header; the last one is in force, the earlier ones stay."""
    connection.execute("INSERT INTO header SELECT coalesce(max(number), 0) + 1, ?, ? FROM header", (body, digest(body)))


def open_writer(path: Path) -> sqlite3.Connection:
    """Open for writing, under the writer's lock, after the checks; every commit reaches the disk before it returns."""
    require_file(path)
    with reading(path):
        connection = sqlite3.connect(_uri(path, "rw"), uri=True, isolation_level=None, timeout=_PATIENCE)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")
            check_file(connection, path)
            with writing(path):
                connection.execute("PRAGMA journal_mode = WAL")
        except BaseException:
            connection.close()
            raise
    return connection


def close_writer(connection: sqlite3.Connection) -> None:
    """Close; where nobody reads, the folder then holds one plain file that can be read from a read-only disk too."""
    with contextlib.suppress(sqlite3.Error):  # what is committed is safe in the write-ahead log in any case
        connection.execute("PRAGMA busy_timeout = 200")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()


def open_reader(path: Path, cleanup: contextlib.ExitStack) -> sqlite3.Connection:
    """Open for reading, also beside an active writer, and in a folder where the reader may not write.

    What a killed writer leaves beside the file can be read in place only where SQLite may write there. Elsewhere the
    files are copied into a temporary folder first: no writer can be active, for SQLite would have waited for it, or
    found its index.
    """
    require_file(path)
    beside = [path.with_name(path.name + suffix) for suffix in ("-wal", "-journal")]
    with reading(path):
        try:
            return _checked(path, path, "ro", cleanup)
        except sqlite3.OperationalError:
            if os.access(path.parent, os.W_OK) and not beside[1].exists():
                raise
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        for file in (path, *(each for each in beside if each.is_file())):
            shutil.copyfile(file, folder / file.name)
        return _checked(folder / path.name, path, "rw", cleanup)


def _checked(file: Path, named: Path, mode: str, cleanup: contextlib.ExitStack) -> sqlite3.Connection:
    connection = sqlite3.connect(_uri(file, mode), uri=True, isolation_level=None, timeout=_PATIENCE)
    try:
        check_file(connection, named)
    except BaseException:
        connection.close()
        raise
    cleanup.callback(connection.close)
    return connection


def read_history(connection: sqlite3.Connection, path: Path) -> list[str]:
    """Canonical texts of all headers, in order; the last one is in force."""
    with reading(path):
        rows = connection.execute("SELECT body, sha256 FROM header ORDER BY number").fetchall()
    if not rows or any(digest(body) != sha256 for body, sha256 in rows):
        raise damaged(path, "its header does not match its digest" if rows else "it has no header")
    return [body for body, _ in rows]


def require_file(path: Path) -> None:
    """Raise one sentence where there is no ledger, or an empty file."""
    with reading(path):
        if not path.is_file():
            raise LedgerError(f"{path.parent} holds no run: it has no {path.name}.")
        if path.stat().st_size == 0:
            raise LedgerError(f"{path} is empty: restore it from a copy, or remove it and start the run again.")


def _uri(path: Path, mode: str) -> str:
    return f"{path.resolve().as_uri()}?mode={mode}"


def flush_folder(folder: Path) -> None:
    """Make a rename in `folder` durable, where the system can open a folder."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
