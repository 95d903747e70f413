"""The runtime experiment: what is counted and certified is what the modes say; seconds add up."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.classifiers import DemoGuard
from hybrid_rs_jax.data import demo

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import _common as common
import runtime

N, INPUTS = 300, 2
FLAGS = ["--samples", str(N), "--inputs", str(INPUTS), "--repeats", "1"]


@pytest.fixture(scope="module", autouse=True)
def _short_loops():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "LOOP", 2)
        patch.setattr(common, "BATCH", 150)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    assert runtime.main(["--out", str(folder), *FLAGS]) == 0
    return folder


@pytest.fixture(scope="module")
def record(finished):
    return json.loads((finished / "result.json").read_text())


@pytest.fixture(scope="module")
def rows(record):
    return {row["mode"]: row for row in record["modes"]}


def test_draws_are_those_of_each_mode(rows):
    for name in ("image-only", "text-only", "fixed"):
        assert rows[name]["draws_per_input"] == N
    assert rows["per budget"]["draws_per_input"] == 9 * N
    assert rows["target"]["draws_per_input"] <= rows["frontier"]["draws_per_input"] <= N


def test_fixed_certificates_are_those_of_the_same_draws(finished, rows):
    inputs = demo.held_out_unsafe(INPUTS)
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 512), 0.25)
    mask = demo.suffix_mask()
    counts = hrs.sample_counts(
        DemoGuard.load(), inputs.tokens, inputs.images, smoothing, N, jax.random.key(0), eligible=mask, batch_size=150
    )
    with np.load(finished / "round0-fixed.npz") as file:
        np.testing.assert_array_equal(file["successes"][0], counts)
    delta = smoothing.total_variation(common.PIXELS)
    radius = hrs.certify(counts, N, smoothing, common.TAU, 0.01, range(9), total_variation=delta).radius
    np.testing.assert_allclose(rows["fixed"]["mean_radius"], np.maximum(radius, 0).mean(axis=0), rtol=1e-12)


def test_a_reached_target_is_certified(finished, rows):
    with np.load(finished / "round0-target.npz") as file:
        radius, reached = file["radius"][:, runtime.TARGET[0]], file["reached"]
    assert reached.any()
    assert np.all(radius[reached] >= runtime.TARGET[1])
    assert rows["target"]["target_reached"] == reached.mean()


def test_early_stopping_and_more_samples_never_prove_more_than_the_same_fixed_draws(rows):
    fixed = np.array(rows["fixed"]["mean_radius"])
    assert np.all(np.array(rows["frontier"]["mean_radius"]) <= fixed)
    assert rows["image-only"]["mean_budget"] == 0
    assert max(rows["text-only"]["mean_radius"]) == 0


def test_the_parts_add_up_to_the_whole(rows):
    for row in rows.values():
        parts = row["noise_s"] + row["forward_s"] + row["rest_s"] + row["certificate_s"]
        assert parts == pytest.approx(row["cpu_s_per_input"], rel=1e-9)
        assert row["classified_per_input"] >= row["draws_per_input"]
        assert row["certificate_s"] > 0
    assert rows["fixed"]["cpu_relative_to_fixed"] == 1


def test_a_figure_is_written(finished):
    assert (finished / "runtime.png").read_bytes().startswith(b"\x89PNG")
    assert 20_000 < (finished / "runtime.png").stat().st_size < 150_000


def test_a_second_call_times_nothing_and_gives_the_same_result(finished, record, tmp_path, monkeypatch):
    for path in finished.glob("round*.npz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(runtime.Rounds, "once", None)
    monkeypatch.setattr(runtime, "draw_figure", lambda *_: None)
    assert runtime.main(["--out", str(tmp_path), *FLAGS]) == 0
    assert json.loads((tmp_path / "result.json").read_text()) == record


def test_a_finished_result_is_never_overwritten(finished, capsys):
    before = (finished / "result.json").read_bytes()
    assert runtime.main(["--out", str(finished), *FLAGS, "--seed", "3"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert (finished / "result.json").read_bytes() == before


def test_too_few_samples_for_the_target_end_with_one_sentence(tmp_path, capsys):
    assert runtime.main(["--out", str(tmp_path / "none"), "--samples", "3"]) == 2
    assert "max_samples must be at least" in capsys.readouterr().err
