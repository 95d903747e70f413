"""Paths are asked about in one place, JSON is read in one place, and files appear whole, never over another one."""

import errno
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_rs_jax import _files as files
from hybrid_rs_jax._json import parse_json
from hybrid_rs_jax._tables import read_table
from hybrid_rs_jax.errors import BadInputError

PACKAGE = Path(files.__file__).parent


def places(pattern):
    """Where a pattern occurs in the package, as "room/file.py"."""
    found = [path for path in PACKAGE.rglob("*.py") if re.search(pattern, path.read_text(encoding="utf-8"))]
    return {path.relative_to(PACKAGE).as_posix() for path in found}


def test_nobody_else_asks_the_system_what_lies_at_a_path():
    naked = r"\.(is_file|is_dir|exists|is_symlink)\(|os\.path\.(isfile|isdir|exists)\("
    assert places(naked) == set()


def test_nobody_else_parses_json_of_others():
    own_texts = {"classifiers/chat/classifier.py", "data/curate.py"} | {
        f"sampling/ledger/{name}.py" for name in ("merging", "schema", "store", "version_1")
    }
    assert places(r"json\.loads?\(") <= own_texts


def loop(folder):
    (folder / "one").symlink_to(folder / "two")
    (folder / "two").symlink_to(folder / "one")
    return folder / "one"


def test_the_kind_of_a_path_is_told_through_links(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "nowhere").symlink_to("missing")
    found = [files.kind_of(tmp_path / name) for name in ("file", "link", "nowhere", "missing", "file/below", "")]
    assert found == ["file", "file", None, None, None, "folder"]
    assert files.kind_of(os.devnull) == "other"
    assert files.kind_of(str(tmp_path)) == "folder"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a" * 300, "the name is too long"),
        ("a/" * 5000 + "a", r"\(10001 letters\)' cannot be [a-z ]+: the name is too long"),
        ("a\0b", r"'a\\x00b' cannot be [a-z ]+: a name must not hold the NUL character"),
        ("\ud800", "its name is no legal text"),
    ],
)
def test_a_path_that_cannot_be_looked_up_is_one_short_sentence(name, sentence):
    with pytest.raises(BadInputError, match=rf"^[^\n]*{sentence}\.$") as caught:
        files.kind_of(name)
    assert len(str(caught.value)) < 350
    for ask in (lambda path: files.check_target(path, ("", ".csv")), files.check_target_folder, files.read_text):
        with pytest.raises(BadInputError, match=rf"{sentence}\.$"):
            ask(Path(name))


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", os.devnull])
def test_a_device_is_not_read_since_it_may_never_end(device):
    if files.kind_of(device) != "other":
        pytest.skip(f"this system has no {device}")
    for ask in (files.read_text, lambda path: read_table(path, ("id",))):
        with pytest.raises(BadInputError, match=rf"^{device} is a device; give a file or a pipe\.$"):
            ask(Path(device))


def test_only_a_regular_file_is_looked_into_before_it_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfab\xff")
    os.mkfifo(tmp_path / "pipe")
    assert files.beginning(tmp_path / "file", 5) == "ab"
    assert files.beginning(tmp_path / "file", 9) == "ab\ufffd"
    assert [files.beginning(tmp_path / name, 9) for name in ("pipe", "missing", ".")] == ["", "", ""]


@pytest.mark.parametrize(
    ("content", "line"), [("\ufeffd\tp_a \r\n1\t2\n", "d\tp_a"), ("", ""), ("\nd\n", ""), ("x" * 20_000, "x" * 10_000)]
)
def test_the_first_line_is_read_without_its_end(content, line, tmp_path):
    (tmp_path / "file").write_bytes(content.encode())
    assert files.first_line(tmp_path / "file") == line


def test_links_that_go_round_in_a_circle_are_named(tmp_path):
    with pytest.raises(BadInputError, match="links go round in a circle"):
        files.kind_of(loop(tmp_path))
    with pytest.raises(BadInputError, match="links go round in a circle"), files.atomic_file(tmp_path / "one"):
        pass


