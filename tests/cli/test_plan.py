"""`hybrid-rs plan --target`: the exact cost of early stopping, before anything is drawn."""

import json

import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.cli import main
from hybrid_rs_jax.cli.options import NoiseOptions, StoppingOptions, check_noise, target_test
from hybrid_rs_jax.cli.sample import WorkOptions
from hybrid_rs_jax.confidence import SequentialTest, Verdict
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.kernels import HybridSmoothing, UniformKernel

TARGET = ["plan", "--target", "d=1,eps=0.25", "--beta", "0.25", "--vocab-size", "32000", "--sigma", "0.5"]


def record(capsys, *more):
    assert main([*TARGET, *more, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_plan_is_that_of_the_test_that_sample_runs(capsys):
    found = record(capsys, "--probability", "0.9,0.999", "--samples", "2000")
    statement = found["statement"]
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 32_000), 0.5)
    assert statement["p_a"] == hrs.required_probability(1, 0.25, smoothing, 4.6e-5)
    assert 0.8 * 0.01 <= statement["error"] <= 0.01
    test = SequentialTest(statement["p_a"], 0.01, 2000, complement_star=statement["complement"])
    assert found["scores"] == [test.summary(p)._asdict() for p in (0.9, 0.999)]


@pytest.mark.slow
def test_the_figures_agree_with_a_simulation(capsys):
    row = record(capsys, "--probability", "0.9", "--samples", "1000")["scores"][0]
    test = SequentialTest(row_p_star(capsys), 0.01, 1000)
    rng, n, reached = np.random.default_rng(0), [], 0
    for _ in range(2000):
        total = np.cumsum(rng.random(1000) < 0.9)
        verdict = test.verdict(test.looks, total[test.looks - 1])
        first = int(np.argmax(verdict != Verdict.CONTINUE))
        n.append(test.looks[first])
        reached += verdict[first] == Verdict.REACHED
    assert np.mean(n) == pytest.approx(row["mean"], abs=4 * np.std(n) / np.sqrt(2000))
    assert reached / 2000 == pytest.approx(row["certified"], abs=0.03)


def row_p_star(capsys):
    return record(capsys)["statement"]["p_a"]


def test_the_table_says_what_it_costs_in_words(capsys):
    assert main(TARGET) == 0
    said = capsys.readouterr().out
    assert "Target d = 1, eps = 0.25" in said
    assert "mean draws" in said
    assert "not from a simulation" in said


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--epsilon", "0.5"], "--epsilon contradicts --target"),
        (["--samples", "5"], "needs at least"),
        (["--probability", "1.5"], r"must hold numbers in [0, 1]"),
        (["--tau", "0.9"], "needs at least 10994049"),
    ],
)
def test_bad_input_is_one_sentence(more, sentence, capsys):
    assert main([*TARGET, *more]) == 2
    assert sentence in capsys.readouterr().err


def test_flags_without_their_partner_are_refused(capsys):
    rest = ["--beta", "0.25", "--vocab-size", "32000", "--sigma", "0.5"]
    assert main(["plan", "--budget", "1", *rest]) == 2
    assert "--epsilon is needed" in capsys.readouterr().err
    assert main(["plan", "--budget", "1", "--epsilon", "0", "--probability", "0.9", *rest]) == 2
    assert "--target only" in capsys.readouterr().err
    assert main(["plan", "--target", "d=1,eps=0.5", "--kernel", "none", "--sigma", "0.5"]) == 2
    assert "token noise" in capsys.readouterr().err


PIXELS, TEXT = HybridSmoothing(None, 0.5), HybridSmoothing(UniformKernel(0.25, 512), None)


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: NoiseOptions(no_pixel_noise=True).repeated(PIXELS), "--no-pixel-noise contradicts the run, which has"),
        (lambda: NoiseOptions(sigma=0.25).repeated(PIXELS), "--sigma"),
        (lambda: StoppingOptions(target=(1, 0.5), frontier=True).check(), "--target and --frontier both say when to"),
        (lambda: StoppingOptions(tolerance=0.1).check(), "--tolerance has a meaning with --frontier only."),
        (
            lambda: target_test(0, 9.0, PIXELS, 0.5, 0.01, 1000),
            "No number of draws (up to 2^53) certifies d = 0, eps =",
        ),
        (lambda: target_test(0, 0.5, PIXELS, 0.5, 0.01, 10), "10 draws are too few for d = 0, eps = 0.5 at tau = 0.5"),
        (lambda: target_test(0, 0.5, TEXT, 0.5, 0.01, 10), "eps above 0 needs pixel noise: without it no pixel change"),
        (lambda: target_test(1, 0.5, PIXELS, 0.5, 0.01, 10), "d above 0 needs token noise: without it no token change"),
        (
            lambda: check_noise("uniform", no_pixel_noise=True, step=0.1, sigma=None, beta=0.5, vocab_size=9),
            "--step has a meaning with --sigma only.",
        ),
        (lambda: WorkOptions(limit=2, shard=(3, 4)).indices(9), "--shard 3/4 leaves none of the 2 inputs."),
    ],
)
def test_flags_that_contradict_each_other_or_the_noise_are_one_sentence(ask, sentence):
    with pytest.raises(BadInputError) as caught:
        ask()
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")
