"""Conditional draws through the commands: sample, certify and demo."""

import csv
import json

import numpy as np
import pytest

from hybrid_rs_jax import HybridSmoothing, UniformKernel
from hybrid_rs_jax.cli import main
from hybrid_rs_jax.results.count_files import read_counts
from hybrid_rs_jax.results.reading import read_certificates

NOISE = ("--kernel", "uniform", "--beta", "0.25", "--vocab-size", "32000", "--sigma", "0.5")
DEMO = ("sample", "--model", "demo", "--data", "demo", "--limit", "3")


@pytest.fixture
def ok(capsys):
    """What a command prints that succeeds."""

    def run(*arguments):
        assert main(list(map(str, arguments))) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def failed(capsys):
    """The sentence of a command that refuses."""

    def run(*arguments):
        assert main(list(map(str, arguments))) == 2
        return capsys.readouterr().err

    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "both"
    flags = ("--samples", "2000", "--draws", "both", "--threat", "suffix", "--max-budget", "4")
    assert main([*DEMO, *flags, "--out", str(folder)]) == 0
    return folder


def test_a_run_of_both_kinds_is_certified_and_read_back(ok, run, tmp_path):
    out = tmp_path / "certificates.json"
    text = ok("certify", run, "--out", out)
    assert "resampled over the whole alphabet" in text
    assert "on conditional draws for d = 1, 2, 4 each" in text  # budgets, and not the sizes of their sets
    stored = read_certificates(out)
    statement = json.loads(out.read_text())["statement"]
    assert [each["draws"] for each in statement["samples"]][:2] == ["ordinary", "conditional"]
    assert sum(each["share"] for each in statement["samples"]) == pytest.approx(1)
    assert stored.counts == read_counts(run)
    assert statement["threat"]["name"] == "suffix"
    assert (np.diff(stored.radius, axis=1) <= 0).all()


@pytest.mark.slow
def test_tables_and_pages_have_a_column_for_each_sample(ok, run, tmp_path):
    for suffix in (".csv", ".tex", ".parquet"):
        ok("certify", run, "--out", tmp_path / f"out{suffix}")
    with (tmp_path / "out.csv").open() as file:
        columns = next(csv.reader(file))
    assert {"successes_ordinary", "n_ordinary", "p_a_ordinary", "radius_4"} <= set(columns)
    ok("report", run, "--out", tmp_path / "page.html")
    ok("plot", run, "--out", tmp_path / "frontier.png")


def test_a_run_goes_on_where_it_was_left_and_takes_no_other_design(ok, failed, run):
    settings = (*DEMO, "--samples", "2000", "--draws", "both", "--max-budget", "4", "--resume", "--out", run)
    assert "0 of them count" in ok(*settings, "--threat", "suffix")
    assert "threat" in failed(*settings, "--threat", "append")
    assert "draws" in failed(*settings[:-3], "--threat", "suffix", "--draws", "conditional", "--resume", "--out", run)


def test_a_table_with_budgets_must_say_how_it_was_drawn(ok, failed, tmp_path):
    table = tmp_path / "counts.csv"
    table.write_text("id,budget,successes,n\n" + "".join(f"a,{d},200,200\n" for d in range(1, 4)))
    assert "--draws ordinary or --draws conditional" in failed("certify", table, *NOISE)
    conditional = json.loads(ok("certify", table, *NOISE, "--draws", "conditional", "--json"))
    ordinary = json.loads(ok("certify", table, *NOISE, "--draws", "ordinary", "--json"))
    assert conditional["certificates"][0]["budget"] == 3
    assert conditional["certificates"][0]["radius"][2] > ordinary["certificates"][0]["radius"][2]
    plain = tmp_path / "plain.csv"
    plain.write_text("id,successes,n\na,200,200\n")
    assert "no column budget" in failed("certify", plain, *NOISE, "--draws", "conditional")


def test_a_run_contradicts_other_draws(failed, run):
    assert "contradicts the run" in failed("certify", run, "--draws", "ordinary")
    assert "contradicts the counts" in failed("certify", run, "--max-budget", "7")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--max-budget", "3"), "--max-budget needs --draws"),
        (("--draws", "both", "--frontier"), "no --frontier"),
        (("--draws", "both", "--threat", "insert"), "insertions need no conditional draws"),
        (("--draws", "both", "--kernel", "none"), "token noise"),
        (("--draws", "both", "--target", "d=2,eps=0.1"), "--threat append"),
        (("--threat", "insert", "--kernel", "uniform"), "contradicts --kernel uniform"),
        (("--draws", "conditional", "--samples", "3"), "certify none of them"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(failed, tmp_path, flags, words):
    assert words in failed(*DEMO, *flags, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_target_is_decided_by_conditional_draws_of_its_budget(ok, tmp_path):
    flags = ("--draws", "conditional", "--threat", "append", "--target", "d=5,eps=0.25", "--samples", "500")
    ok(*DEMO, *flags, "--out", tmp_path / "run")
    result = json.loads(ok("certify", tmp_path / "run", "--json"))
    assert all(row["radius"][5] >= 0.25 and row["n"][0] < 500 for row in result["certificates"])


def test_deletion_noise_certifies_insertions_on_the_demo(ok, tmp_path):
    ok(*DEMO, "--threat", "insert", "--p-delete", "0.5", "--samples", "300", "--out", tmp_path / "run")
    result = json.loads(ok("certify", tmp_path / "run", "--json"))
    assert result["statement"]["kernel"] == "deletion"
    assert "inserted, anywhere" in result["statement"]["threat_model"]
    assert min(row["budget"] for row in result["certificates"]) >= 4


def test_the_demo_holds_both_kinds_and_its_folder_is_certified_again(ok, tmp_path):
    out = tmp_path / "demo"
    text = ok("demo", "--samples", "2000", "--limit", "3", "--explain", "--out", out)
    assert "ordinary" in text
    again = json.loads(ok("certify", out, "--tau", "4.6050644208979066e-05", "--json"))
    first = json.loads((out / "certificates.json").read_text())
    radii = [[row["radius"] for row in found["certificates"]] for found in (again, first)]
    np.testing.assert_allclose(*radii, atol=1e-5)
    assert min(row["budget"] for row in first["certificates"]) >= 6
    assert read_counts(out).run.smoothing == HybridSmoothing(UniformKernel(0.25, 512), 0.25)
