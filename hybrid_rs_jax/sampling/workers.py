"""A run on many machines: workers of Ray draw slices of it, and one driver owns the ledger.

A slice is some inputs of one group of streams, or of all groups where they share noisy pictures, for a minute or so.
What it has counted then goes to the ledger, and what it has not comes again as another slice, exactly as a run goes on
that was stopped. So a worker that dies, however it dies, costs its slice alone; and because the noise of a draw belongs
to (seed, input, draw), not to the worker, the counts are those of one process.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid_rs_jax._extras import need
from hybrid_rs_jax._files import kind_of
from hybrid_rs_jax.classifiers.base import Abilities, BaseClassifier
from hybrid_rs_jax.data.inputs import Inputs
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.kernels import HybridSmoothing, run_key
from hybrid_rs_jax.sampling.design import StreamGroup
from hybrid_rs_jax.sampling.engine import data_mesh
from hybrid_rs_jax.sampling.ledger import CountRow, Stream
from hybrid_rs_jax.sampling.run import InterruptedRun, Progress, Record, sample_run

__all__ = ["SLICE_SECONDS", "Drawn", "Slice", "Work", "WorkerShare", "draw_slice", "sample_with_ray"]

#: Seconds that a slice takes as a rule: what the death of a worker costs at most, besides one batch.
SLICE_SECONDS = 60.0
#: Most inputs of a slice, and most slices that wait for a worker: enough for Ray to see that it could use more of them.
_MOST_INPUTS, _MOST_WAITING = 64, 256
#: A slice that ends its worker so often is at fault itself.
_MOST_LOSSES = 20

Places = dict[tuple[int, Stream], CountRow]


@dataclasses.dataclass(frozen=True)
class Work:
    """All that a worker needs to draw, opened by itself from what every machine sees.

    Attributes:
      classifier, inputs, smoothing, classes, batch_size: as for `sample_run`.
      groups: streams of draws, each group with a plan.
      seed: of the noise.
    """

    classifier: BaseClassifier
    inputs: Inputs
    smoothing: HybridSmoothing
    groups: tuple[StreamGroup, ...]
    seed: int = 0
    classes: int | None = None
    batch_size: int | None = None


@dataclasses.dataclass(frozen=True)
class Slice:
    """What one task draws: inputs of groups of streams, by their numbers, from where they stand on."""

    groups: tuple[int, ...]
    indices: tuple[int, ...]
    tallies: Places


@dataclasses.dataclass
class Drawn:
    """What a slice gives back; a `Record` that `sample_run` writes into.

    Attributes:
      known: what had been drawn before.
      worker: who drew it, "address:process".
      inputs, rows, skipped: what it registered, counted and gave up.
      progress: of `sample_run`; decided: whether nothing of the slice is left.
    """

    known: Mapping[tuple[int, Stream], CountRow]
    worker: str = ""
    inputs: list[tuple[str, int, str]] = dataclasses.field(default_factory=list)
    rows: list[CountRow] = dataclasses.field(default_factory=list)
    skipped: list[tuple[int, str, str]] = dataclasses.field(default_factory=list)
    progress: Progress = dataclasses.field(default_factory=lambda: Progress(0))
    decided: bool = False
    seconds: float = 0.0

    def tallies(self) -> Mapping[tuple[int, Stream], CountRow]:
        """What had been drawn before."""
        return self.known

    def register(self, inputs: Iterable[tuple[str, int, str]]) -> None:
        """Keep the names of inputs."""
        self.inputs += inputs

    def append(self, rows: Iterable[CountRow]) -> None:
        """Keep counts."""
        self.rows += rows

    def skip(self, index: int, id: str, reason: str) -> None:
        """Keep why an input cannot be used."""
        self.skipped.append((index, id, reason))

    def now_known(self) -> Places:
        """What is drawn of the slice's inputs with this."""
        known = dict(self.known)
        for row in self.rows:
            place = (row.index, row.stream)
            known[place] = known[place] + row if place in known else row
        return known


