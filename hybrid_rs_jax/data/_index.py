"""Rows of an index file with their line numbers, and what a cell may hold."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hybrid_rs_jax._files import read_text
from hybrid_rs_jax._text import joined
from hybrid_rs_jax.data.samples import Record, Samples
from hybrid_rs_jax.errors import BadInputError

__all__ = ["as_id", "as_label", "as_text", "collect", "csv_rows", "json_rows"]


def json_rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """("file, line n", object) for each line of a JSON-lines file; blank lines are passed over.

    Raises:
      BadInputError: for a line that is not one JSON object with all `needed` keys.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            what = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply or too long a number"
            raise BadInputError(f"{where} is not legal JSON: {what}.") from error
        if not isinstance(row, dict):
            raise BadInputError(f"{where}: expected a JSON object with {joined(needed)}.")
        _check_keys(where, row, needed)
        yield where, row


def csv_rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The same for a CSV file with a header; a quoted cell may hold line breaks.

    Raises:
      BadInputError: for a missing column, a row of another length, or illegal quoting.
    """
    # texts may hold separators that `splitlines` would cut at
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_keys(f"{path}, line 1", dict.fromkeys(header), needed)
        if len(set(header)) < len(header):
            raise BadInputError(f"{path}, line 1: a column appears twice in {', '.join(header)}.")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                raise BadInputError(f"{where}: expected {len(header)} values ({', '.join(header)}), got {len(row)}.")
            yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise BadInputError(f"{path}, line {reader.line_num} is not legal CSV: {error}.") from error


def collect(path: Path, rows: Iterator[tuple[str, Record]]) -> Samples:
    """All records of an index.

    Raises:
      BadInputError: if there is none, or an id appears again, with both places.
    """
    places: dict[str, str] = {}
    records = []
    for where, record in rows:
        if record.id in places:
            raise BadInputError(
                f"{where}: id {record.id!r} appears again, after {places[record.id]}; every id must be different."
            )
        places[record.id] = where
        records.append(record)
    if not records:
        raise BadInputError(f"{path} holds no inputs.")
    return Samples(records)


def as_id(where: str, value: object) -> str:
    """An id as text; integers are taken as they are written."""
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise BadInputError(f"{where}: id must be a name or an integer, got {_shown(value)}.")
    return as_text(where, "id", str(value).strip())


def as_text(where: str, name: str, value: object) -> str:
    """A text that can be written to UTF-8 files."""
    if not isinstance(value, str):
        raise BadInputError(f"{where}: {name} must be a text, got {_shown(value)}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadInputError(f"{where}: {name} holds half of a Unicode surrogate pair, {value!r:.80}.") from error
    return value


def as_label(where: str, value: object) -> str | None:
    """A label as text; nothing, null or an empty cell means that there is none."""
    if value is None or value == "":
        return None
    return str(value) if isinstance(value, bool | int | float) else as_text(where, "label", value)


def _check_keys(where: str, row: Mapping[str, Any], needed: tuple[str, ...]) -> None:
    missing = [name for name in needed if name not in row]
    if missing:
        raise BadInputError(f"{where}: missing {joined(missing)}; needed are {joined(needed)}.")


def _shown(value: object) -> str:
    return f"{json.dumps(value, default=str):.80}"
