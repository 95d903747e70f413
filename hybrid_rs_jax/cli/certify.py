"""Certify inputs from their Monte Carlo counts.

COUNTS is a run folder (which knows its own noise), or a table (CSV, JSON lines, Parquet)
with the columns id, successes, n (and budget, where each discrete budget has a sample of
its own). alpha is chosen before the counts are seen; tau may be chosen afterwards.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from cyclopts import Parameter

from hybrid_rs_jax._files import atomic_file, check_target, kind_of, path_text
from hybrid_rs_jax.cli._results import ResultOptions, certified
from hybrid_rs_jax.cli._values import flag, number_grid
from hybrid_rs_jax.cli.options import NoiseOptions
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report.tables import print_result, print_table, say

if TYPE_CHECKING:
    from hybrid_rs_jax.results.accuracy import AccuracyTable
    from hybrid_rs_jax.results.result import Result

EXAMPLES = """\
examples:
  hybrid-rs certify counts.csv --kernel uniform --beta 0.25 --vocab-size 32000 --sigma 0.5
  hybrid-rs certify counts.csv --kernel absorbing --beta 0.25 --no-pixel-noise --tau 0.5 --json
  hybrid-rs certify per_budget.csv --draws conditional --kernel uniform --beta 0.25 --vocab-size 32000 --sigma 0.5
  hybrid-rs certify hybrid-rs-demo --epsilon 0,0.5,1 --format markdown
  hybrid-rs certify hybrid-rs-demo --tau 0.5 --max-budget 4 --out certificates.parquet"""

_SHOWN = 10
epsilons = number_grid(lambda level: level >= 0, "of at least 0")


def certify(
    counts: Annotated[Path, Parameter(metavar="COUNTS")],
    /,
    *,
    noise: NoiseOptions | None = None,
    asked: ResultOptions | None = None,
    decision: Literal["unsafe", "safe", "both"] | None = None,
    draws: Literal["ordinary", "conditional"] | None = None,
    epsilon: Annotated[np.ndarray, flag(epsilons, "GRID")] | None = None,
    format: Literal["table", "json", "csv", "latex", "markdown"] = "table",
    json: bool = False,
    out: Annotated[Path, Parameter(metavar="FILE")] | None = None,
    force: bool = False,
) -> None:
    """Read counts, certify, write, print.

    Parameters
    ----------
    counts
        run folder, or a table (.csv, .jsonl, .parquet)
    decision
        certify that the score stays above tau (unsafe), below it (safe), or either (alpha / 2 each)
        (default: unsafe)
    draws
        how the counts of a table with a column budget were drawn: conditional, where the positions of the budget were
        resampled in every draw (a run knows that itself)
    epsilon
        also the share of inputs certified at each (d, eps), and with a column label those that are certified and right:
        0,0.5,1 or 0:2:5; --format csv, latex and markdown print this table alone
    format
        what is printed (default: table)
    json
        short for --format json
    out
        also write FILE (.json, .csv, .parquet or .tex)
    force
        let --out overwrite an existing file
    """
    from hybrid_rs_jax.report.markdown import markdown_document
    from hybrid_rs_jax.results.count_files import read_counts
    from hybrid_rs_jax.results.files import SUFFIXES, csv_lines, write
    from hybrid_rs_jax.results.latex import latex_table
    from hybrid_rs_jax.results.record import json_lines

    noise, asked = noise or NoiseOptions(), asked or ResultOptions()
    if json and format not in ("table", "json"):
        raise BadInputError(f"--json contradicts --format {format}; leave one of them out.")
    if out is not None:
        check_target(out, SUFFIXES, force)
        if kind_of(out) and kind_of(counts) == "file" and out.samefile(counts):
            raise BadInputError(f"--out {out} is the file of the counts; choose another name.")
    table = read_counts(counts, partial=asked.partial).of_draws(draws, path_text(counts))
    smoothing = noise.smoothing() if table.run is None else noise.repeated(table.run.smoothing)
    result = certified(table, smoothing, asked, decision)
    shares = None if epsilon is None else _shares(result, epsilon)
    if out is not None:
        with atomic_file(out, force) as path:
            write(result, path, out.suffix.lower())
    if json or format == "json":
        sys.stdout.writelines(json_lines(result, None if shares is None else {"accuracy": shares.record()}))
        print()
    elif shares is not None and format != "table":
        print(_text_of(shares, result, format), end="")
    elif format == "csv":
        sys.stdout.writelines(csv_lines(result))
    elif format == "latex":
        print(latex_table(result), end="")
    elif format == "markdown":
        print(markdown_document(result), end="")
    else:
        print_result(result, _SHOWN)
        if shares is not None:
            _print_shares(shares)
        if out is not None:
            say(f"\nWrote {out}.")


def _shares(result: Result, epsilon: np.ndarray) -> AccuracyTable:
    from hybrid_rs_jax.results.accuracy import accuracy_table

    found = accuracy_table(result, epsilon)
    if found.labels_are:
        say(found.labels_are, stderr=True)
    return found


def _print_shares(table: AccuracyTable) -> None:
    say("\nInputs certified at (d, eps):\n")
    print_table(*table.table())
    if table.right is not None:
        say(f"\nOf {table.labelled} with a label, certified to be what it says:\n")
        print_table(*table.table(right=True))


def _text_of(table: AccuracyTable, result: Result, format: str) -> str:
    """The (d, eps) table alone, as CSV, LaTeX or Markdown."""
    from hybrid_rs_jax._files import csv_text
    from hybrid_rs_jax.report.markdown import markdown_table
    from hybrid_rs_jax.results.latex import latex_tabular
    from hybrid_rs_jax.results.sentences import guarantee

    if format == "csv":
        return csv_text(*table.long())
    parts = [("Share of inputs certified at each (d, eps).", table.table())]
    if table.right is not None:
        parts.append(("Share of labelled inputs that are certified and right.", table.table(right=True)))
    said = guarantee(result.statements)
    if format == "latex":
        return "\n".join(latex_tabular(*body, f"{title} {said}") for title, body in parts)
    return "\n".join(f"{title}\n\n{markdown_table(*body)}" for title, body in parts) + f"\n{said}\n"
