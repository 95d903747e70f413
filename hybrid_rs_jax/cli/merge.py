"""Join runs over disjoint inputs or disjoint draws into one.

The runs must have been drawn with the same noise, classifier, plan and seed; `sample
--shard I/K` makes such runs on several machines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from hybrid_rs_jax._text import counted
from hybrid_rs_jax.errors import library_sentences
from hybrid_rs_jax.report.tables import say

EXAMPLES = """\
examples:
  hybrid-rs sample --model demo --data demo --shard 0/2 --out part-0
  hybrid-rs sample --model demo --data demo --shard 1/2 --out part-1
  hybrid-rs merge part-0 part-1 --out run"""


def merge(
    run: Annotated[Path, Parameter(metavar="RUN")],
    /,
    *more: Annotated[Path, Parameter(metavar="RUN")],
    out: Annotated[Path, Parameter(metavar="RUN")],
) -> None:
    """Merge and say what came together.

    Parameters
    ----------
    run
        folder of a run
    more
        folders of the other runs
    out
        folder of the joined run, new
    """
    from hybrid_rs_jax import sampling
    from hybrid_rs_jax.results.columns import join_columns

    runs = [run, *more]
    with library_sentences():
        sampling.merge(out, runs)
        join_columns(out, runs)
        with sampling.Ledger.open(out) as ledger:
            counts = ledger.counts()
    inputs = counted(len(counts.ids) - len(counts.undrawn), "input")
    say(f"Joined {counted(len(runs), 'run')}: {inputs}, {counts.draws:,} draws.")
    say(f"Wrote {out}. Next: hybrid-rs certify {out}")
