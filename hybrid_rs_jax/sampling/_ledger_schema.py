"""The tables of a ledger, and the checks that a file must pass before its counts are believed."""

from __future__ import annotations

import functools
import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path

from hybrid_rs_jax.sampling._ledger_errors import LedgerError, damaged

__all__ = ["ADD_RANGE", "ADD_VOTE", "MOST_INPUTS", "SHARED", "VERSION", "check_file", "create_tables", "text_seal"]

VERSION = 1
#: Marks a database as a ledger of this package.
APPLICATION = int.from_bytes(b"HRSL", "big")
#: Stands in the column `budget` for "one sample for all budgets": a NULL would never equal itself.
SHARED = -1
MOST_INPUTS = 2**31
_MOST_DRAWS = 2**40
_TABLES = ("header", "inputs", "skipped", "ranges", "votes")

# A seal is a weighted sum of a row's numbers, with weights that are prime: no single number of the row can change
# without it, nor two by less than a million. It finds the flipped bits that leave the database well-formed, which
# SQLite itself would not see. The bounds on the numbers keep the sum inside of 64 bits.
_WEIGHTS = (1000003, 999983, 999979, 999961, 999959, 999953)
_RANGE = ("input", "budget", "first", "count", "successes", "ties")
_VOTE = ("input", "budget", "first", "label", "successes")


def _seal(names: Sequence[str]) -> str:
    """SQL of the seal of a row of numbers; a NULL counts as -1."""
    return " + ".join(f"{weight} * coalesce({name}, -1)" for weight, name in zip(_WEIGHTS, names, strict=False))


def _insert(table: str, names: Sequence[str]) -> str:
    row = ", ".join(f"? AS {name}" for name in names)
    return f"INSERT INTO {table} SELECT *, {_seal(names)} FROM (SELECT {row})"


#: Statements that add a row with its seal.
ADD_RANGE, ADD_VOTE = _insert("ranges", _RANGE), _insert("votes", _VOTE)


def text_seal(*values: object) -> int:
    """Checksum of a row that holds text; SQLite cannot compute it."""
    return zlib.crc32(repr(values).encode("utf-8", "surrogatepass"))


def _integers(*names: str) -> str:
    return ", ".join(f"CONSTRAINT \"{name} must be an integer\" CHECK (typeof({name}) = 'integer')" for name in names)


