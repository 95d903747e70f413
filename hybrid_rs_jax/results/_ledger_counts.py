"""Counts from the ledger of a run: which inputs are complete, and what is said where they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hybrid_rs_jax._text import counted, joined, span_text
from hybrid_rs_jax.confidence import FixedSample, SamplingPlan, Verdict, plan_from
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.results._ledger_samples import sample_counts_of
from hybrid_rs_jax.results._ledger_table import LedgerTable, ledger_table
from hybrid_rs_jax.results.columns import unregistered_ids
from hybrid_rs_jax.results.counts import Counts
from hybrid_rs_jax.results.facts import thawed
from hybrid_rs_jax.results.runs import Run, earlier_samples
from hybrid_rs_jax.results.statement import Provisional
from hybrid_rs_jax.sampling.ledger import Ledger

__all__ = ["ledger_counts"]


def ledger_counts(folder: Path, partial: bool) -> Counts:
    """Counts of the inputs whose draws are complete.

    A plan that stops early has a bound only where it stopped. A fixed number of draws is complete when all are there;
    fewer of them, from the first one on without a gap, count on request alone: whoever ends a run after a look at its
    votes has stopped it early without a plan.
    """
    with library_sentences(), Ledger.open(folder) as ledger:
        run, counts = Run.of(ledger.path, ledger.header), ledger.counts()
        earlier = earlier_samples(ledger)
    if "features" in run.facts:
        raise BadInputError(f"{folder} holds laws of feature cosines; `hybrid-rs features certify` reads it.")
    plan = _plan(folder, run)
    if earlier and not partial:
        raise BadInputError(
            f"{folder} was extended from n = {joined(earlier)}: if that was decided after a look at its votes, the "
            "risk is more than alpha. --partial certifies it and says so; --target or --frontier stop by the votes at "
            "risk alpha in all."
        )
    waiting = unregistered_ids(folder, {*counts.ids.values(), *(name for name, _ in counts.skipped)})
    if run.design is not None:
        return sample_counts_of(folder, run, run.design, counts, plan, partial, waiting)
    table = ledger_table(counts)
    columns = np.array([-1] if run.per_budget is None else run.per_budget, np.int64)
    _check_budgets(folder, run, columns, table)
    used = table.contiguous & _stopped(folder, plan, partial, table)
    # a row of the grid per input, complete where each of its columns has been used
    index, row = np.unique(table.index, return_inverse=True)
    cell = (row, np.searchsorted(columns, table.budget))
    complete = _grid(cell, used, (index.size, columns.size)).astype(bool).all(axis=1)
    names = dict(zip(row.tolist(), table.ids, strict=True))
    unfinished = [names[number] for number in np.flatnonzero(~complete).tolist()] + table.undrawn + waiting
    if not complete.any():
        some = "" if partial or not table.n.size else " (--partial certifies what there is, and says so)"
        raise BadInputError(
            f"{folder} holds no finished input yet: {counted(len(unfinished), 'input')} unfinished, "
            f"{len(table.skipped)} skipped; `hybrid-rs sample --resume` continues it{some}."
        )

    def column(values: np.ndarray) -> np.ndarray:
        whole = _grid(cell, values, (index.size, columns.size))[complete]
        return whole[:, 0] if run.per_budget is None else whole

    n = column(table.n)
    return Counts(
        ids=tuple(names[number] for number in np.flatnonzero(complete).tolist()),
        successes=column(table.successes),
        n=n,
        ties=column(table.ties),
        budgets=run.per_budget,
        run=run,
        plan=None if isinstance(plan, FixedSample) else plan,
        votes=None if table.votes is None else column(table.votes),
        provisional=_provisional(plan, n, earlier),
        skipped=tuple(table.skipped),
        unfinished=tuple(unfinished),
    )


def _plan(folder: Path, run: Run) -> SamplingPlan | None:
    """The plan of the run; None where it names none (its draws count as they are, as far as they go)."""
    if run.plan is None:
        return None
    if run.classes is not None and (kind := run.plan.get("plan")) != "fixed":
        raise BadInputError(f"{folder}: votes per class have no plan that stops early, got {kind!r}.")
    description = thawed(run.plan)
    assert isinstance(description, dict)
    with library_sentences():
        return plan_from(description)


def _check_budgets(folder: Path, run: Run, columns: np.ndarray, table: LedgerTable) -> None:
    unknown = ~np.isin(table.budget, columns)
    if not np.any(unknown):
        return
    found = int(table.budget[unknown][0])
    what = "a sample for all budgets" if found < 0 else f"a sample of its own for budget {found}"
    own = run.per_budget
    legal = "one sample for all budgets" if own is None else f"samples for the budgets {span_text(own)}"
    raise BadInputError(f"{folder}: input {table.ids[int(np.argmax(unknown))]!r} has {what}, its header says {legal}.")


def _stopped(folder: Path, plan: SamplingPlan | None, partial: bool, table: LedgerTable) -> np.ndarray:
    """bool[R], where the draws are complete: where the plan has stopped, or on request a fixed one was cut short."""
    if plan is None:
        return np.ones(table.n.shape, bool)
    if isinstance(plan, FixedSample):
        return np.asarray((table.n == plan.n) | (partial & (table.n < plan.n)))
    with library_sentences():
        return np.asarray(plan.verdict(table.n, table.successes) != Verdict.CONTINUE)


def _provisional(plan: SamplingPlan | None, n: np.ndarray, earlier: tuple[int, ...]) -> Provisional | None:
    if not isinstance(plan, FixedSample):
        return None
    short = n < plan.n
    partial = int((short if n.ndim == 1 else short.any(axis=1)).sum())
    return Provisional(plan.n, partial, earlier) if partial or earlier else None


def _grid(cell: tuple[np.ndarray, np.ndarray], values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """int64[inputs, budgets, ...] from one value per row of the ledger, 0 where there is none."""
    grid = np.zeros((*shape, *values.shape[1:]), np.int64)
    grid[cell] = values
    return grid
