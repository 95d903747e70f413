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
from cluster_work import B, free_port, open_work

from hybrid_rs_jax.kernels import run_key
from hybrid_rs_jax.sampling import Ledger, sample_run
from hybrid_rs_jax.sampling.workers import Slice, draw_slice, sample_with_ray


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