# The text is compared with that of the file: any change here, even of a space, needs a new VERSION.
_SCHEMA = f"""
CREATE TABLE header (number INTEGER PRIMARY KEY, body TEXT NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE inputs (
  input INTEGER PRIMARY KEY CHECK (input >= 0 AND input < {MOST_INPUTS}),
  id TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, seal INTEGER NOT NULL
);
CREATE TABLE skipped (
  input INTEGER NOT NULL CHECK (input >= 0 AND input < {MOST_INPUTS}),
  drawn INTEGER NOT NULL, id TEXT NOT NULL, reason TEXT NOT NULL, seal INTEGER NOT NULL,
  PRIMARY KEY (input, drawn)
) WITHOUT ROWID;
CREATE TABLE ranges (
  input INTEGER NOT NULL REFERENCES inputs, budget INTEGER NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL,
  successes INTEGER, ties INTEGER NOT NULL, seal INTEGER NOT NULL,
  PRIMARY KEY (input, budget, first),
  {_integers("input", "budget", "first", "count", "ties")},
  CONSTRAINT "budget must be None or in 0..1000" CHECK (budget BETWEEN {SHARED} AND 1000),
  CONSTRAINT "first must be at least 0" CHECK (first >= 0),
  CONSTRAINT "count must be at least 1" CHECK (count >= 1),
  CONSTRAINT "first + count must be at most 2**40" CHECK (first <= {_MOST_DRAWS} AND first + count <= {_MOST_DRAWS}),
  CONSTRAINT "successes must be an integer in 0..count" CHECK (
    successes IS NULL OR (typeof(successes) = 'integer' AND successes BETWEEN 0 AND count)),
  CONSTRAINT "ties must be in 0..count" CHECK (ties BETWEEN 0 AND count)
) WITHOUT ROWID;
CREATE TABLE votes (
  input INTEGER NOT NULL, budget INTEGER NOT NULL, first INTEGER NOT NULL, label INTEGER NOT NULL,
  successes INTEGER NOT NULL, seal INTEGER NOT NULL,
  PRIMARY KEY (input, budget, first, label),
  FOREIGN KEY (input, budget, first) REFERENCES ranges DEFERRABLE INITIALLY DEFERRED,
  {_integers("input", "budget", "first", "label", "successes")},
  CONSTRAINT "votes must be at least 0" CHECK (label >= 0 AND successes >= 1 AND successes <= {_MOST_DRAWS})
) WITHOUT ROWID;

CREATE TRIGGER ranges_apart BEFORE INSERT ON ranges WHEN (
  SELECT first + count FROM ranges
  WHERE input = NEW.input AND budget = NEW.budget AND first < NEW.first + NEW.count ORDER BY first DESC LIMIT 1
) > NEW.first BEGIN SELECT RAISE(ABORT, 'some of these draws are recorded already'); END;
CREATE TRIGGER ranges_known BEFORE INSERT ON ranges WHEN NOT EXISTS (SELECT 1 FROM inputs WHERE input = NEW.input)
BEGIN SELECT RAISE(ABORT, 'the input is not registered'); END;
CREATE TRIGGER ranges_votes AFTER INSERT ON ranges
WHEN NEW.successes IS NULL AND NEW.count < (
  SELECT total(successes) FROM votes WHERE input = NEW.input AND budget = NEW.budget AND first = NEW.first
) BEGIN SELECT RAISE(ABORT, 'the votes must add up to at most count'); END;
CREATE TRIGGER votes_before_range BEFORE INSERT ON votes
WHEN EXISTS (SELECT 1 FROM ranges WHERE input = NEW.input AND budget = NEW.budget AND first = NEW.first)
BEGIN SELECT RAISE(ABORT, 'some of these draws are recorded already'); END;
CREATE TRIGGER header_grows BEFORE INSERT ON header WHEN EXISTS (SELECT 1 FROM header WHERE number >= NEW.number)
BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;
CREATE TRIGGER inputs_once BEFORE INSERT ON inputs
WHEN EXISTS (SELECT 1 FROM inputs WHERE input = NEW.input OR id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;
CREATE TRIGGER skipped_once BEFORE INSERT ON skipped
WHEN EXISTS (SELECT 1 FROM skipped WHERE input = NEW.input AND drawn = NEW.drawn)
BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;
""" + "".join(
    f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
    "BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;\n"
    for table in _TABLES
    for verb in ("UPDATE", "DELETE")
)


def create_tables(connection: sqlite3.Connection) -> None:
    """Make an empty database a ledger."""
    connection.executescript(f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; {_SCHEMA}")


def check_file(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse what is no ledger, a ledger of another version, or a damaged one.

    Raises:
      LedgerError: one sentence that says what is wrong and what to do.
    """
    ((application,),) = connection.execute("PRAGMA application_id")
    if application != APPLICATION:
        raise damaged(path, "it is not marked as one of hybrid_rs_jax")
    ((version,),) = connection.execute("PRAGMA user_version")
    if version != VERSION:
        raise LedgerError(
            f"{path} has ledger format {version}, this version of hybrid_rs_jax reads format {VERSION}; "
            "use the version of the package that wrote it."
        )
    if _objects(connection) != _expected_objects():
        raise damaged(path, "its tables or triggers are not those of a ledger")
    ((verdict,),) = connection.execute("PRAGMA integrity_check(1)")
    if verdict != "ok":
        raise damaged(path, str(verdict).rstrip("."))
    for table, columns in (("ranges", _RANGE), ("votes", _VOTE)):
        if connection.execute(f"SELECT 1 FROM {table} WHERE seal IS NOT {_seal(columns)} LIMIT 1").fetchall():
            raise damaged(path, f"a row of {table} does not match its checksum")
    for table in ("inputs", "skipped"):
        for *row, seal in connection.execute(f"SELECT * FROM {table}"):
            if seal != text_seal(*row):
                raise damaged(path, f"a row of {table} does not match its checksum")


def _objects(connection: sqlite3.Connection) -> set[tuple[str, ...]]:
    return set(connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


@functools.cache
def _expected_objects() -> set[tuple[str, ...]]:
    connection = sqlite3.connect(":memory:")
    try:
        create_tables(connection)
        return _objects(connection)
    finally:
        connection.close()
