"""A run: the engine and the ledger together, so that nothing that was computed is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from hybrid_rs_jax.classifiers.base import BaseClassifier, for_smoothing
from hybrid_rs_jax.confidence import SamplingPlan, Verdict
from hybrid_rs_jax.data.inputs import Input, Inputs
from hybrid_rs_jax.errors import UnreadableInputError
from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.sampling._schedule import Resolved
from hybrid_rs_jax.sampling.design import StreamGroup, forced_mask
from hybrid_rs_jax.sampling.engine import Row, check_inputs, stream
from hybrid_rs_jax.sampling.ledger import CountRow, Stream

__all__ = ["InterruptedRun", "Progress", "Record", "sample_run"]

#: Seconds between two transactions: what a kill costs at most, besides the answers that are under way.
COMMIT_SECONDS = 1.0


@runtime_checkable
class Record(Protocol):
    """Where a run writes down what it counts, and reads what it need not draw again: a `Ledger`, or a part of one."""

    def tallies(self) -> Mapping[tuple[int, Stream], CountRow]:
        """What has been drawn, by (index, stream)."""

    def register(self, inputs: Iterable[tuple[str, int, str]]) -> None:
        """Name inputs before they are drawn: (id, index, digest) each."""

    def append(self, rows: Iterable[CountRow]) -> None:
        """Add counts."""

    def skip(self, index: int, id: str, reason: str) -> None:
        """Note that an input cannot be used."""


@dataclasses.dataclass
class Progress:
    """How far a run is.

    Attributes:
      inputs: scores to be estimated, one per input and stream.
      finished, skipped: of these, decided or not usable.
      drawn: draws of this session that count; classified: all of them, those dropped beyond a stop included.
      saved: draws that the finished inputs did not need, of the most that they could have taken.
      settled: of the most draws that all inputs could take, those that are drawn (by sessions before, too), saved, or
        not to be had of an input that is not usable; at the end all of them.
      lost: draws that were at the classifier when the session was ended, and do not count.
      rounded: the largest change of a clean pixel by rounding to the grid of the noise.
    """

    inputs: int
    finished: int = 0
    skipped: int = 0
    drawn: int = 0
    classified: int = 0
    saved: int = 0
    settled: int = 0
    lost: int = 0
    rounded: float = 0.0


class InterruptedRun(KeyboardInterrupt):
    """An interrupt of `sample_run`, after everything that was counted has been written; `progress` says how much."""

    def __init__(self, progress: Progress):
        super().__init__()
        self.progress = progress


@dataclasses.dataclass(frozen=True)
class _Task:
    """One score that is not decided: an input and a stream, and what has been counted of it."""

    index: int
    stream: Stream
    drawn: int
    votes: Any


def sample_run(
    ledger: Record,
    classifier: BaseClassifier,
    inputs: Inputs,
    indices: Sequence[int],
    smoothing: HybridSmoothing,
    plan: SamplingPlan | Sequence[StreamGroup],
    key: jax.Array,
    *,
    classes: int | None = None,
    batch_size: int = 2000,
    mesh: Mesh | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Progress:
    """Draw what the ledger lacks, and write it down as it comes.

    Args:
      ledger: a `Ledger` that is open for writing; what it holds already is not drawn again.
      classifier, smoothing, key, classes, batch_size, mesh: as for `sample`.
      plan: as for `sample`, of ordinary draws; or groups of streams, each with a plan, drawn one after the other.
      inputs: the whole data set; the noise of an input is keyed by its index in it.
      indices: which inputs to draw (another process may draw the others into a ledger of its own).
      report: called after each batch.

    Returns:
      How far the run came; inputs that could not be read are skipped, and the ledger says why.

    Raises:
      LedgerError: if the ledger cannot be written; everything before is kept.
      InterruptedRun: in the place of a KeyboardInterrupt.
      ValueError: if the classifier was made for other noise.
    """
    classifier = for_smoothing(classifier, smoothing)
    groups = plan if isinstance(plan, Sequence) else (StreamGroup(plan),)
    tallies = ledger.tallies()
    tasks = [list(_tasks(tallies, indices, group)) for group in groups]
    progress = Progress(inputs=len(indices) * sum(len(group.streams) for group in groups))
    for group, left in zip(groups, tasks, strict=True):
        finished = len(indices) * len(group.streams) - len(left)
        progress.finished += finished
        progress.settled += finished * group.plan.max_samples + sum(task.drawn for task in left)
    options: dict[str, Any] = {"classes": classes, "batch_size": batch_size, "mesh": mesh}
    with _Writer(ledger, inputs.ids) as writer:
        for group, left in zip(groups, tasks, strict=True):
            taken: list[_Task] = []
            rows = _rows(left, taken, inputs, smoothing, group, writer, progress)
            noise = smoothing if group.sets is None else smoothing.forcing()

            def lost(draws: int) -> None:
                progress.lost = draws

            engine = stream(classifier, rows, len(left), noise, group.plan, key, **options, lost=lost)
            _count(engine, taken, group.plan, writer, progress, report)
    return progress


def _rows(
    tasks: Sequence[_Task],
    taken: list[_Task],
    inputs: Inputs,
    smoothing: HybridSmoothing,
    group: StreamGroup,
    writer: _Writer,
    progress: Progress,
) -> Iterator[Row]:
    """The inputs of the tasks as the engine takes them, noted in `taken`; those that cannot be used are skipped."""
    index, encoded, reason = -1, None, ""
    for task in tasks:
        if task.index != index:  # the streams of an input follow each other
            index, encoded = task.index, None
            try:
                encoded, rounded = _checked(inputs.read(index), smoothing)
            except UnreadableInputError as error:
                reason = str(error)
            else:
                progress.rounded = max(progress.rounded, rounded)
        if encoded is None:
            writer.skip(index, reason)
            progress.skipped += 1
            progress.settled += group.plan.max_samples - task.drawn
            continue
        writer.register(index, encoded.digest())
        taken.append(task)
        forced = forced_mask(encoded.eligible, task.stream)
        yield Row(encoded.tokens, encoded.image, encoded.eligible, index, task.drawn, task.votes, forced)


def _count(
    engine: Generator[Resolved, None, None],
    taken: Sequence[_Task],
    plan: SamplingPlan,
    writer: _Writer,
    progress: Progress,
    report: Callable[[Progress], None] | None,
) -> None:
    """Write down what the engine gives, until it ends or is interrupted."""
    ends: dict[int, int] = {}
    with contextlib.closing(engine):
        try:
            for resolved in engine:
                columns = (resolved.row, resolved.first, resolved.count, resolved.votes, resolved.ties)
                for row, first, count, votes, ties in zip(*columns, strict=True):
                    writer.add(_counted(taken[row], first, count, votes, ties))
                    ends[int(row)] = int(first + count)
                drawn = int(resolved.count.sum())
                saved = sum(plan.max_samples - ends.pop(int(row)) for row in resolved.finished)
                progress.drawn += drawn
                progress.classified += resolved.classified
                progress.finished += resolved.finished.size
                progress.saved += saved
                progress.settled += drawn + saved
                writer.commit_if_due()
                if report is not None:
                    report(progress)
        except KeyboardInterrupt as interrupt:
            raise InterruptedRun(progress) from interrupt
        finally:
            writer.commit()  # first of all: the engine waits for what the classifier is at


class _Writer:
    """Collects what the engine gives and writes it in one transaction now and then; a context manager.

    It writes in a thread of its own: an interrupt, which reaches the main thread alone, never comes between a
    transaction and the knowledge that it is done.
    """

    def __init__(self, ledger: Record, ids: Sequence[str]):
        self._ledger, self._ids = ledger, ids
        self._inputs: dict[int, str] = {}
        self._skipped: dict[int, str] = {}
        self._rows: dict[tuple[int, Stream], CountRow] = {}
        self._last = time.monotonic()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def register(self, index: int, digest: str) -> None:
        """An input is about to be drawn."""
        self._inputs[index] = digest

    def skip(self, index: int, reason: str) -> None:
        """An input cannot be used."""
        self._skipped[index] = reason

    def add(self, row: CountRow) -> None:
        """Counts of draws, which follow those of the same score that were added before."""
        place = (row.index, row.stream)
        known = self._rows.get(place)
        self._rows[place] = row if known is None else known + row

    def commit_if_due(self) -> None:
        """Write if the last time is long enough ago."""
        if time.monotonic() - self._last >= COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Write everything that was collected."""
        self._thread.submit(self._write).result()

    def _write(self) -> None:
        if self._inputs:
            self._ledger.register((self._ids[index], index, digest) for index, digest in self._inputs.items())
            self._inputs.clear()
        if self._rows:
            self._ledger.append(self._rows.values())
            self._rows.clear()
        for index, reason in self._skipped.items():
            self._ledger.skip(index, self._ids[index], reason)
        self._skipped.clear()
        self._last = time.monotonic()


