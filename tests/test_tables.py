"""The one reader of tables: what it reads, and the sentence for what it does not."""

import csv
import errno
import gzip
import json
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from hybrid_rs_jax._tables import read_table
from hybrid_rs_jax.errors import BadInputError

ASKED = ("id", "successes", "n")


def written(tmp_path, content, name="table.csv"):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(path, required=ASKED, optional=("label",)):
    table = read_table(path, required, optional)
    return [*zip(table.names("id"), table.integers("successes", 0, 99), table.integers("n", 1, 99), strict=True)]


def refused(path, required=ASKED, optional=()):
    with pytest.raises(BadInputError, match=r"^[^\n]*\.$") as caught:
        counts(read_table(path, required, optional))
    return str(caught.value)


def counts(table):
    return table.names("id"), table.integers("successes", 0, table.integers("n", 1, 99), "n")


EXPECTED = [("a", 3, 10), ("7", 0, 9)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.csv", "id,successes,n\na,3,10\n7,0,9\n"),
        ("capitals, blanks and a mark.csv", "\ufeff ID , Successes,N \r\na,3,10\r\n7,0,9\r\n"),
        ("semicolons.csv", "\ufeffid;successes;n\na;3;10\n7;0;9"),
        ("tabs.tsv", "id\tsuccesses\tn\na\t3\t10\n7\t0\t9\n"),
        ("told by Excel.csv", "sep=;\r\nid;successes;n\r\na;3;10\r\n7;0;9\r\n"),
        ("utf-16.txt", "id\tsuccesses\tn\na\t3\t10\n7\t0\t9\n".encode("utf-16")),
        ("old Mac.csv", "id,successes,n\ra,3,10\r7,0,9\r"),
        ("whole floats.csv", "id,successes,n\na,3.0,10.\n7,0.000,9\n"),
        ("blank rows and nameless columns.csv", "\n,id,successes,n,,\n0,a,3,10,,\n\n,,,,,\n1,7,0,9,,\n"),
        ("unknown columns.csv", "id,successes,n,note,note 2\na,3,10,x,y\n7,0,9,,\n"),
        ("any order.csv", '"n","id","successes"\n10,a,3\n9,7,0\n'),
        ("zipped.csv.gz", gzip.compress(b"id,successes,n\na,3,10\n7,0,9\n", mtime=0)),
        ("plain.jsonl", '{"id": "a", "successes": 3, "n": 10}\n\n{"n": 9.0, "id": 7, "Successes": "0"}\n'),
        ("zipped.jsonl.gz", gzip.compress(b'{"id":"a","successes":3,"n":10}\n{"id":7.0,"successes":0,"n":9}', mtime=0)),
        ("json lines of another name.txt", '{"id": "a", "successes": 3, "n": 10}\n{"n": 9, "id": 7, "successes": 0}'),
    ],
)
def test_the_same_table_in_every_dress_is_read(tmp_path, name, content):
    assert rows_of(written(tmp_path, content, name)) == EXPECTED


def test_parquet_is_read_with_names_of_any_kind(tmp_path):
    columns = {"ID": ["a", "7"], "successes": [3, 0], "n": [10.0, 9.0], "label": [1.0, float("nan")]}
    columns |= {"__index_level_0__": [0, 1], "raw": [b"x", "ü".encode()], "kind": ["u", None]}
    frame = pyarrow.table(columns).set_column(6, "kind", pyarrow.array(["u", None]).dictionary_encode())
    pyarrow.parquet.write_table(frame, tmp_path / "table.parquet")
    assert rows_of(tmp_path / "table.parquet") == EXPECTED
    table = read_table(tmp_path / "table.parquet", ASKED, ("label",))
    assert table.labels("label") == ["1", None]
    assert table.unknown == ("raw", "kind")
    assert (table.labels("raw"), table.labels("kind")) == (["x", "ü"], ["u", None])
    assert table.place(1).endswith("table.parquet, row 2")


def test_parquet_without_pyarrow_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert 'pip install "hybrid-rs-jax[parquet]"' in refused(written(tmp_path, b"PAR1xxxx"))


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_what_only_python_calls_a_line_end_stays_in_its_cell(tmp_path, separator):
    name = f"a{separator}b"
    assert rows_of(written(tmp_path, f"id,successes,n\n{name},3,10\n")) == [(name, 3, 10)]
    line = json.dumps({"id": name, "successes": 3, "n": 10}, ensure_ascii=False)
    # JSON has no raw control characters in texts, and \x85 and above are none
    line = line if separator >= "\x80" else json.dumps({"id": name, "successes": 3, "n": 10})
    assert rows_of(written(tmp_path, line, "table.jsonl")) == [(name, 3, 10)]