@dataclasses.dataclass
class WorkerShare:
    """What one worker has done: draws that it classified, and seconds that it was at it."""

    draws: int = 0
    seconds: float = 0.0


def draw_slice(work: Work, part: Slice, seconds: float = SLICE_SECONDS) -> Drawn:
    """Draw a slice until it is decided or the time is over; at least one batch.

    Args:
      work: what to draw with.
      part: which draws.
      seconds: after so many it ends with the batch that is at work.

    Raises:
      ValueError: if the classifier was made for other noise.
    """
    drawn, begin = Drawn(part.tallies), time.monotonic()
    devices = getattr(work.classifier, "mesh", None) or data_mesh()

    def end_in_time(progress: Progress) -> None:
        drawn.progress = progress
        if time.monotonic() - begin > seconds:
            raise KeyboardInterrupt  # as a user would end a run: what is counted is kept

    try:
        drawn.progress = sample_run(
            drawn,
            work.classifier,
            work.inputs,
            part.indices,
            work.smoothing,
            [work.groups[number] for number in part.groups],
            run_key(work.seed),
            classes=work.classes,
            batch_size=work.batch_size,
            mesh=devices,
            report=end_in_time,
        )
        drawn.decided = True
    except InterruptedRun as end:
        drawn.progress = end.progress
    drawn.seconds = time.monotonic() - begin
    return drawn


def sample_with_ray(
    ledger: Record,
    open_work: Callable[[], Work],
    work: Work,
    indices: Sequence[int],
    *,
    address: str | None = None,
    seconds: float = SLICE_SECONDS,
    report: Callable[[Progress], None] | None = None,
) -> tuple[Progress, dict[str, WorkerShare]]:
    """Draw what the ledger lacks, on the workers of a Ray cluster.

    Each task asks for one GPU where the cluster has any, else for one core; Ray places the tasks, starts them again
    where a worker is lost, and lets a cluster grow that may. The package and what `open_work` reads must be found on
    every machine.

    Args:
      ledger: open for writing; the driver alone writes it.
      open_work: opens model and data on a worker, once per process; it is pickled.
      work: the same, opened here: its inputs, groups and plans are read, its classifier is not called.
      indices: which inputs to draw.
      address: of a cluster that runs, as for `ray.init` ("auto", "ray://host:10001"); None starts one on this machine.
      seconds: of a slice.
      report: called after each slice.

    Returns:
      How far the run came, and what each worker did, by "address:process".

    Raises:
      BadInputError: if Ray is not installed or the cluster cannot be reached.
      InterruptedRun: in the place of a KeyboardInterrupt, after everything that came back has been written.
    """
    ray = need("ray", "ray", "Workers of Ray")
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadInputError(f"--workers ray:{address} cannot be reached: {error}") from error
    try:
        gpus = ray.cluster_resources().get("GPU", 0) > 0
        machine: dict[str, float] = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        task = ray.remote(**machine, max_retries=_MOST_LOSSES)(_on_worker)
        recipe = ray.put((uuid.uuid4().hex, open_work, Path.cwd(), not gpus))
        slots = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1))
        return _drive(ray, task, recipe, ledger, work, indices, slots, seconds, report)
    finally:
        ray.shutdown()


