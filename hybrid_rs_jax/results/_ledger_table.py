"""The counts of a ledger as one table over inputs and budgets."""

from __future__ import annotations

import dataclasses

import numpy as np

from hybrid_rs_jax.sampling.ledger import SHARED, LedgerCounts

__all__ = ["LedgerTable", "ledger_table"]


@dataclasses.dataclass(frozen=True)
class LedgerTable:
    """Total counts, one row per (input, budget) that has draws, by index and budget.

    Attributes:
      ids, index, budget: names and indices of the R rows; budget -1: one sample for all budgets.
      n, successes, ties: int64[R]; successes are 0 where the run has votes per class instead.
      votes: int64[R, classes], or None.
      contiguous: bool[R], whether the draws are 0..n - 1, with no gap.
      skipped: (id, reason) of the inputs that the run gave up; they have no row.
      undrawn: ids that are registered, not skipped, and have no draws yet.
    """

    ids: list[str]
    index: np.ndarray
    budget: np.ndarray
    n: np.ndarray
    successes: np.ndarray
    ties: np.ndarray
    votes: np.ndarray | None
    contiguous: np.ndarray
    skipped: list[tuple[str, str]]
    undrawn: list[str]


def ledger_table(counts: LedgerCounts) -> LedgerTable:
    """The shared stream and those of single budgets, side by side."""
    tables = {
        -1 if stream == SHARED else stream.numbers[0]: table
        for stream, table in counts.streams.items()
        if stream.kind in ("shared", "budget")
    }
    budget = np.repeat(np.array(list(tables), np.int64), [table.index.size for table in tables.values()])
    index = _joined([table.index for table in tables.values()])
    order = np.lexsort((budget, index))
    hits = np.concatenate([np.zeros((0, 1), np.int64)] if not tables else [table.counts for table in tables.values()])
    hits = hits[order]
    per_class = hits.shape[1] > 1
    return LedgerTable(
        ids=[counts.ids[key] for key in index[order].tolist()],
        index=index[order],
        budget=budget[order],
        n=_joined([table.draws for table in tables.values()])[order],
        successes=np.zeros(order.size, np.int64) if per_class else hits[:, 0],
        ties=_joined([table.ties for table in tables.values()])[order],
        votes=hits if per_class else None,
        contiguous=_joined([table.contiguous for table in tables.values()])[order].astype(bool),
        skipped=list(counts.skipped),
        undrawn=counts.undrawn,
    )


def _joined(columns: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *columns])
