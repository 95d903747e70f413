"""Compare runs: the certified share and the mean radius per budget, one row per run.

RUN is a run folder (its certificates.json, or its counts certified as the flags ask), or
what `hybrid-rs certify --out FILE.json` wrote; or all are tables of the field's own
scripts (idx, label, predict, radius, correct, separated by tabs). A radius is the mean over all inputs, one
that is not certified counts as 0.
"""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from hybrid_rs_jax._files import atomic_file, check_target, csv_text
from hybrid_rs_jax.cli._results import By, ResultOptions, read_fields, read_runs, write_comparison
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report.tables import print_table, say

if TYPE_CHECKING:
    from hybrid_rs_jax.results.field_files import FieldTable

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
    if fields := read_fields([run, *more], asked or ResultOptions(), by):
        _compare_fields(fields, "json" if json else format, out, force)
        return
    runs = read_runs([run, *more], asked or ResultOptions(), by)
    if out is not None:
        write_comparison(runs, out, force, by)
    said = [*comparison.cautions(runs), comparison.CELL]
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


def _compare_fields(fields: Mapping[str, FieldTable], format: str, out: Path | None, force: bool) -> None:
    """Tables of radii that were certified elsewhere, side by side."""
    from hybrid_rs_jax.report.field_plots import plot_field
    from hybrid_rs_jax.report.markdown import markdown_table
    from hybrid_rs_jax.report.plots import save
    from hybrid_rs_jax.results.field_files import compared_fields
    from hybrid_rs_jax.results.latex import latex_tabular

    header, rows = compared_fields(fields)
    said = "Radii and predictions are those of the tables; a cell is the share that is right and certified at eps."
    if out is not None:
        if out.suffix.lower() == ".html":
            raise BadInputError(f"--out {out}: tables of radii have a figure (.png, .pdf, .svg), no page.")
        with atomic_file(out, force) as path:
            save(plot_field(fields), path, out.suffix.lower())
    if format == "json":
        print(json_module.dumps([dict(zip(["name", *header[1:]], row, strict=True)) for row in rows], indent=2))
    elif format == "csv":
        print(csv_text(["name", *header[1:]], rows), end="")
    elif format == "latex":
        print(latex_tabular(header, rows, said), end="")
    elif format == "markdown":
        print(markdown_table(header, rows) + "\n" + said)
    else:
        print_table(header, rows)
        say(f"\n{said}")
        if out is not None:
            say(f"Wrote {out}.")
