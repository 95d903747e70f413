"""What leads out of a run: (d, eps) tables with labels, runs side by side, how far a run is, archives, heat maps."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hybrid_rs_jax as hrs
from hybrid_rs_jax.cli import main
from hybrid_rs_jax.data import load_npz
from hybrid_rs_jax.results.accuracy import accuracy_table
from hybrid_rs_jax.results.columns import Column
from hybrid_rs_jax.results.count_files import read_counts
from hybrid_rs_jax.results.pace import RunPace
from hybrid_rs_jax.results.reading import read_certificates

COUNTS = "id,successes,n,label\na,10000,10000,unsafe\nb,9990,10000,Safe\nc,9000,10000,1\nd,0,10000,unsafe\n"
FORMATS = ("json", "csv", "markdown", "latex", "table")
NOISE = ["--kernel", "uniform", "--beta", "0.25", "--vocab-size", "32000", "--sigma", "0.5"]
SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 32_000), 0.5)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("counts.csv").write_text(COUNTS)
    Path("exit_model.py").write_text("def light(tokens, images):\n    return images.mean((1, 2, 3)) > 0.4\n")


def done(capsys, *argv):
    """Run a command that must succeed, and give what it prints."""
    status = main(list(argv))
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return printed.out


def refused(capsys, *argv):
    """Run a command that must refuse, and give its sentence."""
    assert main(list(argv)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_the_d_eps_table_counts_what_the_radii_say(capsys):
    grid = [0.0, 0.5, 1.0, 2.0]
    printed = done(capsys, "certify", "counts.csv", *NOISE, "--epsilon", "0,.5,1,2", "--json")
    record = json.loads(printed)
    assert list(record) == ["statement", "certificates", "accuracy"]
    radius = np.array([row["radius"] for row in record["certificates"]])
    found = record["accuracy"]
    for d in range(9):
        for place, level in enumerate(grid):
            assert found["certified"][d][place] == sum(r >= level for r in radius[:, d])
            right = [r >= level for r, label in zip(radius[:, d], (1, 0, 1, 1), strict=True) if label]
            assert found["right"][d][place] == sum(right), "b is certified unsafe, and its label says safe"
    assert (found["inputs"], found["labelled"]) == (4, 4)


def test_formats_of_the_d_eps_table(capsys):
    ask = ("certify", "counts.csv", *NOISE, "--max-budget", "1", "--epsilon", "0,0.5")
    rows = list(csv.DictReader(io.StringIO(done(capsys, *ask, "--format", "csv"))))
    assert [(row["d"], row["epsilon"]) for row in rows] == [("0", "0.0"), ("0", "0.5"), ("1", "0.0"), ("1", "0.5")]
    assert rows[0]["certified"] == "3"
    assert rows[0]["right"] == "2"
    markdown = done(capsys, *ask, "--format", "markdown")
    assert "| d | eps = 0 | eps = 0.5 |\n|---|---:|---:|\n| 0 | 3 (75.0 %) |" in markdown
    assert "certified to be what it says" in markdown
    latex = done(capsys, *ask, "--format", "latex")
    assert latex.count(r"\begin{table}") == 2
    assert r"3 (75.0 \%)" in latex
    table = done(capsys, *ask)
    assert "Inputs certified at (d, eps):" in table
    assert "Of 4 with a label, certified to be what it says:" in table
    assert "must hold numbers of at least 0, got -1.0" in refused(capsys, *ask[:-1], "-1")


def test_a_table_for_each_group(capsys):
    Path("groups.csv").write_text(
        "id,successes,n,label,group\na,10000,10000,unsafe,x\nb,9990,10000,safe,y\nc,9000,10000,1,y\n"
    )
    ask = ("certify", "groups.csv", *NOISE, "--max-budget", "0", "--epsilon", "0", "--by", "group")
    rows = list(csv.DictReader(io.StringIO(done(capsys, *ask, "--format", "csv"))))
    assert [(row["inputs of"], row["inputs"], row["right"]) for row in rows] == [
        ("", "3", "2"),
        ("group = x", "1", "1"),
        ("group = y", "2", "1"),
    ]
    groups = json.loads(done(capsys, *ask, "--json"))["accuracy"]["groups"]
    assert groups["group = y"]["certified"] == [[2]]
    assert "Inputs certified at (d, eps) (group = y: 2 inputs):" in done(capsys, *ask)
    assert "--by sex: there is no column 'sex'; the inputs have label and group." in refused(capsys, *ask[:-1], "sex")
    assert "--by has a meaning with --epsilon only" in refused(capsys, *ask[:-4], "--by", "group")


def test_markdown_of_a_result_has_its_guarantee(capsys):
    printed = done(capsys, "certify", "counts.csv", *NOISE, "--format", "markdown", "--max-budget", "1")
    assert printed.startswith("| id | successes | p_A |")
    assert "SMOOTHED" in printed
    assert "SMOOTHED" in done(capsys, "certify", "counts.csv", *NOISE, "--format", "latex")


def test_labels_that_say_neither_are_named_and_not_used(capsys):
    Path("odd.csv").write_text(COUNTS.replace("Safe", "meme"))
    main(["certify", "odd.csv", *NOISE, "--epsilon", "0"])
    printed = capsys.readouterr()
    assert "each must be unsafe or safe (1 or 0), got 'meme'" in printed.err
    assert "with a label" not in printed.out


def test_accuracy_of_classes_and_of_two_decisions():
    import dataclasses

    classes = hrs.certify_classes([[10, 980, 10], [900, 50, 50]], hrs.HybridSmoothing(None, 0.5), 0.01, [0])
    counts = dataclasses.replace(classes.counts, others=(Column("label", ("1", "2")),))
    table = accuracy_table(dataclasses.replace(classes, counts=counts), [0.0, 0.5])
    assert table.certified.tolist() == [[2, 2]]
    assert table.right.tolist() == [[1, 1]]
    from hybrid_rs_jax.results.certificate import certify_decisions

    counts = read_counts(Path("counts.csv"))
    both = certify_decisions(counts, SMOOTHING, 0.5, 0.01, (0, 1), "both")
    table = accuracy_table(both, 0.0)
    assert both.decision.tolist() == ["unsafe", "unsafe", "unsafe", "safe"]
    assert table.certified[0, 0] == 4
    assert table.right[0, 0] == 2


def test_runs_side_by_side(capsys):
    for name, sigma in (("quarter", 0.25), ("half", 0.5)):
        noise = [*NOISE[:-1], str(sigma)]
        done(capsys, "certify", "counts.csv", *noise, "--out", f"{name}.json")
    printed = done(capsys, "compare", "quarter.json", "half.json", "--out", "both.png")
    assert Path("both.png").read_bytes().startswith(b"\x89PNG")
    assert "Wrote both.png." in printed
    assert "d = 6" not in printed, "columns end with the last certified budget"
    records = json.loads(done(capsys, "compare", "quarter.json", "half.json", "--json"))
    assert [record["smoothing"]["sigma"] for record in records] == [0.25, 0.5]
    for record in records:
        radius = read_certificates(Path(record["run"])).radius
        assert record["certified"] == (radius >= 0).sum(axis=0).tolist()
        np.testing.assert_allclose(record["mean_radius"], radius.clip(0).mean(axis=0), rtol=1e-12)
        share, mean = 75.0, np.floor(1000 * radius[:, 0].clip(0).mean()) / 1000
        assert f"{share} %, {mean:.3f}" in printed
    rows = list(csv.DictReader(io.StringIO(done(capsys, "compare", "quarter.json", "half.json", "--format", "csv"))))
    assert len(rows) == 18
    assert "| run | kernel | beta | sigma |" in done(
        capsys, "compare", "quarter.json", "half.json", "--format", "markdown"
    )
    assert r"\toprule" in done(capsys, "compare", "quarter.json", "half.json", "--format", "latex")
    assert "half.json already" not in printed
    assert "already exists" in refused(capsys, "compare", "quarter.json", "--out", "both.png")
    assert "must end in .png" in refused(capsys, "compare", "quarter.json", "--out", "both.txt")


def test_a_comparison_says_what_is_not_comparable(capsys):
    Path("other.csv").write_text(COUNTS.replace("a,", "z,"))
    done(capsys, "certify", "counts.csv", *NOISE, "--out", "one.json")
    done(capsys, "certify", "other.csv", *NOISE, "--tau", "0.5", "--out", "two.json")
    printed = done(capsys, "compare", "one.json", "two.json")
    assert "two.json and one.json hold different inputs" in printed
    assert "certified for different tau" in printed


def pictures(broken=False):
    """A folder of three pictures with texts; one of them may be broken."""
    folder = Path("pictures")
    folder.mkdir()
    for place, text in enumerate(["dial nine", "call me", "dial"]):
        levels = np.full((5, 5, 3), 60 * place + 40, np.uint8)
        Image.fromarray(levels).save(folder / f"{place}.png")
        (folder / f"{place}.txt").write_text(text)
    if broken:
        (folder / "2.png").write_bytes(b"nothing")
    return "pictures"


SAMPLE = ["sample", "--model", "exit_model:light", "--sigma", "0.1", "--samples", "50"]


def test_status_counts_done_left_and_skipped_with_reasons(capsys):
    data = pictures(broken=True)
    done(capsys, *SAMPLE, "--data", data, "--out", "run")
    record = json.loads(done(capsys, "status", "run", "--json"))
    assert {name: record[name] for name in ("inputs", "done", "begun", "left", "draws")} == {
        "inputs": 3,
        "done": 2,
        "begun": 0,
        "left": 0,
        "draws": 100,
    }
    assert [skipped["id"] for skipped in record["skipped"]] == ["2.png"]
    assert {name: record["pace"][name] for name in ("settled", "draws", "retries")} == {
        "settled": 150,
        "draws": 150,
        "retries": None,
    }
    assert "Skipped 2.png: The image pictures/2.png cannot be decoded" in done(capsys, "status", "run")
    assert "is not a run folder" in refused(capsys, "status", "pictures")
    assert "nowhere is not a run folder" in refused(capsys, "status", "nowhere")


def test_status_of_a_run_that_was_cut_short(capsys):
    from hybrid_rs_jax.sampling.ledger import SHARED, CountRow, Ledger

    done(capsys, *SAMPLE, "--data", pictures(), "--limit", "1", "--out", "run")
    with Ledger.open(Path("run")) as ledger:
        header = ledger.header
    with Ledger.resume(Path("run"), header, may_change=None) as ledger:
        ledger.register([("1.png", 1, "digest")])
        ledger.append([CountRow(1, SHARED, 0, 7, (3,), 0)])
    Path("run/inputs.csv").write_text("id\n0.png\n1.png\n2.png\n")
    record = json.loads(done(capsys, "status", "run", "--json"))
    assert [record[name] for name in ("inputs", "done", "begun", "left", "draws")] == [3, 1, 1, 2, 57]
    pace = RunPace(57, 150, 57, 5.0, 120.0, 3, RunPace.now())
    pace.write(Path("run"))
    printed = done(capsys, "status", "run")
    assert "--resume" in printed
    assert re.search(r"pace +5 copies/s\n *retries +3\n", printed)
    assert re.search(r"38 % of the draws are settled; about (2 min|1\d\d s) left", printed)
    # whoever is killed has kept more draws than it has said
    dataclasses.replace(pace, settled=12, at="2026-01-01T00:00:00+00:00").write(Path("run"))
    said = "At least 38 % of the draws are settled; no session has reported since 2026-01-01T00:00:00+00:00."
    assert said in done(capsys, "status", "run")
    Path("run/progress.json").write_text("{")  # nothing rests on it
    assert json.loads(done(capsys, "status", "run", "--json"))["pace"] is None


def test_packed_data_draw_what_the_data_themselves_do(capsys):
    data = pictures()
    printed = done(capsys, "pack", data, "--out", "inputs.npz")
    assert "3 inputs, 10 tokens each out of 5, 5x5 pixels" in printed
    done(capsys, *SAMPLE, "--data", data, "--out", "texts")
    done(capsys, *SAMPLE, "--data", "inputs.npz", "--vocab-size", "5", "--out", "arrays")
    assert read_counts(Path("texts")).successes.tolist() == read_counts(Path("arrays")).successes.tolist()
    inputs = load_npz(Path("inputs.npz"))
    assert inputs.ids == ["0.png", "1.png", "2.png"]
    assert inputs.eligible[0].tolist() == [False, False, *[True] * 8]
    done(capsys, "pack", "demo", "--out", "demo.npz")
    assert "must end in .npz" in refused(capsys, "pack", data, "--out", "inputs.zip")
    assert "already exists" in refused(capsys, "pack", data, "--out", "inputs.npz")
    assert "must be texts and pictures" in refused(capsys, "pack", "inputs.npz", "--out", "again.npz")


def test_labels_pass_through_an_archive(capsys):
    pictures()
    rows = [{"id": f"i{n}", "text": "dial", "image": f"pictures/{n}.png", "label": "unsafe"} for n in range(3)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done(capsys, "pack", "data.jsonl", "--out", "inputs.npz")
    done(capsys, *SAMPLE, "--data", "inputs.npz", "--vocab-size", "2", "--out", "run")
    assert read_counts(Path("run")).others == (Column("label", ("unsafe",) * 3),)


def test_heat_maps_promise_no_share_that_the_radii_do_not_have(capsys):
    done(capsys, "certify", "counts.csv", *NOISE, "--out", "c.json")
    done(capsys, "plot", "c.json", "--kind", "heat", "--out", "heat.png")
    assert Path("heat.png").read_bytes().startswith(b"\x89PNG")
    result = read_certificates(Path("c.json"))
    mesh = hrs.plot(result, "heat").axes[0].collections[0]
    shares, edges = mesh.get_array(), mesh.get_coordinates()[:, 0, 1]
    for row, top in enumerate(edges[1:]):
        np.testing.assert_allclose(shares[row], 100 * result.certified_accuracy(top)[: shares.shape[1]])
    text_only = hrs.certify([100], 100, hrs.HybridSmoothing(hrs.UniformKernel(0.25, 99), None), tau=0.5, alpha=0.01)
    with pytest.raises(ValueError, match="where the pixels carry no noise, got 'heat'"):
        hrs.plot(text_only, "heat")
    with pytest.raises(ValueError, match="kind must be 'frontier' or 'heat', got 'pie'"):
        hrs.plot.__wrapped__(result, "pie")
    assert len(hrs.plot(result).axes) == 2


FIELD = """idx\tlabel\tpredict\tradius\tcorrect\ttime
0\t1\t1\t0.75\t1\t0
1\t2\t2\t1.25\t1\t0
2\t1\t0\t2.0\t0\t0
3\t1\t-1\t0.0\t0\t0
"""


def test_tables_of_the_field_are_drawn_and_held_side_by_side(capsys):
    Path("one.tsv").write_text(FIELD)
    Path("two.tsv").write_text(FIELD.replace("0.75", "0.125"))
    printed = done(capsys, "compare", "one.tsv", "two.tsv", "--out", "both.png")
    assert re.search(r"one.tsv +4 +50.0 % +50.0 % +50.0 % +50.0 % +25.0 % +0.0 % +0.500", printed)
    assert re.search(r"two.tsv +4 +50.0 % +25.0 % +25.0 % +25.0 % +25.0 % +0.0 % +0.343", printed)
    first = json.loads(done(capsys, "compare", "one.tsv", "two.tsv", "--json"))[0]
    assert (first["name"], first["eps = 0.5"]) == ("one.tsv", "50.0 %")
    assert "1 table of radii" in done(capsys, "plot", "one.tsv")
    for name in ("both.png", "one.png"):
        with Image.open(name) as file:
            assert file.format == "PNG"
    assert "no --by" in refused(capsys, "compare", "one.tsv", "two.tsv", "--by", "sigma")
    assert "no run" in refused(capsys, "compare", "one.tsv", "counts.csv")


def test_the_curve_of_a_field_table_is_its_certified_accuracy():
    from hybrid_rs_jax.report.field_plots import plot_field
    from hybrid_rs_jax.results.field_files import field_accuracy, read_field

    Path("one.tsv").write_text(FIELD)
    levels = np.array([0.0, 0.3, 0.75, 0.76, 1.25, 1.26, 2.0])
    table = field_accuracy(Path("one.tsv"), levels)
    lines = plot_field({"one": read_field(Path("one.tsv"))}).axes[0].lines
    for line, counts in zip(lines, (table.right, table.certified), strict=True):
        x, y = line.get_data()  # a step reaches back from each point to the one before
        drawn = [y[np.searchsorted(x, level, side="left")] if level <= x[-1] else 0 for level in levels]
        np.testing.assert_allclose(drawn, 100 * counts[0] / 4)


def test_packing_tells_what_it_leaves_out_and_refuses_where_nothing_is_left(capsys):
    pictures()
    rows = [{"id": f"i{n}", "text": "dial", "image": f"pictures/{n}.png"} for n in range(9)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    printed = done(capsys, "pack", "data.jsonl", "--image-size", "5x5", "--out", "inputs.npz")
    assert printed.count("Skipped i") == 5
    assert "... and 1 more." in printed
    assert load_npz(Path("inputs.npz")).ids == ["i0", "i1", "i2"]
    Path("none.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[3:]))
    message = refused(capsys, "pack", "none.jsonl", "--image-size", "5x5", "--out", "none.npz")
    assert "None of the 6 inputs can be used; the first one: " in message
    message = refused(capsys, "pack", "demo", "--text-length", "9", "--out", "demo.npz")
    assert "--text-length and --image-size mean nothing to demo, whose inputs are encoded." in message


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--json", "--format", "csv"], "--json contradicts --format csv; leave one of them out."),
        (["--out", "both.html"], "both.html: tables of radii have a figure (.png, .pdf, .svg), no page."),
    ],
)
def test_tables_of_the_field_are_compared_in_a_figure_and_one_format(capsys, flags, sentence):
    Path("one.tsv").write_text(FIELD)
    assert sentence in refused(capsys, "compare", "one.tsv", "one.tsv", *flags)
    assert not Path("both.html").exists()


def test_tables_of_the_field_are_compared_alike_in_every_format(capsys):
    Path("one.tsv").write_text(FIELD)
    Path("two.tsv").write_text(FIELD.replace("0.75", "0.125"))
    printed = {name: done(capsys, "compare", "one.tsv", "two.tsv", "--format", name) for name in FORMATS}
    rows = json.loads(printed["json"])
    assert list(csv.DictReader(io.StringIO(printed["csv"]))) == [{k: str(v) for k, v in row.items()} for row in rows]
    for row in rows:
        for name in ("markdown", "latex", "table"):
            line = next(line for line in printed[name].splitlines() if row["name"] in line)
            assert all(str(value) in line.replace(r"\%", "%").replace("$", "") for value in row.values())
