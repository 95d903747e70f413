"""Counts of a run with conditional draws: one column per sample, of a family of sets the weakest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hybrid_rs_jax._text import counted
from hybrid_rs_jax.confidence import FixedSample, SamplingPlan, Verdict
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.results.counts import Counts
from hybrid_rs_jax.results.runs import Run
from hybrid_rs_jax.results.statement import Provisional
from hybrid_rs_jax.sampling.design import Design, Part
from hybrid_rs_jax.sampling.ledger import SHARED, CountColumns, LedgerCounts, Stream

__all__ = ["sample_counts_of"]


class _Family(NamedTuple):
    """Counts of the sets of one part, int64[B, sets]; `there`: draws 0..n-1 without a gap."""

    n: np.ndarray
    successes: np.ndarray
    ties: np.ndarray
    there: np.ndarray


def sample_counts_of(
    folder: Path,
    run: Run,
    design: Design,
    counts: LedgerCounts,
    plan: SamplingPlan | None,
    partial: bool,
    waiting: Sequence[str],
) -> Counts:
    """Counts of the inputs whose draws are complete in every set of every sample.

    Args:
      folder: of the run, for errors.
      run, design: what the header says.
      counts: what the ledger holds.
      plan: of the run; one that stops early stops each set by itself.
      partial: take fixed numbers of draws that were cut short, where all sets of a sample have equally many.
      waiting: inputs that the run was asked for and the ledger does not know yet.
    """
    index = np.array(sorted(counts.ids), np.int64)
    families = [_family(part, counts, index) for part in design.parts]
    plan = None if isinstance(plan, FixedSample) else plan
    done = np.ones(index.size, bool)
    for part, family in zip(design.parts, families, strict=True):
        done &= _complete(part, family, plan, partial)
    names = [counts.ids[key] for key in index.tolist()]
    unfinished = tuple(name for name, whole in zip(names, done.tolist(), strict=True) if not whole)
    unfinished += tuple(waiting)
    if not done.any():
        raise BadInputError(
            f"{folder} holds no finished input yet: {counted(len(unfinished), 'input')} unfinished, "
            f"{len(counts.skipped)} skipped; `hybrid-rs sample --resume` continues it."
        )
    n = _columns([family.n.max(axis=1) for family in families], done)
    short = (n < [part.draws for part in design.parts]).any(axis=1)
    return Counts(
        ids=tuple(name for name, whole in zip(names, done.tolist(), strict=True) if whole),
        successes=_columns([family.successes.min(axis=1) for family in families], done),
        n=n,
        ties=_columns([family.ties.max(axis=1) for family in families], done),
        run=run,
        plan=plan,
        provisional=Provisional(design.copies, int(short.sum())) if plan is None and short.any() else None,
        skipped=tuple(counts.skipped),
        unfinished=unfinished,
        samples=design.samples,
        most=_columns([family.successes.max(axis=1) for family in families], done),
    )


def _family(part: Part, counts: LedgerCounts, index: np.ndarray) -> _Family:
    streams = [SHARED] if part.sets is None else [Stream("forced", places) for places in part.sets]
    columns = [_aligned(counts.streams.get(stream), index) for stream in streams]
    return _Family(*(np.stack(parts, axis=1) for parts in zip(*columns, strict=True)))


def _aligned(table: CountColumns | None, index: np.ndarray) -> tuple[np.ndarray, ...]:
    """n, successes, ties and `there` of one stream, for each input of `index`."""
    n, successes, ties, there = (np.zeros(index.size, np.int64) for _ in range(4))
    if table is not None:
        used = np.isin(table.index, index)
        rows = np.searchsorted(index, table.index[used])
        values = (table.draws, table.counts[:, 0], table.ties, table.contiguous)
        for column, value in zip((n, successes, ties, there), values, strict=True):
            column[rows] = value[used]
    return n, successes, ties, there.astype(bool)


def _complete(part: Part, family: _Family, plan: SamplingPlan | None, partial: bool) -> np.ndarray:
    """bool[B], whether every set has all of its draws."""
    whole = family.there.all(axis=1)
    if plan is not None:
        with library_sentences():
            stopped = np.asarray(plan.verdict(family.n, family.successes)) != Verdict.CONTINUE
        return np.asarray(whole & stopped.all(axis=1))
    if partial:
        return np.asarray(whole & (family.n == family.n[:, :1]).all(axis=1) & (family.n[:, 0] <= part.draws))
    return np.asarray(whole & (family.n == part.draws).all(axis=1))


def _columns(columns: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    return np.stack([column[rows] for column in columns], axis=1)
