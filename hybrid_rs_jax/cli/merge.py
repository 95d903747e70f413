"""Join runs over disjoint inputs or disjoint draws into one.

The runs must have been drawn with the same noise, classifier, plan and seed; `sample
--shard I/K` makes such runs on several machines.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hybrid_rs_jax._text import counted
from hybrid_rs_jax.errors import library_sentences
from hybrid_rs_jax.report.tables import say

EXAMPLES = """\
examples:
  hybrid-rs sample --model demo --data demo --shard 0/2 --out part-0
  hybrid-rs sample --model demo --data demo --shard 1/2 --out part-1
  hybrid-rs merge part-0 part-1 --out run"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `merge`."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the joined run, new")


def run(args: argparse.Namespace) -> None:
    """Merge and say what came together."""
    from hybrid_rs_jax.sampling import Ledger, merge

    with library_sentences():
        merge(args.out, args.runs)
        with Ledger.open(args.out) as ledger:
            counts = ledger.counts()
    inputs = counted(len(counts.ids) - len(counts.undrawn), "input")
    say(f"Joined {counted(len(args.runs), 'run')}: {inputs}, {counts.draws:,} draws.")
    say(f"Wrote {args.out}. Next: hybrid-rs certify {args.out}")
