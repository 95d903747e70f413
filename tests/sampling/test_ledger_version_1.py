"""Ledgers of version 0.1 can be read as they were written, and never be continued."""

import hashlib
import shutil
import sqlite3
import zlib

import pytest

from hybrid_rs_jax.sampling.ledger import LEDGER_FILE, SHARED, CountRow, Ledger, LedgerError, Stream, merge

#: The tables of format 1, without their triggers and constraints, which reading does not look at.
TABLES = """
PRAGMA application_id = 1213354828;
PRAGMA user_version = 1;
CREATE TABLE header (number INTEGER PRIMARY KEY, body TEXT NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE inputs (input INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, seal INTEGER NOT NULL);
CREATE TABLE skipped (
  input INTEGER, drawn INTEGER, id TEXT, reason TEXT, seal INTEGER, PRIMARY KEY (input, drawn)
) WITHOUT ROWID;
CREATE TABLE ranges (
  input INTEGER, budget INTEGER, first INTEGER, count INTEGER, successes INTEGER, ties INTEGER, seal INTEGER,
  PRIMARY KEY (input, budget, first)
) WITHOUT ROWID;
CREATE TABLE votes (
  input INTEGER, budget INTEGER, first INTEGER, label INTEGER, successes INTEGER, seal INTEGER,
  PRIMARY KEY (input, budget, first, label)
) WITHOUT ROWID;
"""
WEIGHTS = (1000003, 999983, 999979, 999961, 999959, 999953)


def sealed(*row):
    """A row of numbers with its weighted sum, in which NULL counts as -1."""
    return (
        *row,
        sum(weight * (-1 if number is None else number) for weight, number in zip(WEIGHTS, row, strict=False)),
    )


def named(*row):
    """A row that holds text, with the CRC-32 of its Python representation."""
    return (*row, zlib.crc32(repr(row).encode()))


def write(folder, header, ranges, votes=(), skipped=()):
    folder.mkdir()
    connection = sqlite3.connect(folder / LEDGER_FILE, isolation_level=None)
    connection.executescript(TABLES)
    connection.execute("INSERT INTO header VALUES (1, ?, ?)", (header, hashlib.sha256(header.encode()).hexdigest()))
    rows = [named(i, f"input {i}", f"digest {i}") for i in range(3)]
    connection.executemany("INSERT INTO inputs VALUES (?, ?, ?, ?)", rows)
    connection.executemany("INSERT INTO ranges VALUES (?, ?, ?, ?, ?, ?, ?)", [sealed(*row) for row in ranges])
    connection.executemany("INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?)", [sealed(*row) for row in votes])
    connection.executemany("INSERT INTO skipped VALUES (?, ?, ?, ?, ?)", [named(*row) for row in skipped])
    connection.close()
    return folder


@pytest.fixture
def old(tmp_path):
    ranges = [(0, -1, 0, 60, 50, 1), (0, -1, 60, 40, 40, 0), (1, -1, 0, 10, 5, 0), (1, -1, 20, 10, 5, 2)]
    skipped = [(1, 10, "input 1", "an earlier reason"), (2, 0, "input 2", "cut off"), (7, 0, "unread", "no picture")]
    return write(tmp_path / "old", '{"seed":0}', ranges, skipped=skipped)


def test_a_ledger_of_version_0_1_is_read(old):
    with Ledger.open(old) as ledger:
        assert (ledger.version, ledger.header) == (1, {"seed": 0})
        assert ledger.rows() == [
            CountRow(0, SHARED, 0, 100, (90,), 1),
            CountRow(1, SHARED, 0, 10, (5,)),
            CountRow(1, SHARED, 20, 10, (5,), 2),
        ]
        counts = ledger.counts()
        table = counts.streams[SHARED]
        assert (table.draws.tolist(), table.counts.tolist()) == ([100, 20], [[90], [10]])
        assert table.contiguous.tolist() == [True, False]
        assert counts.ids == {0: "input 0", 1: "input 1"}
        assert counts.skipped == [("input 2", "cut off"), ("unread", "no picture")]


def test_its_samples_per_budget_and_votes_per_class_are_streams(tmp_path):
    folder = write(tmp_path / "budgets", "{}", [(0, 0, 0, 10, 9, 0), (0, 12, 0, 20, 8, 0)])
    with Ledger.open(folder) as ledger:
        assert ledger.rows() == [
            CountRow(0, Stream("budget", (0,)), 0, 10, (9,)),
            CountRow(0, Stream("budget", (12,)), 0, 20, (8,)),
        ]
    votes = [(0, -1, 0, 1, 7), (0, -1, 10, 1, 1), (0, -1, 10, 2, 4)]
    ranges = [(0, -1, 0, 10, None, 0), (0, -1, 10, 5, None, 1), (1, -1, 0, 4, None, 4)]
    folder = write(tmp_path / "votes", '{"classes":3}', ranges, votes)
    with Ledger.open(folder) as ledger:
        assert ledger.counts().streams[SHARED].counts.tolist() == [[0, 8, 4], [0, 0, 0]]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ranges SET successes = 51 WHERE first = 0 AND input = 0",
        "UPDATE inputs SET id = 'x' WHERE input = 0",
        "UPDATE skipped SET reason = 'x' WHERE input = 2",
        "UPDATE header SET body = '{}'",
    ],
)
def test_a_changed_value_in_it_is_noticed(old, change):
    connection = sqlite3.connect(old / LEDGER_FILE, isolation_level=None)
    connection.execute(change)
    connection.close()
    sentence = r"^[^\n]*is damaged[^\n]*does not match its (checksum|digest)[^\n]*\.$"
    with pytest.raises(LedgerError, match=sentence), Ledger.open(old) as ledger:
        ledger.counts()


def test_it_is_neither_continued_nor_merged(old, tmp_path):
    before = (old / LEDGER_FILE).read_bytes()
    with pytest.raises(
        LedgerError, match=r"^[^\n]*version 0\.1, whose noise was another one[^\n]*cannot be continued\.$"
    ):
        Ledger.resume(old, {"seed": 0})
    with Ledger.create(tmp_path / "new", {"seed": 0}):
        pass
    shutil.copytree(old, tmp_path / "second")
    for sources in ([old, tmp_path / "new"], [tmp_path / "new", old], [old, tmp_path / "second"]):
        with pytest.raises(LedgerError, match=r"version 0\.1, whose noise was another one[^\n]*cannot be merged\.$"):
            merge(tmp_path / "all", sources)
    assert not (tmp_path / "all").exists()
    assert (old / LEDGER_FILE).read_bytes() == before
