"""Killed, out of space, not allowed to write, two at once: what was recorded stays, and nothing is half there."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import filelock
import pytest
from ledger_child import COUNT, INPUTS, block, successes

from hybrid_rs_jax.sampling.ledger import LEDGER_FILE, LOCK_FILE, SHARED, CountRow, Ledger, LedgerError

CHILD = Path(__file__).with_name("ledger_child.py")
HEADER = {"seed": 1}


def create(folder):
    with Ledger.create(folder, HEADER) as ledger:
        ledger.register((f"input {i}", i, f"digest {i}") for i in range(INPUTS))


def expected(blocks):
    """What a ledger with so many whole blocks holds."""
    totals = [(sum(successes(i, k) for k in range(blocks)), sum(k % 3 for k in range(blocks))) for i in range(INPUTS)]
    return [CountRow(i, SHARED, 0, COUNT * blocks, (k,), ties) for i, (k, ties) in enumerate(totals) if blocks]


def child(*arguments):
    command = [sys.executable, str(CHILD), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)


def start_writer(folder):
    return subprocess.Popen([sys.executable, str(CHILD), "append", str(folder)], stdout=subprocess.PIPE, bufsize=0)


def wait_for(writer, blocks):
    """Until the writer has acknowledged so many blocks; what it has said."""
    told = b""
    while told.count(b"\n") < blocks:
        part = writer.stdout.read(1)
        assert part, "the writer ended by itself"
        told += part
    return told


def kill(process):
    """SIGKILL; what it had acknowledged until then."""
    os.kill(process.pid, signal.SIGKILL)
    with process.stdout:
        told = process.stdout.read()
    process.wait(timeout=600)
    return told


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_writer_loses_nothing_that_it_acknowledged_and_leaves_nothing_half(tmp_path, seed):
    generator = random.Random(seed)
    folder = tmp_path / "run"
    create(folder)
    blocks = 0
    for attempt in range(10):
        writer = start_writer(folder)
        told = wait_for(writer, 1)
        time.sleep(generator.uniform(0, 0.02))
        told += kill(writer)
        acknowledged = int(told.split()[-1]) + 1
        with Ledger.open(folder) if attempt % 2 else Ledger.resume(folder, HEADER) as ledger:
            rows = ledger.rows()
        blocks, before = rows[0].draws // COUNT, blocks
        assert before < acknowledged <= blocks <= acknowledged + 1
        assert rows == expected(blocks)


def test_a_log_that_is_cut_off_or_flipped_gives_a_beginning_of_what_was_written(tmp_path):
    folder = tmp_path / "run"
    create(folder)
    writer = start_writer(folder)
    wait_for(writer, 20)
    kill(writer)
    log = folder / f"{LEDGER_FILE}-wal"
    written, data = log.read_bytes(), (folder / LEDGER_FILE).read_bytes()
    generator, seen = random.Random(0), set()
    for trial in range(40):
        broken = bytearray(written)
        at = generator.randrange(len(written))
        broken[at] ^= 1 << generator.randrange(8)
        copy = tmp_path / f"copy {trial}"
        copy.mkdir()
        (copy / LEDGER_FILE).write_bytes(data)
        (copy / log.name).write_bytes(bytes(broken[:at] if trial % 2 else broken))
        with Ledger.resume(copy, HEADER) as ledger:
            rows = ledger.rows()
        blocks = rows[0].draws // COUNT if rows else 0
        assert rows == expected(blocks)
        seen.add(blocks)
    assert len(seen) > 3


def test_a_file_that_may_not_grow_keeps_what_it_has_and_goes_on_later(tmp_path):
    folder = tmp_path / "run"
    create(folder)
    told = json.loads(child("fill", folder, 200_000).stdout)
    blocks = told["blocks"]
    assert told["sentence"].startswith(str(folder / LEDGER_FILE))
    assert "could not be written" in told["sentence"]
    assert told["sentence"].endswith(
        "everything recorded before is kept, and --resume continues the run once the cause is gone."
    )
    assert told["after_failure"] == [COUNT * blocks] * INPUTS
    with Ledger.resume(folder, HEADER) as ledger:
        assert ledger.rows() == expected(blocks + 1)
    assert sorted(os.listdir(folder)) == [LOCK_FILE, LEDGER_FILE]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 512 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(path):
    """Take all the space that is left."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))


