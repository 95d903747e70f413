"""Paths, files that are read, and files that are written whole or not at all, never over one that somebody may need."""

from __future__ import annotations

import contextlib
import csv
import errno
import importlib
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hybrid_rs_jax._text import joined
from hybrid_rs_jax.errors import BadInputError

__all__ = [
    "atomic_file",
    "atomic_folder",
    "beginning",
    "check_target",
    "check_target_folder",
    "csv_text",
    "first_line",
    "free_folder",
    "json_text",
    "kind_of",
    "make_folder",
    "path_text",
    "read_text",
    "refuse_device",
    "require_pyarrow",
    "write_csv",
    "write_json",
]

_LONGEST_SHOWN = 200


def kind_of(path: str | os.PathLike[str]) -> Literal["file", "folder", "other"] | None:
    """What lies at `path`, through symbolic links: a file, a folder, something else (a device, a pipe), or nothing.

    Every question about a path of the user goes through here: `Path.is_file` and its sisters raise at names that are
    too long, at folders that may not be searched and at NUL, and call a circle of links nothing.

    Returns:
      The kind; None where nothing is there (or a link to nothing).

    Raises:
      BadInputError: if the system cannot tell; one sentence says why.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path_text(path)} cannot be looked up: {_reason(error)}.") from error
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "other"


def refuse_device(path: str | os.PathLike[str]) -> None:
    """Raise one sentence if `path` is a device: /dev/zero never ends, and would be read until the memory is full.

    A pipe may be read, and a file that is not there is left to whoever opens it.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise BadInputError(f"{path_text(path)} is a device; give a file or a pipe.")


def path_text(path: str | os.PathLike[str]) -> str:
    """A path as a sentence shows it: on one line, and not longer than a line or two.

    >>> path_text("counts.csv"), path_text("a" * 5000)[-19:]
    ('counts.csv', "... (5000 letters)'")
    """
    text = os.fspath(path)
    if len(text) > _LONGEST_SHOWN:
        text = f"{text[: _LONGEST_SHOWN // 2]}... ({len(text)} letters)"
    return text if text.isprintable() and text == os.fspath(path) else repr(text)


def check_target(path: Path, suffixes: Sequence[str], force: bool = False) -> None:
    """Raise one sentence now if `path` could not be written later.

    Args:
      path: the file to be written.
      suffixes: file types that can be written, with their dots.
      force: an existing file may be replaced.
    """
    if path.suffix.lower() not in suffixes:
        raise BadInputError(f"{path_text(path)} must end in {joined(suffixes, 'or')}, which says what to write.")
    if path.suffix.lower() == ".parquet":
        require_pyarrow()
    kind = kind_of(path)
    _check_parent(_target(path))
    if kind == "folder":
        raise BadInputError(f"{path_text(path)} is a folder; --out needs the name of a file.")
    if kind == "other":
        raise BadInputError(f"{path_text(path)} is not a regular file; --out needs the name of a file.")
    if kind == "file" and not force:
        raise BadInputError(f"{path_text(path)} already exists; choose another name, or overwrite it with --force.")


def check_target_folder(path: Path) -> None:
    """Raise one sentence now if the folder `path` could not be created (or filled, where it exists empty) later."""
    kind = kind_of(path)
    _check_parent(_target(path))
    if kind not in (None, "folder"):
        raise BadInputError(f"{path_text(path)} already exists and is a file; choose another name for the folder.")
    try:
        filled = kind == "folder" and any(path.iterdir())
    except OSError as error:
        raise BadInputError(f"{path_text(path)} cannot be read: {_reason(error)}.") from error
    if filled:
        raise BadInputError(f"{path_text(path)} already exists and is not empty; choose another name for the folder.")


