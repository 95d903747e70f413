"""A run: the engine and the ledger together, so that nothing that was computed is lost."""

from __future__ import annotations

import dataclasses
import itertools
import operator
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from hybrid_rs_jax.classifiers.base import BaseClassifier
from hybrid_rs_jax.confidence import SamplingPlan, Verdict
from hybrid_rs_jax.data.inputs import Input, Inputs
from hybrid_rs_jax.errors import UnreadableInputError
from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.sampling.engine import Row, check_inputs, stream
from hybrid_rs_jax.sampling.ledger import Ledger

__all__ = ["Progress", "sample_run"]

#: Seconds between two transactions: what a kill costs at most.
COMMIT_SECONDS = 1.0


@dataclasses.dataclass
class Progress:
    """How far a run is.

    Attributes:
      inputs: scores to be estimated, one per input (and budget, where each budget has a sample of its own).
      finished, skipped: of these, decided or not usable.
      drawn: copies that count; classified: all copies of this session, those dropped beyond a stop included.
      saved: copies that the finished ones did not need, of the most that they could have taken.
      rounded: the largest change of a clean pixel by rounding to the grid of the noise.
    """

    inputs: int
    finished: int = 0
    skipped: int = 0
    drawn: int = 0
    classified: int = 0
    saved: int = 0
    rounded: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Task:
    """One score: an input, and the budget where each budget has a sample of its own."""

    position: int
    budget: int | None
    drawn: int
    votes: Any


