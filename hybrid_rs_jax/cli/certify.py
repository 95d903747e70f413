"""Certify inputs from their Monte Carlo counts.

COUNTS is a run folder (which knows its own noise), or a table (CSV, JSON lines, Parquet)
with the columns id, successes, n (and budget, where each discrete budget has a sample of
its own). alpha is chosen before the counts are seen; tau may be chosen afterwards.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hybrid_rs_jax._files import atomic_file, check_target, kind_of
from hybrid_rs_jax.cli import _arguments as arguments
from hybrid_rs_jax.cli._results import Asked, add_result_arguments, certified
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report.tables import print_result, say

EXAMPLES = """\
examples:
  hybrid-rs certify counts.csv --kernel uniform --beta 0.25 --vocab-size 32000 --sigma 0.5
  hybrid-rs certify counts.csv --kernel absorbing --beta 0.25 --no-pixel-noise --tau 0.5 --json
  hybrid-rs certify hybrid-rs-demo --tau 0.5 --max-budget 4 --out certificates.parquet"""

_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `certify`."""
    parser.add_argument("counts", metavar="COUNTS", type=Path, help="run folder, or a table (.csv, .jsonl, .parquet)")
    arguments.add_noise_arguments(
        parser, default_kernel=None, note="needed unless COUNTS is a run folder, which says it itself"
    )
    add_result_arguments(parser)
    parser.add_argument(
        "--decision",
        choices=("unsafe", "safe", "both"),
        help="certify that the score stays above tau (unsafe), below it (safe), or either (alpha / 2 each); "
        "default: unsafe",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write FILE (.json, .csv, .parquet or .tex)")
    parser.add_argument("--force", action="store_true", help="let --out overwrite an existing file")


def run(args: argparse.Namespace) -> None:
    """Read counts, certify, write, print."""
    from hybrid_rs_jax.results.counts import read_counts
    from hybrid_rs_jax.results.files import SUFFIXES, write
    from hybrid_rs_jax.results.record import json_lines

    if args.out is not None:
        check_target(args.out, SUFFIXES, args.force)
        if kind_of(args.out) and kind_of(args.counts) == "file" and args.out.samefile(args.counts):
            raise BadInputError(f"--out {args.out} is the file of the counts; choose another name.")
    asked = Asked.of(args)
    counts = read_counts(args.counts, partial=asked.partial)
    smoothing = arguments.smoothing_from(args, None if counts.run is None else counts.run.smoothing)
    result = certified(counts, smoothing, asked)
    if args.out is not None:
        with atomic_file(args.out, args.force) as path:
            write(result, path, args.out.suffix.lower())
    if args.json:
        sys.stdout.writelines(json_lines(result))
        print()
        return
    print_result(result, _SHOWN)
    if args.out is not None:
        say(f"\nWrote {args.out}.")
