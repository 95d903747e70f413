"""Runs side by side, sweeps as heat maps, and tables of others: compare, plot and certify."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.cli import main
from hybrid_rs_jax.results.comparison import compared, in_order, value_of, varied

FIELD = """idx label predict radius correct time
0 3 3 1.2 1 0:00:10
7 8 -1 0.0 0 0:00:10
9 8 2 0.5 0 0:00:10
""".replace(" ", "\t")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for sigma, beta in ((0.5, 0.25), (0.25, 0.25), (0.25, 0.5)):
        smoothing = hrs.HybridSmoothing(hrs.UniformKernel(beta, 512), sigma)
        found = hrs.certify([990, 1000], 1000, smoothing, tau=0.01, alpha=0.01, budgets=range(4))
        found.save(f"s{sigma}-b{beta}.json")


def runs():
    paths = sorted(Path().glob("s*.json"))
    return [compared(path.stem, hrs.read_certificates(path)) for path in paths]


def test_runs_are_sorted_by_a_setting_and_know_in_which_they_differ():
    assert varied(runs()) == ["sigma", "beta"]
    ordered = in_order(runs(), "sigma")
    assert [value_of(run, "sigma") for run in ordered] == [0.25, 0.25, 0.5]
    assert ordered[0].beside("sigma", ["sigma", "beta"]) == "beta = 0.25"
    assert np.isnan(ordered[0].share_at(9))


def test_compare_writes_a_page_of_all_figures_that_loads_nothing(capsys):
    files = [str(path) for path in sorted(Path().glob("s*.json"))]
    assert main(["compare", *files, "--by", "beta", "--out", "page.html"]) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("s0")]
    assert rows == ["s0.25-b0.25.json", "s0.5-b0.25.json", "s0.25-b0.5.json"]
    page = Path("page.html").read_text()
    assert page.count("<figure") == page.count("<svg") == 3
    assert "they differ in sigma and beta" in page
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert main(["plot", *files, "--by", "sigma", "--out", "by.svg"]) == 0
    assert Path("by.svg").read_text().count("<svg") == 1
    assert main(["plot", *files]) == 2
    assert "are drawn into --out FILE" in capsys.readouterr().err


def test_a_sweep_becomes_a_heat_map_of_the_radius(capsys):
    from hybrid_rs_jax.report.sweep_plots import plot_sweep, read_sweep

    grid = ["--p-a", "0.9,0.999", "--budgets", "0,1", "--sigma", "0.25,0.5", "--beta", "0.25", "--vocab-size", "512"]
    assert main(["sweep", "--radius", "--tau", "0.01", *grid, "--out", "radii.csv"]) == 0
    tables = read_sweep(Path("radii.csv"))
    assert [table.noise for table in tables] == [f"sigma = {sigma}, beta = 0.25, tau = 0.01" for sigma in (0.25, 0.5)]
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 512), 0.5)
    expected = hrs.certified_radius(np.array([[0.9], [0.999]]), np.array([[0, 1]]), smoothing, 0.01)
    np.testing.assert_allclose(tables[1].radius, expected, rtol=1e-12)
    shown = [text.get_text() for text in plot_sweep(tables).axes[1].texts]
    assert float(shown[0]) <= expected[0, 0] < float(shown[0]) + 0.01
    assert main(["plot", "radii.csv", "--kind", "heat"]) == 0
    assert Path("radii.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", "radii.csv", "--force"]) == 2
    assert "it is drawn with --kind heat" in capsys.readouterr().err
    lines = Path("radii.csv").read_text().splitlines()
    Path("gap.csv").write_text("\n".join(lines[:-1]))
    assert main(["plot", "gap.csv", "--kind", "heat"]) == 2
    assert "each pair of p_a and d once" in capsys.readouterr().err


def test_the_fields_own_table_of_radii_is_read(capsys):
    Path("radii.tsv").write_text(FIELD)
    assert main(["certify", "radii.tsv", "--epsilon", "0,0.5,1", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["certified"], row["right"]) for row in rows] == [("2", "1"), ("2", "1"), ("1", "1")]
    assert main(["certify", "radii.tsv"]) == 2
    assert "holds radii, not counts: --epsilon alone" in capsys.readouterr().err
    Path("radii.tsv").write_text(FIELD.replace("0.5", "-2"))
    assert main(["certify", "radii.tsv", "--epsilon", "0"]) == 2
    assert "line 4: radius must be a finite number of at least 0, got -2" in capsys.readouterr().err


def test_counts_under_other_names_of_columns_are_the_same_counts(capsys):
    noise = ["--kernel", "uniform", "--beta", "0.25", "--vocab-size", "512", "--sigma", "0.5", "--json"]
    Path("ours.csv").write_text("id,successes,n\na,990,1000\n")
    Path("theirs.csv").write_text("name,n_A,n\na,990,1000\n")
    assert main(["certify", "ours.csv", *noise]) == 0
    ours = json.loads(capsys.readouterr().out)
    assert main(["certify", "theirs.csv", "--columns", "successes=n_A,id=name", *noise]) == 0
    assert json.loads(capsys.readouterr().out)["certificates"] == ours["certificates"]
    assert main(["certify", "theirs.csv", "--columns", "votes=n_A", *noise]) == 2
    assert "--columns must be pairs like successes=n_A" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["name,n_A,n\na,990,1000\n", '{"name": "a", "n_A": 990, "n": 1000}\n'])
def test_a_table_with_other_names_of_columns_is_refused_with_the_flag_that_gives_them(content, capsys):
    Path("theirs").write_text(content)
    assert main(["certify", "theirs", "--kernel", "absorbing", "--beta", "0.25", "--no-pixel-noise"]) == 2
    error = capsys.readouterr().err
    assert "id and successes; needed are id, successes and n" in error
    assert error.endswith("; other names are given by --columns, as in successes=n_A,id=name.\n")


SWEEP = "sigma,p_a,d,radius\n"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "sweep.csv holds no rows."),
        (["0.5,0.9,0,wide"], "sweep.csv, line 2: radius must be a number, got 'wide'."),
        ([f"0.{n:02},0.9,0,1" for n in range(1, 40)], "sweep.csv holds 39 settings of sigma, beta and tau; at most"),
    ],
)
def test_a_sweep_that_cannot_be_drawn_is_one_sentence(capsys, lines, sentence):
    Path("sweep.csv").write_text(SWEEP + "".join(f"{line}\n" for line in lines))
    assert main(["plot", "sweep.csv", "--kind", "heat"]) == 2
    assert sentence in capsys.readouterr().err


def test_five_noises_are_five_heat_maps_and_the_sixth_place_stays_empty():
    from hybrid_rs_jax.report.sweep_plots import is_sweep, plot_sweep, read_sweep

    Path("sweep.csv").write_text(SWEEP + "".join(f"0.{n},0.9,0,{n}\n" for n in range(1, 6)))
    axes = plot_sweep(read_sweep(Path("sweep.csv"))).axes[:6]
    assert [ax.get_visible() for ax in axes] == [True] * 5 + [False]
    assert [ax.get_title("left") for ax in axes[:5]] == [f"σ = 0.{n}" for n in range(1, 6)]
    assert is_sweep(Path("radii.parquet"))


def test_a_table_of_radii_is_shown_alike_in_every_format(capsys):
    Path("radii.tsv").write_text(FIELD)
    command = ["certify", "radii.tsv", "--epsilon", "0,1"]
    assert main([*command, "--json"]) == 0
    (shares,) = json.loads(capsys.readouterr().out).values()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "they were certified elsewhere." in said
    assert main([*command, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [int(row["right"]) for row in rows] == [1, 1]
    assert "33.3 %" in said
    assert shares
    assert main([*command, "--json", "--format", "csv"]) == 2
    assert "--json contradicts --format csv; leave one of them out." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (FIELD.splitlines()[0] + "\n", "radii.tsv holds no inputs."),
        (FIELD.replace("0.5", "wide"), "line 4: radius must be a finite number of at least 0, got wide."),
    ],
)
def test_a_table_of_radii_that_cannot_be_read_is_one_sentence(capsys, content, sentence):
    Path("radii.tsv").write_text(content)
    assert main(["certify", "radii.tsv", "--epsilon", "0"]) == 2
    assert sentence in capsys.readouterr().err
