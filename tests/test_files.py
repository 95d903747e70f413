"""Files appear whole or not at all, and never over another one."""

import json
import os
import stat
import sys

import pytest

from hybrid_rs_jax import _files as files
from hybrid_rs_jax.errors import BadInputError


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
