"""The command `operate`: from two runs to the rule of a filter."""

import csv
import dataclasses
import importlib
import json
import shutil

import numpy as np
import pytest

from hybrid_rs_jax.cli import main
from hybrid_rs_jax.results import count_files
from hybrid_rs_jax.results.facts import Facts

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


def operated(runs, *flags, names=("unsafe", "safe"), target=TARGET):
    return main(["operate", *(str(runs / name) for name in names), *target, "--max-copies", "1000", *flags])


def test_a_file_of_json_holds_every_rule_and_a_table_says_how_many_it_leaves_out(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.import_module("hybrid_rs_jax.cli.operate"), "_SHOWN", 2)
    assert operated(runs, "--out", str(tmp_path / "rules.json")) == 0
    said = capsys.readouterr().out
    points = json.loads((tmp_path / "rules.json").read_text())["runs"][0]["points"]
    shown = sum(line.lstrip()[:1].isdigit() for line in said.partition("certified: share")[0].splitlines()[2:])
    assert shown == 3  # two rows and the sentence about the others
    assert f"{len(points) - 2} more rules in between; --json and --out have all of them." in said


def test_a_target_that_no_rule_reaches_is_said(runs, capsys):
    assert operated(runs, target=("--target", "d=2,eps=3")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "None of 219 rules up to m = 1,000 certifies an input for this target" in said


def test_a_table_of_counts_is_no_run_to_operate_on(runs, tmp_path, capsys):
    path = tmp_path / "counts.csv"
    path.write_text("id,successes,n\na,9,10\n")
    assert main(["operate", str(runs / "unsafe"), str(path), *TARGET]) == 2
    assert "counts.csv must be a run folder, which knows its noise and its model." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda counts: {"run": dataclasses.replace(counts.run, facts=Facts({"classifier": {"name": "other"}}))},
            "have different models; one filter has one.",
        ),
        (
            lambda counts: {
                "votes": np.stack([counts.successes, counts.n - counts.successes, 0 * counts.n], axis=1),
                "successes": 0 * counts.n,
            },
            "holds votes per class; a filter decides unsafe or not.",
        ),
    ],
)
def test_runs_of_another_model_or_of_classes_are_refused(runs, capsys, monkeypatch, change, words):
    read = count_files.read_counts

    def changed(path):
        counts = read(path)
        return dataclasses.replace(counts, **change(counts)) if path.name == "first" else counts

    shutil.copytree(runs / "safe", runs / "first", dirs_exist_ok=True)
    monkeypatch.setattr(count_files, "read_counts", changed)
    assert operated(runs, names=("first", "safe")) == 2
    assert words in capsys.readouterr().err
