"""Certify inputs from their Monte Carlo counts.

COUNTS is a run folder (which knows its own noise), or a table (CSV, JSON lines, Parquet)
with the columns id, successes, n (and budget, where each discrete budget has a sample of
its own). alpha is chosen before the counts are seen; tau may be chosen afterwards.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from hybrid_rs_jax._files import atomic_file, check_target, kind_of, path_text
from hybrid_rs_jax.cli._results import ResultOptions, certified
from hybrid_rs_jax.cli.options import NoiseOptions
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report.tables import print_result, say

EXAMPLES = """\
examples:
  hybrid-rs certify counts.csv --kernel uniform --beta 0.25 --vocab-size 32000 --sigma 0.5
  hybrid-rs certify counts.csv --kernel absorbing --beta 0.25 --no-pixel-noise --tau 0.5 --json
  hybrid-rs certify per_budget.csv --draws conditional --kernel uniform --beta 0.25 --vocab-size 32000 --sigma 0.5
  hybrid-rs certify hybrid-rs-demo --tau 0.5 --max-budget 4 --out certificates.parquet"""

_SHOWN = 10


def certify(
    counts: Annotated[Path, Parameter(metavar="COUNTS")],
    /,
    *,
    noise: NoiseOptions | None = None,
    asked: ResultOptions | None = None,
    decision: Literal["unsafe", "safe", "both"] | None = None,
    draws: Literal["ordinary", "conditional"] | None = None,
    format: Literal["table", "json", "csv", "latex"] = "table",
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
    format
        what is printed (default: table)
    json
        short for --format json
    out
        also write FILE (.json, .csv, .parquet or .tex)
    force
        let --out overwrite an existing file
    """
    from hybrid_rs_jax.results.counts import read_counts
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
    if out is not None:
        with atomic_file(out, force) as path:
            write(result, path, out.suffix.lower())
    if json or format == "json":
        sys.stdout.writelines(json_lines(result))
        print()
    elif format == "csv":
        sys.stdout.writelines(csv_lines(result))
    elif format == "latex":
        print(latex_table(result), end="")
    else:
        print_result(result, _SHOWN)
        if out is not None:
            say(f"\nWrote {out}.")
