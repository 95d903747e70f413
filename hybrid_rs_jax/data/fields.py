"""A table of features as inputs: categorical columns become fields of symbols, numbers are standardised."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_rs_jax._files import atomic_file, check_target, read_text, write_json
from hybrid_rs_jax._json import parse_json
from hybrid_rs_jax._tables import Table, read_table, whole_number
from hybrid_rs_jax._text import joined
from hybrid_rs_jax.data.inputs import ArrayInputs
from hybrid_rs_jax.errors import BadInputError

__all__ = ["Schema", "open_table"]


@dataclasses.dataclass(frozen=True)
class Schema:
    """What the columns of a table are.

    Attributes:
      order: names of all features, as the table has them.
      categories: of each categorical column its values, sorted: the symbols 0, 1, ...; an attacker's are among them.
      numbers: of each numeric column mean and standard deviation, so that sigma and eps are in standard deviations.
      constants: columns with one value, which no noise changes.

    >>> Schema(("job", "age"), {"job": ("clerk", "cook")}, {"age": (40.0, 12.0)}, {}).cardinalities
    (2,)
    """

    order: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, tuple[float, float]]
    constants: Mapping[str, str]

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Symbols of each field."""
        return tuple(map(len, self.categories.values()))

    def describe(self) -> list[dict[str, object]]:
        """The schema as a run's header has it, an object per column."""
        return [{"name": name, **self._column(name)} for name in self.order]

    @classmethod
    def of(cls, columns: object) -> Schema:
        """The schema that `describe` described.

        Raises:
          ValueError: if it is none.
        """
        if not isinstance(columns, Sequence) or not columns or not all(isinstance(c, Mapping) for c in columns):
            raise ValueError("a schema is a list of objects, one per column")
        categories: dict[str, tuple[str, ...]] = {}
        numbers: dict[str, tuple[float, float]] = {}
        constants: dict[str, str] = {}
        for column in columns:
            try:
                name = str(column["name"])
                if "values" in column:
                    categories[name] = tuple(map(str, column["values"]))
                elif "constant" in column:
                    constants[name] = str(column["constant"])
                else:
                    numbers[name] = float(column["mean"]), float(column["standard_deviation"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"a column needs name and values, constant, or mean and deviation: {error}") from error
            if name in numbers and not (math.isfinite(numbers[name][0]) and 0 < numbers[name][1] < math.inf):
                raise ValueError(f"{name} needs a finite mean and a positive deviation, got {numbers[name]}")
        return cls(tuple(str(column["name"]) for column in columns), categories, numbers, constants)

    @classmethod
    def read(cls, path: str | Path) -> Schema:
        """A schema from the JSON file that `save` wrote.

        Raises:
          BadInputError: if it is none.
        """
        path = Path(path)
        try:
            content = parse_json(read_text(path), str(path))
            return cls.of(content.get("columns") if isinstance(content, dict) else content)
        except BadInputError:
            raise
        except ValueError as error:
            raise BadInputError(f"{path} holds no schema: {error}.") from error

    def save(self, path: str | Path, force: bool = False) -> None:
        """Write the columns as JSON; `read` gives an equal schema back.

        Raises:
          BadInputError: if the file exists and `force` is not given.
        """
        path = Path(path)
        check_target(path, (path.suffix.lower(),), force)
        with atomic_file(path, force) as file:
            write_json(file, {"columns": self.describe()})

    def _column(self, name: str) -> dict[str, object]:
        if name in self.categories:
            return {"values": list(self.categories[name])}
        if name in self.constants:
            return {"constant": self.constants[name]}
        mean, std = self.numbers[name]
        return {"mean": mean, "standard_deviation": std}

    def columns(self, tokens: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
        """Noisy inputs as the columns of the table again: numbers in their own unit, categories as they are written.

        Args:
          tokens: int[b, F].
          images: float[b, 1, 1, N].
        """
        values = images.reshape(len(images), -1).astype(np.float64)
        found = {name: values[:, place] * std + mean for place, (name, (mean, std)) in enumerate(self.numbers.items())}
        for place, (name, symbols) in enumerate(self.categories.items()):
            found[name] = _written(symbols)[tokens[:, place]]
        for name, value in self.constants.items():
            found[name] = np.repeat(_written((value,)), len(tokens))
        return {name: found[name] for name in self.order}

    def rows(self, tokens: np.ndarray, images: np.ndarray, named: bool) -> Any:
        """The columns as a data frame (`named`, with pandas), or as an array with a row per input."""
        columns = self.columns(tokens, images)
        if named:
            import pandas

            return pandas.DataFrame(columns)
        return np.column_stack([column if self._all_numbers else column.astype(object) for column in columns.values()])

    @property
    def _all_numbers(self) -> bool:
        texts = [*self.categories.values(), *((value,) for value in self.constants.values())]
        return all(_written(symbols).dtype.kind != "O" for symbols in texts)


def open_table(
    path: str | Path, label: str | None, categorical: Collection[str] = (), schema: Schema | None = None
) -> tuple[ArrayInputs, Schema]:
    """A table of features as inputs: tokens int32[B, F], numbers float32[B, 1, 1, N].

    A column is numeric if each of its cells is a finite number, and categorical otherwise; a column `id` names the
    inputs. Where a kind is missing its part is one symbol, or one number, that is always 0.

    Args:
      path: CSV, JSON lines or Parquet.
      label: the column that is no feature; kept as the label.
      categorical: numeric columns that are categories all the same.
      schema: of the table that the model was trained on, whose values, means and deviations count; None: the table's
        own.

    Returns:
      The inputs, and what their columns are.

    Raises:
      BadInputError: one sentence with the file, and the column or the line.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "people.csv"
    >>> _ = path.write_text("job,age,rich\\ncook,30,no\\nclerk,50,yes\\n")
    >>> inputs, schema = open_table(path, "rich")
    >>> inputs.tokens.tolist(), inputs.images[:, 0, 0].tolist(), schema.numbers
    ([[1], [0]], [[-1.0], [1.0]], {'age': (40.0, 10.0)})
    """
    asked = [*([label] if label else []), *categorical]
    table = read_table(Path(path), asked, ("id",))
    if not len(table):
        raise BadInputError(f"{path} holds no inputs.")
    order = tuple(name for name in table.columns if name not in ("id", label))
    if not order:
        raise BadInputError(f"{path} holds no column of features besides {joined(asked) or 'id'}.")
    if schema is None:
        schema = _schema(table, order, categorical)
    elif missing := [name for name in schema.order if name not in order]:
        raise BadInputError(f"{path}: missing column {joined(missing)}, which the schema has.")
    rows = len(table)
    for name, value in schema.constants.items():
        _codes(table, name, (value,))
    tokens = [_codes(table, name, symbols) for name, symbols in schema.categories.items()]
    values = [(_finite(table, name) - mean) / std for name, (mean, std) in schema.numbers.items()]
    ids = table.names("id") if "id" in table.columns else [str(row) for row in range(rows)]
    columns = {} if label is None else {"label": _cells(table, label)}
    inputs = ArrayInputs(
        ids,
        np.column_stack(tokens) if tokens else np.zeros((rows, 1), np.int32),
        (np.column_stack(values) if values else np.zeros((rows, 1))).astype(np.float32)[:, None, None, :],
        np.ones(len(tokens) or 1, bool),
        columns,
    )
    return inputs, schema


def _schema(table: Table, order: Sequence[str], categorical: Collection[str]) -> Schema:
    """What the columns of a table are, by its own cells."""
    categories: dict[str, tuple[str, ...]] = {}
    numbers: dict[str, tuple[float, float]] = {}
    constants: dict[str, str] = {}
    for name in order:
        cells = _cells(table, name)
        found = None if name in categorical else _numbers(table, name, cells)
        if found is not None:
            numbers[name] = float(found.mean()), float(found.std()) or 1.0
        elif len(symbols := tuple(sorted(set(cells)))) == 1:
            constants[name] = symbols[0]
        else:
            categories[name] = symbols
    return Schema(tuple(order), categories, numbers, constants)


def _cells(table: Table, name: str) -> list[str]:
    return ["" if cell is None else str(cell).strip() for cell in table.columns[name]]


def _codes(table: Table, name: str, symbols: Sequence[str]) -> np.ndarray:
    """Symbols of a categorical column, int32; one that the schema does not know is refused."""
    place = {symbol: number for number, symbol in enumerate(symbols)}
    cells = _cells(table, name)
    for row, cell in enumerate(cells):
        if cell not in place:
            raise BadInputError(
                f"{table.place(row)}: {name} must be one of the {len(symbols)} values of the schema ({symbols[0]!r} "
                f"for one), got {cell!r:.80}."
            )
    return np.array([place[cell] for cell in cells], np.int32)


def _finite(table: Table, name: str) -> np.ndarray:
    """A numeric column; the first cell that is no finite number is refused."""
    cells = _cells(table, name)
    found = np.array([_number(cell) for cell in cells])
    if not (fine := np.isfinite(found)).all():
        row = int(np.argmin(fine))
        got = cells[row] or "nothing"
        raise BadInputError(f"{table.place(row)}: {name} must be a finite number, got {got:.80}.")
    return found


def _numbers(table: Table, name: str, cells: Sequence[str]) -> np.ndarray | None:
    """A column as numbers; None where it is one of categories. A number that is missing among numbers is refused."""
    found = np.array([_number(cell) for cell in cells])
    missing = np.array([cell.casefold() in ("", "nan") for cell in cells])
    if not np.isfinite(found[~missing]).all() or missing.all():
        return None
    if missing.any():
        row = int(np.argmax(missing))
        raise BadInputError(
            f"{table.place(row)}: {name} must be a finite number, got nothing; fill it in, leave the row out, or say "
            f"--categorical {name}."
        )
    return found


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _written(symbols: Sequence[str]) -> np.ndarray:
    """Values of a category as a table's reader would have them: integers where all are."""
    whole = [whole_number(symbol) for symbol in symbols]
    if all(number is not None and abs(number) < 2**63 for number in whole):
        return np.array(whole, np.int64)
    return np.array(symbols, object)
