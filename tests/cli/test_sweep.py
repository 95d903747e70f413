"""Sweeps: the numbers of the library, in both formats, or no file at all."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax import certificate, cli
from hybrid_rs_jax.cli import sweep
from hybrid_rs_jax.cli._values import integer_grid, number_grid

UNIFORM = ["--vocab-size", "512", "--beta", "0.1,0.25"]
TEXT = [*UNIFORM, "--no-pixel-noise"]
FIELDS = ["--kernel", "categorical", "--cardinalities", "2,3", "--beta", "0.1", "--no-pixel-noise"]
WORST = [*UNIFORM, *["--p-a", "0.9:0.999:3", "--budgets", "0:2:3", "--epsilon", "0,0.5", "--sigma", "log:0.25:1:2"]]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def swept(capsys, *argv):
    """Sweep into a CSV file, and give its header and its columns."""
    assert cli.main(["sweep", *argv, "--out", "a.csv", "--force"]) == 0
    capsys.readouterr()
    header, *lines = Path("a.csv").read_text().splitlines()
    return header, np.array([[float(cell) for cell in line.split(",")] for line in lines]).T


def test_worst_case_is_that_of_the_library(capsys):
    header, columns = swept(capsys, *WORST)
    assert header == "p_a,d,epsilon,sigma,beta,worst_case"
    axes = ([0.1, 0.25], [0.25, 1.0], np.linspace(0.9, 0.999, 3), range(3), [0, 0.5])
    for row, (beta, sigma, p_a, d, epsilon) in zip(columns.T, itertools.product(*axes), strict=True):
        np.testing.assert_allclose(row[:5], [p_a, d, epsilon, sigma, beta])
        smoothing = hrs.HybridSmoothing(hrs.UniformKernel(beta, 512), sigma)
        wanted = hrs.worst_case_probability(row[0], d, row[2], smoothing)
        np.testing.assert_allclose(row[5], wanted, rtol=1e-12, atol=1e-15)


def test_csv_and_parquet_are_equal_to_the_last_bit(capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    header, columns = swept(capsys, *WORST)
    assert cli.main(["sweep", *WORST, "--out", "a.parquet"]) == 0
    table = parquet.read_table("a.parquet")
    assert table.column_names == header.split(",")
    for name, column in zip(table.column_names, columns, strict=True):
        np.testing.assert_array_equal(table[name].to_numpy(), column)
    assert str(table.schema.field("d").type) == "int64"
    assert json.loads(table.schema.metadata[b"about"])["vocab_size"] == 512


def test_small_blocks_give_the_same_table(capsys, monkeypatch):
    _, columns = swept(capsys, *WORST)
    monkeypatch.setattr(sweep, "BLOCK", 7)
    _, pieces = swept(capsys, *WORST)
    np.testing.assert_array_equal(pieces[:5], columns[:5])
    np.testing.assert_allclose(pieces[5], columns[5], rtol=1e-12)


def test_radius_from_draws_that_all_succeed(capsys):
    argv = ["--radius", "--tau", "0.1", "--samples", "100,1000", "--alpha", "0.05"]
    header, columns = swept(capsys, *UNIFORM, *argv, "--budgets", "0,2", "--sigma", "0.5")
    assert header == "samples,p_a,d,sigma,beta,tau,radius"
    for n, p_a, d, sigma, beta, tau, radius in columns.T:
        assert tau == 0.1
        assert p_a == hrs.clopper_pearson(int(n), int(n), 0.05)
        smoothing = hrs.HybridSmoothing(hrs.UniformKernel(beta, 512), sigma)
        np.testing.assert_allclose(radius, hrs.certified_radius(p_a, int(d), smoothing, 0.1), rtol=1e-9)


def test_unimodal_sweeps_leave_the_absent_column_out(capsys):
    header, _ = swept(capsys, "--kernel", "none", "--sigma", "1", "--p-a", "0.9", "--budgets", "0", "--epsilon", "1")
    assert header == "p_a,d,epsilon,sigma,worst_case"
    argv = ["--kernel", "absorbing", "--beta", "0.5", "--no-pixel-noise", "--p-a", "0.9", "--budgets", "0,1"]
    header, _ = swept(capsys, *argv)
    assert header == "p_a,d,epsilon,beta,worst_case"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(("error", "status"), [(ValueError("a bad law"), 2), (KeyboardInterrupt(), 130)])
def test_a_failed_sweep_leaves_no_file(capsys, monkeypatch, suffix, error, status):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    solve, calls = hrs.worst_case_probability, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) > 3:
            raise error
        return solve(*args, **kwargs)

    monkeypatch.setattr(certificate, "worst_case_probability", failing)
    monkeypatch.setattr(sweep, "BLOCK", 4)
    assert cli.main(["sweep", *WORST, "--out", f"a.{suffix}"]) == status
    assert not os.listdir()
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([*TEXT, "--p-a", "0.9"], "--out is needed"),
        ([*TEXT, "--out", "a.csv"], "One of --p-a and --samples is needed"),
        ([*TEXT, "--p-a", "0.9", "--samples", "9", "--out", "a.csv"], "and not both"),
        ([*UNIFORM, "--p-a", "0.9", "--out", "a.csv"], "--sigma is needed (or --no-pixel-noise)"),
        (["--p-a", "0.9", "--out", "a.csv"], "--kernel uniform needs --beta and --vocab-size"),
        ([*UNIFORM, "--p-a", "1.5", "--out", "a.csv"], "--p-a must hold numbers in [0, 1], got 1.5"),
        ([*UNIFORM, "--p-a", "0.9,", "--out", "a.csv"], "--p-a must be a list like 0.9,0.99, or start:stop:count"),
        ([*UNIFORM, "--budgets", "0..2", "--out", "a.csv"], "--budgets must be a list like 0,1,2, or start:stop:count"),
        ([*UNIFORM, "--p-a", "0:1", "--out", "a.csv"], "--p-a must be a list like"),
        ([*UNIFORM, "--p-a", "0:1:2:3", "--out", "a.csv"], "--p-a must be a list like"),
        ([*UNIFORM, "--p-a", "0:1:0", "--out", "a.csv"], "--p-a must have a count in 1..1000000, got 0"),
        ([*UNIFORM, "--p-a", "log:0:1:5", "--out", "a.csv"], "a positive start and stop after log:"),
        ([*UNIFORM, "--p-a", "0:inf:5", "--out", "a.csv"], "a finite start and stop"),
        ([*UNIFORM, "--p-a", "0.9", "--budgets", "0:8:4", "--out", "a.csv"], "--budgets must hold integers in 0..1000"),
        ([*UNIFORM, "--p-a", "0.9", "--samples", "1.5", "--out", "a.csv"], "--samples must hold integers"),
        (
            [*TEXT, "--p-a", "0.9", "--epsilon", "1", "--out", "a.csv"],
            "--epsilon above 0 has a meaning only with --sigma",
        ),
        ([*TEXT, "--p-a", "0.9", "--tau", ".5", "--out", "a.csv"], "--tau has a meaning only with --radius"),
        ([*TEXT, "--p-a", "0.9", "--alpha", ".5", "--out", "a.csv"], "--alpha has a meaning only with --samples"),
        ([*TEXT, "--p-a", "0.9", "--radius", "--epsilon", "0", "--out", "a.csv"], "--epsilon has a meaning only"),
        ([*UNIFORM, "--p-a", "0.9", "--sigma", "0", "--out", "a.csv"], "--sigma must hold numbers in 1e-12..1e+12"),
        ([*TEXT, "--p-a", "0.9", "--out", "a.json"], "must end in .csv or .parquet"),
        ([*TEXT, "--p-a", "0.9", "--out", "missing/a.csv"], "does not exist; create it first"),
        (
            [*UNIFORM, "--p-a", "0:1:1000000", "--epsilon", "0:1:1000", "--sigma", "1", "--out", "a.csv"],
            "at most 1,000,000,000",
        ),
        (
            [*FIELDS, "--p-a", "0.9", "--budgets", "0:8:9", "--out", "a.csv"],
            "--budgets must be at most the number of fields 2, got 8",
        ),
    ],
)
def test_bad_grids_are_one_sentence(capsys, argv, sentence):
    assert cli.main(["sweep", *argv]) == 2
    out, err = capsys.readouterr()
    assert sentence in err
    assert (out, err.count("\n")) == ("", 1)
    assert not os.listdir()


def test_grids():
    parse = number_grid(lambda x: True, "anywhere")
    np.testing.assert_array_equal(parse("0.5"), [0.5])
    np.testing.assert_array_equal(parse("0.9,0.99"), [0.9, 0.99])
    np.testing.assert_array_equal(parse("0:1:5"), np.linspace(0, 1, 5))
    np.testing.assert_allclose(parse("log:1e-3:1:4"), [1e-3, 1e-2, 1e-1, 1])
    np.testing.assert_array_equal(integer_grid(0, 9)("0:8:9"), np.arange(9))
