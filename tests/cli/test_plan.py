"""`hybrid-rs plan --target`: the exact cost of early stopping, before anything is drawn."""

import json

import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.cli import main
from hybrid_rs_jax.confidence import SequentialTest, Verdict

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
