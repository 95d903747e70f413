"""The templates for clusters: their own commands, run here shard by shard, give the counts of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_rs_jax.sampling import Ledger

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "cluster"
ARRAY = FOLDER / "slurm_array.sh"
FLAGS = ["--limit", "3", "--samples", "40"]


@pytest.fixture
def environment(tmp_path):
    """Where `hybrid-rs` is a command, installed or not."""
    command = tmp_path / "bin" / "hybrid-rs"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hybrid_rs_jax.cli "$@"\n')
    command.chmod(0o755)
    path = os.pathsep.join([str(command.parent), os.environ["PATH"]])
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return outside | {"PATH": path, "MODEL": "demo", "DATA": "demo", "RUN": str(tmp_path / "run")}


def run(command, environment, **more):
    return subprocess.run(command, env=environment | more, capture_output=True, text=True)


def test_an_array_that_would_leave_inputs_out_is_refused(environment):
    for more in ({"SLURM_ARRAY_TASK_MIN": "1"}, {"SLURM_ARRAY_TASK_STEP": "2"}):
        done = run([ARRAY], environment, SLURM_ARRAY_TASK_ID="1", SLURM_ARRAY_TASK_COUNT="2", **more)
        assert done.returncode == 2
        assert "must be 0-N" in done.stderr
    assert "sbatch --array" in run([ARRAY], environment).stderr


def test_the_job_of_kubernetes_counts_as_many_shards_as_pods():
    yaml = pytest.importorskip("yaml")
    spec = yaml.safe_load((FOLDER / "kubernetes_job.yaml").read_text())["spec"]
    values = {each["name"]: each["value"] for each in spec["template"]["spec"]["containers"][0]["env"]}
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == int(values["SHARDS"])


@pytest.mark.slow
def test_shards_of_both_templates_join_to_the_run_of_one_process(tmp_path, environment):
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((FOLDER / "kubernetes_job.yaml").read_text())["spec"]["template"]["spec"]["containers"][0]
    pod = {"JOB_COMPLETION_INDEX": "1", "SHARDS": "2", "FLAGS": " ".join(FLAGS)}
    first = run([ARRAY, *FLAGS], environment, SLURM_ARRAY_TASK_ID="0", SLURM_ARRAY_TASK_COUNT="2")
    second = run([*job["command"], *job["args"]], environment, **pod)
    parts = [str(tmp_path / "run" / f"part-{i}") for i in range(2)]
    merged = run(["hybrid-rs", "merge", *parts, "--out", str(tmp_path / "all")], environment)
    whole = ["hybrid-rs", "sample", "--model", "demo", "--data", "demo", "--out", str(tmp_path / "whole"), *FLAGS]
    for done in (first, second, merged, run(whole, environment)):
        assert done.returncode == 0, done.stderr
    with Ledger.open(tmp_path / "all") as joined, Ledger.open(tmp_path / "whole") as one:
        assert joined.rows() == one.rows()