def make_folder(path: Path) -> None:
    """Make the folder `path`, and those on the way to it, where they do not exist; one sentence where that fails."""
    if kind_of(path) not in (None, "folder"):
        raise BadInputError(f"{path_text(path)} already exists and is a file; choose another name for the folder.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"The folder {path_text(path)} cannot be made: {_reason(error)}.") from error


def free_folder(name: str) -> Path:
    """`name`, or the first of `name-2`, `name-3`, ... that does not exist yet."""
    path, number = Path(name), 1
    while os.path.lexists(path):
        number += 1
        path = Path(f"{name}-{number}")
    return path


def beginning(path: Path, size: int) -> str:
    """How a regular file begins, to tell what it is; nothing of anything else: a pipe can be read only once.

    What cannot be read begins with nothing, either: its reader has the sentence.
    """
    if kind_of(path) != "file":
        return ""
    try:
        with path.open("rb") as file:
            return file.read(size).decode("utf-8-sig", "replace")
    except OSError:
        return ""


def first_line(path: Path) -> str:
    """The first line of a regular file, or what of it stands in 10,000 bytes, without white space around it."""
    return next(iter(beginning(path, 10_000).splitlines()), "").strip()


def read_text(path: Path) -> str:
    """The text of a file, or one sentence why there is none."""
    refuse_device(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BadInputError(f"{path_text(path)} does not exist.") from error
    except UnicodeDecodeError as error:
        where = f"byte {error.start} is not legal"
        raise BadInputError(f"{path_text(path)} is not a text file in UTF-8: {where}.") from error
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path_text(path)} cannot be read: {_reason(error)}.") from error


@contextlib.contextmanager
def atomic_file(path: Path, force: bool = False) -> Iterator[Path]:
    """Give a temporary file to write; on success flush it to the disk and give it the name `path`, else remove it.

    Through a symbolic link its target is written: the temporary file lies beside the target, and the link stays. A
    file that is replaced hands on its mode, and its owner where the system allows that.

    Args:
      path: the file to be written.
      force: an existing file may be replaced.
    """
    target = _target(path)
    temporary = _beside(target)
    try:
        with _as_sentence(path):
            temporary.touch(exist_ok=False)
            yield temporary
            _flush(temporary)
            if kind_of(target) is not None:
                if not force:
                    taken = "was created by somebody else in the meantime and is left as it is"
                    raise BadInputError(f"{path_text(path)} {taken}.")
                _copy_owner_and_mode(target, temporary)
            temporary.replace(target)
            _flush_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success it gets its name, on failure it is removed."""
    target = _target(path)
    temporary = _beside(target)
    try:
        with _as_sentence(path):
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                if kind_of(file) == "file":
                    _flush(file)
            if kind_of(target) == "folder":
                target.rmdir()  # fails unless it is still empty
            temporary.rename(target)
            _flush_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def json_text(content: Mapping[str, Any]) -> str:
    """JSON with one field or certificate per line: readable, and a diff shows which one changed."""
    lines = []
    for key, value in content.items():
        if isinstance(value, dict):
            rows = ",\n".join(f"    {_compact(name)}: {_compact(field)}" for name, field in value.items())
            lines.append(f"  {_compact(key)}: {{\n{rows}\n  }}")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n".join(f"    {_compact(row)}" for row in value)
            lines.append(f"  {_compact(key)}: [\n{rows}\n  ]")
        else:
            lines.append(f"  {_compact(key)}: {_compact(value)}")
    return "{\n" + ",\n".join(lines) + "\n}"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as JSON, not atomically by itself: give it the path of an `atomic_file`."""
    path.write_text(json_text(content) + "\n", encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows as CSV; floats with all their digits."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV; floats with all their digits."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()


def require_pyarrow() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`, or one sentence that says how to install them."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise BadInputError('Parquet files need pyarrow: pip install "hybrid-rs-jax[parquet]".') from error


def _compact(value: object) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _reason(error: OSError | ValueError) -> str:
    """Why the system could not do something with a path, in the words of a sentence."""
    if isinstance(error, ValueError):  # what no name of a file may hold, so that the system is not even asked
        return "a name must not hold the NUL character" if "null" in str(error) else "its name is no legal text"
    if error.errno == errno.ENAMETOOLONG:
        return "the name is too long"
    if error.errno == errno.ELOOP:
        return "its symbolic links go round in a circle"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "permission is denied, to it or to a folder on the way to it"
    return str(error.strerror or error)


def _target(path: Path) -> Path:
    """Where writing to `path` ends up: the last target of its links, whether that exists or not."""
    kind_of(path)  # a sentence, where the system could not follow
    return Path(os.path.realpath(path))


def _check_parent(path: Path) -> None:
    parent = path.parent
    if kind_of(parent) != "folder":
        raise BadInputError(f"The folder {path_text(parent)} does not exist; create it first.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise BadInputError(f"The folder {path_text(parent)} is not writable.")


def _beside(path: Path) -> Path:
    # cut, so that a name of the greatest length has a neighbour, too
    return path.with_name(f".{os.fsencode(path.name)[:200].decode(errors='ignore')}.{secrets.token_hex(4)}.tmp")


def _copy_owner_and_mode(path: Path, to: Path) -> None:
    found = path.stat()
    with contextlib.suppress(OSError):
        os.chown(to, found.st_uid, found.st_gid)
    to.chmod(stat.S_IMODE(found.st_mode))  # after the owner, since changing that takes bits away


@contextlib.contextmanager
def _as_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInputError(f"{path_text(path)} cannot be written: {_reason(error)}.") from error


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    """Make the rename itself durable, where the system can open a folder."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
