"""The command `sample`: from a model and data to a run that `certify` reads, and back again after any interruption."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.cli import main
from hybrid_rs_jax.results.count_files import read_counts
from hybrid_rs_jax.sampling.ledger import Ledger

DEMO = ["sample", "--model", "demo", "--data", "demo", "--limit", "4", "--batch-size", "500"]
OWN = """
import numpy as np

def classify(tokens, images):
    return (tokens.sum(axis=1) % 4 != 0) | (images[:, 0, 0, 0] > 1.5)

class Host:
    on_host = True

    def __call__(self, tokens, images):
        return np.asarray(classify(tokens, images))

on_host = Host()

def three(tokens, images):
    return tokens.sum(axis=1) % 3

three.classes = 3
number = 5
"""


def counts(run):
    found = read_counts(run, partial=True)
    return dict(zip(found.ids, zip(found.successes.tolist(), found.n.tolist(), strict=True), strict=True))


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a model of one's own and inputs for it, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_filter.py").write_text(OWN)
    rng = np.random.default_rng(0)
    inputs = {"tokens": rng.integers(0, 50, (6, 5)), "images": rng.random((6, 2, 2, 1))}
    np.savez(tmp_path / "inputs.npz", ids=[f"row {i}" for i in range(6)], **inputs)
    return ["sample", "--data", "inputs.npz", "--vocab-size", "50", "--sigma", "0.5", "--samples", "80"]


def test_a_run_goes_from_sample_to_certify(tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*DEMO, "--samples", "300", "--out", str(run)]) == 0
    said = capsys.readouterr().out
    assert "4 inputs, uniform kernel, beta = 0.25, 512 symbols; sigma = 0.25" in said
    assert f"hybrid-rs certify {run}" in said
    assert main(["certify", str(run), "--json", "--max-budget", "2"]) == 0
    record = json.loads(capsys.readouterr().out)
    statement = record["statement"]
    assert (statement["vocab_size"], statement["beta"], statement["sigma"]) == (512, 0.25, 0.25)
    assert statement["run"]["classifier"]["name"].endswith("DemoGuard")
    assert statement["plan"] is None
    for row in record["certificates"]:
        expected = hrs.certify(
            [row["successes"]], 300, hrs.HybridSmoothing(hrs.UniformKernel(0.25, 512), 0.25), 4.6e-5, 0.01
        )
        exact = expected.radius[0, :3]
        assert np.all(row["radius"] <= exact), "what the grid leaves over is subtracted"
        np.testing.assert_allclose(row["radius"], exact, rtol=1e-9)


def test_the_counts_are_those_of_the_library(tmp_path):
    import jax

    from hybrid_rs_jax.classifiers import DemoGuard
    from hybrid_rs_jax.data import demo

    assert main([*DEMO, "--samples", "200", "--seed", "5", "--out", str(tmp_path / "run")]) == 0
    inputs, smoothing = demo.held_out_unsafe(4), hrs.HybridSmoothing(hrs.UniformKernel(0.25, 512), 0.25)
    expected = hrs.sample_counts(
        DemoGuard.load(),
        inputs.tokens,
        inputs.images,
        smoothing,
        200,
        jax.random.key(5),
        eligible=demo.suffix_mask(),
        batch_size=500,
    )
    assert counts(tmp_path / "run") == {i: (int(k), 200) for i, k in zip(inputs.ids, expected, strict=True)}


def test_a_target_needs_few_draws_and_certifies_it(tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*DEMO, "--target", "d=2,eps=0.1", "--out", str(run)]) == 0
    assert "is decided" in capsys.readouterr().out
    assert all(n < 200 for _, n in counts(run).values())
    assert main(["certify", str(run), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["statement"]["plan"]["plan"] == "target"
    assert all(row["radius"][2] >= 0.1 for row in record["certificates"])
    assert main(["certify", str(run), "--tau", "0.001"]) == 0, "another threshold needs no new draws"
    assert "Draws ended once d = 2, eps = 0.1 was decided" in capsys.readouterr().out


def test_frontier_mode_spends_alpha_over_its_looks(tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*DEMO, "--frontier", "--samples", "400", "--tolerance", "5", "--out", str(run)]) == 0
    assert {n for _, n in counts(run).values()} == {100}, "a tolerance of five sigma is met at the first look"
    capsys.readouterr()
    assert main(["certify", str(run), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["certificates"]
    weight = read_counts(run).plan.weights[0]
    for row in rows:
        assert row["p_a"] == hrs.clopper_pearson(row["successes"], 100, weight * 0.01)


def test_resume_extends_a_run_and_refuses_other_settings_with_a_difference(tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*DEMO, "--samples", "150", "--out", str(run)]) == 0
    assert main([*DEMO, "--samples", "150", "--out", str(run)]) == 2
    assert "--resume continues it" in capsys.readouterr().err
    assert main([*DEMO, "--samples", "150", "--sigma", "0.5", "--seed", "1", "--out", str(run), "--resume"]) == 2
    error = capsys.readouterr().err
    assert "smoothing.sigma" in error
    assert "0.25" in error
    assert "seed" in error
    assert main([*DEMO, "--samples", "260", "--out", str(run), "--resume"]) == 0
    said = capsys.readouterr().out
    assert "is extended from n = 150: certify it with --partial" in said
    assert said.endswith(f"Next: hybrid-rs certify {run} --partial\n")
    assert main([*DEMO, "--samples", "260", "--out", str(tmp_path / "once")]) == 0
    assert "extended" not in capsys.readouterr().out
    assert counts(run) == counts(tmp_path / "once")
    assert main([*DEMO, "--samples", "100", "--out", str(run), "--resume"]) == 2, "draws are never taken back"
    capsys.readouterr()
    assert main(["certify", str(run)]) == 2, "whoever looked before may have gone on because of it"
    assert "was extended from n = 150" in capsys.readouterr().err
    assert main(["certify", str(run), "--partial"]) == 0
    said = capsys.readouterr().out
    assert "PROVISIONAL" in said
    assert "the run was extended from n = 150 to 260" in said


def test_shards_merge_into_the_whole_run(tmp_path, capsys):
    whole, parts = tmp_path / "whole", [tmp_path / "a", tmp_path / "b"]
    assert main([*DEMO, "--samples", "120", "--out", str(whole)]) == 0
    for rank, part in enumerate(parts):
        assert main([*DEMO, "--samples", "120", "--shard", f"{rank}/2", "--out", str(part)]) == 0
    assert main(["merge", *map(str, parts), "--out", str(tmp_path / "merged")]) == 0
    assert "Joined 2 runs: 4 inputs, 480 draws." in capsys.readouterr().out
    assert counts(tmp_path / "merged") == counts(whole)


@pytest.mark.parametrize("model", ["own_filter:classify", "own_filter:on_host"])
def test_a_classifier_of_ones_own_is_sampled_and_certified(model, own, capsys):
    assert main([*own, "--model", model, "--out", "run"]) == 0
    assert main(["certify", "run"]) == 0
    assert "row 0" in capsys.readouterr().out
    assert {n for _, n in counts(Path("run")).values()} == {80}


def test_host_and_device_classifiers_count_the_same(own):
    assert main([*own, "--model", "own_filter:classify", "--out", "device"]) == 0
    assert main([*own, "--model", "own_filter:on_host", "--out", "host"]) == 0
    assert counts(Path("device")) == counts(Path("host"))


def test_votes_per_class_are_sampled(own, capsys):
    assert main([*own, "--model", "own_filter:three", "--out", "run"]) == 0
    votes = read_counts(Path("run")).votes
    assert votes.shape == (6, 3)
    assert np.all(votes.sum(axis=1) == 80)
    assert main(["certify", "run"]) == 0
    assert "class" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--model", "own_filter"], "package.module:name"),
        (["--model", "nowhere:f"], "cannot be imported"),
        (["--model", "own_filter:g"], "has no g"),
        (["--model", "own_filter:number"], "must be a classifier"),
        (["--data", "nothing.npz"], "does not exist"),
        (["--out", "own_filter.py"], "own_filter.py already exists and is a file"),
        (["--out", "own_filter.py/run"], "own_filter.py/run cannot be made: Not a directory"),
        (["--data", "own_filter.py"], "NumPy archive"),
        (["--target", "d=2"], "must look like d=2,eps=0.5"),
        (["--target", "d=9,eps=0.5"], "too few|No number"),
        (["--tolerance", "0.1"], "--frontier only"),
        (["--no-pixel-noise"], "contradicts --sigma"),
        (["--shard", "2/2"], "I/K with 0 <= I < K"),
        (["--devices", "4000"], "devices must lie in"),
        (["--vocab-size", "10"], "skipped|outside"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, sentence, own, capsys):
    arguments = ["--model", "own_filter:classify", *own[1:], "--out", "run", *change]
    status = main(["sample", *arguments])
    printed = capsys.readouterr()
    assert re.search(sentence, printed.err + printed.out)
    assert status == 2 or "Skipped" in printed.out


def test_a_run_whose_inputs_are_all_skipped_ends_with_one_cause_and_leaves_nothing_in_the_way(own, capsys):
    arguments = [*own, "--model", "own_filter:classify", "--out", "run"]
    assert main([*arguments, "--vocab-size", "2"]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"hybrid-rs: error: None of the 6 inputs can be used; the first one: [^\n]*\n", error)
    assert not Path("run").exists()
    assert main(arguments) == 0, "the mended command needs no other folder"


def test_what_is_drawn_stays_where_a_resumed_run_can_use_no_input_any_more(own, capsys):
    arguments = [*own, "--model", "own_filter:classify", "--out", "run"]
    assert main(arguments) == 0
    with np.load("inputs.npz") as archive:
        np.savez("inputs.npz", **{**archive, "tokens": np.full((6, 5), 60)})
    assert main([*arguments, "--samples", "90", "--resume"]) == 2
    assert "None of the 6 inputs can be used" in capsys.readouterr().err
    with Ledger.open(Path("run")) as ledger:
        assert [row.draws for row in ledger.rows()] == [80] * 6


def test_a_sample_per_budget_is_no_longer_drawn(own, capsys):
    assert main([*own, "--model", "own_filter:classify", "--per-budget", "2", "--out", "run"]) == 2
    assert "--per-budget" in capsys.readouterr().err


def test_a_run_that_is_refused_before_its_first_draw_leaves_no_folder(own, tmp_path, capsys):
    code = "import numpy as np\n\ndef classify(tokens, images):\n    return np.full(len(tokens), 7)\n"
    (tmp_path / "scores.py").write_text(code)
    run = tmp_path / "refused"
    assert main([*own, "--model", "scores:classify", "--out", str(run)]) == 2
    assert not run.exists()
    assert main([*own, "--model", "own_filter:classify", "--out", str(run)]) == 0
    assert main([*own, "--model", "scores:classify", "--out", str(run)]) == 2
    assert counts(run), "a run that was there stays"


def test_a_model_that_raises_at_once_leaves_no_run_and_what_it_was_called_with_is_said(own, tmp_path, capsys):
    (tmp_path / "raises.py").write_text("def classify(tokens, images):\n    return {}[len(tokens.tobytes())]\n")
    assert main([*own, "--model", "raises:classify", "--limit", "1", "--out", "run"]) == 2
    error = capsys.readouterr().err
    called = r"tokens int32\[1, 5\] from \d+ to [1-4]?\d, images float32\[1, 2, 2, 1\]"
    assert re.search(rf"the classifier raises\.classify \(called with {called}\) raised KeyError: 20; ", error)
    assert not Path("run").exists()
    assert main([*own, "--model", "own_filter:classify", "--out", "run"]) == 0


@pytest.mark.parametrize("on_host", [[], ["--on-host"]])
def test_a_model_with_a_column_for_each_class_is_told_of_unsafe_classes(on_host, own, tmp_path, capsys):
    code = "def classify(tokens, images):\n    return (tokens[:, :3] > 9).astype('float32')\n"
    (tmp_path / "columns.py").write_text(code)
    run = [*own, "--model", "columns:classify", *on_host, "--out", "run"]
    assert main(run) == 2
    assert re.search(r"say which classes are Unsafe \(.*--unsafe-classes K,K,\.\.\.\)", capsys.readouterr().err)
    assert main([*run, "--unsafe-classes", "1,2"]) == 0