def append_until_refused(ledger):
    for blocks in range(10_000):
        try:
            ledger.append(block(blocks))
        except LedgerError as error:
            return blocks, str(error)
    raise AssertionError("the disk never filled")


def test_a_full_disk_keeps_what_it_has_and_goes_on_once_there_is_space(small_disk):
    ballast, folder = small_disk / "ballast", small_disk / "run"
    create(folder)
    ballast.write_bytes(bytes(200_000))
    with Ledger.resume(folder, HEADER) as ledger:
        blocks, sentence = append_until_refused(ledger)
        assert "could not be written (database or disk is full); everything recorded before is kept" in sentence
        assert ledger.rows() == expected(blocks)
    with Ledger.open(folder) as ledger:
        assert ledger.rows() == expected(blocks)
    assert blocks > 10
    fill(small_disk / "more ballast")
    with pytest.raises(LedgerError, match="could not be written"):
        Ledger.create(small_disk / "another", HEADER)
    ballast.unlink()
    with Ledger.resume(folder, HEADER) as ledger:
        ledger.append(block(blocks))
        assert ledger.rows() == expected(blocks + 1)


@pytest.fixture
def public_folder():
    """A place that another user may enter, and files that another user may read."""
    mask, folder = os.umask(0o022), Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder / "run"
    os.umask(mask)
    (folder / "run").chmod(0o755)
    shutil.rmtree(folder)


def read_as_another(folder):
    folder.chmod(0o555)
    told = json.loads(child("read", folder).stdout)
    folder.chmod(0o755)
    assert any("could not be written" in sentence for sentence in told["refused"])
    return told


def test_a_read_only_folder_can_be_read_but_not_written(public_folder):
    create(public_folder)
    with Ledger.resume(public_folder, HEADER) as ledger:
        ledger.append(block(0))
    told = read_as_another(public_folder)
    assert told["found"] == {str(i): COUNT for i in range(INPUTS)}
    assert len(told["refused"]) == 2
    assert sorted(os.listdir(public_folder)) == [LOCK_FILE, LEDGER_FILE]


@pytest.mark.parametrize("index", ["kept", "lost"])
def test_the_log_of_a_killed_writer_is_read_in_a_read_only_folder_too(public_folder, index):
    create(public_folder)
    writer = start_writer(public_folder)
    wait_for(writer, 20)
    kill(writer)
    if index == "lost":
        (public_folder / f"{LEDGER_FILE}-shm").unlink()
    before = sorted(os.listdir(public_folder))
    assert f"{LEDGER_FILE}-wal" in before
    found = read_as_another(public_folder)["found"]
    assert sorted(os.listdir(public_folder)) == before
    with Ledger.open(public_folder) as ledger:
        assert found == {str(row.index): row.draws for row in ledger.rows()}


def test_a_kill_while_the_file_is_closed_is_undone(tmp_path, public_folder):
    """A clean close ends with a transaction that has a rollback journal; here a bigger one is cut in the middle."""
    create(tmp_path / "run")
    stranger = sqlite3.connect(tmp_path / "run" / LEDGER_FILE, isolation_level=None)
    stranger.execute("PRAGMA cache_size = 1")
    stranger.execute("BEGIN")
    stranger.executemany("INSERT INTO inputs VALUES (?, ?, '', NULL, 0)", ((i, f"wrong {i}") for i in range(100, 3000)))
    shutil.copytree(tmp_path / "run", public_folder)
    stranger.close()
    assert sorted(os.listdir(public_folder)) == [LOCK_FILE, LEDGER_FILE, f"{LEDGER_FILE}-journal"]
    assert read_as_another(public_folder)["found"] == {}
    for attempt in (lambda: Ledger.open(public_folder), lambda: Ledger.resume(public_folder, HEADER)):
        with attempt() as ledger:
            assert ledger.counts().undrawn == [f"input {i}" for i in range(INPUTS)]
    assert sorted(os.listdir(public_folder)) == [LOCK_FILE, LEDGER_FILE]


def test_a_live_run_can_be_read_by_somebody_who_may_not_write(public_folder):
    create(public_folder)
    with Ledger.resume(public_folder, HEADER) as ledger:
        ledger.append(block(0))
        told = read_as_another(public_folder)
        ledger.append(block(1))
    assert told["found"] == {str(i): COUNT for i in range(INPUTS)}


