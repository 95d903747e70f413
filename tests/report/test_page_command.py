"""`hybrid-rs report`: the page of a run or of a result, and a sentence for whatever cannot be shown."""

import re

import numpy as np
import pytest
from page_results import HYBRID, result_of
from PIL import Image

from hybrid_rs_jax import cli
from hybrid_rs_jax.kernels.record import describe_noise
from hybrid_rs_jax.results.runs import run_record, write_run
from hybrid_rs_jax.sampling.ledger import SHARED, CountRow, Ledger

RUN = run_record(
    HYBRID,
    samples=1000,
    seed=7,
    eligible=[8, 9, 10, 11],
    sigma_unit="pixels in [0, 1]",
    dtype="float32",
    classifier={"name": "some.package.Guard", "weights_sha256": "ab" * 32},
    data={"name": "npz", "file": "inputs.npz"},
    noise=describe_noise(HYBRID, 192),
)


@pytest.fixture
def run(tmp_path):
    """A run folder without certificates."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_run(folder, RUN, [("a", 1000, 1000), ("b", 900, 1000)])
    return folder


@pytest.fixture
def result(tmp_path):
    """A result of certify."""
    result_of().save(tmp_path / "result.json")
    return tmp_path / "result.json"


def report(capsys, *argv):
    """Exit status and what was printed."""
    status = cli.main(["report", *map(str, argv)])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def rows_in(path):
    """Names and cells of the table of inputs."""
    table = path.read_text(encoding="utf-8").partition('id="rows"')[2]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', table)
    return {name: re.findall(r"<td[^>]*>(.*?)</td>", cells) for name, cells in rows}


def test_a_run_is_certified_with_the_flags(capsys, run):
    status, text = report(capsys, run, "--tau", "0.5", "--alpha", "0.02", "--max-budget", "3")
    assert status == 0
    assert "2 inputs, tau = 0.5, alpha = 0.02" in text
    page = (run / "certificates.html").read_text(encoding="utf-8")
    assert "98 %" in page
    assert "down to tau = 0.5 or below" in page
    assert "r_3" in page
    assert "r_4" not in page
    assert "grid of step 1/255" in page
    assert list(rows_in(run / "certificates.html")) == ["a", "b"]


@pytest.mark.slow
def test_votes_per_class_are_shown_with_their_class(capsys, tmp_path):
    header = RUN | {"plan": {"plan": "fixed", "n": 1000}, "classes": 3}
    with Ledger.create(tmp_path / "votes", header) as ledger:
        ledger.register([("a", 0, "0" * 64), ("b", 1, "1" * 64)])
        ledger.append([CountRow(0, SHARED, 0, 1000, (980, 15, 5)), CountRow(1, SHARED, 0, 1000, (300, 350, 350))])
    assert report(capsys, tmp_path / "votes")[0] == 0
    rows = rows_in(tmp_path / "votes" / "certificates.html")
    assert [cells[:2] for cells in rows.values()] == [["0", "980"], ["1", "350"]]
    assert cli.main(["plot", str(tmp_path / "votes")]) == 2
    assert "votes per class" in capsys.readouterr().err


def test_a_result_is_shown_as_it_is(capsys, result):
    assert report(capsys, result)[0] == 0
    assert list(rows_in(result.with_suffix(".html"))) == list(result_of().ids)


def test_the_certificates_of_a_run_folder_are_preferred_to_its_counts(capsys, run):
    result_of().save(run / "certificates.json")
    assert report(capsys, run)[0] == 0
    assert len(rows_in(run / "certificates.html")) == 5


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
    page = (run / "certificates.html").read_text(encoding="utf-8")
    assert "<p>first</p>" in page
    assert page.count("data:image/png;base64,") == 1


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
    assert text.startswith("Usage: hybrid-rs report")
    assert "  hybrid-rs report hybrid-rs-demo\n" in text.split("examples:")[1]
    assert "None" not in text
