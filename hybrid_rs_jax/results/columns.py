"""Which inputs a run was asked for, and what the data say of each (label, group): a table beside its ledger."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hybrid_rs_jax._files import atomic_file, kind_of, write_csv
from hybrid_rs_jax._tables import read_table

__all__ = ["COLUMNS_FILE", "Column", "join_columns", "planned_ids", "read_columns", "unregistered_ids", "write_columns"]

COLUMNS_FILE = "inputs.csv"


class Column(NamedTuple):
    """A column of a table that has nothing to do with certificates, and goes through them as it is."""

    name: str
    values: tuple[str, ...]


def write_columns(
    folder: Path, ids: Sequence[str], indices: Sequence[int], columns: Mapping[str, Sequence[str | None]]
) -> None:
    """Write down some inputs with their columns, beside those that the run has already.

    Args:
      folder: of the run.
      ids: of the whole data set.
      indices: the inputs of this session.
      columns: a value per input of the data set, by name.
    """
    rows = {ids[index]: {name: values[index] or "" for name, values in columns.items()} for index in indices}
    _write(folder, {**_read(folder), **rows})


def join_columns(folder: Path, sources: Sequence[Path]) -> None:
    """The columns of several runs beside the one that they became."""
    rows = {name: cells for source in sources for name, cells in _read(source).items()}
    if rows:
        _write(folder, rows)


def planned_ids(folder: Path) -> int | None:
    """Number of inputs that the run was asked for; None where it does not say."""
    rows = _read(folder)
    return len(rows) or None


def unregistered_ids(folder: Path, known: Collection[str]) -> list[str]:
    """Inputs that the run was asked for and has not come to: those that are not `known`."""
    path = folder / COLUMNS_FILE
    if kind_of(path) != "file":
        return []
    with path.open("rb") as file:
        if sum(1 for _ in file) == len(known) + 1:  # a million names are not read for nothing
            return []
    return [name for name in _read(folder) if name not in known]


def read_columns(folder: Path, ids: Sequence[str]) -> tuple[Column, ...]:
    """The columns of a run, for the inputs with these ids; empty where nothing is said of one."""
    if not _has_columns(folder):
        return ()
    rows = _read(folder)
    names = dict.fromkeys(name for cells in rows.values() for name in cells)
    return tuple(Column(name, tuple(rows.get(each, {}).get(name, "") for each in ids)) for name in names)


def _has_columns(folder: Path) -> bool:
    """Whether more than names are kept; a million names are not read for nothing."""
    path = folder / COLUMNS_FILE
    if kind_of(path) != "file":
        return False
    with path.open("rb") as file:
        return file.readline(1 << 16).strip() != b"id"


def _read(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / COLUMNS_FILE
    if kind_of(path) != "file":
        return {}
    table = read_table(path, ("id",))
    cells = {name: ["" if cell is None else str(cell) for cell in table.columns[name]] for name in table.unknown}
    return {each: {name: cells[name][row] for name in cells} for row, each in enumerate(table.names())}


def _write(folder: Path, rows: Mapping[str, Mapping[str, str]]) -> None:
    names = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    with atomic_file(folder / COLUMNS_FILE, force=True) as path:
        write_csv(
            path, ("id", *names), [(each, *(cells.get(name, "") for name in names)) for each, cells in rows.items()]
        )