def _drive(
    ray: Any,
    task: Any,
    recipe: Any,
    ledger: Record,
    work: Work,
    indices: Sequence[int],
    slots: int,
    seconds: float,
    report: Callable[[Progress], None] | None,
) -> tuple[Progress, dict[str, WorkerShare]]:
    """Hand out slices and write down what comes back, until nothing is left."""
    tallies = dict(ledger.tallies())
    progress = _progress(work, indices, tallies)
    waiting = collections.deque(_slices(work, indices, tallies, slots))
    shares: dict[str, WorkerShare] = collections.defaultdict(WorkerShare)
    flying: dict[Any, Slice] = {}
    try:
        while waiting or flying:
            while waiting and len(flying) < max(_MOST_WAITING, 2 * slots):
                part = waiting.popleft()
                flying[task.remote(recipe, part, seconds)] = part
            ready, _ = ray.wait(list(flying), timeout=1.0)  # not for ever: an interrupt is seen
            for done in ready:
                part, drawn = flying.pop(done), ray.get(done)
                _write(ledger, drawn)
                _add(progress, drawn, [work.groups[number] for number in part.groups])
                share = shares[drawn.worker]
                share.draws, share.seconds = share.draws + drawn.progress.classified, share.seconds + drawn.seconds
                if not drawn.decided:
                    waiting.append(dataclasses.replace(part, tallies=drawn.now_known()))
                if report is not None:
                    report(progress)
    except KeyboardInterrupt as interrupt:
        raise InterruptedRun(progress) from interrupt
    return progress, dict(shares)


def _slices(work: Work, indices: Sequence[int], tallies: Places, slots: int) -> Iterator[Slice]:
    """The whole run in slices: four for each worker, that they end together, but not too many inputs in one."""
    size = max(1, min(_MOST_INPUTS, -(-len(indices) // (4 * slots))))
    numbers = tuple(range(len(work.groups)))
    shared = Abilities.of(work.classifier).shared_picture is not None
    for own in [numbers] if shared else [(number,) for number in numbers]:
        streams = [stream for number in own for stream in work.groups[number].streams]
        for start in range(0, len(indices), size):
            chosen = tuple(indices[start : start + size])
            places = [(index, stream) for index in chosen for stream in streams]
            yield Slice(own, chosen, {place: tallies[place] for place in places if place in tallies})


def _write(ledger: Record, drawn: Drawn) -> None:
    ledger.register(drawn.inputs)
    ledger.append(drawn.rows)
    for skipped in drawn.skipped:
        ledger.skip(*skipped)


def _progress(work: Work, indices: Sequence[int], tallies: Places) -> Progress:
    """Of a run that is about to start: what sessions before have drawn is settled."""
    wanted = set(indices)
    settled = sum(row.draws for (index, _), row in tallies.items() if index in wanted)
    return Progress(inputs=len(indices) * sum(len(group.streams) for group in work.groups), settled=settled)


def _add(progress: Progress, drawn: Drawn, groups: Sequence[StreamGroup]) -> None:
    """One slice more: its own progress counts what was finished before it, too, which is taken off."""
    own = drawn.progress
    progress.drawn += own.drawn
    progress.classified += own.classified
    progress.saved += own.saved
    progress.rounded = max(progress.rounded, own.rounded)
    progress.settled += own.drawn + own.saved
    if drawn.decided:
        progress.finished += own.finished
        progress.skipped += own.skipped
        streams = [len(group.streams) for group in groups]  # an input is skipped with all of them
        most = sum(number * group.plan.max_samples for number, group in zip(streams, groups, strict=True))
        progress.settled += own.skipped * most // sum(streams)


_OPENED: dict[str, Work] = {}


def _on_worker(recipe: tuple[str, Callable[[], Work], Path, bool], part: Slice, seconds: float) -> Drawn:
    """The task: open the work in the first one of a process, and draw."""
    name, open_work, folder, one_core = recipe
    if name not in _OPENED:
        if one_core:  # Ray counts cores, and as many workers as cores would each take them all
            os.environ.setdefault("NPROC", "1")
        if kind_of(folder) == "folder":  # relative paths mean what they mean to the driver
            os.chdir(folder)
        _OPENED.clear()
        _OPENED[name] = open_work()
    drawn, ray = draw_slice(_OPENED[name], part, seconds), need("ray", "ray", "Workers of Ray")
    drawn.worker = f"{ray.util.get_node_ip_address()}:{os.getpid()}"
    return drawn
