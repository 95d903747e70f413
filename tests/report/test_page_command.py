"""`hybrid-rs report`: the page of a run or of a result, and a sentence for whatever cannot be shown."""

import json

import numpy as np
import pytest
from hybrid_rs_jax.report.html import embedded_record
from hybrid_rs_jax.results.certificates import write_certificates
from PIL import Image
from test_html import HYBRID, RUN, Page, record_of

from hybrid_rs_jax import cli
from hybrid_rs_jax.kernels.record import describe_smoothing
from hybrid_rs_jax.results.runs import write_run
from hybrid_rs_jax.sampling.ledger import SHARED, CountRow, Ledger


@pytest.fixture
def run(tmp_path):
    """A run folder without certificates."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_run(folder, RUN | {"smoothing": describe_smoothing(HYBRID)}, [("a", 1000, 1000), ("b", 900, 1000)])
    return folder


@pytest.fixture
def result(tmp_path):
    """A result of certify."""
    path = tmp_path / "result.json"
    write_certificates(path, record_of(), ".json")
    return path


def report(capsys, *argv):
    """Exit status and what was printed."""
    status = cli.main(["report", *map(str, argv)])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def record_in(path):
    return embedded_record(Page(path.read_text(encoding="utf-8")).data)


def test_a_run_is_certified_with_the_flags(capsys, run):
    status, text = report(capsys, run, "--tau", "0.5", "--alpha", "0.02", "--max-budget", "3")
    assert status == 0
    assert "Wrote" in text
    assert "2 inputs, tau = 0.5, alpha = 0.02" in text
    shown = record_in(run / "certificates.html")
    assert cli.main(["certify", str(run), "--tau", "0.5", "--alpha", "0.02", "--max-budget", "3", "--json"]) == 0
    assert shown == json.loads(capsys.readouterr().out)


def test_votes_per_class_are_shown_with_their_class(capsys, tmp_path):
    header = RUN | {"smoothing": describe_smoothing(HYBRID), "plan": {"plan": "fixed", "n": 1000}, "mode": "shared"}
    with Ledger.create(tmp_path / "votes", header | {"budgets": None, "classes": 3}) as ledger:
        ledger.register([("a", 0, "0" * 64), ("b", 1, "1" * 64)])
        ledger.append([CountRow(0, SHARED, 0, 1000, (980, 15, 5)), CountRow(1, SHARED, 0, 1000, (300, 350, 350))])
    assert report(capsys, tmp_path / "votes")[0] == 0
    certificates = record_in(tmp_path / "votes" / "certificates.html")["certificates"]
    assert [(row["label"], row["votes"]) for row in certificates] == [(0, [980, 15, 5]), (1, [300, 350, 350])]
    assert cli.main(["plot", str(tmp_path / "votes")]) == 2
    assert "votes per class" in capsys.readouterr().err


def test_a_result_is_shown_as_it_is(capsys, result):
    assert report(capsys, result)[0] == 0
    assert record_in(result.with_suffix(".html")) == json.loads(result.read_text())


def test_the_certificates_of_a_run_folder_are_preferred_to_its_counts(capsys, run):
    write_certificates(run / "certificates.json", record_of(), ".json")
    assert report(capsys, run)[0] == 0
    assert len(record_in(run / "certificates.html")["certificates"]) == 5


def test_two_reports_of_one_run_are_equal_and_only_force_overwrites(capsys, run, tmp_path):
    assert report(capsys, run, "--out", tmp_path / "a.html")[0] == 0
    assert report(capsys, run, "--out", tmp_path / "b.html")[0] == 0
    first = (tmp_path / "a.html").read_bytes()
    assert first == (tmp_path / "b.html").read_bytes()
    status, text = report(capsys, run, "--tau", "0.5", "--out", tmp_path / "a.html")
    assert (status, "already exists" in text) == (2, True)
    assert (tmp_path / "a.html").read_bytes() == first
    assert report(capsys, run, "--tau", "0.5", "--out", tmp_path / "a.html", "--force")[0] == 0
    assert (tmp_path / "a.html").read_bytes() != first


def test_data_adds_text_and_picture(capsys, run, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    (tmp_path / "t.csv").write_text("id,text,image\na,first,x.png\nz,other,x.png\n")
    assert report(capsys, run, "--data", tmp_path / "t.csv")[0] == 0
    data = Page((run / "certificates.html").read_text(encoding="utf-8")).data
    assert data["texts"] == ["first", None]
    assert data["pictures"][0]
    assert data["pictures"][1] is None


def test_bad_input_gets_one_sentence(capsys, run, result, tmp_path):
    np.savez(tmp_path / "d.npz", tokens=np.zeros((1, 2), int), images=np.zeros((1, 2, 2, 1)), ids=np.array(["q"]))
    for argv, sentence in (
        ([tmp_path / "missing"], "missing does not exist"),
        ([result, "--tau", "0.5"], "--tau needs a run folder"),
        ([run, "--out", tmp_path / "a.pdf"], "must end in .html"),
        ([run, "--out", tmp_path / "no" / "a.html"], "does not exist; create it first"),
        ([run, "--tau", "2"], "--tau must lie in (0, 1), got 2"),
        ([run, "--data", tmp_path / "nothing.csv"], "does not exist"),
        ([run, "--data", tmp_path / "d.npz"], "has none of the 2 inputs, 'a' for one"),
    ):
        status, text = report(capsys, *argv)
        assert status == 2
        assert sentence in text
        assert text.count("\n") == 1
    assert not list(run.glob("*.html"))


def test_the_command_explains_itself_with_an_example(capsys):
    text = report(capsys, "--help")[1]
    assert text.startswith("usage: hybrid-rs report")
    assert "  hybrid-rs report hybrid-rs-demo\n" in text.split("examples:")[1]
    assert "None" not in text