def test_a_folder_that_may_not_be_searched_is_named(tmp_path):
    code = (
        "import os, sys; from hybrid_rs_jax import _files\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: _files.kind_of(sys.argv[1])\n"
        "except _files.BadInputError as error: print(error)"
    )
    (tmp_path / "closed").mkdir(mode=0)
    argv = [sys.executable, "-c", code, str(tmp_path / "closed" / "a.csv")]
    printed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert "cannot be looked up: permission is denied, to it or to a folder on the way to it." in printed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        ("{", "expecting property name .* at column 2"),
        ("[1,\n2 3]", "at line 2 column 3"),
        ("[" * 200_000, "it is nested too deeply"),
        ('{"a":' * 100_000, "it is nested too deeply"),
        ('{"n": NaN}', "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number of JSON"),
        ("1e400", "the number 1e400 is too large"),
        ("9" * 5000, "the number 9{40}... is too large"),
        ('[{"a": 1, "b": 2, "a": 1}]', "the key 'a' occurs twice in one object"),
        (r'{"id": "\ud83d"}', "it holds half of a Unicode surrogate pair"),
    ],
)
def test_what_is_no_json_is_one_sentence(text, reason):
    with pytest.raises(BadInputError, match=rf"^a\.json is not legal JSON: [^\n]*{reason}[^\n]*\.$"):
        parse_json(text, "a.json")


def test_legal_json_is_read_as_the_standard_library_reads_it():
    text = json.dumps({"a": [1, -2.5e-300, None, True, "\u2028 ü \U0001f600", 2**64], "b": {"a": {}}})
    assert parse_json(text, "") == json.loads(text)
    assert parse_json("[-Infinity, 1]", "", constant=float) == [float("-inf"), 1]


class Interrupted(Exception):
    """Something that goes wrong in the middle of writing."""


def test_atomic_file_appears_under_its_name_only_when_it_is_complete(tmp_path):
    target = tmp_path / "a.json"
    with files.atomic_file(target) as path:
        files.write_json(path, {"x": 1})
        assert not target.exists()
    assert json.loads(target.read_text()) == {"x": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_atomic_file_leaves_nothing_and_keeps_the_old_file_when_writing_fails(tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("old")

    def write():
        with files.atomic_file(target, force=True) as path:
            path.write_text("half of the n")
            raise Interrupted

    with pytest.raises(Interrupted):
        write()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664])
def test_a_replaced_file_keeps_its_mode(tmp_path, mode):
    target = tmp_path / "a.csv"
    target.touch()
    target.chmod(mode)
    with files.atomic_file(target, force=True) as path:
        path.write_text("new")
    assert (target.read_text(), stat.S_IMODE(target.stat().st_mode)) == ("new", mode)


@pytest.mark.parametrize("there", [True, False])
def test_writing_goes_through_links_which_stay_as_they_are(tmp_path, there):
    (tmp_path / "far").mkdir()
    (tmp_path / "first.csv").symlink_to("second.csv")
    (tmp_path / "second.csv").symlink_to("far/real.csv")
    if there:
        (tmp_path / "far" / "real.csv").write_text("old")
        with pytest.raises(BadInputError, match=r"first\.csv already exists"):
            files.check_target(tmp_path / "first.csv", (".csv",))
    files.check_target(tmp_path / "first.csv", (".csv",), force=there)
    with files.atomic_file(tmp_path / "first.csv", force=there) as path:
        path.write_text("new")
        assert path.parent == tmp_path / "far"
    assert (tmp_path / "far" / "real.csv").read_text() == "new"
    assert os.readlink(tmp_path / "first.csv") == "second.csv"
    assert sorted(os.listdir(tmp_path)) == ["far", "first.csv", "second.csv"]
    assert os.listdir(tmp_path / "far") == ["real.csv"]


def test_a_link_into_a_missing_folder_is_refused(tmp_path):
    (tmp_path / "a.csv").symlink_to("missing/a.csv")
    with pytest.raises(BadInputError, match=r"missing does not exist; create it first"):
        files.check_target(tmp_path / "a.csv", (".csv",))


def test_a_folder_is_written_through_its_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to("real")
    with files.atomic_folder(tmp_path / "run") as path:
        (path / "a").write_text("x")
    assert (tmp_path / "real" / "a").read_text() == "x"
    assert sorted(os.listdir(tmp_path)) == ["real", "run"]


def test_a_name_of_the_greatest_length_can_be_written(tmp_path):
    target = tmp_path / ("ü" * 125 + ".csv")
    with files.atomic_file(target) as path:
        path.write_text("x")
    assert os.listdir(tmp_path) == [target.name]


def test_atomic_file_does_not_overwrite_what_appeared_meanwhile(tmp_path):
    target = tmp_path / "a.csv"

    def write():
        with files.atomic_file(target) as path:
            path.write_text("new")
            target.write_text("somebody else's")

    with pytest.raises(BadInputError, match="in the meantime"):
        write()
    assert target.read_text() == "somebody else's"
    assert os.listdir(tmp_path) == ["a.csv"]


