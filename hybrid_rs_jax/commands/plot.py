"""Plot the certified frontier and the certified accuracy.

RUN is a run folder: its certificates.json is drawn, or, where a flag asks for another
threshold, risk or budget, its counts are certified afresh. FILE is what
`hybrid-rs certify --json` or `--out FILE.json` wrote.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hybrid_rs_jax.commands import _arguments as arguments
from hybrid_rs_jax.commands.certify import add_budget_argument, budgets_from, certify_counts
from hybrid_rs_jax.report.certificates import read_certificates
from hybrid_rs_jax.report.counts import read_counts
from hybrid_rs_jax.report.errors import BadInputError
from hybrid_rs_jax.report.files import atomic_file, check_target
from hybrid_rs_jax.report.formatting import counted, setting_text
from hybrid_rs_jax.report.noise import build_smoothing
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
    arguments.add_risk_arguments(parser)
    add_budget_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Read or certify, draw, write."""
    if not args.source.exists():
        raise BadInputError(f"{args.source} does not exist.")
    out = args.out
    if out is None:
        out = args.source / "certificates.png" if args.source.is_dir() else args.source.with_suffix(".png")
    check_target(out, SUFFIXES, args.force)
    record = _record(args)
    with atomic_file(out, args.force) as path:
        save_figure(record, path, out.suffix.lower())
    statement = record["statement"]
    inputs = counted(len(record["certificates"]), "input")
    say(f"Wrote {out} ({inputs}, tau = {setting_text(statement['tau'])}, alpha = {setting_text(statement['alpha'])}).")


def _record(args: argparse.Namespace) -> dict[str, Any]:
    flags = {"--tau": args.tau, "--alpha": args.alpha, "--max-budget": args.max_budget}
    given = [flag for flag, value in flags.items() if value is not None]
    if not args.source.is_dir():
        if given:
            raise BadInputError(f"{given[0]} needs a run folder; {args.source} holds certificates, which are fixed.")
        return read_certificates(args.source)
    if not given and (args.source / "certificates.json").is_file():
        return read_certificates(args.source / "certificates.json")
    counts = read_counts(args.source)
    assert counts.run is not None, "a folder is read as a run"
    smoothing = build_smoothing(counts.run["smoothing"])
    tau = arguments.TAU if args.tau is None else args.tau
    alpha = arguments.ALPHA if args.alpha is None else args.alpha
    return certify_counts(counts, smoothing, tau, alpha, budgets_from(args.max_budget, smoothing, counts))
