"""A run: the engine and the ledger together, so that nothing that was computed is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from hybrid_rs_jax.classifiers.base import Abilities, BaseClassifier, for_smoothing
from hybrid_rs_jax.confidence import SamplingPlan, Verdict
from hybrid_rs_jax.data.inputs import Input, Inputs
from hybrid_rs_jax.errors import UnreadableInputError
from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.sampling._schedule import Resolved
from hybrid_rs_jax.sampling.design import StreamGroup, forced_mask
from hybrid_rs_jax.sampling.engine import Row, check_inputs, stream
from hybrid_rs_jax.sampling.ledger import CountRow, Stream

__all__ = ["InterruptedRun", "Progress", "Record", "checked_input", "sample_run"]

#: Seconds between two transactions: what a kill costs at most, besides the answers that are under way.
COMMIT_SECONDS = 1.0
#: Streams of an input that share a noisy picture at most; more of them take turns.
MOST_TEXTS = 16


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
    """One score that is not decided: an input and a stream, the number of its group, and what has been counted."""

    index: int
    stream: Stream
    group: int
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
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Progress:
    """Draw what the ledger lacks, and write it down as it comes.

    Args:
      ledger: a `Ledger` that is open for writing; what it holds already is not drawn again.
      classifier, smoothing, key, classes, batch_size, mesh: as for `sample`.
      plan: as for `sample`, of ordinary draws; or groups of streams, each with a plan. They are drawn one after the
        other, or where the classifier gives `shared_picture` all at once, each noisy picture for as many streams as
        need it: the counts are the same, copies at rounding level apart. `batch_size` counts pictures then.
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
    progress = Progress(inputs=len(indices) * sum(len(group.streams) for group in groups))
    tasks = []
    for number, group in enumerate(groups):
        left = list(_tasks(tallies, indices, group, number))
        finished = len(indices) * len(group.streams) - len(left)
        progress.finished += finished
        progress.settled += finished * group.plan.max_samples + sum(task.drawn for task in left)
        tasks.append(left)
    texts = 1
    if Abilities.of(classifier).shared_picture is not None:
        texts = _texts_per_picture(sum(len(group.streams) for group in groups))
        places = {index: place for place, index in enumerate(indices)}
        tasks = [sorted(chain(*tasks), key=lambda task: places[task.index])]
    plans = [group.plan for group in groups]
    drawn = partial(stream, classifier, classes=classes, batch_size=batch_size, mesh=mesh, texts=texts)
    with _Writer(ledger, inputs.ids) as writer:
        for left in tasks:
            taken: list[_Task] = []
            own = sorted({task.group for task in left})
            rows = _rows(left, taken, inputs, smoothing, plans, own, writer, progress)
            noise = smoothing if all(groups[number].sets is None for number in own) else smoothing.forcing()

            def lost(draws: int) -> None:
                progress.lost = draws

            rules = [plans[number] for number in own]
            engine = drawn(rows, len(left), noise, rules, key, lost=lost)
            _count(engine, taken, plans, writer, progress, report)
    return progress


def _texts_per_picture(streams: int) -> int:
    """Streams of an input that go through together: equal parts of all, none of them too large."""
    return -(-streams // -(-streams // MOST_TEXTS))


def _rows(
    tasks: Sequence[_Task],
    taken: list[_Task],
    inputs: Inputs,
    smoothing: HybridSmoothing,
    plans: Sequence[SamplingPlan],
    own: Sequence[int],
    writer: _Writer,
    progress: Progress,
) -> Iterator[Row]:
    """The inputs of the tasks as the engine takes them, noted in `taken`; those that cannot be used are skipped.

    `own` are the numbers of the groups that there are tasks of: the engine is given the plans of these.
    """
    index, encoded, reason = -1, None, ""
    for task in tasks:
        if task.index != index:  # the streams of an input follow each other
            index, encoded = task.index, None
            try:
                encoded, rounded = checked_input(inputs.read(index), smoothing)
            except UnreadableInputError as error:
                reason = str(error)
            else:
                progress.rounded = max(progress.rounded, rounded)
        if encoded is None:
            writer.skip(index, reason)
            progress.skipped += 1
            progress.settled += plans[task.group].max_samples - task.drawn
            continue
        writer.register(index, encoded.digest())
        taken.append(task)
        forced = forced_mask(encoded.eligible, task.stream)
        counted, rule = (task.drawn, task.votes), own.index(task.group)
        yield Row(encoded.tokens, encoded.image, encoded.eligible, index, *counted, forced, rule)


def _count(
    engine: Generator[Resolved, None, None],
    taken: Sequence[_Task],
    plans: Sequence[SamplingPlan],
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
                most = (plans[taken[row].group].max_samples - ends.pop(row) for row in resolved.finished.tolist())
                saved = sum(most)
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
    tallies: Mapping[tuple[int, Stream], CountRow], indices: Sequence[int], group: StreamGroup, number: int
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
        yield _Task(*places[place], number, int(drawn[place]), votes)


def _counted(task: _Task, first: Any, count: Any, votes: Any, ties: Any) -> CountRow:
    """A segment of the engine as a row of the ledger."""
    counts = tuple(np.atleast_1d(votes).tolist())
    return CountRow(task.index, task.stream, int(first), int(count), counts, int(ties))


def checked_input(encoded: Input, smoothing: HybridSmoothing) -> tuple[Input, float]:
    """One input, and how far rounding moves its pixels; refuse one that the certificate would not cover."""
    try:
        _, rounded = check_inputs(encoded.tokens[None], encoded.image[None], smoothing, encoded.eligible)
    except ValueError as error:
        raise UnreadableInputError(str(error)) from error
    return encoded, rounded
