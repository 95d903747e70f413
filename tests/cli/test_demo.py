"""From the demo to certify and plot: what one command writes, the next one reads."""

import contextlib
import csv
import io
import json
import shutil

import jax
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax import cli
from hybrid_rs_jax.classifiers import DemoGuard
from hybrid_rs_jax.cli._explain import explain
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.results.explanations import explanations
from hybrid_rs_jax.sampling import engine

FILES = {"run.json", "counts.csv", "certificates.json", "certificates.csv", "frontier.png"}


@pytest.fixture(scope="module")
def printed_and_made(tmp_path_factory):
    """A small demo beside an older one: what it printed, and its folder."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "hybrid-rs-demo").mkdir()
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(folder)
        assert cli.main(["demo", "--samples", "200", "--limit", "3", "--seed", "5"]) == 0
    return printed.getvalue(), folder / "hybrid-rs-demo-2"


@pytest.fixture(scope="module")
def made(printed_and_made):
    """The folder of a small demo."""
    return printed_and_made[1]


def certified(capsys, *argv):
    assert cli.main(["certify", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_demo_writes_three_run_folders(made):
    assert {path.name for path in made.iterdir()} == FILES | {"image-only", "text-only"}
    for name in ("image-only", "text-only"):
        assert {path.name for path in (made / name).iterdir()} == FILES
    assert {path.name for path in made.parent.iterdir()} == {"hybrid-rs-demo", "hybrid-rs-demo-2"}
    assert not list((made.parent / "hybrid-rs-demo").iterdir())


def test_run_says_all_that_defines_the_draws(made):
    run = json.loads((made / "run.json").read_text())
    assert run["smoothing"] == {"kernel": "uniform", "beta": 0.25, "vocab_size": 512, "sigma": 0.25, "step": None}
    assert (run["samples"], run["seed"], run["dtype"]) == (200, 5, "float32")
    assert run["eligible_positions"] == list(range(8, 16))
    assert len(run["classifier"]["weights_sha256"]) == 64
    assert run["packages"]["hybrid_rs_jax"] == hrs.__version__


@pytest.mark.parametrize("name", ["", "image-only", "text-only"])
def test_counts_are_those_of_the_recorded_noise(made, name):
    run = json.loads((made / name / "run.json").read_text())
    inputs = demo.held_out_unsafe(run["data"]["inputs"])
    discrete = None if run["smoothing"]["kernel"] == "none" else hrs.UniformKernel(0.25, run["smoothing"]["vocab_size"])
    counts = hrs.sample_counts(
        DemoGuard.load(),
        inputs.tokens,
        inputs.images,
        hrs.HybridSmoothing(discrete, run["smoothing"]["sigma"]),
        run["draws"]["parts"][0]["draws"] if "draws" in run else run["samples"],
        jax.random.key(run["seed"]),
        eligible=demo.suffix_mask(),
    )
    table = csv.DictReader((made / name / "counts.csv").read_text().splitlines())
    rows = [row for row in table if row.get("sample", "ordinary") == "ordinary"]
    assert [int(row["successes"]) for row in rows] == counts.tolist()
    assert [row["id"] for row in rows] == inputs.ids


@pytest.mark.parametrize("name", ["", "image-only", "text-only"])
def test_certify_repeats_the_certificates_of_the_demo(capsys, made, name):
    stored = json.loads((made / name / "certificates.json").read_text())
    again = certified(capsys, made / name, "--tau", stored["statement"]["tau"])
    assert again["certificates"] == stored["certificates"]
    assert again["statement"] == stored["statement"]
    assert again["statement"]["run"]["classifier"]["weights_sha256"]


def test_certify_repeats_or_refuses_what_the_flags_say_of_the_noise(capsys, made):
    flags = ["--kernel", "uniform", "--beta", "0.25", "--vocab-size", "512", "--sigma", "0.25", "--tau", "0.5"]
    assert certified(capsys, made, *flags) == certified(capsys, made, "--tau", "0.5")
    for flag, value, kept in (
        ("--beta", "0.3", "beta = 0.25"),
        ("--vocab-size", "513", "vocab_size = 512"),
        ("--sigma", "0.5", "sigma = 0.25"),
        ("--kernel", "absorbing", "kernel = uniform"),
        ("--cardinalities", "2,3", "cardinalities = None"),
    ):
        assert cli.main(["certify", str(made), flag, value]) == 2
        err = capsys.readouterr().err
        assert f"{flag} {value} contradicts the run" in err
        assert kept in err


def test_plot_draws_a_run_and_a_result(capsys, made, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made, run)
    assert cli.main(["plot", str(run)]) == 0
    assert (run / "certificates.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert cli.main(["plot", str(run)]) == 2
    assert "already exists" in capsys.readouterr().err
    for argv in (
        [str(run), "--tau", "0.5", "--out", str(tmp_path / "a.png")],
        [str(run / "certificates.json"), "--out", str(tmp_path / "b.svg")],
        [str(run / "text-only"), "--force"],
    ):
        assert cli.main(["plot", *argv]) == 0
        assert "Wrote" in capsys.readouterr().out
    assert cli.main(["plot", str(run / "certificates.json"), "--tau", "0.5", "--out", str(tmp_path / "c.png")]) == 2
    assert "--tau needs a run folder" in capsys.readouterr().err


FORMAT = '"format": "hybrid_rs_jax run, version 1"'


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "legal JSON"),
        ("[]", "must have the format"),
        ('{"format": "other"}', "must have the format 'hybrid_rs_jax run, version 1', got 'other'"),
        (f"{{{FORMAT}}}", "it has no 'smoothing'"),
        (
            f'{{{FORMAT}, "smoothing": {{"kernel": "uniform", "beta": 0.5, "sigma": null}}}}',
            "needs vocab_size",
        ),
    ],
)
def test_a_damaged_run_is_refused(capsys, tmp_path, content, sentence):
    (tmp_path / "run.json").write_text(content)
    (tmp_path / "counts.csv").write_text("id,successes,n\na,1,2\n")
    assert cli.main(["certify", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err


def test_demo_tells_its_story_and_its_guarantee(printed_and_made):
    printed, folder = printed_and_made
    for words in ("neither half is unsafe alone", "Image-only", "Text-only", "SMOOTHED", "99 %"):
        assert words in printed
    assert f"certify {folder.name} --tau 1e-3" in printed.splitlines()[-1]


def test_an_interrupted_demo_leaves_nothing(capsys, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "sample_counts", interrupted)
    assert cli.main(["demo", "--out", str(tmp_path / "run")]) == 130
    assert not list(tmp_path.iterdir())
    assert np.all([line == "hybrid-rs: interrupted." for line in capsys.readouterr().err.splitlines()])


def test_explain_shows_the_chain_from_votes_to_guarantee(tmp_path, capsys):
    arguments = [
        "--samples",
        "400",
        "--limit",
        "1",
        "--draws",
        "ordinary",
        "--explain",
        "--out",
        str(tmp_path / "demo"),
    ]
    assert cli.main(["demo", *arguments]) == 0
    said = capsys.readouterr().out
    row = json.loads((tmp_path / "demo" / "certificates.json").read_text())["certificates"][0]
    assert f"1. Votes. {row['successes']} of 400" in said
    d = row["budget"] // 2
    assert f"Take d = {d}, {d} changed token" in said
    assert said.count("\n  ") >= 2 * d + 1, "the table of atoms"
    lower = float(said.split("lies between ")[1].split(" ")[0])
    upper = float(said.split("lies between ")[1].split(" ")[2])
    epsilon = float(said.split("pixel change of eps = ")[1].split(" ")[0])
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, demo.VOCAB_SIZE), 0.25)
    assert lower <= hrs.worst_case_probability(row["p_a"], d, epsilon, smoothing) <= upper
    assert epsilon <= row["radius"][d]
    assert "6. Guarantee." in said


def test_explain_ends_where_the_bound_is_too_low_and_names_the_one_that_it_needs(capsys):
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, demo.VOCAB_SIZE), 0.25)
    certificate = hrs.certify([20], 100, smoothing, tau=0.5, alpha=0.01, budgets=[1, 2])
    explain(certificate, 0)
    said = " ".join(capsys.readouterr().out.split())
    level = float(said.split("p_A is below the ")[1].split(" ")[0])
    needed = hrs.required_probability(1, 0.0, smoothing, 0.5)
    assert needed <= level <= needed + 1e-3
    assert "that certifies. It abstains." in said
    assert "4." not in said
    (text, *_) = explanations(certificate)
    assert "the lower bound p_A on the clean score is too low for d = 1" in text