def test_a_full_disk_is_one_sentence(tmp_path):
    full = pytest.raises(BadInputError, match=r"a\.csv cannot be written: No space left")
    with full, files.atomic_file(tmp_path / "a.csv"):
        raise OSError(28, "No space left on device")
    assert not os.listdir(tmp_path)


def test_files_get_the_usual_permissions(tmp_path):
    mask = os.umask(0o022)
    try:
        with files.atomic_file(tmp_path / "a.csv") as path:
            path.write_text("x")
        with files.atomic_folder(tmp_path / "run") as path:
            (path / "b.csv").write_text("x")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a.csv").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o755


def test_atomic_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "run"

    def write():
        with files.atomic_folder(target) as path:
            (path / "half").write_text("x")
            raise Interrupted

    with pytest.raises(Interrupted):
        write()
    assert not os.listdir(tmp_path)
    target.mkdir()
    with files.atomic_folder(target) as path:
        (path / "inner").mkdir()
        (path / "inner" / "file").write_text("x")
        assert not os.listdir(target)
    assert (target / "inner" / "file").read_text() == "x"
    assert os.listdir(tmp_path) == ["run"]


def test_atomic_folder_does_not_replace_what_was_put_there_meanwhile(tmp_path):
    target = tmp_path / "run"

    def write():
        with files.atomic_folder(target) as path:
            (path / "new").write_text("x")
            target.mkdir()
            (target / "other").write_text("x")

    with pytest.raises(BadInputError, match="cannot be written"):
        write()
    assert os.listdir(target) == ["other"]
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("file", "already exists and is a file; choose another name for the folder"),
        ("file/inside", "cannot be made: Not a directory"),
        ("long" * 100, "cannot be looked up: the name is too long"),
        ("nul\0", "must not hold the NUL character"),
    ],
)
def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, name, sentence):
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match=rf"^[^\n]*{sentence}\.$"):
        files.make_folder(tmp_path / name)


def test_a_folder_is_made_with_those_on_the_way_and_may_be_there(tmp_path):
    for _ in range(2):
        files.make_folder(tmp_path / "one" / "two")
    assert (tmp_path / "one" / "two").is_dir()


def test_free_folder_counts_up(tmp_path):
    name = str(tmp_path / "demo")
    assert files.free_folder(name).name == "demo"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").touch()
    assert files.free_folder(name).name == "demo-3"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing/a.csv", "does not exist; create it first"),
        ("a.txt", r"must end in \.json or \.csv"),
        ("there.csv", "already exists; choose another name, or overwrite it with --force"),
        ("folder.csv", "is a folder"),
    ],
)
def test_check_target_refuses_in_one_sentence(tmp_path, name, sentence):
    (tmp_path / "there.csv").touch()
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(BadInputError, match=sentence):
        files.check_target(tmp_path / name, (".json", ".csv"))


def test_check_target_refuses_devices_even_with_force(tmp_path):
    (tmp_path / "null.csv").symlink_to(os.devnull)
    with pytest.raises(BadInputError, match="not a regular file"):
        files.check_target(tmp_path / "null.csv", (".csv",), force=True)


def test_check_target_refuses_an_unwritable_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(BadInputError, match="is not writable"):
        files.check_target(tmp_path / "a.csv", (".csv",))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadInputError, match=r'pip install "hybrid-rs-jax\[parquet\]"'):
        files.check_target(tmp_path / "a.parquet", (".parquet",))


def test_json_text_is_json_and_refuses_infinity():
    content = {
        "statement": {"a": [1, 2], "b": {"c": None}},
        "certificates": [{"id": "ü"}, {"id": "b"}],
        "x": 1,
        "y": [],
    }
    assert json.loads(files.json_text(content)) == content
    with pytest.raises(ValueError, match="JSON"):
        files.json_text({"radius": float("inf")})


def test_a_file_that_is_not_there_or_no_text_is_one_sentence_with_the_place(tmp_path):
    with pytest.raises(BadInputError, match=r"nowhere\.txt does not exist\.$"):
        files.read_text(tmp_path / "nowhere.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(BadInputError, match=r"latin\.txt is not a text file in UTF-8: byte 3 is not legal\.$"):
        files.read_text(tmp_path / "latin.txt")


def test_what_may_not_be_read_is_told_where_it_is_asked_for_and_else_holds_nothing(tmp_path, monkeypatch):
    def closed(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "file").write_text("words")
    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(BadInputError, match=r"cannot be read: permission is denied"):
        files.check_target_folder(tmp_path)
    monkeypatch.setattr(Path, "open", closed)
    assert files.beginning(tmp_path / "file", 9) == ""
