"""`--workers`: the same counts from the workers of a cluster, and one sentence where there is none."""

import os
import sys

import pytest

from hybrid_rs_jax.cli import main
from hybrid_rs_jax.sampling import Ledger

SAMPLE = ["sample", "--model", "demo", "--data", "demo", "--limit", "4", "--samples", "60"]


def test_without_ray_one_sentence_says_how_to_get_it_and_no_run_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*SAMPLE, "--workers", "ray", "--out", str(tmp_path / "run")]) == 2
    assert 'pip install "hybrid-rs-jax[ray]"' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_cluster_of_another_kind_is_refused(tmp_path, capsys):
    assert main([*SAMPLE, "--workers", "slurm", "--out", str(tmp_path / "run")]) == 2
    assert "--workers must look like ray or ray:ADDRESS, got slurm" in capsys.readouterr().err


def test_help_names_the_flag_as_it_is_given(capsys):
    assert main(["sample", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--workers ray[:ADDRESS]: " in shown
    assert "--workers." not in shown


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_workers_of_a_cluster_count_what_one_process_counts(tmp_path, monkeypatch, capsys):
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    flags = ["--draws", "both", "--max-budget", "1"]
    assert main([*SAMPLE, *flags, "--workers", "ray", "--out", str(tmp_path / "spread")]) == 0
    assert "draws, " in capsys.readouterr().out
    assert main([*SAMPLE, *flags, "--out", str(tmp_path / "one")]) == 0
    with Ledger.open(tmp_path / "spread") as spread, Ledger.open(tmp_path / "one") as one:
        assert spread.rows() == one.rows()