def test_cells_may_be_longer_than_the_limit_of_the_csv_module_which_stays_as_it_was(tmp_path):
    limit = csv.field_size_limit()
    table = read_table(written(tmp_path, f'id,text\n1,{"x" * 140_000}\n2,"{"y," * 200_000}"\n'), ("id", "text"))
    assert [len(text) for text in table.texts("text")] == [140_000, 400_000]
    assert csv.field_size_limit() == limit
    with pytest.raises(BadInputError):
        read_table(written(tmp_path, 'id,text\n1,"x"y\n'), ("id", "text"))
    assert csv.field_size_limit() == limit


def test_rows_know_the_line_on_which_they_begin(tmp_path):
    table = read_table(written(tmp_path, '\nid,text\n1,"two\nlines"\n\n2,x\n'), ("id", "text"))
    assert table.lines.tolist() == [3, 6]
    assert table.place(1) == f"{tmp_path / 'table.csv'}, line 6"


def test_columns_that_were_not_asked_for_are_kept_and_missing_cells_are_none(tmp_path):
    lines = ['{"id": 1, "Label": NaN, "extra": [1, "ü"]}', '{"id": 2, "label": "nan"}', '{"id": 3, "label": true}']
    lines += ['{"id": 4, "label": 2.0}', '{"id": 5, "label": " "}', '{"id": 6, "label": "x y", "extra": null}']
    table = read_table(written(tmp_path, "\n".join(lines), "table.jsonl"), ("id",), ("label", "group"))
    assert table.labels("label") == [None, None, "true", "2", None, "x y"]
    assert table.labels("group") == [None] * 6
    assert table.unknown == ("extra",)
    assert table.labels("extra") == ['[1, "\\u00fc"]', *[None] * 5]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty: expected a table with the columns id, successes and n"),
        ("\n \n", "is empty"),
        ("id,successes\n", "line 1: missing column n; needed are id, successes and n, found id, successes"),
        ("id|successes|n\n1|2|3\n", "missing column id, successes and n; needed are .*, found one column, 'id|succ"),
        ("id;successes;k\n", "found one column, separated by semicolons: 'id;successes;k'"),
        ("id\tsuccesses\tk\n", r"found one column, separated by tabs: 'id\\tsuccesses\\tk'"),
        ("id,successes,n,ID\n", "column id appears twice in id, successes, n, id"),
        ("id,successes,n,x,x\n", "column x appears twice"),
        ("id,successes,n\na,1,2\nb,1\n", r"line 3: expected 3 values \(id, successes, n\), got 2"),
        ("id,successes,n\n,1,2\n", 'line 2: id must be a name or an integer, got ""'),
        ("id,successes,n\na,3,2\n", r"line 2: successes must be in 0..2 \(n\), got 3"),
        ("id,successes,n\na,1,2.5\n", "line 2: n must be an integer in 1..99, got 2.5"),
        ("id,successes,n\na,1,1e3\n", "n must be an integer in 1..99, got 1e3"),
        ("id,successes,n\na,1,1_0\n", "n must be an integer in 1..99, got 1_0"),
        ("id,successes,n\na,1,\u0663\n", "n must be an integer in 1..99, got \u0663"),
        (f"id,successes,n\na,1,{'9' * 5000}\n", "n must be an integer in 1..99, got 9{80}"),
        ("id,successes,n\na,1,\n", 'n must be an integer in 1..99, got ""'),
        ('id,successes,n\na,"1"x,2\n', "line 2 is not legal CSV"),
        ('id,successes,n\na,1,2\nb,"1,2\n', "line 3 is not legal CSV"),
        (
            b"id,successes,n\na,1,2\n\xe9,1,2\n",
            "line 3 is not a text in UTF-8: byte 0xe9 is not legal; save",
        ),
        ("id,successes,n\na,1,2\n".encode("utf-16")[:-1], "is not a text in UTF-16"),
        ("id,successes,n\na,1,2\n".encode("utf-16-le"), "line 1 holds a zero byte"),
        (b"PK\x03\x04...", "is a workbook or a zip archive; save the table in it as CSV"),
        (b"\xd0\xcf\x11\xe0...", "Excel workbook"),
        (b"BZh91AY", "compressed by bzip2"),
        (b"\x28\xb5\x2f\xfd...", "compressed by zstd"),
        (b"SQLite format 3\0", "of a run give the folder"),
        (gzip.compress(b"id,successes,n\n", mtime=0)[:-6], "compressed by gzip and damaged"),
        (gzip.compress(b"id,successes,n\n", mtime=0)[:5] + b"\xff" * 30, "compressed by gzip and damaged"),
        (b"PAR1" + b"\xff" * 40, r"is not a legal Parquet file: [^\n]*[^.]\.$"),
        (b"PAR1" + b"\xff" * 4, r"is not a legal Parquet file: [^\n]*[^.]\.$"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_with_what_was_found(tmp_path, content, words):
    found = refused(written(tmp_path, content))
    assert re.search(words, found), found


GOOD = '{"id": 1, "successes": 1, "n": 2}'


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 3 is not legal JSON: expecting property name [a-z ]* at column 2 "),
        ("[" * 100_000, "line 3 is not legal JSON: it is nested too deeply"),
        ('{"id": ' + "9" * 5000 + "}", "line 3 is not legal JSON: the number 9+... is too large"),
        ('{"id": 2, "successes": 1, "n": 2, "n": 3}', "line 3 is not legal JSON: the key 'n' occurs twice"),
        ('{"id": 2, "x": {"y": 1, "y": 1}}', "line 3 is not legal JSON: the key 'y' occurs twice"),
        ('{"id": "\\ud83d", "successes": 1, "n": 2}', "line 3 is not legal JSON: it holds half of a Unicode surrogate"),
        ('{"id": 2, "successes": 1, "n": 2, "\\uDC00": 0}', "line 3 is not legal JSON: it holds half of a Unicode"),
        ('{"id": 2, "successes": 1, "n": 1e400}', "line 3 is not legal JSON: the number 1e400 is too large"),
        ('{"id": 2, "successes": 1, "n": 2, "N": 3}', "n appears twice"),
        ('[{"id": 2}]', r"expected a JSON object with id, successes and n, got a list"),
        ('"abc"', 'expected a JSON object .*, got "abc"'),
        ('{"id": 2, "n": 2}', "missing successes; needed are id, successes and n"),
        ('{"id": true, "successes": 1, "n": 2}', "id must be a name or an integer, got true"),
        ('{"id": 2.5, "successes": 1, "n": 2}', "id must be a name or an integer, got 2.5"),
        ('{"id": NaN, "successes": 1, "n": 2}', "id must be a name or an integer, got NaN"),
        ('{"id": 2, "successes": 1, "n": Infinity}', "n must be an integer in 1..99, got Infinity"),
        ('{"id": 2, "successes": true, "n": 2}', r"successes must be an integer in 0..2 \(n\), got true"),
        ('{"id": 2, "successes": null, "n": 2}', r"successes must be an integer in 0..2 \(n\), got null"),
        ('{"id": 2, "successes": [1], "n": 2}', r"successes must be an integer in 0..2 \(n\), got \[1\]"),
    ],
)
def test_broken_json_lines_are_refused_by_number(tmp_path, line, words):
    found = refused(written(tmp_path, f"{GOOD}\n\n{line}\n", "table.jsonl"))
    assert "table.jsonl, line 3" in found
    assert re.search(words, found.replace("line 3: ", "")), found


