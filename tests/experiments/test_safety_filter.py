"""The safety-filter experiment: its numbers follow from its counts, it resumes, it never overwrites."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import hybrid_rs_jax as hrs

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import _common as common
import safety_filter

FLAGS = ["--samples", "60", "--inputs", "4", "--clean-samples", "8", "--budget-inputs", "4"]
GRIDS = {"SIGMAS": (0.25,), "BETAS": (0.25, 1.0), "CLEAN_SIGMAS": (0.0,), "CLEAN_BETAS": (0.0, 0.25)}


def run(folder, *more):
    return safety_filter.main(["--out", str(folder), *FLAGS, *more])


@pytest.fixture(scope="module", autouse=True)
def _small_grids():
    with pytest.MonkeyPatch.context() as patch:
        for name, values in GRIDS.items():
            patch.setattr(safety_filter, name, values)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    assert run(folder) == 0
    return folder


@pytest.fixture(scope="module")
def record(finished):
    return json.loads((finished / "result.json").read_text())


def counts_of(folder, name):
    with np.load(folder / f"counts-{name}.npz") as file:
        return file["successes"], json.loads(str(file["settings"]))


@pytest.mark.parametrize(("row", "name", "n"), [(0, "suffix-0.25-0.25", 60), (1, "l0-0.25-0.25", 30)])
def test_curves_are_the_shares_of_inputs_whose_radius_reaches_eps(finished, record, row, name, n):
    successes, settings = counts_of(finished, name)
    row = record["curves"][row]
    assert (settings["n"], row["n"]) == (n, n)
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 512), 0.25)
    p_a = hrs.clopper_pearson(successes[0], n, 0.01)
    for d in range(9):
        radius = np.array([hrs.certified_radius(float(p), d, smoothing, common.TAU) for p in p_a])
        for eps, share in zip(record["epsilons"], row["certified_accuracy"][d], strict=True):
            assert share == pytest.approx(sum(radius >= eps) / 4, abs=2e-6)
            assert share <= sum(radius >= eps) / 4


def test_certified_accuracy_falls_with_eps_and_with_d(record):
    for row in record["curves"]:
        accuracy = np.array(row["certified_accuracy"])
        assert np.all(np.diff(accuracy, axis=0) <= 0)
        assert np.all(np.diff(accuracy, axis=1) <= 0)
        assert accuracy[0, 0] > accuracy[0, -1]


def test_eligible_positions_are_those_of_the_threat(finished):
    suffix, everywhere = list(range(8, 16)), list(range(16))
    for name, masks in (
        ("suffix-0.25-0.25", [suffix]),
        ("l0-0.25-0.25", [everywhere]),
        ("text-l0", [everywhere]),
        ("shared-sample", [suffix]),
        ("per-budget-sample", [suffix[:d] for d in range(9)]),
        ("clean-0-0.25", [suffix, everywhere]),
    ):
        assert counts_of(finished, name)[1]["masks"] == masks


def test_per_budget_samples_split_the_risk(finished, record):
    successes, _ = counts_of(finished, "per-budget-sample")
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 512), 0.25)
    found = record["per_budget"]["per budget"]
    for d in range(9):
        p_a = hrs.clopper_pearson(successes[d], 60, 0.01 / 9)
        radius = np.asarray(hrs.certified_radius(p_a, d, smoothing, common.TAU))
        assert found["mean_radius"][d] == pytest.approx(np.maximum(radius, 0).mean(), rel=1e-9)
    assert found["draws_per_input"] == 9 * record["per_budget"]["shared"]["draws_per_input"] == 9 * 60


def test_table1_sets_hybrid_beside_unimodal_certificates(finished, record):
    (row,) = record["table1"]
    image, n = counts_of(finished, "image-0.25")[0][0], 60
    smoothing = hrs.HybridSmoothing(None, 0.25)
    radius = np.asarray(hrs.certified_radius(hrs.clopper_pearson(image, n, 0.01), 0, smoothing, common.TAU))
    assert row["image_only_radius"] == pytest.approx(radius.mean(), rel=1e-9)
    assert 0 < row["hybrid_radius_d1"] < row["hybrid_radius_d0"]
    assert row["radius_lost_at_d1"] == pytest.approx(1 - row["hybrid_radius_d1"] / row["image_only_radius"])
    text = [unimodal for unimodal in record["unimodal"] if unimodal["noise"] == "text-only"]
    assert all(np.array(unimodal["mean_radius"]).max() == 0 for unimodal in text)
    assert row["text_only_budget"] == text[0]["mean_budget"] >= 1


def test_the_beta_sweep_counts_inputs_with_a_certified_token(finished, record):
    for row in record["beta_sweep"]:
        successes, _ = counts_of(finished, f"suffix-0.25-{row['beta']:g}")
        smoothing = hrs.HybridSmoothing(hrs.UniformKernel(row["beta"], 512), 0.25)
        budget = hrs.certified_budget(hrs.clopper_pearson(successes[0], 60, 0.01), smoothing, common.TAU, max_budget=8)
        assert row["certified_examples"] == np.mean(budget >= 1)
        assert row["mean_d_max"] == pytest.approx(np.mean(budget[budget >= 1]))


def test_without_noise_the_smoothed_guard_is_the_guard(record):
    rows = [row for row in record["smoothed_accuracy"] if row["sigma"] == row["beta"] == 0]
    assert len(rows) == 2
    for row in rows:
        assert row["unsafe_mean_score"] == row["unsafe_majority_right"] == 1
        assert row["safe_flagged_by_n_copies"] == pytest.approx(1 - row["safe_majority_right"])


def test_token_noise_everywhere_costs_more_than_in_the_suffix(record):
    score = {row["threat"]: row["unsafe_mean_score"] for row in record["smoothed_accuracy"] if row["beta"] == 0.25}
    assert score["l0"] < score["suffix"]


def test_figures_are_written(finished):
    for name in ("safety_filter_curves.png", "safety_filter_tradeoffs.png"):
        assert (finished / name).read_bytes().startswith(b"\x89PNG")
        assert 20_000 < (finished / name).stat().st_size < 150_000


@pytest.mark.slow
def test_a_second_call_draws_nothing_and_gives_the_same_result(finished, record, tmp_path, monkeypatch):
    for path in finished.glob("counts-*.npz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(hrs, "sample_counts", None)
    for name in ("draw_curves", "draw_sweep"):
        monkeypatch.setattr(safety_filter, name, lambda *_: None)
    assert run(tmp_path) == 0
    assert json.loads((tmp_path / "result.json").read_text()) == record


def test_a_finished_result_is_never_overwritten(finished, capsys):
    before = (finished / "result.json").read_bytes()
    assert run(finished) == 0
    assert "left as it is" in capsys.readouterr().out
    assert run(finished, "--seed", "1") == 2
    assert "other settings" in capsys.readouterr().err
    assert (finished / "result.json").read_bytes() == before


def test_counts_of_other_settings_are_refused(finished, tmp_path, capsys):
    name = "counts-suffix-0.25-0.25.npz"
    (tmp_path / name).write_bytes((finished / name).read_bytes())
    assert run(tmp_path, "--seed", "1") == 2
    assert f"{name} holds draws of other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--samples", "0"], "--samples must be an integer in 1..2147483647, got 0."),
        (["--inputs", "900"], "--inputs must be at most 248, the unsafe held-out inputs, got 900."),
        (["--budget-inputs", "5"], "--budget-inputs must be at most the 4 inputs, got 5."),
        (["--seed", "-1"], "--seed must be an integer in 0..2147483647, got -1."),
    ],
)
def test_bad_flags_end_with_one_sentence(tmp_path, capsys, flags, sentence):
    assert run(tmp_path / "none", *flags) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
