"""A long table that is written block by block: CSV, or Parquet with one row group per block."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hybrid_rs_jax._files import require_pyarrow

__all__ = ["LongTableWriter"]


class LongTableWriter:
    """Write blocks of rows that share their leading columns, which are turned into text only once.

    Args:
      path: file to write (the path of an `atomic_file`).
      suffix: ".csv" or ".parquet".
      columns: names and dtypes of all columns.
      about: what the table depends on; goes into the metadata of a Parquet file.
    """

    def __init__(self, path: Path, suffix: str, columns: Mapping[str, type], about: Mapping[str, Any]):
        self._columns = dict(columns)
        self._file: Any = None
        self._parquet: Any = None
        self._index: tuple[Mapping[str, np.ndarray], list[str]] | None = None
        if suffix == ".csv":
            self._file = path.open("w", encoding="utf-8", newline="")
            self._file.write(",".join(columns) + "\n")
        else:
            self._arrow, parquet = require_pyarrow()
            schema = self._arrow.schema(
                [(name, self._arrow.from_numpy_dtype(dtype)) for name, dtype in columns.items()],
                metadata={"about": json.dumps(about)},
            )
            self._parquet = parquet.ParquetWriter(path, schema)

    def __enter__(self) -> LongTableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        (self._file or self._parquet).close()

    def write(self, index: Mapping[str, np.ndarray], constants: Mapping[str, float], values: np.ndarray) -> None:
        """Append one row per value.

        Args:
          index: leading columns, each of the length of `values`; the same object again costs no second conversion.
          constants: columns after them that hold one number in this block.
          values: the last column.
        """
        if self._file is not None:
            middle = "".join(f"{value!r}," for value in constants.values())
            lines = [
                head + middle + repr(value) for head, value in zip(self._heads(index), values.tolist(), strict=True)
            ]
            self._file.write("\n".join(lines) + "\n")
            return
        block = {**index, **{name: np.full(values.size, value) for name, value in constants.items()}}
        block[list(self._columns)[-1]] = values
        self._parquet.write_table(self._arrow.table(block, schema=self._parquet.schema))

    def _heads(self, index: Mapping[str, np.ndarray]) -> list[str]:
        if self._index is None or self._index[0] is not index:
            texts = [map(repr, column.tolist()) for column in index.values()]
            self._index = index, [",".join(row) + "," for row in zip(*texts, strict=True)]
        return self._index[1]