def sample_run(
    ledger: Ledger,
    classifier: BaseClassifier,
    inputs: Inputs,
    positions: Sequence[int],
    smoothing: HybridSmoothing,
    plan: SamplingPlan,
    key: jax.Array,
    *,
    budgets: Sequence[int] | None = None,
    classes: int | None = None,
    batch_size: int = 2000,
    mesh: Mesh | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Progress:
    """Draw what the ledger lacks, and write it down as it comes.

    Args:
      ledger: open for writing; what it holds already is not drawn again.
      classifier, smoothing, plan, key, classes, batch_size, mesh: as for `sample`.
      inputs: the whole data set; the noise of an input is keyed by its position in it.
      positions: which inputs to draw (another process may draw the others into a ledger of its own).
      budgets: None for one shared sample with noise on all eligible positions; else one sample for each of these
        budgets d, with noise on the first d eligible positions only: those that an attacker who appends at most d
        tokens can change. Each budget then has a smoothed classifier of its own.
      report: called after each batch.

    Returns:
      How far the run came; inputs that could not be read are skipped, and the ledger says why.

    Raises:
      LedgerError: if the ledger cannot be written; everything before is kept.
    """
    writer = _Writer(ledger, inputs.ids)
    ends: dict[int, int] = {}
    tasks = list(_tasks(ledger, positions, [None] if budgets is None else list(budgets), plan))
    progress = Progress(len(positions) * (1 if budgets is None else len(budgets)))
    progress.finished = progress.inputs - len(tasks)
    taken: list[_Task] = []

    def rows() -> Iterator[Row]:
        # an input is read, checked and digested once, however many budgets have a sample of it
        for position, group in itertools.groupby(tasks, key=operator.attrgetter("position")):
            samples = list(group)
            try:
                encoded, rounded = _checked(inputs.read(position), smoothing)
            except UnreadableInputError as error:
                writer.skip(position, str(error))
                progress.skipped += len(samples)
                continue
            progress.rounded = max(progress.rounded, rounded)
            digest, positions = encoded.digest(), int(encoded.eligible.sum())
            for task in samples:
                if task.budget is not None and positions < task.budget:
                    writer.skip(position, _too_few_positions(positions, task.budget))
                    progress.skipped += 1
                    continue
                writer.register(position, digest)
                taken.append(task)
                mask = _first_positions(encoded.eligible, task.budget)
                yield Row(encoded.tokens, encoded.image, mask, position, task.drawn, task.votes)

    engine = stream(
        classifier, rows(), len(tasks), smoothing, plan, key, classes=classes, batch_size=batch_size, mesh=mesh
    )
    try:
        for resolved in engine:
            columns = (resolved.row, resolved.first, resolved.count, resolved.votes, resolved.ties)
            for row, first, count, votes, ties in zip(*columns, strict=True):
                task = taken[row]
                writer.add(task.position, task.budget, int(first), int(count), votes, int(ties))
                ends[int(row)] = int(first + count)
            progress.drawn += int(resolved.count.sum())
            progress.classified += resolved.classified
            progress.finished += resolved.finished.size
            progress.saved += sum(plan.max_samples - ends.pop(int(row)) for row in resolved.finished)
            writer.commit_if_due()
            if report is not None:
                report(progress)
    finally:
        engine.close()
        writer.commit()
    return progress


class _Writer:
    """Collects what the engine gives and writes it in one transaction now and then; joins segments that follow."""

    def __init__(self, ledger: Ledger, ids: Sequence[str]):
        self._ledger, self._ids = ledger, ids
        self._inputs: dict[int, tuple[str, int, str]] = {}
        self._skipped: dict[int, str] = {}
        self._ranges: dict[tuple[int, int | None], list[Any]] = {}
        self._last = time.monotonic()

    def register(self, position: int, digest: str) -> None:
        """An input is about to be drawn."""
        self._inputs[position] = (self._ids[position], position, digest)

    def skip(self, position: int, reason: str) -> None:
        """An input cannot be used."""
        self._skipped[position] = reason

    def add(self, position: int, budget: int | None, first: int, count: int, votes: Any, ties: int) -> None:
        """Votes of copies `first .. first + count - 1`, which follow those that were added before."""
        known = self._ranges.setdefault((position, budget), [first, 0, 0, 0])
        known[1] += count
        known[2] = known[2] + votes
        known[3] += ties

    def commit_if_due(self) -> None:
        """Write if the last time is long enough ago."""
        if time.monotonic() - self._last >= COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Write everything that was collected."""
        if self._inputs:
            self._ledger.register(self._inputs.values())
            self._inputs.clear()
        if self._ranges:
            self._ledger.append((*where, *what) for where, what in self._ranges.items())
            self._ranges.clear()
        for position, reason in self._skipped.items():
            self._ledger.skip(position, self._ids[position], reason)
        self._skipped.clear()
        self._last = time.monotonic()


def _tasks(
    ledger: Ledger, positions: Sequence[int], budgets: Sequence[int | None], plan: SamplingPlan
) -> Iterator[_Task]:
    """What is left to draw."""
    tallies = ledger.tallies()
    known = [tallies.get((position, budget)) for position in positions for budget in budgets]
    drawn = np.array([0 if tally is None else tally.drawn for tally in known], np.int64)
    # votes per class come with a fixed number of draws alone, whose verdict does not ask for them
    successes = np.array([0 if tally is None else np.max(tally.successes) for tally in known], np.int64)
    left = (drawn == 0) | (plan.verdict(drawn, successes) == Verdict.CONTINUE)
    for number in np.flatnonzero(left).tolist():
        tally = known[number]
        votes: Any = 0 if tally is None else tally.successes
        yield _Task(positions[number // len(budgets)], budgets[number % len(budgets)], int(drawn[number]), votes)


def _checked(encoded: Input, smoothing: HybridSmoothing) -> tuple[Input, float]:
    """One input, and how far rounding moves its pixels; refuse one that the certificate would not cover."""
    try:
        _, rounded = check_inputs(encoded.tokens[None], encoded.image[None], smoothing, encoded.eligible)
    except ValueError as error:
        raise UnreadableInputError(str(error)) from error
    return encoded, rounded


def _too_few_positions(positions: int, budget: int) -> str:
    return f"It has {positions} positions that can carry noise, fewer than the budget {budget}."


def _first_positions(eligible: np.ndarray, budget: int | None) -> np.ndarray:
    """All eligible positions, or the first `budget` of them."""
    return eligible if budget is None else eligible & (np.cumsum(eligible) <= budget)
