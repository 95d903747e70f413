"""Results and tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from hybrid_rs_jax.report.tables import certificate_rows
from hybrid_rs_jax.results.latex import MOST_ROWS, caption
from hybrid_rs_jax.results.result import Result
from hybrid_rs_jax.results.summary import summary

__all__ = ["markdown_document", "markdown_table"]


def markdown_document(result: Result) -> str:
    """One line per input, of more than 60 inputs one line per budget; then the guarantee in words."""
    whole = len(result) <= MOST_ROWS
    header, rows = certificate_rows(result, None, 3) if whole else summary(result).table()
    return f"{markdown_table(header, rows)}\n{caption(result)}\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain cells in Markdown, the first column flush left.

    >>> print(markdown_table(["d", "share"], [["0", "a|b"]]), end="")
    | d | share |
    |---|---:|
    | 0 | a\\|b |
    """
    lines = [[_markdown(cell) for cell in line] for line in (header, *rows)]
    rule = "|---|" + "---:|" * (len(header) - 1)
    texts = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([texts[0], rule, *texts[1:]]) + "\n"


def _markdown(cell: str) -> str:
    printable = "".join(letter if letter.isprintable() else " " for letter in cell)
    return printable.replace("\\", "\\\\").replace("|", "\\|")