def test_a_reader_sees_whole_transactions_while_the_writer_goes_on_and_starts_again(tmp_path):
    folder = tmp_path / "run"
    create(folder)
    with Ledger.open(folder) as early:
        assert early.rows() == []
        for blocks in (1, 4):
            with Ledger.resume(folder, HEADER) as writer, Ledger.open(folder) as reader:
                for number in range(blocks - 1, blocks + 2):
                    writer.append(block(number))
                    for each in (early, reader):
                        assert each.rows() == expected(number + 1)
            assert early.rows() == expected(blocks + 2)


def test_a_reader_beside_a_busy_writer_never_sees_half_a_transaction(tmp_path):
    folder = tmp_path / "run"
    create(folder)
    writer = start_writer(folder)
    try:
        wait_for(writer, 1)
        reads, seen, limit = 0, set(), time.monotonic() + 600
        with Ledger.open(folder) as ledger:
            while reads < 30 or len(seen) < 4:  # on one core the writer may not have its turn for a while
                rows = ledger.rows()
                assert rows == expected(rows[0].draws // COUNT)
                reads += 1
                seen.add(rows[0].draws)
                assert time.monotonic() < limit
    finally:
        kill(writer)


def test_only_one_writer_at_a_time(tmp_path):
    folder = tmp_path / "run"
    create(folder)
    writer = start_writer(folder)
    wait_for(writer, 1)
    try:
        with pytest.raises(LedgerError, match=rf"{folder} is being written by process {writer.pid}; wait until"):
            Ledger.resume(folder, HEADER)
    finally:
        kill(writer)
    with Ledger.resume(folder, HEADER), pytest.raises(LedgerError, match=f"being written by process {os.getpid()}"):
        Ledger.resume(folder, HEADER)
    assert sorted(os.listdir(folder)) == [LOCK_FILE, LEDGER_FILE]


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock here")])
def test_a_file_system_without_locks_is_refused_in_one_sentence_and_can_be_read(tmp_path, monkeypatch, error):
    create(tmp_path / "run")

    def refuse(lock, *_, **__):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    for attempt in (lambda: Ledger.resume(tmp_path / "run", HEADER), lambda: Ledger.create(tmp_path / "new", HEADER)):
        with pytest.raises(LedgerError, match=r"ledger\.lock could not be written or locked [^\n]*use a local disk\.$"):
            attempt()
    with Ledger.open(tmp_path / "run") as ledger:
        assert len(ledger.counts().undrawn) == INPUTS


def test_a_file_system_without_shared_memory_keeps_what_is_committed_too(tmp_path, monkeypatch):
    """A write-ahead log needs memory that processes share; network drives have none, and refuse it."""
    folder = tmp_path / "run"
    create(folder)

    class Refusing(sqlite3.Connection):
        def execute(self, statement, *values):
            if "WAL" in statement:
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(statement, *values)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **o: connect(*a, factory=Refusing, **o))
    with Ledger.resume(folder, HEADER) as writer:
        for number in range(3):
            writer.append(block(number))
            with Ledger.open(folder) as reader:
                assert reader.rows() == expected(number + 1)
        assert not (folder / f"{LEDGER_FILE}-wal").exists()


def test_what_the_log_held_is_gone_with_it_and_the_rest_is_whole(tmp_path):
    """Somebody removes the log of a killed writer: what was moved into the file before is still there."""
    folder = tmp_path / "run"
    create(folder)
    with Ledger.resume(folder, HEADER) as ledger:
        ledger.append(block(0))
    writer = start_writer(folder)
    wait_for(writer, 5)
    kill(writer)
    for suffix in ("-wal", "-shm"):
        (folder / f"{LEDGER_FILE}{suffix}").unlink()
    for attempt in (lambda: Ledger.open(folder), lambda: Ledger.resume(folder, HEADER)):
        with attempt() as ledger:
            assert ledger.rows() == expected(1)


def test_open_files_do_not_pile_up(tmp_path):
    handles = Path("/proc/self/fd")
    if not handles.is_dir():
        pytest.skip("needs /proc to see open files")
    create(tmp_path / "run")
    for _ in range(20):
        Ledger.open(tmp_path / "run").close()
        Ledger.resume(tmp_path / "run", HEADER).close()
        with pytest.raises(LedgerError):
            Ledger.resume(tmp_path / "run", {"seed": 2})
    opened = [os.path.realpath(each) for each in handles.iterdir()]
    assert not [name for name in opened if name.startswith(os.path.realpath(tmp_path))]
