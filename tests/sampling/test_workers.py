"""Runs on many workers: whoever draws a slice, and however often it is begun again, the counts are those of one run."""

import dataclasses
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cluster_work
import pytest
from cluster_work import INPUTS, B, free_port, open_work

from hybrid_rs_jax.confidence import FixedSample
from hybrid_rs_jax.errors import UnreadableInputError
from hybrid_rs_jax.kernels import run_key
from hybrid_rs_jax.sampling import Ledger, sample_run
from hybrid_rs_jax.sampling.design import StreamGroup
from hybrid_rs_jax.sampling.ledger import CountRow, Stream
from hybrid_rs_jax.sampling.workers import Slice, _progress, _slices, draw_slice, sample_with_ray


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The rows of one process."""
    work = open_work()
    with Ledger.create(tmp_path_factory.mktemp("whole") / "run", {}) as ledger:
        sample_run(
            ledger,
            work.classifier,
            work.inputs,
            range(B),
            work.smoothing,
            work.groups,
            run_key(work.seed),
            batch_size=32,
        )
        return ledger.rows()


def test_a_slice_ends_after_one_batch_where_its_time_is_over_and_the_next_one_goes_on_from_there():
    work = dataclasses.replace(open_work(), batch_size=200)
    part = Slice((1,), tuple(range(6)), {})
    first = draw_slice(work, part, seconds=0.0)
    kept = sum(row.draws for row in first.rows)
    assert not first.decided
    assert 0 < kept == first.progress.drawn < 6 * 2 * 50
    assert dict(first.tallies()) == {}
    second = draw_slice(work, dataclasses.replace(part, tallies=first.now_known()))
    assert second.decided
    assert second.tallies() == first.now_known()
    assert second.progress.drawn == 6 * 2 * 50 - kept
    at_once = draw_slice(work, part)
    assert second.now_known() == at_once.now_known()
    assert {row.draws for row in at_once.now_known().values()} == {50}
    assert [name for name, *_ in at_once.inputs] == [f"input-{i}" for i in range(6)]
    assert at_once.seconds > 0


def test_a_slice_keeps_why_an_input_cannot_be_used():
    class Torn:
        ids = ("one", "two")

        def read(self, index):
            if index == 0:
                raise UnreadableInputError("its picture is cut off")
            return INPUTS.read(index)

    drawn = draw_slice(dataclasses.replace(open_work(), inputs=Torn(), batch_size=200), Slice((1,), (0, 1), {}))
    assert drawn.skipped == [(0, "one", "its picture is cut off")]
    assert {row.index for row in drawn.rows} == {1}
    assert (drawn.decided, drawn.progress.skipped) == (True, 2)


def test_the_slices_of_a_run_hold_each_draw_that_is_missing_once():
    work, known = open_work(), CountRow(3, Stream("shared"), 0, 5, (5,))
    work = dataclasses.replace(work, groups=(StreamGroup(FixedSample(9)), StreamGroup(FixedSample(9), ((0,), (1,)))))
    streams = {stream for group in work.groups for stream in group.streams}
    tallies = {(3, stream): dataclasses.replace(known, stream=stream) for stream in streams}
    slices = list(_slices(work, range(B), tallies, slots=2))
    assert {len(part.indices) for part in slices} == {B // 8}
    for group in ((0,), (1,)):
        assert [index for part in slices if part.groups == group for index in part.indices] == list(range(B))
    assert {place for part in slices for place in part.tallies} == set(tallies)
    assert all(index in part.indices for part in slices for index, _ in part.tallies)
    progress = _progress(work, range(B), tallies)
    assert (progress.inputs, progress.settled) == (B * 3, 5 * len(streams))


@pytest.mark.slow
def test_slices_that_end_after_each_batch_and_go_on_elsewhere_have_the_rows_of_one_run(tmp_path, whole):
    work, slices = dataclasses.replace(open_work(), batch_size=400), 0
    with Ledger.create(tmp_path / "run", {}) as ledger:
        for group in range(2):
            for chosen in (range(4), range(4, B)):
                part = Slice((group,), tuple(chosen), {})
                while True:
                    drawn = draw_slice(work, part, seconds=0.0)
                    slices += 1
                    ledger.register(drawn.inputs)
                    ledger.append(drawn.rows)
                    if drawn.decided:
                        break
                    part = Slice((group,), part.indices, drawn.now_known())
        assert slices > 4 + 4
        assert ledger.rows() == whole


@pytest.fixture
def nodes():
    """A cluster of two nodes on this machine, two workers each; gives its address and a way to end its second node."""
    pytest.importorskip("ray", reason="Ray is not installed")
    tests = str(Path(cluster_work.__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--disable-usage-stats", "--num-cpus=2"]

    def start(*options):
        done = subprocess.run([*ray, *options], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    port = free_port()
    start("--head", f"--port={port}", "--include-dashboard=false")
    start(f"--address=127.0.0.1:{port}")
    yield f"127.0.0.1:{port}"
    subprocess.run([ray[0], "stop", "--force"], env=environment, capture_output=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_is_killed_at_work_costs_its_slice_and_changes_no_count(tmp_path, whole, nodes):
    busy = tmp_path / "busy"
    busy.mkdir()
    killed = []

    def kill_one_at_work():
        while not killed:
            at_work = [int(each.name) for each in busy.iterdir()]
            if len(at_work) >= 2:
                os.kill(at_work[0], signal.SIGKILL)
                killed.append(at_work[0])
            time.sleep(0.05)

    killer = threading.Thread(target=kill_one_at_work, daemon=True)
    killer.start()
    recipe = functools.partial(open_work, str(busy))
    with Ledger.create(tmp_path / "run", {}) as ledger:
        progress, shares = sample_with_ray(ledger, recipe, open_work(), range(B), address=nodes, seconds=1.0)
        killer.join(1)
        assert ledger.rows() == whole
    assert killed
    assert progress.finished == progress.inputs == 3 * B
    assert len(shares) >= 2
    assert sum(share.draws for share in shares.values()) == progress.classified >= progress.drawn


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_of_this_machine_is_started_where_no_address_is_given(tmp_path, whole, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(cluster_work.__file__).parent), *sys.path]))
    with Ledger.create(tmp_path / "run", {}) as ledger:
        progress, _ = sample_with_ray(ledger, open_work, open_work(), range(B))
        assert ledger.rows() == whole
        again, shares = sample_with_ray(ledger, open_work, open_work(), range(B))  # nothing is left to draw
    assert progress.drawn > 0
    assert (again.drawn, again.finished, sum(share.draws for share in shares.values())) == (0, 3 * B, 0)
