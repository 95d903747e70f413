"""Certify inputs from their Monte Carlo counts.

COUNTS is a run folder (which knows its own noise), or a table (CSV, JSON lines, Parquet)
with the columns id, successes, n (and budget, where each discrete budget has a sample of
its own). alpha is chosen before the counts are seen; tau may be chosen afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from cyclopts import Parameter

from hybrid_rs_jax._files import atomic_file, check_target, json_text, kind_of, path_text
from hybrid_rs_jax._text import counted
from hybrid_rs_jax.cli import _values
from hybrid_rs_jax.cli._results import ResultOptions, certified
from hybrid_rs_jax.cli._values import flag, number_grid
from hybrid_rs_jax.cli.options import NoiseOptions
from hybrid_rs_jax.errors import BadInputError, MissingColumnError
from hybrid_rs_jax.report.tables import print_result, print_table, say

if TYPE_CHECKING:
    from hybrid_rs_jax.results.accuracy import AccuracyTable
    from hybrid_rs_jax.results.counts import Counts
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
    columns: Annotated[tuple[tuple[str, str], ...], flag(_values.renaming, "OURS=THEIRS,...")] | None = None,
    epsilon: Annotated[np.ndarray, flag(epsilons, "GRID")] | None = None,
    by: Annotated[str, Parameter(metavar="COLUMN")] | None = None,
    format: Literal["table", "json", "csv", "latex", "markdown"] = "table",
    json: bool = False,
    out: Annotated[Path, Parameter(metavar="FILE")] | None = None,
    force: bool = False,
) -> None:
    """Read counts, certify, write, print.

    Parameters
    ----------
    counts
        run folder, or a table (.csv, .jsonl, .parquet); with --epsilon also the field's own table of radii, with the
        tab-separated columns idx, label, predict, radius, correct
    decision
        certify that the score stays above tau (unsafe), below it (safe), or either (alpha / 2 each)
        (default: unsafe)
    draws
        how the counts of a table with a column budget were drawn: conditional, where the positions of the budget were
        resampled in every draw (a run knows that itself)
    columns
        what a table calls id, successes, n or budget: successes=n_A,id=name
    epsilon
        also the share of inputs certified at each (d, eps), and with a column label those that are certified and right:
        0,0.5,1 or 0:2:5; --format csv, latex and markdown print this table alone
    by
        with --epsilon: one table more for each value of this column of the data, group for one
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
    from hybrid_rs_jax.results.field_files import field_accuracy, is_field_file
    from hybrid_rs_jax.results.files import SUFFIXES, csv_lines, write
    from hybrid_rs_jax.results.latex import latex_table
    from hybrid_rs_jax.results.record import json_lines
    from hybrid_rs_jax.results.sentences import guarantee

    noise, asked = noise or NoiseOptions(), asked or ResultOptions()
    if json and format not in ("table", "json"):
        raise BadInputError(f"--json contradicts --format {format}; leave one of them out.")
    if out is not None:
        check_target(out, SUFFIXES, force)
        if kind_of(out) and kind_of(counts) == "file" and out.samefile(counts):
            raise BadInputError(f"--out {out} is the file of the counts; choose another name.")
    if is_field_file(counts):
        refused = noise != NoiseOptions() or asked.flags or decision or draws or columns or by or out
        if refused or epsilon is None:
            raise BadInputError(
                f"{path_text(counts)} holds radii, not counts: --epsilon alone (and --format) serves it."
            )
        _print_field({"": field_accuracy(counts, epsilon)}, "json" if json else format)
        return
    table = _read(counts, asked.partial, dict(columns or ())).of_draws(draws, path_text(counts))
    smoothing = noise.smoothing() if table.run is None else noise.repeated(table.run.smoothing)
    result = certified(table, smoothing, asked, decision)
    if by is not None and epsilon is None:
        raise BadInputError("--by has a meaning with --epsilon only.")
    shares = None if epsilon is None else _shares(result, epsilon, by)
    if out is not None:
        with atomic_file(out, force) as path:
            write(result, path, out.suffix.lower())
    if json or format == "json":
        sys.stdout.writelines(json_lines(result, None if shares is None else _record(shares)))
        print()
    elif shares is not None and format != "table":
        print(_text_of(shares, guarantee(result.statements), format), end="")
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


def _read(path: Path, partial: bool, columns: Mapping[str, str]) -> Counts:
    """The counts; where a table calls its columns otherwise, the sentence names the flag that says so."""
    from hybrid_rs_jax.results.count_files import read_counts

    try:
        return read_counts(path, partial=partial, columns=columns)
    except MissingColumnError as error:
        if kind_of(path) == "folder":
            raise
        raise error.advised("other names are given by --columns, as in successes=n_A,id=name.") from error


def _shares(result: Result, epsilon: np.ndarray, by: str | None) -> dict[str, AccuracyTable]:
    """The (d, eps) table of all inputs, under "", and one for each value of a column."""
    from hybrid_rs_jax.results.accuracy import accuracy_by, accuracy_table

    found = {"": accuracy_table(result, epsilon)}
    if found[""].labels_are:
        say(found[""].labels_are, stderr=True)
    if by is None:
        return found
    try:
        groups = accuracy_by(result, epsilon, by)
    except ValueError as error:
        raise BadInputError(f"--by {by}: {error}.") from error
    return found | {f"{by} = {value or 'none'}": table for value, table in groups.items()}


def _titled(shares: Mapping[str, AccuracyTable]) -> Iterator[tuple[str, tuple[list[str], list[list[str]]]]]:
    """Each table with its title: certified, and where labels are known certified and right."""
    for name, table in shares.items():
        of = f" ({name}: {counted(table.inputs, 'input')})" if name else ""
        yield f"Inputs certified at (d, eps){of}", table.table()
        if table.right is not None:
            yield f"Of {table.labelled} with a label, certified to be what it says{of}", table.table(right=True)


def _print_shares(shares: Mapping[str, AccuracyTable]) -> None:
    for title, body in _titled(shares):
        say(f"\n{title}:\n")
        print_table(*body)


def _print_field(shares: Mapping[str, AccuracyTable], format: str) -> None:
    """The shares of a table of radii, whose certificates somebody else made."""
    said = "Radii and predictions are those of the file; they were certified elsewhere."
    if format == "json":
        print(json_text(_record(shares)))
    elif format == "table":
        _print_shares(shares)
        say(said)
    else:
        print(_text_of(shares, said, format), end="")


def _text_of(shares: Mapping[str, AccuracyTable], said: str, format: str) -> str:
    """The (d, eps) tables alone, as CSV, LaTeX or Markdown."""
    from hybrid_rs_jax._files import csv_text
    from hybrid_rs_jax.report.markdown import markdown_table
    from hybrid_rs_jax.results.latex import latex_tabular

    if format == "csv":
        header, _ = shares[""].long()
        rows = [(name, *row) for name, table in shares.items() for row in table.long()[1]]
        return (
            csv_text(header, [row[1:] for row in rows]) if len(shares) == 1 else csv_text(["inputs of", *header], rows)
        )
    if format == "latex":
        return "\n".join(latex_tabular(*body, f"{title}. {said}") for title, body in _titled(shares))
    return "\n".join(f"{title}:\n\n{markdown_table(*body)}" for title, body in _titled(shares)) + f"\n{said}\n"


def _record(shares: Mapping[str, AccuracyTable]) -> dict[str, object]:
    groups = {name: table.record() for name, table in shares.items() if name}
    return {"accuracy": shares[""].record() | ({"groups": groups} if groups else {})}
