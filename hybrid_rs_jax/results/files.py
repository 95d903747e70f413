"""Results in files: JSON with the statement, flat tables as CSV and Parquet, and LaTeX for a paper."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hybrid_rs_jax._files import atomic_file, check_target, require_pyarrow
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.results.record import blocks, distinct, json_lines, row_columns, statement_record

if TYPE_CHECKING:
    import pandas

    from hybrid_rs_jax.results.result import Result

__all__ = ["SUFFIXES", "data_frame", "flat_columns", "save", "write"]

SUFFIXES = (".json", ".csv", ".parquet", ".tex")


def save(result: Result, path: Path, force: bool = False) -> None:
    """Write a result whole or not at all; the suffix of `path` says what.

    Raises:
      BadInputError: one sentence, if the file cannot be written.
    """
    check_target(path, SUFFIXES, force)
    with atomic_file(path, force) as temporary:
        write(result, temporary, path.suffix.lower())


def write(result: Result, path: Path, suffix: str) -> None:
    """Write into the file `path` (of an `atomic_file`) in the format of `suffix`."""
    if suffix == ".parquet":
        _write_parquet(result, path)
        return
    if suffix == ".tex":
        from hybrid_rs_jax.results.latex import latex_table

        path.write_text(latex_table(result), encoding="utf-8")
        return
    lines = json_lines(result) if suffix == ".json" else csv_lines(result)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(lines)
        if suffix == ".json":
            file.write("\n")


def flat_columns(result: Result) -> dict[str, np.ndarray | tuple[str, ...]]:
    """`id`, then `successes, n, p_a, budget, radius_0, ...`: arrays [B]; what differs by budget has a column for each.

    Columns of the table that the counts came from stand at the end, those with a name that is taken under `name_`.
    """
    columns: dict[str, np.ndarray | tuple[str, ...]] = {"id": result.ids}
    rows = row_columns(result)
    draws = result.counts.labels
    radii = {name: rows.pop(name) for name in list(rows) if name.startswith("radius")}
    for name, values in (rows | radii).items():
        if isinstance(values, np.ndarray) and values.ndim == 3:  # votes of each sample
            for place, label in enumerate(draws or ()):
                columns |= {f"{name}_{label}_{k}": values[:, place, k] for k in range(values.shape[2])}
        elif isinstance(values, np.ndarray) and values.ndim == 2:
            budgets = tuple(map(str, result.budgets))
            labels = budgets if name.startswith("radius") or draws is None else draws
            labels = tuple(map(str, range(values.shape[1]))) if name == "votes" else labels
            columns |= {f"{name}_{label}": values[:, place] for place, label in enumerate(labels)}
        else:
            columns[name] = values
    for column in result.counts.others:
        name = column.name
        while name in columns:
            name += "_"
        columns[name] = column.values
    return columns


def csv_lines(result: Result) -> Iterator[str]:
    """A header and one line per input, floats with all their digits; equal certificates are turned into text once."""
    names = list(flat_columns(result))
    own = len(names) - len(result.counts.others)
    yield _csv_line(names)
    for part in blocks(result):
        yield from _row_lines(part, own)


def _row_lines(result: Result, own: int) -> Iterator[str]:
    first, back = distinct(result)
    columns = list(flat_columns(result.taken(first)).values())[1:own]
    bodies = _Lines()
    csv.writer(bodies, lineterminator="\n").writerows(zip(*(_listed(values) for values in columns), strict=True))
    plain = (name if _is_plain(name) else _csv_line([name])[:-1] for name in result.ids)
    if not result.counts.others:
        for name, kind in zip(plain, back.tolist(), strict=True):
            yield f"{name},{bodies[kind]}"
        return
    others = zip(*(column.values for column in result.counts.others), strict=True)
    for name, kind, more in zip(plain, back.tolist(), others, strict=True):
        yield f"{name},{bodies[kind][:-1]},{_csv_line(more)}"


def data_frame(result: Result) -> pandas.DataFrame:
    """The flat columns as a data frame, the statement in `attrs`."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_pandas needs pandas: pip install pandas.") from error
    frame = pandas.DataFrame(dict(flat_columns(result)))
    frame.attrs["statement"] = statement_record(result)
    return frame


def _write_parquet(result: Result, path: Path) -> None:
    pyarrow, parquet = require_pyarrow()
    table = pyarrow.table({name: pyarrow.array(values) for name, values in flat_columns(result).items()})
    statement = json.dumps(statement_record(result), allow_nan=False)
    try:
        parquet.write_table(table.replace_schema_metadata({"statement": statement}), path)
    except pyarrow.ArrowException as error:
        raise BadInputError(f"The table cannot be written as Parquet: {error}.") from error


class _Lines(list[str]):
    """What a writer writes, line by line."""

    def write(self, line: str) -> None:
        self.append(line)


def _is_plain(text: str) -> bool:
    return not any(letter in text for letter in ',"\n\r') and text == text.strip() and bool(text)


def _csv_line(cells: Iterable[object]) -> str:
    line = _Lines()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line[0]


def _listed(values: np.ndarray | tuple[str, ...]) -> list[object]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)
