"""Data sets on the disk: each layout, each way in which an index can be broken."""

import gzip
import json

import numpy as np
import pytest
from PIL import Image

from hybrid_rs_jax.data import (
    RawInput,
    folder_or_csv,
    hateful_memes,
    mm_safetybench,
    open_data,
    write_index,
)
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError


def picture(path, shade):
    """A lossless 6 x 4 image of one shade of grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (shade,) * 3).save(path)


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(data):
    return [data.read(index) for index in range(len(data))]


def shade(sample):
    assert isinstance(sample, RawInput)
    assert sample.image.shape == (4, 6, 3)
    assert sample.image.dtype == np.float32
    (value,) = np.unique(sample.image)
    return round(float(value) * 255)


# Hateful Memes


@pytest.fixture
def memes(tmp_path):
    rows = [{"id": 8291 + i, "img": f"img/0{8291 + i}.png", "label": i % 2, "text": f"meme {i}"} for i in range(3)]
    for i in range(3):
        picture(tmp_path / rows[i]["img"], 10 * i)
    jsonl(tmp_path / "dev_seen.jsonl", rows)
    jsonl(tmp_path / "test_seen.jsonl", [{key: row[key] for key in ("id", "img", "text")} for row in rows])
    return tmp_path


def test_hateful_memes_are_read_in_order(memes):
    samples = read(hateful_memes(memes, "dev_seen"))
    assert [(s.id, s.text, s.label, shade(s)) for s in samples] == [
        ("8291", "meme 0", "0", 0),
        ("8292", "meme 1", "1", 10),
        ("8293", "meme 2", "0", 20),
    ]


def test_test_splits_have_no_labels(memes):
    assert hateful_memes(str(memes), "test_seen").labels == (None,) * 3


def test_an_unknown_split_is_refused_with_the_known_ones(memes):
    with pytest.raises(BadInputError, match=r"'train'; found are dev_seen and test_seen\.$"):
        hateful_memes(memes, "train")


# MM-SafetyBench


@pytest.fixture
def safety_bench(tmp_path):
    for scenario, shift in (("01-Illegal_Activitiy", 0), ("02-HateSpeech", 100)):
        questions = {}
        for n in ("0", "1", "10"):
            questions[n] = {
                "Question": "plain",
                "Changed Question": "changed",
                "Rephrased Question": f"typo {n}",
                "Rephrased Question(SD)": f"picture {n}",
            }
            for kind, offset in (("SD", 0), ("TYPO", 1), ("SD_TYPO", 2)):
                path = tmp_path / "data" / "imgs" / scenario / kind / f"{n}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (6, 4), shift + int(n) * 8 + 3 * offset).save(path, quality=100)
        (tmp_path / "data" / "processed_questions").mkdir(exist_ok=True)
        (tmp_path / "data" / "processed_questions" / f"{scenario}.json").write_text(json.dumps(questions))
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "text", "offset"), [("SD", "picture", 0), ("TYPO", "typo", 3), ("SD_TYPO", "typo", 6)]
)
def test_every_kind_of_image_comes_with_its_question(safety_bench, kind, text, offset):
    samples = read(mm_safetybench(safety_bench, kind))
    assert [(s.id, s.text, s.label) for s in samples] == [
        (f"{scenario}/{kind}/{n}", f"{text} {n}", scenario)
        for scenario in ("01-Illegal_Activitiy", "02-HateSpeech")
        for n in (0, 1, 10)
    ]
    assert [shade(s) for s in samples] == [shift + n * 8 + offset for shift in (0, 100) for n in (0, 1, 10)]


def test_scenarios_can_be_chosen_and_the_data_folder_given(safety_bench):
    samples = mm_safetybench(safety_bench / "data", scenarios=["02-HateSpeech"])
    assert samples.labels == ("02-HateSpeech",) * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [({"images": "PHOTO"}, "SD, SD_TYPO or TYPO, got 'PHOTO'"), ({"scenarios": ["07-Sex"]}, "'07-Sex'; found are 01-")],
)
def test_unknown_kinds_and_scenarios_are_refused(safety_bench, options, words):
    with pytest.raises(BadInputError, match=words):
        mm_safetybench(safety_bench, **options)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"0": {"Rephrased Question": "a"},\n "1": }', "line 2"),
        ("[1]", "JSON object"),
        ('{"0": {"Question": "a"}}', "question 0: .*'Rephrased Question'"),
        ('{"0": "a"}', "question 0"),
        ('{"0": {"Rephrased Question": 5}}', "question 0: Rephrased Question must be a text, got 5"),
        ("{}", "no inputs"),
    ],
)
def test_broken_questions_are_refused_with_their_place(tmp_path, content, words):
    (tmp_path / "processed_questions").mkdir()
    (tmp_path / "processed_questions" / "01.json").write_text(content)
    with pytest.raises(BadInputError, match=rf"^[^\n]*{words}[^\n]*\.$"):
        mm_safetybench(tmp_path)


# Tables


@pytest.fixture
def table(tmp_path):
    for i in range(3):
        picture(tmp_path / "pictures" / f"{i}.png", 50 + i)
    lines = [
        "\ufeffid,text,image,label,source",
        "a,one,pictures/0.png,unsafe,x",
        'b,"two, with ""quotes""',
        'and a line break\u2028",pictures/1.png,,y',
        " c ,,pictures/2.png,safe,z",
        "",
    ]
    (tmp_path / "inputs.csv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "inputs.csv"


def test_a_csv_file_is_read(table):
    samples = read(folder_or_csv(table))
    assert [(s.id, s.text, s.label, shade(s)) for s in samples] == [
        ("a", "one", "unsafe", 50),
        ("b", 'two, with "quotes"\nand a line break\u2028', None, 51),
        ("c", "", "safe", 52),
    ]


def test_json_lines_are_read_as_the_csv_file(table):
    data = folder_or_csv(table)
    columns = zip(data.ids, data.texts, data.images, data.labels, strict=True)
    rows = [dict(zip(("id", "text", "image", "label"), row, strict=True)) for row in columns]
    other = jsonl(table.with_name("inputs.jsonl"), rows)
    assert folder_or_csv(other) == data
    assert folder_or_csv(other).digest() == folder_or_csv(table).digest()


def test_an_index_that_is_written_reads_back(table, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    kept = folder_or_csv(table).select(["c", "a"])
    write_index(tmp_path / "elsewhere" / "kept.jsonl", kept)
    again = open_data(tmp_path / "elsewhere" / "kept.jsonl")
    assert [(s.id, s.text, s.label, shade(s)) for s in read(again)] == [
        ("a", "one", "unsafe", 50),
        ("c", "", "safe", 52),
    ]
    assert again.digest() == kept.digest()
    with pytest.raises(BadInputError, match="somebody else"):
        write_index(tmp_path / "elsewhere" / "kept.jsonl", kept)


def test_pictures_without_their_text_are_kept_beside_the_others(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.png", 50 + i)
    (tmp_path / "in.csv").write_text("id,text,image,clean_image\na,one,0.png,1.png\nb,two,2.png,\nc,six,2.png,no.png\n")
    data = open_data(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    write_index(tmp_path / "elsewhere" / "kept.jsonl", data)
    for found in (data, open_data(tmp_path / "elsewhere" / "kept.jsonl")):
        assert round(255 * float(found.clean_image(0).mean())) == 51
        assert (found.clean_image(1), shade(found.read(0)), shade(found.read(2))) == (None, 50, 52)
        with pytest.raises(UnreadableInputError, match=r"no\.png does not exist"):
            found.clean_image(2)
        assert found.select(["b", "c"]).clean_images[0] == ""
    (tmp_path / "plain.csv").write_text("id,text,image\na,one,0.png\nb,two,2.png\nc,six,2.png\n")
    plain = open_data(tmp_path / "plain.csv")
    assert plain.clean_image(0) is None
    assert plain.digest() != data.digest(), "another question is asked"


def test_images_that_cannot_be_used_are_skipped_and_the_rest_goes_on(table):
    (table.parent / "pictures" / "0.png").unlink()
    (table.parent / "pictures" / "1.png").write_bytes(b"\x89PNG\r\n")
    data = folder_or_csv(table)
    for index, words in ((0, r"0\.png does not exist\.$"), (1, r"1\.png cannot be decoded: .*\.$")):
        with pytest.raises(UnreadableInputError, match=words):
            data.read(index)
    assert shade(data.read(2)) == 52


def test_a_picture_is_read_when_its_input_is(table):
    data = folder_or_csv(table)
    assert shade(data.read(0)) == 50
    picture(table.parent / "pictures" / "1.png", 99)
    assert shade(data.read(1)) == 99


def test_the_first_inputs_can_be_taken(table):
    samples = folder_or_csv(table)
    assert samples.first(2).ids == ("a", "b")
    assert len(samples.first(0)) == 0
    assert len(samples.first(10)) == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty: expected a table with the columns id, text and image"),
        ("id,text,picture\n", "line 1: missing column image"),
        ("id,text,image,text\n", "line 1: column text appears twice"),
        ("id,text,image\n", "holds no inputs"),
        ("id,text,image\na,b,c.png\na2,b\n", "line 3: expected 3 values .* got 2"),
        ("id,text,image\n,b,c.png\n", "line 2: id must be a name"),
        ("id,text,image\na,b,\n", "line 2: image must be the path"),
        ("id,text,image\na,b,c.png\nb,b,c.png\na,b,c.png\n", "line 4: id 'a' appears again, after .*line 2"),
        ('id,text,image\na,"b"x,c.png\n', "line 2 is not legal CSV"),
        ('id,text,image\na,"b,c.png\n', "is not legal CSV"),
    ],
)
def test_broken_csv_lines_are_refused_by_number(tmp_path, content, words):
    path = tmp_path / "inputs.csv"
    path.write_text(content)
    with pytest.raises(BadInputError, match=rf"^[^\n]*{words}[^\n]*\.$"):
        folder_or_csv(path)


GOOD = '{"id": 1, "text": "a", "image": "a.png"}'


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "is not legal JSON"),
        ("[" * 100_000, "is not legal JSON"),
        ("[1, 2]", "expected a JSON object"),
        ('{"id": 2, "text": "a"}', "missing image"),
        ('{"id": 2, "text": 3, "image": "a.png"}', "text must be a text, got 3"),
        ('{"id": 2, "text": null, "image": "a.png"}', "text must be a text, got null"),
        ('{"id": true, "text": "a", "image": "a.png"}', "id must be a name or an integer, got true"),
        ('{"id": 2.5, "text": "a", "image": "a.png"}', "id must be a name or an integer, got 2.5"),
        ('{"id": " ", "text": "a", "image": "a.png"}', "id must be a name"),
        ('{"id": 2, "text": "a", "image": ["a.png"]}', "image must be a text"),
        ('{"id": 2, "text": "\\ud800", "image": "a.png"}', "half of a Unicode surrogate pair"),
        ('{"id": "1", "text": "a", "image": "a.png"}', "id '1' appears again"),
    ],
)
def test_broken_json_lines_are_refused_by_number(tmp_path, line, words):
    path = tmp_path / "inputs.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n")
    with pytest.raises(BadInputError, match=rf"^[^\n]*line 3[^\n]*{words}[^\n]*\.$"):
        folder_or_csv(path)


def test_an_index_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "inputs.csv").write_bytes(b"id,text,image\n\xff\xfe,b,c\n")
    with pytest.raises(BadInputError, match="UTF-8"):
        folder_or_csv(tmp_path / "inputs.csv")


# Which files are data

LITTER = ("._inputs.csv", "~$inputs.csv", ".inputs.csv.swp", ".hidden.jsonl", "Thumbs.db", ".DS_Store")


def test_what_systems_and_office_programs_leave_in_a_folder_is_no_data(table):
    for name in LITTER:
        (table.parent / name).write_bytes(b"\0\5\x16\7")
    (table.parent / "__MACOSX").mkdir()
    (table.parent / "__MACOSX" / "._inputs.csv").touch()
    (table.parent / "folder.csv").mkdir()
    assert open_data(table.parent) == folder_or_csv(table)


def test_what_lies_beside_splits_and_questions_is_no_data(memes, safety_bench):
    for folder, name in ((memes, "._dev_seen.jsonl"), (safety_bench / "data" / "processed_questions", "._01.json")):
        (folder / name).write_bytes(b"\0\5\x16\7")
    with pytest.raises(BadInputError, match=r"found are dev_seen and test_seen\.$"):
        hateful_memes(memes, "_dev_seen")
    assert len(mm_safetybench(safety_bench)) == 6


def test_suffixes_in_capitals_are_the_same(memes, table):
    (memes / "test_seen.jsonl").rename(memes / "TEST.JSONL")
    assert len(open_data(memes / "TEST.JSONL")) == len(hateful_memes(memes, "test")) == 3
    table.rename(table.with_name("INPUTS.CSV"))
    assert len(open_data(table.parent / "INPUTS.CSV")) == 3


def test_other_kinds_of_table_are_taken_where_there_is_no_csv(table):
    expected, content = folder_or_csv(table), table.read_bytes()
    table.with_name("inputs.csv.gz").write_bytes(gzip.compress(content))
    assert open_data(table.parent) == expected
    table.unlink()
    assert open_data(table.parent) == expected


def test_labels_and_groups_are_kept_and_nan_is_none(tmp_path):
    rows = [{"id": i, "text": "", "image": "a.png", "label": label, "Group": f"g{i}"} for i, label in enumerate(LABELS)]
    data = open_data(jsonl(tmp_path / "inputs.jsonl", rows))
    assert data.labels == (None, None, "1", "true", "unsafe", None)
    assert data.groups == ("g0", "g1", "g2", "g3", "g4", "g5")
    write_index(tmp_path / "kept.jsonl", data.first(3))
    again = open_data(tmp_path / "kept.jsonl")
    assert (again.labels, again.groups) == (data.labels[:3], data.groups[:3])


LABELS = (float("nan"), None, 1.0, True, "unsafe", "")


def test_a_cell_that_is_longer_than_the_limit_of_the_csv_module_is_one_text(tmp_path):
    (tmp_path / "inputs.csv").write_text("id,text,image\n1," + "x" * 140_000 + ",a.png\n2,ok,a.png\n")
    assert [len(text) for text in open_data(tmp_path / "inputs.csv").texts] == [140_000, 2]


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "file/below"])
def test_a_path_that_cannot_be_looked_at_is_one_sentence(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match=r"^[^\n]{1,400}\.$"):
        open_data(tmp_path / name)


# Recognition


def test_hateful_memes_are_recognised_by_their_key_img(memes):
    assert open_data(memes / "dev_seen.jsonl").ids == ("8291", "8292", "8293")
    (memes / "test_seen.jsonl").unlink()
    assert open_data(memes).digest() == hateful_memes(memes, "dev_seen").digest()


def test_safety_bench_is_recognised(safety_bench):
    expected = mm_safetybench(safety_bench, "SD_TYPO")
    assert open_data(safety_bench) == open_data(safety_bench / "data") == expected


def test_a_table_is_recognised_by_its_file_and_by_its_folder(table):
    assert open_data(table) == open_data(str(table.parent)) == folder_or_csv(table)


def test_what_is_not_recognised_is_refused_with_what_would_be(memes, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    (empty / "notes.txt").write_text("hello")
    (empty / "notes.npz").touch()
    for path, words in (
        (memes, "exactly one .csv or .jsonl file, found dev_seen.jsonl and test_seen.jsonl; give the path"),
        (empty, "found none"),
        (empty / "notes.txt", "missing column id and text; needed are id and text, found one column, 'hello'"),
        (empty / "notes.npz", "must be a folder or a table"),
        (empty / "missing.csv", "does not exist"),
    ):
        with pytest.raises(BadInputError, match=rf"^[^\n]*{words}[^\n]*\.$"):
            open_data(path)
