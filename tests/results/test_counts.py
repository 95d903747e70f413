"""Counts are read strictly: by line, value and legal range."""

import dataclasses
import gzip
import json
import os
import threading

import numpy as np
import pytest

from hybrid_rs_jax import cli
from hybrid_rs_jax.confidence import FixedSample, SequentialTest, Verdict
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.results.columns import write_columns
from hybrid_rs_jax.results.count_files import read_counts
from hybrid_rs_jax.results.counts import Column, Counts
from hybrid_rs_jax.results.facts import Facts
from hybrid_rs_jax.results.features import read_feature_run
from hybrid_rs_jax.results.progress import run_status
from hybrid_rs_jax.results.runs import FORMAT, read_run, write_run
from hybrid_rs_jax.results.statement import Provisional
from hybrid_rs_jax.sampling.ledger import LEDGER_FILE, CountRow, Ledger, Stream

HEADER = "id,successes,n\n"
PER_BUDGET = "id,successes,n,budget\n"

BAD = {
    "empty file": ("", "is empty: expected a table with the columns id, successes and n"),
    "blank lines only": ("\n\n", "is empty: expected a table"),
    "header only": (HEADER, "holds no counts: expected one line per input"),
    "no header": ("a,1,2\n", "line 1: missing column id, successes and n"),
    "missing column": ("id,successes\na,1\n", "line 1: missing column n"),
    "column twice": ("id,successes,n,n\na,1,2,2\n", "line 1: column n appears twice"),
    "semicolons, and a column is missing": ("id;n\na;2\n", "one column, separated by semicolons"),
    "fraction": (HEADER + "a,1.5,2\n", r"line 2: successes must be an integer in 0\.\.2 \(n\), got 1\.5"),
    "not a number": (HEADER + "a,nan,2\n", r"line 2: successes must be an integer in 0\.\.2 \(n\), got nan"),
    "word": (HEADER + "a,1,many\n", r"line 2: n must be an integer in 1\.\.9007199254740992, got many"),
    "underscore": (HEADER + "a,1,1_0\n", "line 2: n must be an integer"),
    "other digits": (HEADER + "a,1,२\n", "line 2: n must be an integer"),
    "no value": (HEADER + "a,,2\n", "line 2: successes must be an integer"),
    "more than n": (HEADER + "a,1,2\nb,3,2\n", r"line 3: successes must be in 0\.\.2 \(n\), got 3"),
    "negative": (HEADER + "a,-1,2\n", r"line 2: successes must be in 0\.\.2 \(n\), got -1"),
    "n is zero": (HEADER + "a,0,0\n", r"line 2: n must be in 1\.\.9007199254740992, got 0"),
    "n too large": (HEADER + "a,0,9007199254740993\n", r"line 2: n must be in 1\.\.9007199254740992"),
    "same id": (HEADER + "a,1,2\n\na,1,2\n", "line 4: id 'a' appears again, after line 2"),
    "same id but for spaces": (HEADER + "a,1,2\n a ,1,2\n", "line 3: id 'a' appears again"),
    "empty id": (HEADER + ",1,2\n", "line 2: id must be a name"),
    "too many values": (HEADER + "a,1,2,3\n", r"line 2: expected 3 values \(id, successes, n\), got 4"),
    "too few values": (HEADER + "a,1\n", "line 2: expected 3 values"),
    "open quote": (HEADER + '"a,1,2\n', "is not legal CSV"),
    "budgets differ": (
        PER_BUDGET + "a,1,2,0\na,1,2,1\nb,1,2,0\n",
        "line 4: id 'b' has the budgets 0, but 'a' has 0, 1",
    ),
    "budget twice": (PER_BUDGET + "a,1,2,0\na,1,2,0\n", "line 3: id 'a' with budget 0 appears again, after line 2"),
    "budget negative": (PER_BUDGET + "a,1,2,-1\n", r"line 2: budget must be in 0\.\.1000, got -1"),
    "budget empty": (PER_BUDGET + "a,1,2,\n", "line 2: budget must be an integer"),
    "JSON: missing key": ('{"id": "a", "successes": 1}', "line 1: missing n; needed are"),
    "JSON: key twice": (
        '{"id": "a", "successes": 1, "n": 2, "n": 3}',
        "line 1 is not legal JSON: the key 'n' occurs twice",
    ),
    "JSON: fraction": ('{"id": "a", "successes": 1, "n": 2.5}', r"n must be an integer in .*, got 2\.5"),
    "JSON: half a surrogate pair": (
        '{"id": "\\ud83d", "successes": 1, "n": 2}',
        "line 1 .*half of a Unicode surrogate pair",
    ),
    "JSON: an array of objects": (
        '[{"id": "a", "successes": 1, "n": 2}]',
        "line 1: expected a JSON object .*got a list",
    ),
    "JSON: boolean": ('{"id": "a", "successes": true, "n": 2}', "successes must be an integer in .*, got true"),
    "JSON: NaN": ('{"id": "a", "successes": NaN, "n": 2}', "successes must be an integer in .*, got NaN"),
    "JSON: null id": ('{"id": null, "successes": 1, "n": 2}', "id must be a name or an integer, got null"),
    "JSON: cut off": ('{"id": "a", "successes": 1, "n": 2}\n{"id": "b", "succ', "line 2 is not legal JSON"),
    "JSON: empty object": ("{}", "line 1: missing id, successes and n"),
    "JSON: list": ("[1, 2]", "line 1: expected a JSON object"),
    "ties above n": ("id,successes,n,ties\na,1,2,3\n", r"line 2: ties must be in 0\.\.2 \(n\), got 3"),
    "JSON: deep": ("[" * 100_000, "line 1"),
    "JSON: budget on some lines": (
        '{"id": "a", "successes": 1, "n": 2}\n{"id": "b", "successes": 1, "n": 2, "budget": 0}',
        "line 2: budget is given on some lines and not on others",
    ),
    "a zero in an id": ('{"id": "a\\u0000b", "successes": 1, "n": 2}', "id must hold no zero character, got"),
    "a result": ('{\n  "statement": {}, "certificates": []}', "is a result of certify, not counts"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_counts_are_refused_in_one_sentence(tmp_path, case):
    text, sentence = BAD[case]
    path = tmp_path / "counts.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInputError, match=sentence) as caught:
        read_counts(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x85"])
def test_an_id_may_hold_what_python_takes_for_the_end_of_a_line(tmp_path, separator):
    (tmp_path / "a.csv").write_text(f"id,successes,n\na{separator}b,1,2\n", encoding="utf-8")
    assert read_counts(tmp_path / "a.csv").ids == (f"a{separator}b",)


def test_columns_that_have_no_meaning_are_kept(tmp_path):
    (tmp_path / "a.csv").write_text(f"ID;Successes;n;text\na;1.0;2;{'x' * 140_000}\n", encoding="utf-8-sig")
    counts = read_counts(tmp_path / "a.csv")
    assert (counts.ids, counts.successes.tolist(), counts.n.tolist()) == (("a",), [1], [2])
    assert counts.others == (Column("text", ("x" * 140_000,)),)


def test_counts_are_read_through_gzip_and_from_parquet(tmp_path):
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"id,successes,n,ties\na,1,2,1\nb,0,2,0\n"))
    columns = {"id": ["a", "b"], "successes": [1, 0], "n": [2, 2], "ties": [1, 0]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert read_counts(tmp_path / "a.csv.gz") == read_counts(tmp_path / "a.parquet")
    assert read_counts(tmp_path / "a.parquet").ties.tolist() == [1, 0]


def test_bounds_do_without_ties_unless_a_plan_knows_only_its_own_stops(tmp_path):
    counts = Counts(("a", "b"), np.array([8, 1]), np.array([10, 10]), ties=np.array([3, 4]))
    assert counts.certain("above").tolist() == [5, 0]
    assert counts.certain("below").tolist() == [10, 5]
    tested = dataclasses.replace(counts, plan=SequentialTest(0.75, 0.01, 300))
    assert tested.certain("above").tolist() == tested.certain("below").tolist() == [8, 1]


def test_binary_missing_and_foreign_paths_are_refused(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, sentence in (("binary", "UTF-8"), ("missing", "does not exist"), (".", "not a run folder")):
        with pytest.raises(BadInputError, match=sentence):
            read_counts(tmp_path / name)


def test_a_pipe_is_read_once_and_whole(tmp_path, capsys):
    os.mkfifo(pipe := tmp_path / "pipe")
    writer = threading.Thread(target=pipe.write_text, args=("id,successes,n\na,900,1000\n",), daemon=True)
    writer.start()
    assert (
        cli.main(["certify", str(pipe), "--kernel", "none", "--sigma", "0.5", "--tau", "0.5", "--format", "csv"]) == 0
    )
    writer.join()
    assert capsys.readouterr().out.splitlines()[1].startswith("a,900,1000,")


def test_a_result_as_csv_is_no_table_of_counts_per_budget(tmp_path, capsys):
    (tmp_path / "counts.csv").write_text("id,successes,n\na,900,1000\n")
    flags = ["--kernel", "none", "--sigma", "0.5", "--tau", "0.5"]
    assert cli.main(["certify", str(tmp_path / "counts.csv"), *flags, "--out", str(tmp_path / "found.csv")]) == 0
    assert cli.main(["certify", str(tmp_path / "found.csv"), *flags, "--draws", "conditional"]) == 2
    assert "found.csv is a result of certify, whose budget is what was certified" in capsys.readouterr().err


def test_csv_and_json_lines_say_the_same(tmp_path):
    rows = [("7", 3, 10), ("b, with comma", 0, 1), ("ü", 12, 12)]
    (tmp_path / "a.csv").write_bytes(
        b'\xef\xbb\xbf n , id,successes\r\n10,7,3\r\n1,"b, with comma",0\r\n\r\n12,\xc3\xbc,12\r\n'
    )
    lines = [json.dumps({"id": name, "successes": k, "n": n}) for name, k, n in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines).replace('"7"', "7"))
    for path in (tmp_path / "a.csv", tmp_path / "a.jsonl"):
        counts = read_counts(path)
        assert counts.ids == tuple(row[0] for row in rows)
        assert counts.successes.tolist() == [row[1] for row in rows]
        assert counts.n.tolist() == [row[2] for row in rows]
        assert counts.successes.dtype == counts.n.dtype == np.int64
        assert counts.budgets is counts.run is None


def test_one_sample_per_budget_in_any_order(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,successes,n,budget\nb,8,10,2\na,1,5,0\nb,9,10,0\na,0,5,2\n")
    counts = read_counts(path)
    assert counts.ids == ("b", "a")
    assert counts.budgets == (0, 2)
    assert counts.successes.tolist() == [[9, 8], [1, 0]]
    assert counts.n.tolist() == [[10, 10], [5, 5]]


SHARED = {
    "smoothing": {"kernel": "uniform", "beta": 0.25, "vocab_size": 512, "sigma": 0.25},
    "mode": "shared",
    "plan": FixedSample(100).describe(),
}


def run_folder(folder, header, records, skipped=()):
    with Ledger.create(folder, header) as ledger:
        ledger.register((f"input {i}", i, f"digest {i}") for i in range(5))
        for index, budget, first, draws, counts, ties in records:
            stream = Stream("shared") if budget is None else Stream("budget", (budget,))
            ledger.append([CountRow(index, stream, first, draws, tuple(np.atleast_1d(counts).tolist()), ties)])
        for index in skipped:
            ledger.skip(index, f"input {index}", "its picture is cut off")
    return folder


FIXED = [
    (3, None, 0, 60, 50, 1),
    (3, None, 60, 40, 40, 0),
    (0, None, 0, 7, 7, 0),
    (2, None, 0, 9, 9, 0),
    (1, None, 5, 9, 9, 0),
]


def test_a_fixed_number_of_draws_counts_where_it_is_complete(tmp_path):
    folder = run_folder(tmp_path / "run", SHARED, FIXED, skipped=[2])
    counts = read_counts(folder)
    assert counts.ids == ("input 3",)
    assert counts.successes.tolist() == [90]
    assert counts.n.tolist() == [100]
    assert counts.ties.tolist() == [1]
    assert counts.successes.dtype == counts.n.dtype == np.int64
    assert counts.budgets is counts.votes is counts.plan is counts.provisional is None
    assert counts.run.facts == Facts(SHARED)
    assert counts.run == read_run(folder)
    assert counts.skipped == (("input 2", "its picture is cut off"),)
    assert counts.unfinished == ("input 0", "input 1", "input 4")


def test_inputs_that_a_killed_run_had_not_come_to_are_unfinished(tmp_path):
    folder = run_folder(tmp_path / "run", SHARED, FIXED, skipped=[2])
    planned = [f"input {number}" for number in range(7)]
    write_columns(folder, planned, range(7), {})
    assert read_counts(folder).unfinished == ("input 0", "input 1", "input 4", "input 5", "input 6")
    fresh = run_folder(tmp_path / "fresh", SHARED, [])
    write_columns(fresh, planned, range(7), {})
    with pytest.raises(BadInputError, match="7 inputs unfinished, 0 skipped"):
        read_counts(fresh)


def test_draws_that_were_cut_short_count_on_request_and_say_so(tmp_path):
    folder = run_folder(tmp_path / "run", SHARED, FIXED, skipped=[2])
    counts = read_counts(folder, partial=True)
    assert counts.ids == ("input 0", "input 3")
    assert counts.successes.tolist() == [7, 90]
    assert counts.n.tolist() == [7, 100]
    assert counts.unfinished == ("input 1", "input 4")  # draws 0..4 of input 1 are missing
    assert counts.provisional == Provisional(planned=100, partial=1)


def test_a_run_that_was_extended_counts_on_request_and_says_so(tmp_path):
    before = SHARED | {"samples": 100}
    folder = run_folder(tmp_path / "run", before, [(0, None, 0, 100, 90, 0)])
    after = before | {"samples": 200, "plan": FixedSample(200).describe()}
    with Ledger.resume(folder, after, may_change=lambda *_: True) as ledger:
        ledger.append([CountRow(0, Stream("shared"), 100, 100, (95,), 0)])
    with pytest.raises(BadInputError, match=r"was extended from n = 100: .* --partial"):
        read_counts(folder)
    counts = read_counts(folder, partial=True)
    assert counts.provisional == Provisional(planned=200, partial=0, earlier=(100,))
    assert counts.n.tolist() == [200]


def test_a_plan_that_stops_early_counts_only_where_it_has_stopped(tmp_path):
    plan = SequentialTest(0.75, 0.01, 300)
    look = int(plan.looks[plan.verdict(plan.looks, plan.looks) == Verdict.REACHED][0])
    between = next(n for n in range(look + 1, 300) if n not in plan.looks)
    records = [(0, None, 0, look, look, 0), (1, None, 0, between, between, 0), (2, None, 0, 300, 225, 0)]
    folder = run_folder(tmp_path / "run", SHARED | {"plan": plan.describe()}, [*records, (3, None, 0, 1, 1, 0)])
    counts = read_counts(folder)
    assert counts.ids == ("input 0", "input 2")
    assert counts.n.tolist() == [look, 300]
    assert counts.plan == plan
    assert counts.unfinished == ("input 1", "input 3", "input 4")
    assert read_counts(folder, partial=True) == counts  # its bounds hold where it stops, and nowhere else


def test_one_sample_per_budget_is_complete_where_all_budgets_are(tmp_path):
    header = SHARED | {"mode": "per budget", "budgets": [2, 0]}
    records = [(0, 2, 0, 10, 8, 0), (0, 0, 0, 20, 19, 0), (1, 0, 0, 20, 20, 0), (4, 0, 0, 5, 1, 0), (4, 2, 0, 6, 2, 0)]
    counts = read_counts(run_folder(tmp_path / "run", header, records), partial=True)
    assert counts.ids == ("input 0", "input 4")
    assert counts.budgets == (0, 2)
    assert counts.successes.tolist() == [[19, 8], [1, 2]]
    assert counts.n.tolist() == [[20, 10], [5, 6]]
    assert counts.unfinished == ("input 1", "input 2", "input 3")


def test_votes_per_class_are_no_successes(tmp_path):
    records = [(0, None, 0, 10, [1, 2, 7], 0), (1, None, 0, 10, [0, 0, 0], 10)]
    counts = read_counts(run_folder(tmp_path / "run", SHARED | {"classes": 3}, records), partial=True)
    assert counts.votes.tolist() == [[1, 2, 7], [0, 0, 0]]
    assert counts.successes.tolist() == [0, 0]
    assert counts.n.tolist() == [10, 10]


@pytest.mark.parametrize(
    ("change", "records", "sentence"),
    [
        ({}, [], "holds no finished input yet: 5 inputs unfinished, 0 skipped"),
        (
            {},
            [(0, 3, 0, 10, 5, 0)],
            "input 'input 0' has a sample of its own for budget 3, its header says one sample for all",
        ),
        (
            {"mode": "per budget", "budgets": [0, 1]},
            [(0, None, 0, 10, 5, 0)],
            r"input 'input 0' has a sample for all budgets, its header says samples for the budgets 0, 1",
        ),
        ({"mode": "per budget", "budgets": [0]}, [(0, 3, 0, 10, 5, 0)], "a sample of its own for budget 3"),
        ({"smoothing": None}, [(0, None, 0, 10, 5, 0)], "does not say which noise was drawn: it has no 'smoothing'"),
        ({"plan": {"plan": "psychic"}}, [(0, None, 0, 10, 5, 0)], "got 'psychic'"),
        (
            {"plan": {"plan": "target"}, "classes": 2},
            [(0, None, 0, 10, [5, 5], 0)],
            "votes per class have no plan that stops early, got 'target'",
        ),
    ],
)
def test_a_run_without_usable_counts_is_refused_in_one_sentence(tmp_path, change, records, sentence):
    folder = run_folder(tmp_path / "run", SHARED | change, records)
    with pytest.raises(BadInputError, match=rf"^[^\n]*{sentence}[^\n]*\.$"):
        read_counts(folder, partial=True)


def test_a_damaged_ledger_is_refused(tmp_path):
    folder = run_folder(tmp_path / "run", SHARED, [(0, None, 0, 10, 5, 0)])
    (folder / LEDGER_FILE).write_bytes(b"id,successes,n")
    for read in (read_counts, read_run):
        with pytest.raises(BadInputError, match="is damaged or is no ledger"):
            read(folder)


def feature_run(folder, **change):
    header = SHARED | {"features": {"bins": 4, "reference": "clean"}, "samples": 10} | change
    Ledger.create(folder, header).close()
    return folder


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"features": {"bins": "many", "reference": "clean"}}, "does not say its bins, reference and number of draws"),
        ({"features": {"bins": 4, "reference": "noisy"}}, "does not say its bins, reference and number of draws"),
        ({"samples": None}, "does not say its bins, reference and number of draws"),
        ({"features": {"bins": 4, "reference": "clean", "target": 3}}, "with a target must name its looks, up to its"),
        ({}, "holds no finished input yet: 0 inputs unfinished, 0 skipped; `hybrid-rs features sample --resume`"),
    ],
)
def test_a_run_of_features_without_usable_laws_is_refused_in_one_sentence(tmp_path, change, sentence):
    with pytest.raises(BadInputError, match=rf"^[^\n]*{sentence}[^\n]*\.$"):
        read_feature_run(feature_run(tmp_path / "run", **change))


def test_a_run_without_a_finished_input_has_none_done_and_one_of_version_0_1_is_done_whole(tmp_path):
    begun = run_status(run_folder(tmp_path / "run", SHARED, [(0, None, 0, 10, 5, 0)]))
    assert (begun.done, begun.draws) == (0, 10)
    nothing = run_status(run_folder(tmp_path / "nothing", SHARED, []))
    assert (nothing.done, nothing.draws) == (0, 0)
    old = tmp_path / "old"
    old.mkdir()
    header = {"format": FORMAT, "smoothing": {"kernel": "none", "sigma": 0.5}, "samples": 9}
    write_run(old, header, [("a", 3, 9), ("b", 4, 9)])
    whole = run_status(old)
    assert (whole.inputs, whole.done, whole.draws) == (2, 2, 18)
