"""Counts are read strictly: by line, value and legal range."""

import json

import numpy as np
import pytest

from hybrid_rs_jax.report.counts import read_counts
from hybrid_rs_jax.report.errors import BadInputError

HEADER = "id,successes,n\n"
PER_BUDGET = "id,successes,n,budget\n"

BAD = {
    "empty file": ("", "holds no counts"),
    "blank lines only": ("\n\n", "holds no counts"),
    "header only": (HEADER, "holds no counts: expected one line per input"),
    "no header": ("a,1,2\n", "line 1: missing column id, successes and n"),
    "missing column": ("id,successes\na,1\n", "line 1: missing column n"),
    "unknown column": ("id,successes,n,label\na,1,2,x\n", "line 1: unknown column 'label'"),
    "column twice": ("id,successes,n,n\na,1,2,2\n", "line 1: column n appears twice"),
    "semicolons": ("id;successes;n\na;1;2\n", "line 1: missing column"),
    "fraction": (HEADER + "a,1.5,2\n", r"line 2: successes must be an integer in 0\.\.2 \(n\), got 1\.5"),
    "float that is whole": (HEADER + "a,1.0,2\n", r"line 2: successes must be an integer in 0\.\.2 \(n\), got 1\.0"),
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
    "JSON: missing key": ('{"id": "a", "successes": 1}', "line 1: missing column n"),
    "JSON: unknown key": ('{"id": "a", "successes": 1, "n": 2, "k": 3}', "line 1: unknown column 'k'"),
    "JSON: key twice": ('{"id": "a", "successes": 1, "n": 2, "n": 3}', "line 1: column n appears twice"),
    "JSON: float": ('{"id": "a", "successes": 1, "n": 2.0}', r"n must be an integer in .*, got 2\.0"),
    "JSON: boolean": ('{"id": "a", "successes": true, "n": 2}', "successes must be an integer in .*, got true"),
    "JSON: NaN": ('{"id": "a", "successes": NaN, "n": 2}', "successes must be an integer in .*, got NaN"),
    "JSON: null id": ('{"id": null, "successes": 1, "n": 2}', "id must be a name or an integer, got null"),
    "JSON: cut off": ('{"id": "a", "successes": 1, "n": 2}\n{"id": "b", "succ', "line 2 is not legal JSON"),
    "JSON: empty object": ("{}", "line 1: missing column id, successes and n"),
    "JSON: list": ("[1, 2]", "line 1: expected an object"),
    "JSON: deep": ("[" * 100_000, "line 1"),
    "JSON: budget on some lines": (
        '{"id": "a", "successes": 1, "n": 2}\n{"id": "b", "successes": 1, "n": 2, "budget": 0}',
        "line 2: budget is given on some lines and not on others",
    ),
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


def test_binary_missing_and_foreign_paths_are_refused(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, sentence in (("binary", "UTF-8"), ("missing", "does not exist"), (".", "not a run folder")):
        with pytest.raises(BadInputError, match=sentence):
            read_counts(tmp_path / name)


def test_csv_and_json_lines_say_the_same(tmp_path):
    rows = [("7", 3, 10), ("b, with comma", 0, 1), ("ü", 12, 12)]
    (tmp_path / "a.csv").write_bytes(
        b'\xef\xbb\xbf n , id,successes\r\n10,7,3\r\n1,"b, with comma",0\r\n\r\n12,\xc3\xbc,12\r\n'
    )
    lines = [json.dumps({"id": name, "successes": k, "n": n}) for name, k, n in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines).replace('"7"', "7"))
    for path in (tmp_path / "a.csv", tmp_path / "a.jsonl"):
        counts = read_counts(path)
        assert counts.ids == [row[0] for row in rows]
        assert counts.successes.tolist() == [row[1] for row in rows]
        assert counts.n.tolist() == [row[2] for row in rows]
        assert counts.successes.dtype == counts.n.dtype == np.int64
        assert counts.budgets is counts.run is None


def test_one_sample_per_budget_in_any_order(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,successes,n,budget\nb,8,10,2\na,1,5,0\nb,9,10,0\na,0,5,2\n")
    counts = read_counts(path)
    assert counts.ids == ["b", "a"]
    assert counts.budgets == (0, 2)
    assert counts.successes.tolist() == [[9, 8], [1, 0]]
    assert counts.n.tolist() == [[10, 10], [5, 5]]
