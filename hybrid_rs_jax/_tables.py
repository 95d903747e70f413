"""The one reader of tables: CSV, JSON lines and Parquet as columns, with a place for every sentence about a cell."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Int64

from hybrid_rs_jax._cells import label_text, plain_integers, whole_number
from hybrid_rs_jax._files import kind_of, path_text, refuse_device, require_pyarrow
from hybrid_rs_jax._json import parse_json
from hybrid_rs_jax._text import joined
from hybrid_rs_jax.errors import BadInputError, MissingColumnError

__all__ = ["SUFFIXES", "Table", "read_table", "whole_number"]

#: Names of files that may hold a table; what a file really holds is decided by its content.
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".ndjson.gz")

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
#: How files begin that are no text, and what to do with them.
_FOREIGN = {
    b"PK\x03\x04": "a workbook or a zip archive; save the table in it as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save the table in it as CSV",
    b"BZh": "compressed by bzip2; decompress it",
    b"\xfd7zXZ": "compressed by xz; decompress it",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; decompress it",
    b"SQLite format 3": "an SQLite database; of a run give the folder",
    b"\x93NUMPY": "a NumPy array; save it as CSV",
    b"\x89HDF": "an HDF5 file; save the table in it as CSV",
}
# UTF-32 first: in little-endian order its mark begins like that of UTF-16
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
#: Cells of so few letters are kept once, so many of them at a time.
_SHARED_LENGTH, _MOST_SHARED = 6, 1 << 16
#: A first line by which Excel is told the separator.
_SEPARATOR_LINE = re.compile(r"sep=.\s*$")
_A_LIST = "a list (of JSON lines each line is one object, without [ and commas)"
#: An index column that pandas adds.
_INDEX = re.compile(r"__index_level_[0-9]+__")


@dataclass(frozen=True, eq=False)
class Table:
    """A table by columns: cells as they were read, None where there is none.

    The getters read a column as what it should be, and refuse its first cell that is something else with the file,
    the line and the value.

    Attributes:
      path: the file.
      columns: cells by name; names that were asked for are spelt as they were asked, all others as in the file.
      unknown: names that were not asked for, in the order of the file.
      lines: int64[rows], the line on which a row begins, from 1; of a Parquet file the number of the row.
      unit: "line" or "row".
    """

    path: Path
    columns: Mapping[str, Sequence[object]]
    unknown: tuple[str, ...]
    lines: Int64[np.ndarray, " rows"]
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int) -> str:
        """Where a row stands, for a sentence: "file, line n"."""
        return f"{self.path}, {self.unit} {self.lines[row]}"

    def integers(
        self, name: str, low: int | np.ndarray, high: int | np.ndarray, high_is: str = ""
    ) -> Int64[np.ndarray, " rows"]:
        """A column of integers in low..high as int64[rows]; `99.0` is one.

        Args:
          name: of a column that is there.
          low, high: legal range, for all rows or for each, within 64 bits.
          high_is: what `high` is called in the sentence.

        Raises:
          BadInputError: for the first cell that is no integer of the range.
        """
        plain = plain_integers(self.columns[name])
        if plain is not None and np.all((plain >= low) & (plain <= high)):
            return plain
        ranges = (np.broadcast_to(edge, len(self)).tolist() for edge in (low, high))
        found = []
        for row, (cell, least, most) in enumerate(zip(self.columns[name], *ranges, strict=True)):
            number = whole_number(cell)
            if number is None or not least <= number <= most:
                kind = "an integer in" if number is None else "in"
                called = f" ({high_is})" if high_is else ""
                self._refuse(row, f"{name} must be {kind} {least}..{most}{called}", cell)
            found.append(number)
        return np.array(found, np.int64)

    def texts(self, name: str) -> list[str]:
        """A column of texts, as they are written; they may be empty.

        Raises:
          BadInputError: for the first cell that is no text.
        """
        found = []
        for row, cell in enumerate(self.columns[name]):
            if not isinstance(cell, str):
                self._refuse(row, f"{name} must be a text", cell)
            found.append(cell)
        return found

    def names(self, name: str = "id") -> list[str]:
        """A column of names, which may be integers, without blanks around them; the same one may appear again.

        Raises:
          BadInputError: for the first cell that is missing or empty, or neither a text nor an integer.
        """
        found = []
        for row, cell in enumerate(self.columns[name]):
            number = None if isinstance(cell, str) else whole_number(cell)
            text = cell.strip() if isinstance(cell, str) else "" if number is None else str(number)
            if not text:
                self._refuse(row, f"{name} must be a name or an integer", cell)
            if "\0" in text:  # which CSV cannot hold
                self._refuse(row, f"{name} must hold no zero character", json.dumps(cell))
            found.append(text)
        return found

    def labels(self, name: str) -> list[str | None]:
        """A column that need not be there, as texts: None for what is missing, empty, null or not a number (NaN)."""
        return [label_text(cell) for cell in self.columns.get(name, [None] * len(self))]

    def _refuse(self, row: int, wanted: str, cell: object) -> NoReturn:
        shown = cell if isinstance(cell, str) and cell.strip() else json.dumps(cell, default=str)
        raise BadInputError(f"{self.place(row)}: {wanted}, got {shown:.80}.")


def read_table(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """Read a CSV file with a header, JSON lines, or a Parquet file (with pyarrow); the first two also through gzip.

    What the file holds is decided by its first bytes. Names are compared without case and blanks around them. A CSV
    file may be separated by semicolons or tabs, where its header then has every required name; it may be UTF-8 with
    or without a mark, or UTF-16 with one; cells may be of any length and hold any separator of lines. Blank rows and
    columns without a name are passed over; columns that were not asked for are kept.

    Args:
      path: the file.
      required: names that must be there, of JSON lines on every line.
      optional: other names that have a meaning.

    Raises:
      MissingColumnError: if a required name is not there.
      BadInputError: for anything else, one sentence with the file, the line and what was found there.
    """
    content = _content(path)
    if content.startswith(b"PAR1"):
        return _from_parquet(path, content, required, optional)
    for beginning, what in _FOREIGN.items():
        if content.startswith(beginning):
            raise BadInputError(f"{path} is {what}.")
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise BadInputError(f"{path}, line {line} holds a zero byte, so it is not a text file in UTF-8.")
    # lines end at \n, \r\n and \r alone: texts may hold separators that `splitlines` would cut at
    text = io.TextIOWrapper(io.BytesIO(content), encoding, newline="")
    stream: Iterator[tuple[int, str]] = enumerate(text, start=1)
    try:
        begun = ((number, line) for number, line in stream if line.strip() and not _SEPARATOR_LINE.match(line))
        first, header = next(begun, (1, ""))
        if not header:
            raise BadInputError(f"{path} is empty: expected a table with the columns {joined(required)}.")
        if header.lstrip()[0] in "{[" or _named_json(path):
            return _from_json(path, chain([(first, header)], stream), required, optional)
        return _from_csv(path, first, header, chain([header], text), required, optional)
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}{_first_illegal(content, encoding)}; save it as UTF-8.") from error


def _content(path: Path) -> bytes:
    """The bytes of a file, decompressed."""
    kind = kind_of(path)
    if kind is None:
        raise BadInputError(f"{path_text(path)} does not exist.")
    if kind == "folder":
        raise BadInputError(f"{path_text(path)} is a folder, not a table.")
    refuse_device(path)
    try:
        content = path.read_bytes()  # of a pipe, too
    except OSError as error:
        raise BadInputError(f"{path_text(path)} cannot be read: {error.strerror or error}.") from error
    if content.startswith(b"\x1f\x8b"):
        try:
            return gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise BadInputError(f"{path} is compressed by gzip and damaged: {error}.") from error
    return content


def _named_json(path: Path) -> bool:
    return any(suffix.lower() in (".jsonl", ".ndjson", ".json") for suffix in path.suffixes)


def _first_illegal(content: bytes, encoding: str) -> str:
    try:
        content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        called = encoding.removesuffix("-sig").upper()
        return f", line {line} is not a text in {called}: byte 0x{content[error.start]:02x} is not legal"
    return " cannot be decoded"


def _from_csv(
    path: Path, first: int, header: str, lines: Iterator[str], required: Sequence[str], optional: Sequence[str]
) -> Table:
    delimiter = _delimiter(header, required)
    limit = csv.field_size_limit(2**31 - 1)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    numbers, start = array("q"), first
    try:
        names = _spelt([name.strip() for name in next(reader)], required, optional)
        found = _listed(names)
        _check_names(f"{path}, line {first}", names, required, f"found {_found(names, delimiter)}")
        cells: list[list[str]] = [[] for _ in names]
        start, known = first + reader.line_num, dict[str, str]()
        for row in reader:
            if any(row):
                if len(row) != len(names):
                    raise BadInputError(
                        f"{path}, line {start}: expected {len(names)} values ({found}), got {len(row)}."
                    )
                for column, cell in zip(cells, row, strict=True):
                    # equal counts of a million rows are one text
                    column.append(known.setdefault(cell, cell) if len(cell) <= _SHARED_LENGTH else cell)
                if len(known) > _MOST_SHARED:
                    known.clear()
                numbers.append(start)
            start = first + reader.line_num
    except csv.Error as error:
        raise BadInputError(f"{path}, line {start} is not legal CSV: {error}.") from error
    finally:
        csv.field_size_limit(limit)
    columns = {name: column for name, column in zip(names, cells, strict=True) if name}
    return _table(path, columns, numbers, required, optional)


def _from_json(path: Path, lines: Iterable[tuple[int, str]], required: Sequence[str], optional: Sequence[str]) -> Table:
    columns: dict[str, list[object]] = {name: [] for name in required}
    spelling: dict[str, str] = {}
    numbers = array("q")
    for number, line in lines:
        if not line.strip():
            continue
        where, row = f"{path}, line {number}", len(numbers)
        for key, cell in _json_object(where, line, required).items():
            name = spelling.get(key)
            if name is None:
                (name,) = _spelt([key.strip()], required, optional)
                spelling[key] = name
            column = columns.setdefault(name, [])
            if len(column) > row:
                raise BadInputError(f"{where}: {name} appears twice.")
            column.extend([None] * (row - len(column)))
            column.append(cell)
        missing = [name for name in required if len(columns[name]) == row]
        if missing:
            kind = BadInputError if row else MissingColumnError  # a line that lacks what the first one has
            raise kind(f"{where}: missing {joined(missing)}; needed are {joined(required)}.")
        numbers.append(number)
    for column in columns.values():
        column.extend([None] * (len(numbers) - len(column)))
    return _table(path, columns, numbers, required, optional)


def _json_object(where: str, line: str, required: Sequence[str]) -> dict[str, object]:
    try:
        row = parse_json(line.rstrip(), where, constant=float)  # NaN stands for a missing value
    except BadInputError as error:
        if (text := line.strip()) in ("[", "[{") or (text[0] == "[" and text[-1] == ","):  # a list over several lines
            raise BadInputError(f"{where}: expected a JSON object with {joined(required)}, got {_A_LIST}.") from error
        raise BadInputError(
            f"{str(error).removesuffix('.')} (each line must be one JSON object of its own)."
        ) from error
    if isinstance(row, dict):
        return row
    kind = _A_LIST if isinstance(row, list) else f"{line.strip():.80}"
    raise BadInputError(f"{where}: expected a JSON object with {joined(required)}, got {kind}.")


def _from_parquet(path: Path, content: bytes, required: Sequence[str], optional: Sequence[str]) -> Table:
    arrow, parquet = require_pyarrow()
    try:
        stored = parquet.read_table(io.BytesIO(content))
        names = _spelt([name.strip() for name in stored.column_names], required, optional)
        _check_names(str(path), names, required, f"found {_listed(names)}")
        kept = {name: i for i, name in enumerate(names) if name and not _INDEX.fullmatch(name)}
        columns = {name: [_decoded(cell) for cell in stored.column(i).to_pylist()] for name, i in kept.items()}
    except (arrow.ArrowException, OSError, OverflowError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"{path} is not a legal Parquet file: {str(error).splitlines()[0].rstrip('.'):.200}."
        ) from error
    return _table(path, columns, range(1, stored.num_rows + 1), required, optional, "row")


def _decoded(cell: object) -> object:
    return cell.decode() if isinstance(cell, bytes) else cell


def _delimiter(header: str, required: Sequence[str]) -> str:
    """The comma, unless only another separator finds all required names in the header."""
    for delimiter in _DELIMITERS:
        try:
            names = {name.strip().casefold() for name in next(csv.reader([header], delimiter=delimiter), [])}
        except csv.Error:
            continue
        if names.issuperset(name.casefold() for name in required):
            return delimiter
    return ","


def _found(names: list[str], delimiter: str) -> str:
    """The header in words; one column that holds other separators is said to be what it probably is."""
    if len(names) == 1:
        for other, called in _DELIMITERS.items():
            if other != delimiter and other in names[0]:
                return f"one column, separated by {called}: {names[0]!r:.200}"
        return f"one column, {names[0]!r:.200}"
    return _listed(names)


def _listed(names: Iterable[str]) -> str:
    """Names of columns as a sentence shows them: on one line."""
    return f"{', '.join(name if name.isprintable() else repr(name) for name in names if name):.200}"


def _spelt(names: list[str], required: Sequence[str], optional: Sequence[str]) -> list[str]:
    """Names as they were asked for; those that were not asked for stay as they are."""
    asked = {name.casefold(): name for name in (*required, *optional)}
    return [asked.get(name.casefold(), name) for name in names]


def _check_names(where: str, names: list[str], required: Sequence[str], found: str) -> None:
    missing = [name for name in required if name not in names]
    if missing:
        raise MissingColumnError(f"{where}: missing column {joined(missing)}; needed are {joined(required)}, {found}.")
    twice = [name for name in dict.fromkeys(names) if name and names.count(name) > 1]
    if twice:
        raise BadInputError(f"{where}: column {joined(twice)} appears twice in {_listed(names)}.")


def _table(
    path: Path,
    columns: Mapping[str, Sequence[object]],
    numbers: Iterable[int],
    required: Sequence[str],
    optional: Sequence[str],
    unit: str = "line",
) -> Table:
    unknown = tuple(name for name in columns if name not in (*required, *optional))
    return Table(path, columns, unknown, np.array(numbers, np.int64), unit)
