"""Plot the certified frontier and the certified accuracy.

RUN is a run folder: its certificates.json is drawn, or, where a flag asks for another
threshold, risk or budget, its counts are certified afresh. FILE is what
`hybrid-rs certify --json` or `--out FILE.json` wrote.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hybrid_rs_jax._files import atomic_file, check_target
from hybrid_rs_jax._text import counted, setting_text
from hybrid_rs_jax.cli._results import Asked, add_result_arguments, output_path, read_or_certify
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report.plots import SUFFIXES, save_figure
from hybrid_rs_jax.report.tables import say

EXAMPLES = """\
examples:
  hybrid-rs plot hybrid-rs-demo
  hybrid-rs plot hybrid-rs-demo --tau 0.5 --out frontier-half.png
  hybrid-rs plot certificates.json --out frontier.pdf"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `plot`."""
    parser.add_argument("source", metavar="RUN|FILE", type=Path, help="run folder, or JSON file of certify")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PNG",
        help="picture to write, .png, .pdf or .svg (default: RUN/certificates.png, or FILE with the suffix .png)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite an existing picture")
    add_result_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Read or certify, draw, write."""
    out = output_path(args.source, args.out, ".png")
    check_target(out, SUFFIXES, args.force)
    result = read_or_certify(args.source, Asked.of(args))
    risk = result.statements[0].risk
    if risk.tau is None:
        raise BadInputError(f"{args.source} holds votes per class; `hybrid-rs report` shows them.")
    with atomic_file(out, args.force) as path:
        save_figure(result, path, out.suffix.lower())
    inputs = counted(len(result), "input")
    say(f"Wrote {out} ({inputs}, tau = {setting_text(risk.tau)}, alpha = {setting_text(risk.alpha)}).")
