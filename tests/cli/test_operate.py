"""The command `operate`: from two runs to the rule of a filter."""

import csv
import json

import pytest

from hybrid_rs_jax.cli import main

TARGET = ("--target", "d=2,eps=0.25")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, data, flags in (
        ("unsafe", "demo", ("--draws", "both", "--threat", "append", "--samples", "4000")),
        ("safe", "demo-safe", ("--samples", "200")),
        ("louder", "demo-safe", ("--samples", "50", "--sigma", "0.5")),
    ):
        command = ["sample", "--model", "demo", "--data", data, "--limit", "12", *flags, "--out", str(folder / name)]
        assert main(command) == 0
    return folder


def test_the_demo_is_certified_with_a_hundred_copies_at_two_tokens_and_one_sigma(runs, tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("rules.csv", "rules.png")]
    command = ["operate", str(runs / "unsafe"), str(runs / "safe"), *TARGET, "--max-alarms", "0.9"]
    assert main([*command, "--out", files[0], "--plot", files[1]]) == 0
    said = capsys.readouterr().out
    assert "12 unsafe and 12 safe inputs" in said
    assert "one half or more from R = " in said
    with open(files[0]) as file:
        rows = list(csv.DictReader(file))
    assert any(int(row["copies"]) <= 100 and float(row["detection"]) >= 0.9 for row in rows)
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["runs"][0]
    assert len(found["points"]) == len(rows)


@pytest.mark.parametrize(
    ("names", "flags", "words"),
    [
        (("unsafe",), (), "come in pairs"),
        (("unsafe", "louder"), (), "different noise"),
        (("unsafe", "safe"), ("--target", "d=9,eps=0.25"), "one of the certified budgets"),
        (("unsafe", "missing"), (), "missing"),
        (("unsafe", "safe"), ("--out", "rules.txt"), ".csv"),
    ],
)
def test_runs_that_do_not_go_together_are_refused(runs, capsys, names, flags, words):
    assert main(["operate", *(str(runs / name) for name in names), *TARGET, *flags]) == 2
    assert words in capsys.readouterr().err
