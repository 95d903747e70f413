"""Files that are written whole or not at all, and never over a file that somebody may still need."""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid_rs_jax._text import joined
from hybrid_rs_jax.errors import BadInputError

__all__ = [
    "atomic_file",
    "atomic_folder",
    "check_target",
    "check_target_folder",
    "free_folder",
    "json_text",
    "read_text",
    "require_pyarrow",
    "write_csv",
    "write_json",
]


def check_target(path: Path, suffixes: Sequence[str], force: bool = False) -> None:
    """Raise one sentence now if `path` could not be written later.

    Args:
      path: the file to be written.
      suffixes: file types that can be written, with their dots.
      force: an existing file may be replaced.
    """
    if path.suffix.lower() not in suffixes:
        raise BadInputError(f"{path} must end in {joined(suffixes, 'or')}, which says what to write.")
    if path.suffix.lower() == ".parquet":
        require_pyarrow()
    _check_parent(path)
    if path.is_dir():
        raise BadInputError(f"{path} is a folder; --out needs the name of a file.")
    if path.exists() and not path.is_file():
        raise BadInputError(f"{path} is not a regular file; --out needs the name of a file.")
    if path.exists() and not force:
        raise BadInputError(f"{path} already exists; choose another name, or overwrite it with --force.")


def check_target_folder(path: Path) -> None:
    """Raise one sentence now if the folder `path` could not be created (or filled, where it exists empty) later."""
    _check_parent(path)
    if path.exists() and not path.is_dir():
        raise BadInputError(f"{path} already exists and is a file; choose another name for the folder.")
    if path.is_dir() and any(path.iterdir()):
        raise BadInputError(f"{path} already exists and is not empty; choose another name for the folder.")


def free_folder(name: str) -> Path:
    """`name`, or the first of `name-2`, `name-3`, ... that does not exist yet."""
    path, number = Path(name), 1
    while os.path.lexists(path):
        number += 1
        path = Path(f"{name}-{number}")
    return path


def read_text(path: Path) -> str:
    """The text of a file, or one sentence why there is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BadInputError(f"{path} does not exist.") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} is not a text file in UTF-8: byte {error.start} is not legal.") from error
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror or error}.") from error


@contextlib.contextmanager
def atomic_file(path: Path, force: bool = False) -> Iterator[Path]:
    """Give a temporary file beside `path`; on success flush it to the disk and rename it, on failure remove it."""
    temporary = _beside(path)
    with _as_sentence(path):
        temporary.touch(exist_ok=False)
    try:
        with _as_sentence(path):
            yield temporary
            _flush(temporary)
            if path.exists() and not force:
                raise BadInputError(f"{path} was created by somebody else in the meantime and is left as it is.")
            temporary.replace(path)
            _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success it gets its name, on failure it is removed."""
    temporary = _beside(path)
    with _as_sentence(path):
        temporary.mkdir()
    try:
        with _as_sentence(path):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _flush(file)
            if path.is_dir():
                path.rmdir()  # fails unless it is still empty
            temporary.rename(path)
            _flush_folder(path.parent)
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


def require_pyarrow() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`, or one sentence that says how to install them."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise BadInputError('Parquet files need pyarrow: pip install "hybrid-rs-jax[parquet]".') from error


def _compact(value: object) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _check_parent(path: Path) -> None:
    parent = path.parent
    if not parent.is_dir():
        raise BadInputError(f"The folder {parent} does not exist; create it first.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise BadInputError(f"The folder {parent} is not writable.")


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextlib.contextmanager
def _as_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror or error}.") from error


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
