"""The ways out of a result: a summary, a data frame, a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_rs_jax._text import counted
from hybrid_rs_jax.results.files import data_frame, save
from hybrid_rs_jax.results.result import Result
from hybrid_rs_jax.results.summary import Summary, summary

if TYPE_CHECKING:
    import pandas

__all__ = ["Exits"]


class Exits(Result):
    """What every result that a user holds can do."""

    def summary(self) -> Summary:
        """One line per budget and the guarantee; `print` shows it."""
        return summary(self)

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with one row per input, the columns of the CSV file.

        Raises:
          ImportError: one sentence, if pandas is not installed.
        """
        return data_frame(self)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write a file, whole or not at all: .json (with the statement), .csv, .parquet or .tex.

        Args:
          path: the suffix says what to write.
          force: replace a file that exists.
        """
        save(self, Path(path), force)

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {counted(len(self), 'input')}\n{self.summary()}"

    def _repr_html_(self) -> str:
        return self.summary().html()
