"""Nothing is lost: runs of the command that are killed, or whose disk is full, go on to the uninterrupted counts."""

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from hybrid_rs_jax.results.count_files import read_counts

COMMAND = [sys.executable, "-m", "hybrid_rs_jax.cli", "sample", "--model", "slow_filter:classify", "--data", "demo"]
SETTINGS = ["--limit", "6", "--samples", "4000", "--batch-size", "400", "--seed", "11"]
# Batch-invariant, and slow enough that a kill hits the middle; commits are made frequent so that many are hit.
FILTER = """
import os
import time
from pathlib import Path

import numpy as np
import hybrid_rs_jax.sampling.run as run

run.COMMIT_SECONDS = 0.02

class Slow:
    on_host = True

    def __call__(self, tokens, images):
        Path("asked").touch()
        time.sleep(float(os.environ.get("SLOW_SECONDS", "0.01")))
        return (tokens.sum(axis=1) % 5 < 3) & (images[:, 3, 3, 0] > images[:, 4, 4, 0])

classify = Slow()
"""
#: Seconds that Python and JAX need before the first batch, and that the draws take.
STARTUP, DRAWING = 1.0, 3.0


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "slow_filter.py").write_text(FILTER)
    return tmp_path


def start(folder, run, *extra, before=(), **variables):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | variables
    command = [*before, *COMMAND, *SETTINGS, "--out", str(run), "--resume", *extra]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(folder, run):
    process = start(folder, run)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    return out


def counts(run):
    found = read_counts(run)
    assert not found.unfinished
    return dict(zip(found.ids, zip(found.successes.tolist(), found.n.tolist(), strict=True), strict=True))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "slow_filter.py").write_text(FILTER)
    finish(folder, folder / "run")
    return counts(folder / "run")


def kill_until_done(folder, seed, uninterrupted, how=signal.SIGKILL):
    """Kill sessions of one run at random moments until one of them comes to the end; the number of kills."""
    rng, run, kills = random.Random(seed), folder / f"run-{seed}", 0
    while True:
        process = start(folder, run)
        try:
            process.communicate(timeout=STARTUP + rng.random() * DRAWING)
        except subprocess.TimeoutExpired:
            process.send_signal(how)
            process.communicate()
            kills += 1
            if kills > 3:
                finish(folder, run)
                break
        else:
            assert process.returncode == 0
            break
    assert counts(run) == uninterrupted
    return kills


def test_runs_killed_at_random_moments_resume_to_the_uninterrupted_counts(folder, uninterrupted):
    # a run may be done before its moment comes: then another one is tried
    assert any(kill_until_done(folder, seed, uninterrupted) for seed in range(20))


@pytest.mark.slow
def test_fifty_runs_killed_at_random_moments_resume_to_the_uninterrupted_counts(folder, uninterrupted):
    kills = [kill_until_done(folder, seed, uninterrupted) for seed in range(100, 150)]
    print(f"\n50 runs, {sum(kills)} kills, all with the uninterrupted counts")


def test_sigterm_ends_a_run_in_good_order(folder, uninterrupted):
    process = start(folder, folder / "run", SLOW_SECONDS="1")
    while not (folder / "asked").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    _, err = process.communicate(timeout=600)
    assert process.returncode == 143, err
    assert re.search(r"Interrupted: \S+ keeps [\d,]+ draws?, [\d,]+ under way were lost; --resume goes on", err)
    assert not (folder / "run" / "ledger.sqlite-wal").exists(), "closed in good order"
    finish(folder, folder / "run")
    assert counts(folder / "run") == uninterrupted


#: Runs the rest of its command line in a process whose files may not grow beyond so many bytes, as on a full disk. (Not
#: by a function between fork and exec: this process has JAX's threads.)
SMALL_FILES = """
import os, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


def fill_disk(folder, run, size):
    process = start(folder, run, before=[sys.executable, "-c", SMALL_FILES, str(size)])
    _, err = process.communicate(timeout=900)
    if process.returncode != 0:
        assert process.returncode == 2, err
        assert err.startswith("hybrid-rs: error: ")
        assert len(err.strip().splitlines()) == 1, "one sentence"
    return process.returncode


@pytest.mark.parametrize("size", [20_000, pytest.param(60_000, marks=pytest.mark.slow), 100_000])
def test_a_run_on_a_full_disk_says_so_and_resumes(size, folder, uninterrupted):
    run = folder / "run"
    fill_disk(folder, run, size)
    finish(folder, run)
    assert counts(run) == uninterrupted


@pytest.mark.slow
def test_ten_runs_on_disks_that_fill_up_at_different_moments_resume(folder, uninterrupted):
    failed = 0
    for number in range(10):
        run = folder / f"run-{number}"
        failed += fill_disk(folder, run, 40_000 + 9_000 * number) != 0
        finish(folder, run)
        assert counts(run) == uninterrupted
    print(f"\n10 runs, {failed} of them ran out of space, all with the uninterrupted counts")


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may write everywhere (see test_ledger_crash)")
def test_a_folder_that_cannot_be_written_is_refused_in_one_sentence(folder):
    run = folder / "run"
    finish(folder, run)
    before = counts(run)
    run.chmod(0o555)
    process = start(folder, run, "--samples", "4100")
    _, err = process.communicate(timeout=900)
    run.chmod(0o755)
    assert process.returncode == 2, err
    assert len(err.strip().splitlines()) == 1
    assert counts(run) == before