def test_a_whole_pair_of_surrogates_is_a_letter(tmp_path):
    assert rows_of(written(tmp_path, '{"id": "\\ud83d\\ude00", "successes": 1, "n": 2}')) == [("😀", 1, 2)]


def test_a_json_array_is_refused_like_a_list_on_any_other_line(tmp_path):
    assert "line 1: expected a JSON object" in refused(written(tmp_path, f"[{GOOD}]", "table.jsonl"))
    for several in (f"[\n{GOOD}\n]", f"[{GOOD},\n{GOOD}]", '[{\n"id": 1\n}]'):
        assert "line 1: expected a JSON object with id, successes and n, got a list" in refused(
            written(tmp_path, several, "table.jsonl")
        )
    assert "line 1 is not legal JSON" in refused(written(tmp_path, "id,successes,n\n", "table.jsonl"))


@pytest.mark.parametrize("name", ["missing.csv", "folder", "nul\0.csv", "x" * 5000, "file/inside.csv"])
def test_a_path_that_is_no_file_is_one_sentence(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert len(refused(tmp_path / name)) < 500


def test_ranges_may_differ_by_row_and_the_first_cell_outside_is_named(tmp_path):
    table = read_table(written(tmp_path, "id,k\n" + "".join(f"{i},{i}\n" for i in range(9))), ("id", "k"))
    np.testing.assert_array_equal(table.integers("k", 0, np.arange(9)), np.arange(9))
    with pytest.raises(BadInputError, match=r"line 5: k must be in 0\.\.2, got 3\.$"):
        table.integers("k", 0, 2)


def test_a_file_that_the_system_does_not_give_is_one_sentence(tmp_path, monkeypatch):
    def broken(path):
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "a.csv").write_text("id\na\n")
    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(BadInputError, match=r"a\.csv cannot be read: Input/output error\.$"):
        read_table(tmp_path / "a.csv", ("id",))
