"""The file of a ledger: its tables, the checksum of each row, and reading rows that are what was written.

Format 2, an SQLite database with `PRAGMA application_id = 0x4852534C` ("HRSL") and `PRAGMA user_version = 2`:

    header   number, body        versions of the run's header (JSON), the last one is in force
    inputs   index, id, digest, skipped
                                 digest: of tokens, pixels and mask, NULL before it was read; skipped: the reason why
                                 the run gave the input up, NULL while it is in use
    ranges   index, stream, first, draws, counts, ties
                                 counts of the draws first..first + draws - 1, a JSON array of K integers; two ranges
                                 of an index and stream neither overlap nor touch (what follows is joined)

Each table has a last column `crc`: the CRC-32 of the row's other values as text, joined by U+001F. SQLite finds what
breaks its own structure, the checksum finds a changed value inside. It belongs to a row and not to a transaction,
because rows are what is read, joined and merged: each is checked when it is read, also before it is joined.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hybrid_rs_jax.errors import LedgerError
from hybrid_rs_jax.sampling.ledger.counts import MOST_DRAWS, MOST_INPUTS, CountRow, Stream

VERSION = 2
#: Characters of a value in a sentence.
_LONGEST_SHOWN = 70
#: Marks a database as a ledger of this package.
APPLICATION = int.from_bytes(b"HRSL", "big")

_TABLES = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
CREATE TABLE header (number INTEGER PRIMARY KEY, body TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE inputs (
  "index" INTEGER PRIMARY KEY CHECK ("index" BETWEEN 0 AND {MOST_INPUTS - 1}),
  id TEXT NOT NULL UNIQUE, digest TEXT, skipped TEXT, crc INTEGER NOT NULL
);
CREATE TABLE ranges (
  "index" INTEGER NOT NULL CHECK (typeof("index") = 'integer') REFERENCES inputs,
  stream TEXT NOT NULL CHECK (typeof(stream) = 'text'),
  first INTEGER NOT NULL CHECK (typeof(first) = 'integer' AND first >= 0),
  draws INTEGER NOT NULL CHECK (typeof(draws) = 'integer' AND draws >= 1 AND first + draws <= {MOST_DRAWS}),
  counts TEXT NOT NULL CHECK (counts LIKE '[%]'),
  ties INTEGER NOT NULL CHECK (typeof(ties) = 'integer' AND ties BETWEEN 0 AND draws),
  crc INTEGER NOT NULL,
  PRIMARY KEY ("index", stream, first)
) WITHOUT ROWID;
"""


class InputRow(NamedTuple):
    """An input as the ledger knows it; see the module for `digest` and `skipped`."""

    key: int
    id: str
    digest: str | None
    skipped: str | None


#: index, stream, first, draws, counts (JSON), ties: as in the file.
RangeRow = tuple[int, str, int, int, str, int]


def checksum(values: Iterable[object]) -> int:
    """CRC-32 of a row without its last column."""
    return zlib.crc32("\x1f".join(map(str, values)).encode("utf-8", "surrogatepass"))


def create_tables(connection: sqlite3.Connection) -> None:
    """Make an empty database a ledger."""
    connection.executescript(_TABLES)


def file_version(connection: sqlite3.Connection, path: Path) -> int:
    """The format of a ledger, 1 or 2, after SQLite has checked the structure of the file.

    Raises:
      LedgerError: if it is no ledger, of a later format, or broken.
    """
    ((application,),) = connection.execute("PRAGMA application_id")
    if application != APPLICATION:
        raise damaged(path, "it is not marked as one of hybrid_rs_jax")
    ((version,),) = connection.execute("PRAGMA user_version")
    if version not in (1, VERSION):
        raise LedgerError(
            f"{path} has ledger format {version}, this version of hybrid_rs_jax reads formats 1 and {VERSION}; "
            "use the version of the package that wrote it."
        )
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if missing := sorted({"header", "inputs", "ranges"} - tables):
        raise damaged(path, f"it has no table {missing[0]}")
    ((verdict,),) = connection.execute("PRAGMA integrity_check(1)")
    if verdict != "ok":
        raise damaged(path, str(verdict).rstrip("."))
    return version


def add_header(connection: sqlite3.Connection, body: str) -> None:
    """Add a version of the header."""
    ((number,),) = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM header")
    connection.execute("INSERT INTO header VALUES (?, ?, ?)", (number, body, checksum((number, body))))


def put_input(connection: sqlite3.Connection, row: InputRow) -> None:
    """Add an input, or write what has become known of it."""
    connection.execute("INSERT OR REPLACE INTO inputs VALUES (?, ?, ?, ?, ?)", (*row, checksum(row)))


