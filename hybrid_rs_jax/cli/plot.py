"""Plot the certified frontier and the certified accuracy.

RUN is a run folder: its certificates.json is drawn, or, where a flag asks for another
threshold, risk or budget, its counts are certified afresh. FILE is what
`hybrid-rs certify --json` or `--out FILE.json` wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from hybrid_rs_jax._files import atomic_file, check_target
from hybrid_rs_jax._text import counted, down_text, setting_text
from hybrid_rs_jax.cli._results import ResultOptions, output_path, read_or_certify
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report.tables import say

EXAMPLES = """\
examples:
  hybrid-rs plot hybrid-rs-demo
  hybrid-rs plot hybrid-rs-demo --tau 0.5 --out frontier-half.png
  hybrid-rs plot hybrid-rs-demo --kind heat --out heat.png
  hybrid-rs plot certificates.json --out frontier.pdf"""


def plot(
    source: Annotated[Path, Parameter(metavar="RUN|FILE")],
    /,
    *,
    asked: ResultOptions | None = None,
    kind: Literal["frontier", "heat"] = "frontier",
    out: Annotated[Path, Parameter(metavar="PNG")] | None = None,
    force: bool = False,
) -> None:
    """Read or certify, draw, write.

    Parameters
    ----------
    source
        run folder, or JSON file of certify
    kind
        frontier (and certified accuracy), or heat: the share of inputs certified at each (d, eps) (default: frontier)
    out
        picture to write, .png, .pdf or .svg (default: RUN/certificates.png, or FILE with the suffix .png)
    force
        overwrite an existing picture
    """
    from hybrid_rs_jax.report.plots import SUFFIXES, save_figure

    target = output_path(source, out, ".png")
    check_target(target, SUFFIXES, force)
    result = read_or_certify(source, asked or ResultOptions())
    risk = result.statements[0].risk
    if risk.tau is None:
        raise BadInputError(f"{source} holds votes per class; `hybrid-rs report` shows them.")
    if kind == "heat" and not result.statements[0].noise.pixels:
        raise BadInputError(f"--kind heat needs pixel noise, and {source} has none; leave it out.")
    with atomic_file(target, force) as path:
        save_figure(result, path, target.suffix.lower(), kind)
    inputs = counted(len(result), "input")
    say(f"Wrote {target} ({inputs}, tau = {down_text(risk.tau)}, alpha = {setting_text(risk.alpha)}).")