def _tasks(
    tallies: Mapping[tuple[int, Stream], CountRow], indices: Sequence[int], group: StreamGroup
) -> Iterator[_Task]:
    """What is left to draw of a group, input by input."""
    plan = group.plan
    places = [(index, stream) for index in indices for stream in group.streams]
    known = [tallies.get(place) for place in places]
    drawn = np.array([0 if tally is None else tally.end for tally in known], np.int64)
    # votes per class come with a fixed number of draws alone, whose verdict does not ask for them
    successes = np.array([0 if tally is None else max(tally.counts) for tally in known], np.int64)
    left = (drawn == 0) | (plan.verdict(drawn, successes) == Verdict.CONTINUE)
    for place in np.flatnonzero(left).tolist():
        tally = known[place]
        votes: Any = 0 if tally is None else tally.counts if len(tally.counts) > 1 else tally.counts[0]
        yield _Task(*places[place], int(drawn[place]), votes)


def _counted(task: _Task, first: Any, count: Any, votes: Any, ties: Any) -> CountRow:
    """A segment of the engine as a row of the ledger."""
    counts = tuple(np.atleast_1d(votes).tolist())
    return CountRow(task.index, task.stream, int(first), int(count), counts, int(ties))


def _checked(encoded: Input, smoothing: HybridSmoothing) -> tuple[Input, float]:
    """One input, and how far rounding moves its pixels; refuse one that the certificate would not cover."""
    try:
        _, rounded = check_inputs(encoded.tokens[None], encoded.image[None], smoothing, encoded.eligible)
    except ValueError as error:
        raise UnreadableInputError(str(error)) from error
    return encoded, rounded