def put_range(connection: sqlite3.Connection, row: CountRow) -> None:
    """Add a range."""
    counts = json.dumps(row.counts, separators=(",", ":"))
    values = (row.index, str(row.stream), row.first, row.draws, counts, row.ties)
    connection.execute("INSERT INTO ranges VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, checksum(values)))


def remove_range(connection: sqlite3.Connection, row: CountRow) -> None:
    """Take a range out, of which a joined one is put in."""
    place = (row.index, str(row.stream), row.first)
    connection.execute('DELETE FROM ranges WHERE "index" = ? AND stream = ? AND first = ?', place)


def ranges_near(connection: sqlite3.Connection, path: Path, row: CountRow) -> list[CountRow]:
    """The ranges that could overlap or touch `row`: of those that begin at or before its end at most two."""
    where = 'WHERE "index" = ? AND stream = ? AND first <= ? ORDER BY first DESC LIMIT 2'
    return [*map(count_row, read_ranges(connection, path, where, (row.index, str(row.stream), row.end)))]


def read_header(connection: sqlite3.Connection, path: Path) -> list[str]:
    """All versions of the header, in order."""
    bodies = [body for _, body in _checked(connection, path, "header", "ORDER BY number")]
    if not bodies:
        raise damaged(path, "it has no header")
    return bodies


def read_inputs(
    connection: sqlite3.Connection, path: Path, where: str = "", values: tuple[object, ...] = ()
) -> Iterator[InputRow]:
    """Inputs by index."""
    return itertools.starmap(InputRow, _checked(connection, path, "inputs", f'{where} ORDER BY "index"', values))


def read_ranges(
    connection: sqlite3.Connection, path: Path, where: str = "", values: tuple[object, ...] = ()
) -> Iterator[RangeRow]:
    """Ranges by index, stream and first draw, or as `where` says."""
    return _checked(connection, path, "ranges", where or 'ORDER BY "index", stream, first', values)


def count_row(row: RangeRow) -> CountRow:
    """A row of the file, typed."""
    index, stream, first, draws, counts, ties = row
    return CountRow(index, Stream.parse(stream), first, draws, tuple(json.loads(counts)), ties)


def _checked(
    connection: sqlite3.Connection, path: Path, table: str, rest: str, values: tuple[object, ...] = ()
) -> Iterator[Any]:
    """Rows of a table, without their checksums."""
    for row in connection.execute(f"SELECT * FROM {table} {rest}", values):
        if row[-1] != checksum(row[:-1]):
            raise damaged(path, f"a row of {table} does not match its checksum")
        yield row[:-1]


class Difference(NamedTuple):
    """One field that two headers do not agree on: its dotted name, the value of the run, the value asked for."""

    name: str
    had: Any
    asked: Any

    def text(self, first: str = "the run has", second: str = "asked is") -> str:
        """One line, such as "smoothing.sigma: the run has 0.25, asked is 0.5"."""
        return f"{self.name}: {first} {_short(self.had)}, {second} {_short(self.asked)}"


def canonical(header: Mapping[str, Any]) -> str:
    """The header as JSON with sorted keys: equal headers give equal text.

    Raises:
      LedgerError: if it holds something that JSON has no word for (NaN, an array, an object).
    """
    try:
        return json.dumps(dict(header), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise LedgerError(f"The header of a run must be plain JSON, got one where {error}.") from error


def differences(had: Any, asked: Any, name: str = "") -> list[Difference]:
    """Fields that differ; a field that one side does not have is None there."""
    if isinstance(had, dict) and isinstance(asked, dict):
        inner = ((f"{name}.{key}" if name else key, key) for key in sorted(had.keys() | asked.keys()))
        return [each for dotted, key in inner for each in differences(had.get(key), asked.get(key), dotted)]
    if isinstance(had, list) and isinstance(asked, list) and len(had) == len(asked):
        pairs = enumerate(zip(had, asked, strict=True))
        return [each for place, pair in pairs for each in differences(*pair, f"{name}[{place}]")]
    # True equals 1 in Python, not in JSON
    same = had == asked and isinstance(had, bool) == isinstance(asked, bool)
    return [] if same else [Difference(name, had, asked)]


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= _LONGEST_SHOWN:
        return text
    return f"{text[: _LONGEST_SHOWN - 3]}..." + (f" ({len(value)} entries)" if isinstance(value, list) else "")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full disk, a read-only folder or an I/O error while writing: what was committed before is not touched."""
    try:
        yield
    except (sqlite3.DatabaseError, OSError) as error:
        raise LedgerError(
            f"{path} could not be written ({_reason(error)}); everything recorded before is kept, "
            "and --resume continues the run once the cause is gone."
        ) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """A file that is no database, a broken one, or one that the system does not let us read."""
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        raise LedgerError(
            f"{path} could not be read ({_reason(error)}); check the disk and the permissions."
        ) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise damaged(path, _reason(error)) from error


def damaged(path: Path, why: str) -> LedgerError:
    """The error of a file that must not be believed."""
    return LedgerError(
        f"{path} is damaged or is no ledger ({why}); restore it from a copy, or move it away and start the run again."
    )


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).rstrip(".")
