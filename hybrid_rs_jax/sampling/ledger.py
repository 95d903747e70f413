"""The ledger of a run: an append-only store of Monte Carlo counts that outlives kills, full disks and restarts."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid_rs_jax.sampling._ledger_columns import (
    LedgerCounts,
    Record,
    RecordColumns,
    Tally,
    read_counts,
    read_records,
    read_tallies,
)
from hybrid_rs_jax.sampling._ledger_errors import LedgerError, reading, writing
from hybrid_rs_jax.sampling._ledger_files import (
    LEDGER_FILE,
    add_header,
    close_writer,
    create_file,
    open_reader,
    open_writer,
    read_history,
)
from hybrid_rs_jax.sampling._ledger_header import canonical, difference_text, differences
from hybrid_rs_jax.sampling._ledger_lock import WriterLock
from hybrid_rs_jax.sampling._ledger_merge import merge
from hybrid_rs_jax.sampling._ledger_rows import add_inputs, add_records, add_skip

__all__ = ["LEDGER_FILE", "Ledger", "LedgerCounts", "LedgerError", "Record", "RecordColumns", "Tally", "merge"]


class Ledger:
    """Counts of one run, in the SQLite file `ledger.sqlite` of its folder (on a local disk).

    Made by `create`, `resume` or `open`; a context manager. Every `append` is one transaction that is on the disk when
    it returns: whatever ends the process, all of it is there or nothing. The database itself refuses to change or
    remove a row, to hold one draw twice, and more successes than draws; each row carries a checksum.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "run"
    >>> with Ledger.create(folder, {"seed": 0}) as ledger:
    ...     ledger.register([("first input", 0, "digest of its tokens and pixels")])
    ...     ledger.append([Record(input=0, budget=None, first=0, count=100, successes=97)])
    >>> with Ledger.resume(folder, {"seed": 0}) as ledger:
    ...     ledger.tallies()[0, None]
    Tally(first=0, drawn=100, successes=97, ties=0)
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        history: list[str],
        cleanup: contextlib.ExitStack,
        writes: bool,
    ) -> None:
        self.path = path
        self._connection = connection
        self._history = history
        self._cleanup = cleanup
        self._writes = writes
        self._classes: int | None = self.header.get("classes")

    @classmethod
    def create(cls, folder: Path, header: Mapping[str, Any]) -> Ledger:
        """Start a run: make `folder` where it does not exist, and an empty ledger in it.

        Args:
          folder: the run folder.
          header: everything that defines the noise and the classifier, as plain JSON; `classes` is the number of
            classes where votes are counted per class, else None or absent.

        Raises:
          LedgerError: if the folder holds a run already or cannot be written, or the header is no plain JSON.
        """
        folder, body = Path(folder), canonical(header)
        path = folder / LEDGER_FILE
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(WriterLock(folder).release)
            if path.exists():
                raise LedgerError(f"{folder} already holds a run; --resume continues it.")
            create_file(folder, [body])
            return cls._writer(path, cleanup.pop_all())

    @classmethod
    def resume(
        cls,
        folder: Path,
        header: Mapping[str, Any],
        may_change: Callable[[str, Any, Any], bool] | None = None,
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
        asked = json.loads(canonical(header))
        with contextlib.ExitStack() as cleanup:
            if (folder / LEDGER_FILE).is_file():
                cleanup.callback(WriterLock(folder).release)
            ledger = cls._writer(folder / LEDGER_FILE, cleanup.pop_all())
        try:
            ledger._adopt(asked, may_change)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def open(cls, folder: Path) -> Ledger:
        """Open a run for reading, also while another process writes it, and in a folder that is read-only.

        Raises:
          LedgerError: if there is no ledger, or it is damaged or of another version.
        """
        path = Path(folder) / LEDGER_FILE
        with contextlib.ExitStack() as cleanup:
            connection = open_reader(path, cleanup)
            history = read_history(connection, path)
            return cls(path, connection, history, cleanup.pop_all(), writes=False)

    @classmethod
    def _writer(cls, path: Path, cleanup: contextlib.ExitStack) -> Ledger:
        with cleanup:
            connection = open_writer(path)
            cleanup.callback(close_writer, connection)
            history = read_history(connection, path)
            return cls(path, connection, history, cleanup.pop_all(), writes=True)

    @property
    def header(self) -> dict[str, Any]:
        """The header in force (a copy)."""
        return json.loads(self._history[-1])

    @property
    def history(self) -> list[dict[str, Any]]:
        """All headers, in order: more than one where a `resume` was allowed to change something."""
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
            add_inputs(self._connection, inputs)

    def append(self, records: Iterable[Record | Sequence[Any]]) -> None:
        """Add counts in one transaction: when this returns all of them are on the disk, when it raises none is.

        Args:
          records: (input, budget, first, count, successes, ties) each, see `Record`.

        Raises:
          LedgerError: if a draw is recorded already, a number is out of range, or an input is not registered;
            or if the disk is full or fails: then all that was appended before is kept.
        """
        with self._transaction():
            add_records(self._connection, records, self._classes)

    def skip(self, index: int, id: str, reason: str) -> None:
        """Note that an input could not be read or classified; it need not be registered.

        It is left out of `counts` unless more of it is drawn later: a resumed run may try again. Of two reasons with no
        draw between them the first one stays.
        """
        with self._transaction():
            add_skip(self._connection, index, id, reason)

    def tallies(self) -> dict[tuple[int, int | None], Tally]:
        """What has been drawn, by (input index, budget): where to go on, for skipped inputs too.

        Raises:
          LedgerError: if the draws of an input have a gap (which is named).
        """
        with self._snapshot():
            return read_tallies(self._connection, self._classes)

    def counts(self) -> LedgerCounts:
        """Total counts in columns, one row per (input, budget) that has draws."""
        with self._snapshot():
            return read_counts(self._connection, self._classes)

    def records(self) -> RecordColumns:
        """Everything that was appended, in columns, by input, budget and first draw."""
        with self._snapshot():
            return read_records(self._connection)

    def close(self) -> None:
        """Close; after a clean close of the writer the folder holds one file. A second call does nothing."""
        self._cleanup.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _adopt(self, asked: dict[str, Any], may_change: Callable[[str, Any, Any], bool] | None) -> None:
        """Continue with the header that is asked for, where it differs in nothing but what may change."""
        found = differences(self.header, asked)
        refused = [each for each in found if may_change is None or not may_change(*each)]
        if refused:
            lines = "\n  ".join(difference_text(each) for each in refused)
            raise LedgerError(
                f"{self.path.parent} holds a run with other settings, which cannot be continued:\n  {lines}"
            )
        if found:
            with self._transaction():
                add_header(self._connection, canonical(asked))
            self._history = read_history(self._connection, self.path)

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
