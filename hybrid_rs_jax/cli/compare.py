"""Compare runs: the certified share and the mean radius per budget, one row per run.

RUN is a run folder (its certificates.json, or its counts certified as the flags ask), or
what `hybrid-rs certify --out FILE.json` wrote. A radius is the mean over all inputs, one
that is not certified counts as 0.
"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from hybrid_rs_jax._files import check_target, csv_text
from hybrid_rs_jax.cli._results import By, ResultOptions, read_runs, write_comparison
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report.tables import print_table, say

EXAMPLES = """\
examples:
  hybrid-rs compare run-quarter run-half
  hybrid-rs compare run-quarter run-half --tau 0.5 --format latex
  hybrid-rs compare run-quarter run-half --by sigma --out comparison.png
  hybrid-rs compare run-quarter run-half --out comparison.html"""


def compare(
    run: Annotated[Path, Parameter(metavar="RUN")],
    /,
    *more: Annotated[Path, Parameter(metavar="RUN")],
    asked: ResultOptions | None = None,
    format: Literal["table", "json", "csv", "latex", "markdown"] = "table",
    json: bool = False,
    by: By | None = None,
    out: Annotated[Path, Parameter(metavar="FILE")] | None = None,
    force: bool = False,
) -> None:
    """Read or certify each run, print one table, draw one figure.

    Parameters
    ----------
    run
        run folder, or JSON file of certify
    more
        the other runs
    format
        what is printed; csv has a row per run and budget (default: table)
    json
        short for --format json
    by
        sort the runs by this setting, and draw share and radius against it (default: against the budget)
    out
        also write a figure (.png, .pdf or .svg), or a page with the table, all figures and guarantees (.html)
    force
        let --out overwrite an existing file
    """
    from hybrid_rs_jax.report.markdown import markdown_table
    from hybrid_rs_jax.report.plots import SUFFIXES
    from hybrid_rs_jax.results import comparison
    from hybrid_rs_jax.results.latex import latex_tabular

    if json and format not in ("table", "json"):
        raise BadInputError(f"--json contradicts --format {format}; leave one of them out.")
    if out is not None:
        check_target(out, (*SUFFIXES, ".html"), force)
    runs = read_runs([run, *more], asked or ResultOptions(), by)
    if out is not None:
        write_comparison(runs, out, force, by)
    said = [*comparison.cautions(runs), "A cell is the share of inputs certified at d, and their mean radius."]
    header, rows = comparison.comparison_table(runs)
    if json or format == "json":
        print(json_module.dumps(comparison.comparison_record(runs), indent=2))
    elif format == "csv":
        print(csv_text(*comparison.comparison_long(runs)), end="")
    elif format == "latex":
        print(latex_tabular(header, rows, " ".join(said)), end="")
    elif format == "markdown":
        print(markdown_table(header, rows) + "\n" + " ".join(said))
    else:
        print_table(header, rows, left=2)
        say()
        for sentence in said:
            say(sentence)
        if out is not None:
            say(f"Wrote {out}.")
