"""A ledger that is not what was written is refused; it never gives other counts."""

import random
import sqlite3

import pytest

from hybrid_rs_jax.sampling.ledger import LEDGER_FILE, SHARED, CountRow, Ledger, LedgerError

HEADERS = {"successes": {"seed": 1}, "votes": {"seed": 1, "classes": 3}}


@pytest.fixture(scope="module", params=HEADERS)
def run(request, tmp_path_factory):
    """A folder, the bytes of its ledger and what it holds."""
    folder = tmp_path_factory.mktemp("damage") / "run"
    header = HEADERS[request.param]
    with Ledger.create(folder, header) as ledger:
        ledger.register((f"input {i}", i, f"digest {i}") for i in range(60))
        for i in range(50):
            counts = (i % 7, 100 - i, 3) if "classes" in header else (80 + i % 20,)
            ledger.append([CountRow(i, SHARED, 300 * k, 200, counts, i % 3) for k in range(8)])
        ledger.skip(55, "input 55", "its file is cut off")
    return folder, (folder / LEDGER_FILE).read_bytes(), content(folder)


def content(folder):
    with Ledger.open(folder) as ledger:
        counts = ledger.counts()
        columns = counts.streams[SHARED].counts.tolist()
        return ledger.history, ledger.rows(), columns, counts.ids, counts.skipped, counts.undrawn


def outcome(folder, data):
    """What the ledger gives, None where it is refused in one sentence that names the file."""
    (folder / LEDGER_FILE).write_bytes(data)
    try:
        return content(folder)
    except LedgerError as error:
        sentence = str(error)
        assert sentence.startswith(str(folder / LEDGER_FILE))
        assert sentence.endswith(".")
        return None


def test_a_cut_off_ledger_is_refused(run):
    folder, data, _ = run
    generator = random.Random(0)
    for length in [1, 15, 16, 99, 100, 4095, 4096, len(data) - 1, *(generator.randrange(len(data)) for _ in range(60))]:
        assert outcome(folder, data[:length]) is None, length


def test_flipped_bytes_are_refused_or_change_nothing(run):
    folder, data, written = run
    generator = random.Random(1)
    refused = 0
    for _ in range(120):
        at = generator.randrange(len(data))
        broken = bytearray(data)
        broken[at] ^= generator.choice([1 << generator.randrange(8), generator.randrange(1, 256)])
        found = outcome(folder, bytes(broken))
        assert found in (None, written), at
        refused += found is None
    assert refused > 30  # the others hit space that holds no data


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ranges SET counts = '[81]' WHERE \"index\" = 9 AND first = 600",
        'UPDATE ranges SET ties = ties + 1 WHERE "index" = 9 AND first = 600',
        'UPDATE ranges SET draws = draws - 1, first = first + 1 WHERE "index" = 9 AND first = 600',
        'UPDATE ranges SET "index" = 58 WHERE "index" = 9 AND first = 600',
        "UPDATE ranges SET stream = 'law:7' WHERE \"index\" = 9 AND first = 600",
        'UPDATE ranges SET crc = 0 WHERE "index" = 9 AND first = 600',
        "UPDATE inputs SET id = 'x' WHERE \"index\" = 9",
        "UPDATE inputs SET skipped = 'x' WHERE \"index\" = 9",
        "UPDATE header SET body = '{\"seed\":2}'",
    ],
)
def test_every_changed_value_is_noticed(run, change):
    """Values that are changed so that the database stays well-formed: SQLite itself sees nothing wrong."""
    folder, data, _ = run
    (folder / LEDGER_FILE).write_bytes(data)
    stranger = sqlite3.connect(folder / LEDGER_FILE, isolation_level=None)
    assert stranger.execute(change).rowcount == 1
    stranger.close()
    with pytest.raises(LedgerError, match=r"is damaged .*a row of \w+ does not match its checksum"):
        content(folder)


def test_a_damaged_range_is_not_joined_with_what_follows(run):
    folder, data, written = run
    (folder / LEDGER_FILE).write_bytes(data)
    stranger = sqlite3.connect(folder / LEDGER_FILE, isolation_level=None)
    stranger.execute('UPDATE ranges SET ties = 4 WHERE "index" = 9 AND first = 600')
    stranger.close()
    with Ledger.resume(folder, written[0][0]) as ledger:
        follows = CountRow(9, SHARED, 800, 5, (0,) * ledger.header.get("classes", 1))
        with pytest.raises(LedgerError, match="does not match its checksum"):
            ledger.append([follows])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ranges SET ties = draws + 1",
        "UPDATE ranges SET draws = 0",
        "UPDATE ranges SET first = -1",
        "UPDATE ranges SET first = 1.5",
        "UPDATE ranges SET counts = 7",
        "UPDATE ranges SET first = 1 << 40",
        'UPDATE inputs SET "index" = -1 WHERE "index" = 0',
        "UPDATE inputs SET id = 'input 1' WHERE \"index\" = 0",
    ],
)
def test_the_database_itself_refuses_numbers_that_cannot_be(run, statement):
    folder, data, _ = run
    (folder / LEDGER_FILE).write_bytes(data)
    stranger = sqlite3.connect(folder / LEDGER_FILE, isolation_level=None)
    with pytest.raises(sqlite3.IntegrityError):
        stranger.execute(statement)
    stranger.close()


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("DROP TABLE ranges", "it has no table ranges"),
        ("PRAGMA user_version = 3", "has ledger format 3, this version of hybrid_rs_jax reads formats 1 and 2"),
        ("PRAGMA application_id = 7", "it is not marked as one of hybrid_rs_jax"),
        ("DELETE FROM header", "it has no header"),
        ("INSERT INTO header VALUES (2, '{}', 0)", "a row of header does not match its checksum"),
    ],
)
def test_a_database_that_is_not_a_whole_ledger_is_refused(run, statement, sentence):
    folder, data, _ = run
    (folder / LEDGER_FILE).write_bytes(data)
    stranger = sqlite3.connect(folder / LEDGER_FILE, isolation_level=None)
    stranger.execute(statement)
    stranger.close()
    for attempt in (lambda: Ledger.open(folder), lambda: Ledger.resume(folder, {"seed": 1})):
        with pytest.raises(LedgerError, match=rf"^[^\n]*{sentence}[^\n]*\.$"):
            attempt()


def test_foreign_files_are_refused(tmp_path):
    foreign = sqlite3.connect(tmp_path / "foreign", isolation_level=None)
    foreign.execute("CREATE TABLE header (number)")
    foreign.close()
    for data, sentence in (
        (b"", "is empty"),
        (b"id,successes,n\na,1,2\n" * 100, "is damaged or is no ledger"),
        (b"short", "is damaged or is no ledger"),
        ((tmp_path / "foreign").read_bytes(), "it is not marked as one of hybrid_rs_jax"),
    ):
        (tmp_path / LEDGER_FILE).write_bytes(data)
        for attempt in (lambda: Ledger.open(tmp_path), lambda: Ledger.resume(tmp_path, {})):
            with pytest.raises(LedgerError, match=sentence):
                attempt()
        with pytest.raises(LedgerError, match="already holds a run"):
            Ledger.create(tmp_path, {})
        assert (tmp_path / LEDGER_FILE).read_bytes() == data
