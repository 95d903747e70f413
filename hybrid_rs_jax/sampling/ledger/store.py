"""Ledgers on disk: made whole or not at all, written by one process at a time, read from anywhere."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from hybrid_rs_jax._files import kind_of, make_folder
from hybrid_rs_jax.errors import LedgerError
from hybrid_rs_jax.sampling.ledger import schema, version_1
from hybrid_rs_jax.sampling.ledger.counts import MOST_INPUTS, SHARED, CountRow, LedgerCounts, Stream, columns
from hybrid_rs_jax.sampling.ledger.schema import InputRow, reading, writing

__all__ = ["LEDGER_FILE", "LOCK_FILE", "Ledger", "create_file"]

LEDGER_FILE = "ledger.sqlite"
LOCK_FILE = "ledger.lock"
#: Seconds that a connection waits for another one's short transaction.
_PATIENCE = 30.0
OTHER_NOISE = "whose noise was another one (pixels in float32, not on a grid)"


class Ledger:
    """Counts of one run, in the SQLite file `ledger.sqlite` of its folder (on a local disk).

    Made by `create`, `resume` or `open`; a context manager. Every `append` is one transaction that is on the disk when
    it returns: whatever ends the process, all of it is there or nothing. No draw is counted twice.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "run"
    >>> with Ledger.create(folder, {"seed": 0}) as ledger:
    ...     ledger.register([("first input", 0, "digest of its tokens and pixels")])
    ...     ledger.append([CountRow(index=0, stream=SHARED, first=0, draws=100, counts=(97,))])
    >>> with Ledger.resume(folder, {"seed": 0}) as ledger:
    ...     ledger.tallies()[0, SHARED].counts
    (97,)
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, cleanup: contextlib.ExitStack, writes: bool):
        with cleanup, reading(path):
            self.version = schema.file_version(connection, path)
            if writes and self.version != schema.VERSION:
                raise LedgerError(f"{path.parent} was drawn by version 0.1, {OTHER_NOISE}: it cannot be continued.")
            self._format = schema if self.version == schema.VERSION else version_1
            self._history = self._format.read_header(connection, path)
            if writes:
                _keep_log(connection)
            self._classes = self.header.get("classes") or 1
            self.path, self._connection, self._writes, self._cleanup = path, connection, writes, cleanup.pop_all()

    @classmethod
    def create(cls, folder: Path, header: Mapping[str, Any]) -> Ledger:
        """Start a run: make `folder` where it does not exist, and an empty ledger in it.

        Args:
          folder: the run folder.
          header: everything that defines the noise and the classifier, as plain JSON; `classes` is the number of
            classes where votes are counted per class, else None or absent.

        Raises:
          LedgerError: if the folder holds a run already or cannot be written, or the header is no plain JSON.
          BadInputError: if the folder cannot be made.
        """
        folder, body = Path(folder), schema.canonical(header)
        make_folder(folder)
        with contextlib.ExitStack() as cleanup:
            _lock(folder, cleanup)
            if kind_of(folder / LEDGER_FILE) is not None:
                raise LedgerError(f"{folder} already holds a run; --resume continues it.")
            create_file(folder, [body])
            return cls._writer(folder, cleanup.pop_all())

    @classmethod
    def resume(
        cls, folder: Path, header: Mapping[str, Any], may_change: Callable[[str, Any, Any], bool] | None = None
    ) -> Ledger:
        """Continue a run.

        Args:
          folder: the run folder.
          header: the header of the run that is asked for; it must be the one of the ledger.
          may_change: called with the dotted name of a field that differs ("plan.n", "eligible_positions[3]"), the
            value of the run and the value asked for (None: absent); True accepts the new value. An accepted header is
            added, the earlier ones stay readable as `history`.

        Raises:
          LedgerError: if there is no ledger, another process writes it, it is damaged or of another version, or the
            headers differ (one line per field).
        """
        folder = Path(folder)
        asked = json.loads(schema.canonical(header))
        _require_file(folder / LEDGER_FILE)
        with contextlib.ExitStack() as cleanup:
            _lock(folder, cleanup)
            ledger = cls._writer(folder, cleanup.pop_all())
        try:
            ledger._adopt(asked, may_change)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def open(cls, folder: Path) -> Ledger:
        """Open a run for reading, also while another process writes it, and in a folder that is read-only.

        Ledgers of version 0.1 can be read too; their `version` is 1.

        Raises:
          LedgerError: if there is no ledger, or it is damaged or of a later version.
        """
        path = Path(folder) / LEDGER_FILE
        with contextlib.ExitStack() as cleanup:
            return cls(path, _open_reader(path, cleanup), cleanup.pop_all(), writes=False)

    @classmethod
    def _writer(cls, folder: Path, cleanup: contextlib.ExitStack) -> Ledger:
        path = folder / LEDGER_FILE
        with cleanup, reading(path):
            connection = _connect(path, "rw")
            cleanup.callback(_close_writer, connection)
            return cls(path, connection, cleanup.pop_all(), writes=True)

    @property
    def header(self) -> dict[str, object]:
        """The header in force (a copy)."""
        return json.loads(self._history[-1])

    @property
    def history(self) -> list[dict[str, object]]:
        """All headers, in order: more than one where a `resume` changed something."""
        return [json.loads(body) for body in self._history]

    def register(self, inputs: Iterable[tuple[str, int, str]]) -> None:
        """Name the inputs before they are drawn; the same input may be registered again.

        Args:
          inputs: (id, index, digest) each: a name, the index in 0..2**31 - 1 that keys its noise, and a digest of its
            tokens and pixels.

        Raises:
          LedgerError: if an id is known with another index or digest, or an index with another id.
        """
        with self._transaction():
            for id, index, digest in inputs:
                self._register(id, index, digest)

    def append(self, rows: Iterable[CountRow]) -> None:
        """Add counts in one transaction: when this returns all of them are on the disk, when it raises none is.

        Raises:
          LedgerError: if a draw is recorded already, an input is not registered, or `counts` are not as many as the
            run's classes; or if the disk is full or fails: then all that was appended before is kept.
        """
        with self._transaction():
            for row in rows:
                self._add(row)

    def skip(self, index: int, id: str, reason: str) -> None:
        """Note that an input could not be read or classified; it need not be registered.

        It is left out of `counts` until more of it is drawn. Of two reasons with no draw between them the first stays.
        """
        with self._transaction():
            self._skip(index, id, reason)

    def tallies(self) -> dict[tuple[int, Stream], CountRow]:
        """What has been drawn, by (index, stream): where to go on, for skipped inputs too.

        Raises:
          LedgerError: if the draws of an input have a gap (which is named).
        """
        tallies: dict[tuple[int, Stream], CountRow] = {}
        with self._snapshot():
            for row in map(schema.count_row, self._format.read_ranges(self._connection, self.path)):
                before = tallies.setdefault((row.index, row.stream), row)
                if before is not row:
                    raise LedgerError(
                        f"The draws {before.end}..{row.first - 1} of {self._name(row)} are missing between others "
                        "that are recorded; merge the run that holds them before this one is resumed."
                    )
        return tallies

    def counts(self) -> LedgerCounts:
        """Total counts in columns, for each stream one row per input that has draws."""
        ids: dict[int, str] = {}
        skipped: dict[int, tuple[str, str]] = {}
        with self._snapshot():
            for key, name, _, reason in self._format.read_inputs(self._connection, self.path):
                if reason is None:
                    ids[key] = name
                else:
                    skipped[key] = (name, reason)
            rows = self._format.read_ranges(self._connection, self.path)
            return LedgerCounts(ids, columns(row for row in rows if row[0] in ids), list(skipped.values()))

    def rows(self) -> list[CountRow]:
        """All counts, by index, stream and first draw; ranges that follow each other are one."""
        with self._snapshot():
            return [schema.count_row(row) for row in self._format.read_ranges(self._connection, self.path)]

    def close(self) -> None:
        """Close; after a clean close of the writer the ledger is one plain file. A second call does nothing."""
        self._cleanup.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _known(self, id: str, index: int) -> InputRow:
        """What is known of an input: one index has one name, and one name has one index."""
        if not isinstance(id, str) or not id.strip():
            raise LedgerError(f"id must be a name that is not empty, got {id!r}.")
        if not 0 <= index < MOST_INPUTS:
            raise LedgerError(f"index must be in 0..{MOST_INPUTS - 1}, got {index} for input {id!r}.")
        for row in schema.read_inputs(self._connection, self.path, 'WHERE "index" = ? OR id = ?', (index, id)):
            if row.id != id:
                raise LedgerError(f"Index {index} belongs to input {row.id!r} of this run, it cannot be {id!r} too.")
            if row.key != index:
                raise LedgerError(f"Input {id!r} has the index {row.key} in this run, it cannot have {index} too.")
            return row
        return InputRow(index, id, None, None)

    def _register(self, id: str, index: int, digest: str) -> None:
        known = self._known(id, index)
        if known.digest is None:
            schema.put_input(self._connection, known._replace(digest=digest))
        elif known.digest != digest:
            raise LedgerError(
                f"Input {id!r} is not the one that this run has drawn: its digest differs (the run has "
                f"{known.digest}, got {digest})."
            )

    def _skip(self, index: int, id: str, reason: str) -> None:
        known = self._known(id, index)
        if known.skipped is None:
            schema.put_input(self._connection, known._replace(skipped=reason))

    def _add(self, row: CountRow) -> None:
        """Add one range: refuse a draw that is there, join what it touches."""
        if row.stream.bins is None and len(row.counts) != self._classes:
            raise LedgerError(f"counts must hold {self._classes} integers in this run, got {len(row.counts)}.")
        known = next(schema.read_inputs(self._connection, self.path, 'WHERE "index" = ?', (row.index,)), None)
        if known is None or known.digest is None:
            raise LedgerError(f"Draws of the input with index {row.index} cannot be recorded: it is not registered.")
        joined = row
        for other in schema.ranges_near(self._connection, self.path, row):
            if max(other.first, row.first) < min(other.end, row.end):
                raise LedgerError(
                    f"Draws {row.first}..{row.end - 1} of {self._name(row)} cannot be recorded: draws "
                    f"{other.first}..{other.end - 1} are recorded already."
                )
            if other.end == row.first or other.first == row.end:
                schema.remove_range(self._connection, other)
                joined = joined + other if other.first == row.end else other + joined
        schema.put_range(self._connection, joined)
        if known.skipped is not None:
            schema.put_input(self._connection, known._replace(skipped=None))

    def _name(self, row: CountRow) -> str:
        name = next(each.id for each in self._format.read_inputs(self._connection, self.path) if each.key == row.index)
        return f"input {name!r}" if row.stream == SHARED else f"input {name!r}, stream {row.stream},"

    def _adopt(self, asked: dict[str, object], may_change: Callable[[str, Any, Any], bool] | None) -> None:
        """Continue with the header that is asked for, where it differs in nothing but what may change."""
        found = schema.differences(self.header, asked)
        refused = [each for each in found if may_change is None or not may_change(*each)]
        if refused:
            lines = "".join(f"\n  {each.text()}" for each in refused)
            raise LedgerError(f"{self.path.parent} holds a run with other settings, which cannot be continued:{lines}")
        if found:
            with self._transaction():
                schema.add_header(self._connection, schema.canonical(asked))
            self._history = schema.read_header(self._connection, self.path)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        if not self._writes:
            raise LedgerError(f"{self.path} is open for reading; only `create` and `resume` open it for writing.")
        with writing(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a failing disk has ended the transaction by itself
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """All queries inside see one state, whatever a writer adds meanwhile."""
        with reading(self.path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")


def _lock(folder: Path, cleanup: contextlib.ExitStack) -> None:
    """Let nobody else write until the cleanup; the system releases the lock when its holder ends, however it ends."""
    path = folder / LOCK_FILE
    lock = filelock.FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        with contextlib.suppress(OSError):
            number = path.read_text(encoding="ascii", errors="replace")
        who = f"process {number}" if number.isdigit() else "another process"
        sentence = f"{folder} is being written by {who}; wait until that ends, or stop it, and use --resume."
        raise LedgerError(sentence) from error
    except (OSError, NotImplementedError) as error:
        why = getattr(error, "strerror", None) or error
        raise LedgerError(f"{path} could not be written or locked ({why}); use a local disk.") from error
    cleanup.callback(lock.release)
    with contextlib.suppress(OSError):  # a courtesy to whoever is refused
        path.write_text(str(os.getpid()), encoding="ascii")


def create_file(folder: Path, bodies: Sequence[str]) -> None:
    """Put an empty ledger with these headers into `folder`, under its lock; a killed attempt leaves none."""
    temporary = folder / f".{LEDGER_FILE}.tmp"
    with writing(folder / LEDGER_FILE):
        for leftover in folder.glob(f"{temporary.name}*"):
            leftover.unlink()
        with contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            schema.create_tables(connection)
            for body in bodies:
                schema.add_header(connection, body)
        temporary.rename(folder / LEDGER_FILE)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # used by one thread at a time: a run writes from a thread of its own, which an interrupt does not reach
    address = f"{path.resolve().as_uri()}?mode={mode}"
    return sqlite3.connect(address, uri=True, isolation_level=None, timeout=_PATIENCE, check_same_thread=False)


def _keep_log(connection: sqlite3.Connection) -> None:
    """Every commit reaches the disk before it returns; readers are not in the way, where the file system allows it."""
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    with contextlib.suppress(sqlite3.OperationalError):  # no shared memory (network drives): a rollback journal serves
        connection.execute("PRAGMA journal_mode = WAL")


def _close_writer(connection: sqlite3.Connection) -> None:
    """Close; where nobody reads, the folder then holds one plain file that can be read from a read-only disk too."""
    for step in ("busy_timeout = 200", "wal_checkpoint(TRUNCATE)", "journal_mode = DELETE"):
        with contextlib.suppress(sqlite3.Error):  # what is committed is safe in the write-ahead log in any case
            connection.execute(f"PRAGMA {step}")
    connection.close()


def _open_reader(path: Path, cleanup: contextlib.ExitStack) -> sqlite3.Connection:
    """Open for reading, also beside an active writer, and in a folder where the reader may not write.

    What a killed writer leaves beside the file can be read in place only where SQLite may write there. Elsewhere the
    files are copied into a temporary folder first: no writer can be active, for SQLite would have waited for it, or
    found its index.
    """
    _require_file(path)
    beside = [path.with_name(path.name + suffix) for suffix in ("-wal", "-journal")]
    with reading(path):
        connection = cleanup.enter_context(contextlib.closing(_connect(path, "ro")))
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchall()
        except sqlite3.OperationalError:
            if os.access(path.parent, os.W_OK) and kind_of(beside[1]) is None:
                raise
        else:
            return connection
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        for file in (path, *(each for each in beside if kind_of(each) == "file")):
            shutil.copyfile(file, folder / file.name)
        return cleanup.enter_context(contextlib.closing(_connect(folder / path.name, "rw")))


def _require_file(path: Path) -> None:
    """Raise one sentence where there is no ledger, or an empty file."""
    with reading(path):
        if kind_of(path) != "file":
            raise LedgerError(f"{path.parent} holds no run: it has no {path.name}.")
        if path.stat().st_size == 0:
            raise LedgerError(f"{path} is empty: restore it from a copy, or remove it and start the run again.")
