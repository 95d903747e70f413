"""Monte Carlo counts: draw noise, classify, count, and stop where the votes decide."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain, groupby, islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Int64, Key

from hybrid_rs_jax._checks import check_mask, check_same_inputs, check_whole
from hybrid_rs_jax.classifiers.base import Abilities, BaseClassifier, for_smoothing
from hybrid_rs_jax.confidence import FixedSample
from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.kernels.conditional import check_forced
from hybrid_rs_jax.kernels.grid import check_pictures, chunks, round_to_grid
from hybrid_rs_jax.sampling._backends import Backend, make_backend
from hybrid_rs_jax.sampling._batch import batch_for
from hybrid_rs_jax.sampling._drawing import Row, data_mesh
from hybrid_rs_jax.sampling._schedule import Batch, Resolved, Schedule, StoppingRule

__all__ = ["Draws", "Row", "check_inputs", "check_pixels", "data_mesh", "sample", "sample_counts", "stream"]

#: Copy numbers and input numbers are folded into the key as 32 bits.
MOST_COPIES = 2**31 - 1
#: Memory for the inputs at work, per device.
_SLOT_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True)
class Draws:
    """What was drawn for B inputs.

    Attributes:
      n: copies that count, int64[B]; the plan's maximum, or fewer where the votes decided earlier.
      successes: copies called unsafe, int64[B]; votes per class, int64[B, C], for a classifier with C classes.
      verdict: how each input ended, int8[B], a `Verdict`.
      ties: copies whose margin was at rounding level, int64[B]: another batch size may decide them differently.
      classified: all copies classified, those beyond a stop included.
      rounded: the largest change of a clean pixel by rounding to the grid of the noise; 0 for pictures of 8 bits.
    """

    n: np.ndarray
    successes: np.ndarray
    verdict: np.ndarray
    ties: np.ndarray
    classified: int
    rounded: float = 0.0


def sample_counts(
    classifier: BaseClassifier,
    tokens: Int[Array | np.ndarray, "inputs length"],
    images: Float[Array | np.ndarray, "inputs height width channels"],
    smoothing: HybridSmoothing,
    n: int,
    key: Key[Array, ""],
    *,
    eligible: Bool[Array | np.ndarray, "*inputs length"] | None = None,
    forced: Bool[Array | np.ndarray, "*rows length"] | None = None,
    classes: int | None = None,
    first: int = 0,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] | None = None,
) -> Int64[np.ndarray, "inputs *classes"]:
    """Number of noisy copies, out of `n` per input, that the classifier calls unsafe.

    The noise of copy `s` of input `i` depends on `(key, i, s)` alone: it is the same for every batch size, number of
    devices or processes, and order of work. So are the counts of a classifier whose arithmetic does not depend on the
    batch; of others only copies whose margin is at rounding level may differ (`sample` counts them).

    Under `jax.distributed` each process draws its share of the copies of every input, and all get the sums.

    Args:
      classifier: any `BaseClassifier`: one that JAX can trace, or one on the host (`on_host = True`). A plain callable
        is tried on two batches of noisy copies first, and called on the host where tracing would freeze its votes.
      tokens: clean token ids; those at eligible positions must belong to the kernel's alphabet.
      images: clean images in [0, 1]; they are rounded to the grid of the noise (1/255, or the smoothing's `step`),
        the classifier gets them in their dtype (float32 for float64 where JAX has no x64), and they are not clipped.
      smoothing: the smoothing distribution.
      n: noisy copies per input, at least 1.
      key: the run key; one key gives one set of draws, whatever generator the environment makes keys for.
      eligible: positions that carry token noise (the attacker's positions), bool[length] or bool[inputs, length]; None
        means all.
      forced: positions that are resampled over the whole alphabet (masked, deleted) in every draw, bool[length] or
        bool[inputs, length], eligible ones; the counts are those of conditional draws then (see `Conditional`). The
        other noise of a copy is what it is without them.
      classes: number of classes of a classifier that returns class indices; None: what it says itself, or if it says
        nothing it returns True for unsafe.
      first: number of the first copy: the counts of copies `0..m-1` and `m..n-1` add up to those of `0..n-1`.
      batch_size: noisy copies per step, rounded up to a multiple of the devices; None: as many as memory holds, 2,000
        at most, or 2,000 for a callable that gives no `functional`.
      mesh: devices to spread a batch over, with an axis "data" (see `data_mesh`); default all of this process.
      progress: called with the number of copies classified so far.

    Returns:
      int64 counts, exact (an integer sum, never a float): [inputs], or [inputs, classes].

    Raises:
      ValueError: if shapes differ, a number is out of range, a token is outside of the alphabet, a pixel is not finite
        or off the scale, the classifier was made for other noise (`Denoised` for another sigma), or at the first margin
        that is not finite or label that is no class.

    >>> from hybrid_rs_jax import HybridSmoothing
    >>> images = np.stack([np.full((2, 2, 1), level, np.float32) for level in (0.9, 0.1)])
    >>> arguments = (np.zeros((2, 1), np.int32), images, HybridSmoothing(None, 0.1), 100, jax.random.key(0))
    >>> sample_counts(lambda tokens, images: images.mean((1, 2, 3)) > 0.5, *arguments).tolist()
    [100, 0]
    """
    classes = Abilities.of(classifier).classes if classes is None else classes
    n, first = check_whole("n", n, 1, MOST_COPIES), check_whole("first", first, 0, MOST_COPIES)
    start, end = first, first + n
    if (processes := jax.process_count()) > 1:
        share = [first + n * rank // processes for rank in (jax.process_index(), jax.process_index() + 1)]
        start, end = share
    counts = np.zeros((len(tokens),) if classes is None else (len(tokens), classes), np.int64)
    if end > start:
        plan = FixedSample(end)
        draws = sample(
            classifier,
            tokens,
            images,
            smoothing,
            plan,
            key,
            eligible=eligible,
            forced=forced,
            classes=classes,
            first=start,
            batch_size=batch_size,
            mesh=mesh,
            progress=progress,
        )
        counts = draws.successes
    return counts if processes == 1 else _sum_over_processes(counts)


def sample(
    classifier: BaseClassifier,
    tokens: Int[Array | np.ndarray, "inputs length"],
    images: Float[Array | np.ndarray, "inputs height width channels"],
    smoothing: HybridSmoothing,
    plan: StoppingRule,
    key: Key[Array, ""],
    *,
    eligible: Bool[Array | np.ndarray, "*inputs length"] | None = None,
    forced: Bool[Array | np.ndarray, "*rows length"] | None = None,
    classes: int | None = None,
    first: int = 0,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] | None = None,
) -> Draws:
    """Draw noisy copies of each input until `plan` says that its votes decide; arguments as for `sample_counts`.

    The confidence bound that holds at the stop is `plan.lower_bound(draws.n, draws.successes, alpha)`; Clopper-Pearson
    on counts that were stopped early would claim too much.

    Args:
      plan: when to stop: a `SamplingPlan` of `hybrid_rs_jax.confidence`.
      classifier, tokens, images, smoothing, key, eligible, forced, classes, first, batch_size, mesh, progress: as for
        `sample_counts`.

    Returns:
      `Draws`: votes and number of draws of each input, int64, and the plan's verdicts.

    Raises:
      ValueError: as `sample_counts`.

    >>> from hybrid_rs_jax import HybridSmoothing
    >>> from hybrid_rs_jax.confidence import SequentialTest
    >>> images, plan = np.full((1, 2, 2, 1), 0.9, np.float32), SequentialTest(0.5, 0.01, 1_000)
    >>> arguments = (np.zeros((1, 1), np.int32), images, HybridSmoothing(None, 0.1), plan, jax.random.key(0))
    >>> draws = sample(lambda tokens, images: images.mean((1, 2, 3)) > 0.5, *arguments)
    >>> bool(draws.n[0] < 20), bool(draws.successes[0] == draws.n[0])
    (True, True)
    """
    classifier = for_smoothing(classifier, smoothing)
    classes = Abilities.of(classifier).classes if classes is None else classes
    tokens, images = np.asarray(tokens), np.asarray(images)
    mask, rounded = check_inputs(tokens, images, smoothing, eligible)
    always = None if forced is None else check_forced(forced, mask)
    if always is not None:
        smoothing = smoothing.forcing()
    inputs = tokens.shape[0]
    votes = np.zeros((inputs,) if classes is None else (inputs, classes), np.int64)
    n, ties, verdict, classified = *(np.zeros(inputs, np.int64) for _ in range(2)), np.zeros(inputs, np.int8), 0
    rows = (
        Row(tokens[i], images[i], mask[i], i, first, forced=None if always is None else always[i])
        for i in range(inputs)
    )
    for resolved in stream(
        classifier, rows, inputs, smoothing, plan, key, classes=classes, batch_size=batch_size, mesh=mesh
    ):
        for total, part in ((n, resolved.count), (votes, resolved.votes), (ties, resolved.ties)):
            np.add.at(total, resolved.row, part)
        verdict[resolved.finished] = resolved.verdict
        classified += resolved.classified
        if progress is not None:
            progress(classified)
    return Draws(n, votes, verdict, ties, classified, rounded)


def stream(
    classifier: BaseClassifier,
    rows: Iterable[Row],
    total: int,
    smoothing: HybridSmoothing,
    plan: StoppingRule | Sequence[StoppingRule],
    key: Key[Array, ""],
    *,
    classes: int | None = None,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    texts: int = 1,
    lost: Callable[[int], None] | None = None,
) -> Generator[Resolved, None, None]:
    """The engine itself: give votes as they come; rows are numbered in the order in which they are taken.

    Rows are taken when a slot is free, so a data set larger than memory may be read as it goes. All rows have the same
    shapes. `total` is an upper bound on their number. `plan` may be several, and a row's `rule` says which is its own.
    `lost` is told at the end how many draws were at the classifier, and not given any more.

    With `texts` above 1, for a classifier that gives `shared_picture`, rows of one input that follow each other, at
    most so many, share each noisy picture; they differ in their forced positions. The votes are those of the rows by
    themselves, copies at rounding level apart; `batch_size` counts pictures then.

    Raises:
      ValueError: if the classifier's answer has the wrong shape or type or is no vote, it was made for other noise, or
        a number is out of range.
    """
    classifier = for_smoothing(classifier, smoothing)
    if batch_size is not None:
        batch_size = check_whole("batch_size", batch_size, 1, MOST_COPIES)
    plans = tuple(plan) if isinstance(plan, Sequence) else (plan,)
    if classes is not None and max(len(each.looks) for each in plans) > 1:
        raise ValueError("A classifier with several classes needs a fixed number of draws, not early stopping.")
    waiting = _inputs(iter(rows), texts)
    head = next(waiting, None)
    if head is None:
        return
    total, mesh = -(-total // texts), data_mesh() if mesh is None else mesh
    batch_size = batch_for(classifier, head[0], texts, mesh) if batch_size is None else batch_size
    batch_size = min(batch_size, total * max(each.max_samples for each in plans))
    places = _places_for(head[0], total, plans, batch_size)
    backend = make_backend(
        classifier, smoothing, key, batch_size, places, head[0], mesh=mesh, texts=texts, classes=classes
    )
    schedule = Schedule(plans, places * texts, backend.batch_size, speculate=backend.pads, texts=texts, classes=classes)
    try:
        yield from _loop(backend, schedule, chain([head], waiting))
    finally:
        given_up = backend.give_up()
        if lost is not None:  # before the classifier is waited for, which another interrupt may end
            lost(given_up)
        backend.close()


def _inputs(rows: Iterator[Row], texts: int) -> Iterator[tuple[Row, ...]]:
    """Rows of one input that follow each other, at most so many together."""
    for _, own in groupby(rows, lambda row: row.index):
        while together := tuple(islice(own, texts)):
            yield together


def _loop(backend: Backend, schedule: Schedule, waiting: Iterator[tuple[Row, ...]]) -> Iterator[Resolved]:
    """Refill slots, keep `depth` batches under way, count what is known of the oldest."""
    under_way: deque[tuple[Batch, Any]] = deque()
    taken = 0
    while True:
        if (free := schedule.free).size and (inputs := list(islice(waiting, free.size))):
            backend.load(free[: len(inputs)].tolist(), inputs)
            for place, rows in zip(free.tolist(), inputs, strict=False):
                for slot, row in enumerate(rows, place * schedule.texts):
                    schedule.put(slot, taken, row.drawn, row.votes, row.rule)
                    taken += 1
        while len(under_way) < backend.depth and (batch := schedule.next_batch(patient=bool(under_way))) is not None:
            under_way.append((batch, backend.submit(*batch.copies())))
        if not under_way:
            return
        batch, handle = under_way.popleft()
        labels, ties = backend.collect(handle)
        batch, rest = batch.split(labels.size)
        if rest is not None:
            under_way.appendleft((rest, handle))
        yield schedule.resolve(batch, labels, ties)


def check_inputs(
    tokens: np.ndarray, images: np.ndarray, smoothing: HybridSmoothing, eligible: object
) -> tuple[Bool[np.ndarray, "inputs length"], float]:
    """The mask of eligible positions for each input, and how far rounding to the noise's grid moves a pixel at most.

    Raises:
      ValueError: one sentence, if anything does not fit.
    """
    check_same_inputs(tokens, images)
    mask = check_mask("eligible", eligible, tokens.shape)
    if smoothing.discrete is not None:
        # positions without noise (a template, special tokens) are no part of the alphabet's business
        smoothing.discrete.check_tokens(np.where(mask, tokens, np.zeros((), tokens.dtype)))
    return mask, check_pixels(images, smoothing)


def check_pixels(images: np.ndarray, smoothing: HybridSmoothing) -> float:
    """How far rounding to the noise's grid moves a pixel at most, beyond the rounding of its dtype.

    Raises:
      ValueError: if a pixel is not finite, or has no level on the grid; where the smoothing says no step of its own,
        also for what is no picture in [0, 1] with channels last.
    """
    if smoothing.grid_step is None:
        if jnp.issubdtype(images.dtype, jnp.floating) and not np.isfinite(images).all():
            raise ValueError(f"Pixels must be finite numbers, got {images[~np.isfinite(images)].flat[0]}.")
        return 0.0
    if smoothing.step is None:
        check_pictures(images)
    return max((round_to_grid(rows, smoothing.grid_step)[1] for rows in chunks(images)), default=0.0)


def _places_for(row: Row, total: int, plans: Sequence[StoppingRule], batch_size: int) -> int:
    """Enough inputs at work to fill three batches up to their first look, within the memory for them."""
    wanted = max(4, -(-3 * batch_size // min(int(plan.looks[0]) for plan in plans)))
    fits = max(1, _SLOT_BYTES // max(1, row.tokens.nbytes + row.image.nbytes + row.eligible.nbytes))
    return max(1, min(wanted, fits, total))


def _sum_over_processes(counts: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    parts = multihost_utils.process_allgather(jnp.asarray(counts, jnp.int32))
    return np.asarray(parts).astype(np.int64).sum(axis=0)
