"""Plot the certified frontier and the certified accuracy.

RUN is a run folder: its certificates.json is drawn, or, where a flag asks for another
threshold, risk or budget, its counts are certified afresh. FILE is what
`hybrid-rs certify --json` or `--out FILE.json` wrote, or the table of
`hybrid-rs sweep --radius`, or a table of the field's own scripts (idx, label, predict,
radius, correct, separated by tabs). Several runs are drawn side by side, as `hybrid-rs compare` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from hybrid_rs_jax._files import atomic_file, check_target, path_text
from hybrid_rs_jax._text import counted, down_text, setting_text
from hybrid_rs_jax.cli._results import (
    By,
    ResultOptions,
    output_path,
    read_fields,
    read_or_certify,
    read_runs,
    write_comparison,
)
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report.tables import say

if TYPE_CHECKING:
    from hybrid_rs_jax.report.plots import Kind
    from hybrid_rs_jax.results.field_files import FieldTable

EXAMPLES = """\
examples:
  hybrid-rs plot hybrid-rs-demo
  hybrid-rs plot hybrid-rs-demo --tau 0.5 --out frontier-half.png
  hybrid-rs plot hybrid-rs-demo --kind heat --out heat.png
  hybrid-rs plot certificates.json --out frontier.pdf
  hybrid-rs plot run-quarter run-half run-one --by sigma --out by-sigma.png
  hybrid-rs plot radii.csv --kind heat"""


def plot(
    source: Annotated[Path, Parameter(metavar="RUN|FILE")],
    /,
    *more: Annotated[Path, Parameter(metavar="RUN")],
    asked: ResultOptions | None = None,
    kind: Literal["frontier", "heat"] = "frontier",
    by: By | None = None,
    out: Annotated[Path, Parameter(metavar="PNG")] | None = None,
    force: bool = False,
) -> None:
    """Read or certify, draw, write.

    Parameters
    ----------
    source
        run folder, JSON file of certify, table of sweep --radius, or table of radii with tabs
    more
        runs to draw beside it, into --out
    kind
        frontier (and certified accuracy), or heat: the share of inputs certified at each (d, eps), of a sweep the
        radius at each (d, p_A) (default: frontier)
    by
        of several runs: share and radius against this setting (default: against the budget)
    out
        picture to write, .png, .pdf or .svg (default: RUN/certificates.png, or FILE with the suffix .png)
    force
        overwrite an existing picture
    """
    from hybrid_rs_jax.report.plots import SUFFIXES
    from hybrid_rs_jax.report.sweep_plots import is_sweep

    asked = asked or ResultOptions()
    if fields := read_fields([source, *more], asked, by):
        if kind != "frontier":
            raise BadInputError(f"{path_text(source)} holds radii of one kind of change; leave --kind out.")
        _plot_fields(fields, _target(source, out, force), force)
    elif more or by is not None:
        if out is None or kind != "frontier":
            raise BadInputError("Several runs (--by) are drawn into --out FILE, with --kind frontier.")
        check_target(out, SUFFIXES, force)
        _plot_several([source, *more], asked, by, out, force)
    elif is_sweep(source):
        target = _target(source, out, force)
        if kind != "heat":
            raise BadInputError(f"{source} is a table of sweep: it is drawn with --kind heat.")
        _plot_sweep(source, target, force)
    else:
        _plot_one(source, asked, kind, _target(source, out, force), force)


def _target(source: Path, out: Path | None, force: bool) -> Path:
    from hybrid_rs_jax.report.plots import SUFFIXES

    target = output_path(source, out, ".png")
    check_target(target, SUFFIXES, force)
    return target


def _plot_fields(fields: Mapping[str, FieldTable], target: Path, force: bool) -> None:
    from hybrid_rs_jax.report.field_plots import plot_field
    from hybrid_rs_jax.report.plots import save

    with atomic_file(target, force) as path:
        save(plot_field(fields), path, target.suffix.lower())
    say(f"Wrote {target} ({counted(len(fields), 'table')} of radii that were certified elsewhere).")


def _plot_several(sources: list[Path], asked: ResultOptions, by: By | None, target: Path, force: bool) -> None:
    runs = read_runs(sources, asked, by)
    write_comparison(runs, target, force, by)
    say(f"Wrote {target} ({counted(len(runs), 'run')}).")


def _plot_sweep(source: Path, target: Path, force: bool) -> None:
    from hybrid_rs_jax.report.plots import save
    from hybrid_rs_jax.report.sweep_plots import plot_sweep, read_sweep

    tables = read_sweep(source)
    with atomic_file(target, force) as path:
        save(plot_sweep(tables), path, target.suffix.lower())
    say(f"Wrote {target} ({counted(len(tables), 'setting')} of the noise).")


def _plot_one(source: Path, asked: ResultOptions, kind: Kind, target: Path, force: bool) -> None:
    from hybrid_rs_jax.report.plots import save_figure

    result = read_or_certify(source, asked)
    risk = result.statements[0].risk
    if risk.tau is None:
        raise BadInputError(f"{source} holds votes per class; `hybrid-rs report` shows them.")
    if kind == "heat" and not result.statements[0].noise.pixels:
        raise BadInputError(f"--kind heat needs pixel noise, and {source} has none; leave it out.")
    with atomic_file(target, force) as path:
        save_figure(result, path, target.suffix.lower(), kind)
    inputs = counted(len(result), "input")
    say(f"Wrote {target} ({inputs}, tau = {down_text(risk.tau)}, alpha = {setting_text(risk.alpha)}).")
