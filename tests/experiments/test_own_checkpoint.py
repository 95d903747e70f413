"""The experiments on a checkpoint and data of the user: the tables are those of its own counts."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from vlm_checkpoint import POLICY, make_checkpoint, write_data

import hybrid_rs_jax as hrs
from hybrid_rs_jax import cli
from hybrid_rs_jax.results.count_files import read_counts

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import _common as common
import _subject
import adaptive_attack
import guard_attack
import mmcert
import runtime
import safety_filter

TEXTS = ["open the door", "what is it?", "no picture", "the key", "on the other side"]
BROKEN, ROWS, N, LENGTH = 2, 4, 6, 12
GRIDS = {"SIGMAS": (0.25,), "BETAS": (0.25,), "CLEAN_SIGMAS": (0.0,), "CLEAN_BETAS": (0.0,)}
SETTINGS = (mmcert.Setting("all", 2, 0.5, 0.5), mmcert.Setting("suffix", 2, 0.5, 0.5))


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """A random checkpoint on the disk, a table of five unsafe inputs (one of them broken) and one of safe ones."""
    folder, data, safe = (tmp_path_factory.mktemp(name) for name in ("checkpoint", "unsafe", "safe"))
    make_checkpoint(folder, seed=6)
    (data / "policy.txt").write_text(POLICY)
    table, others = write_data(data, TEXTS, broken=[BROKEN]), write_data(safe, ["a wall", "how?"])
    settings = ["--policy", str(data / "policy.txt"), "--text-length", str(LENGTH), "--profile", "generic"]
    settings += ["--labels", "p,I", "--answer", "{label}"]  # tokens that the random network parts these inputs by
    return ["--model", str(folder), "--data", str(table), *settings], ["--safe-data", str(others)]


@pytest.fixture(scope="module")
def filtered(flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "safety"
    more = ["--samples", str(N), "--clean-samples", "2", "--budget-inputs", "1", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        for name, values in GRIDS.items():
            patch.setattr(safety_filter, name, values)
        assert safety_filter.main([*flags[0], *flags[1], *more]) == 0
    return out


def record_of(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.mark.slow
def test_the_tables_are_certificates_of_the_counts_of_sample(flags, filtered, tmp_path):
    """`hybrid-rs sample` draws the same copies: the same noise, the same prompt, the same decisions."""
    run = tmp_path / "run"
    draws = ["--sigma", "0.25", "--beta", "0.25", "--samples", str(N), "--batch-size", "8", "--out", str(run)]
    assert cli.main(["sample", *flags[0], *draws]) == 0
    counts = read_counts(run)
    row = record_of(filtered)["curves"][0]
    assert (row["threat"], row["n"], row["sigma"], len(counts.ids)) == ("suffix", N, 0.25, ROWS)
    described = record_of(filtered)["settings"]
    with np.load(filtered / "counts-suffix-0.25-0.25.npz") as file:
        # keyed by its place among the inputs that can be used: those before the broken one have the same noise
        np.testing.assert_array_equal(file["successes"][0][:BROKEN], counts.successes[:BROKEN])
        successes = file["successes"][0]
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, described["classifier"]["alphabet_size"]), 0.25)
    certificate = common.certified(successes, N, smoothing, 28 * 28 * 3, range(9))
    np.testing.assert_allclose(row["mean_radius"], np.maximum(certificate.radius, 0).mean(axis=0), rtol=1e-9)
    assert 0 < successes.sum() < N * ROWS, "the guard does not say the same of all"


@pytest.mark.slow
def test_the_result_says_which_guard_which_inputs_and_which_noise(filtered):
    record = record_of(filtered)
    assert record["settings"]["inputs"] == ROWS
    assert record["settings"]["classifier"]["policy"] == "policy.txt"
    assert len(record["settings"]["inputs_sha256"]) == len(record["settings"]["safe_sha256"]) == 64
    assert "pixels in [0, 1] at 28x28" in record["statement"]["unit"]
    assert f"{LENGTH} in all" in record["statement"]["suffix"]
    assert record["picture_distance"] is None
    assert {row["safe_majority_right"] for row in record["smoothed_accuracy"]} <= {0, 0.5, 1}
    for name in ("safety_filter_curves.png", "safety_filter_tradeoffs.png"):
        assert (filtered / name).read_bytes().startswith(b"\x89PNG")


def test_noise_stays_in_its_region(flags):
    args = _subject.parsed(safety_filter.parser(), [*flags[0], "--out", "x"])
    subject = _subject.open_subject(args)
    assert subject.safe is None
    assert list(subject.unsafe.ids) == [f"row {number}" for number in range(5) if number != BROKEN]
    for number in range(ROWS):
        found = subject.unsafe.read(number)
        used = int((found.tokens != 0).sum())
        assert not found.eligible[:used].any()
        assert found.eligible[used:].all()
        assert _subject.EVERYWHERE.of(found.eligible).all()
        assert np.flatnonzero(_subject.Region("suffix", 2).of(found.eligible)).tolist() == [used, used + 1]


@pytest.mark.slow
def test_a_run_of_a_checkpoint_that_was_interrupted_goes_on(flags, tmp_path, monkeypatch):
    args = _subject.parsed(safety_filter.parser(), [*flags[0], "--out", str(tmp_path)])
    subject = _subject.open_subject(args)
    smoothing = hrs.HybridSmoothing(subject.uniform(0.5), 0.5)
    arguments = (smoothing, subject.unsafe, [_subject.SUFFIX, _subject.EVERYWHERE], 4, 0)
    whole = subject.drawn(tmp_path, "whole", *arguments)
    real = _subject.sample_run

    def half(*given, **options):
        real(given[0], given[1], given[2], range(3), *given[4:], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(_subject, "sample_run", half)
    with pytest.raises(KeyboardInterrupt):
        subject.drawn(tmp_path, "parts", *arguments)
    monkeypatch.setattr(_subject, "sample_run", real)
    assert not (tmp_path / "counts-parts.npz").exists()
    rest = subject.drawn(tmp_path, "parts", *arguments)
    np.testing.assert_array_equal(rest["successes"], whole["successes"])
    assert (whole["timed"], rest["timed"]) == (2 * ROWS * 4, (2 * ROWS - 3) * 4)


@pytest.mark.slow
def test_subsampling_keeps_as_many_tokens_as_each_text_leaves(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(mmcert, "SETTINGS", SETTINGS)
    out = tmp_path / "mmcert"
    assert mmcert.main([*flags[0], "--samples", "5", "--out", str(out)]) == 0
    everywhere, suffix = record_of(out)["rows"]
    assert (everywhere["tokens"], everywhere["kept_tokens"]) == (LENGTH, LENGTH / 2)
    assert (everywhere["patches"], everywhere["kept_patches"]) == (16, 8)
    assert 0 < suffix["tokens"] < LENGTH
    assert all(row["certified"][mmcert.THREATS.index((0, None))] == 0 for row in (everywhere, suffix))
    assert not list(out.glob("begun-*"))
    subject = _subject.open_subject(_subject.parsed(mmcert.parser(), [*flags[0], "--out", "x"]))
    apply, parameters = subject.guard.functional()
    found = subject.unsafe.read(1)
    votes = 0
    for number in range(5):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 1), number)
        kept = SETTINGS[1].subsampling(found.eligible)
        numbers = np.int32(kept.kept_tokens), np.int32(kept.kept_patches)
        tokens, image = mmcert.subsampled(key, found.tokens, found.image, found.eligible, 4, *numbers)
        votes += bool(apply(parameters, tokens[None], image[None])[0] > 0)
    with np.load(out / f"counts-{SETTINGS[1].name}.npz") as file:
        assert file["successes"][1] == votes


def test_rows_that_come_one_by_one_are_done_once(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "KEPT_SECONDS", -1.0)
    asked = []

    def row(number):
        if number == 3 and 3 not in asked:
            asked.append(number)
            raise KeyboardInterrupt
        asked.append(number)
        return 10 * number

    path = tmp_path / "rows.npz"
    with pytest.raises(KeyboardInterrupt):
        common.row_by_row(path, {"n": 1}, 5, row, "rows")
    assert common.row_by_row(path, {"n": 1}, 5, row, "rows").tolist() == [0, 10, 20, 30, 40]
    assert asked == [0, 1, 2, 3, 3, 4]
    with pytest.raises(hrs.errors.BadInputError, match="other settings"):
        common.row_by_row(path, {"n": 2}, 5, row, "rows")


@pytest.mark.slow
def test_costs_are_measured_on_the_checkpoint(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "LOOP", 1)
    monkeypatch.setattr(runtime.Subject, "copies_at_once", 8)
    monkeypatch.setattr(runtime, "BUDGETS", (0, 1))
    out = tmp_path / "runtime"
    more = ["--samples", "20", "--inputs", "1", "--repeats", "1", "--out", str(out)]
    assert runtime.main([*flags[0], *more]) == 0
    rows = {row["mode"]: row for row in record_of(out)["modes"]}
    assert rows["fixed"]["draws_per_input"] == 20
    assert rows["per budget"]["draws_per_input"] == 40
    assert rows["image-only"]["mean_budget"] == 0
    assert (out / "runtime.png").stat().st_size > 10_000


def test_the_attack_on_a_checkpoint_is_handed_over(flags, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(guard_attack, "main", lambda argv: given.append(argv) or 0)
    asked = [*flags[0], "--out", str(tmp_path / "attack")]
    assert adaptive_attack.main(asked) == 0
    assert given == [asked]


@pytest.mark.parametrize("script", [safety_filter, mmcert, runtime, guard_attack])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--policyy", "x"], "--policyy"),
        (["--dtype", "float8"], "--dtype must be float32 or bfloat16, got float8"),
        (["--text-length", "0"], "--text-length must"),
        (["--data", "nowhere.csv"], "nowhere.csv does not exist"),
        (["--inputs", "5"], "--inputs must be at most 4, the inputs of "),
    ],
)
def test_flags_are_those_of_sample_and_are_refused_in_its_sentences(flags, tmp_path, capsys, script, change, sentence):
    assert script.main([*flags[0], "--out", str(tmp_path / "none"), *change]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--data", "x.csv"], "--data needs --model"),
        (["--policy", "plain"], "--policy means something to a vision-language checkpoint only, got --model demo."),
        (["--model", "nowhere"], "--model must be the folder or the hub id of a checkpoint, got nowhere."),
        (["--model", "."], "--data is needed for --model ."),
    ],
)
def test_a_model_and_its_data_belong_together(given, sentence, tmp_path, capsys):
    assert safety_filter.main(["--out", str(tmp_path / "none"), *given]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
