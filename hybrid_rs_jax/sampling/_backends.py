"""Where copies are drawn and classified: in one compiled step on the devices, or by a callable on the host.

A backend holds the inputs at work in slots on the devices, takes (slot, copy) pairs and gives labels back later, so
that the host prepares the next batch while this one is computed.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key

from hybrid_rs_jax.classifiers.base import BaseClassifier
from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["Backend", "DeviceBackend", "HostBackend", "Row", "data_mesh", "make_backend"]

#: Seconds that a classifier on the host is busy with one piece of a batch, as a rule.
PIECE_SECONDS = 4.0


@dataclasses.dataclass(frozen=True)
class Row:
    """One input on its way to the devices.

    Attributes:
      tokens: int[L] clean token ids; image: float[H, W, C] clean pixels; eligible: bool[L], positions with token noise.
      index: number of the input within the run; the noise is keyed by it.
      drawn, votes: what an earlier session has counted already.
    """

    tokens: np.ndarray
    image: np.ndarray
    eligible: np.ndarray
    index: int
    drawn: int = 0
    votes: Any = 0


class Slots(NamedTuple):
    """The inputs at work: tokens [S, L], images [S, H, W, C], eligible [S, L], number uint32[S] of each in the run."""

    tokens: Array
    images: Array
    eligible: Array
    number: Array


def data_mesh(devices: int | Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis "data" over this process's devices: all, the first so many, or these.

    Raises:
      ValueError: if there are not so many devices.
    """
    local = jax.local_devices()
    if devices is None or isinstance(devices, int):
        number = len(local) if devices is None else devices
        if not 1 <= number <= len(local):
            raise ValueError(f"devices must lie in 1..{len(local)}, the devices of this process, got {devices}.")
        devices = local[:number]
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def make_backend(
    classifier: BaseClassifier, smoothing: HybridSmoothing, key: Key[Array, ""], batch_size: int, mesh: Mesh | None
) -> Backend:
    """The backend that fits the classifier: on the host if it says `on_host`, else compiled."""
    mesh = data_mesh() if mesh is None else mesh
    kind = HostBackend if getattr(classifier, "on_host", False) else DeviceBackend
    return kind(classifier, smoothing, key, batch_size, mesh)


class Backend(abc.ABC):
    """Inputs in slots on the devices, and steps over the copies of a batch.

    Attributes:
      batch_size: largest number of copies per step.
      depth: steps that may be under way at the same time.
      pads: a step costs the same however few copies it holds.
    """

    pads = True

    def __init__(self, smoothing: HybridSmoothing, key: Key[Array, ""], batch_size: int, mesh: Mesh, depth: int):
        shards = mesh.shape["data"]
        self.depth = depth
        self._smoothing = smoothing
        self.batch_size = -(-batch_size // shards) * shards
        self._spread = NamedSharding(mesh, PartitionSpec("data"))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._key = jax.device_put(key, self._everywhere)
        self._slots: Slots | None = None
        self._under_way = 0

    def allocate(self, slots: int, row: Row) -> None:
        """Make room for `slots` inputs shaped like `row`."""

        def empty(like: np.ndarray) -> Array:
            return jnp.zeros((slots, *like.shape), like.dtype, device=self._everywhere)

        self._slots = Slots(empty(row.tokens), empty(row.image), empty(row.eligible), empty(np.zeros((), np.uint32)))

    def load(self, slots: Sequence[int], rows: Sequence[Row]) -> None:
        """Put inputs into slots; the number is rounded up to a power of two, so that few programs are compiled."""
        assert self._slots is not None
        number = 1 << (len(slots) - 1).bit_length()
        padded = [*rows, *[rows[-1]] * (number - len(rows))]
        columns = (
            np.stack([row.tokens for row in padded]),
            np.stack([row.image for row in padded]),
            np.stack([row.eligible for row in padded]),
            np.array([row.index for row in padded], np.uint32),
        )
        where = np.array([*slots, *[slots[-1]] * (number - len(slots))], np.int32)
        self._slots = _put(self._slots, *jax.device_put((where, columns), self._everywhere))

    @abc.abstractmethod
    def submit(self, slot: np.ndarray, copy: np.ndarray) -> Any:
        """Start one step; give what `collect` wants."""

    @abc.abstractmethod
    def collect(self, handle: Any) -> tuple[np.ndarray, np.ndarray]:
        """Wait for the oldest step: labels and ties of its next copies, one at least, until all have been given."""

    def places(self, slot: np.ndarray, copy: np.ndarray) -> tuple[Array, Array]:
        """Pad a batch with its last copy and spread it over the devices."""
        missing = self.batch_size - slot.size
        return jax.device_put((np.pad(slot, (0, missing), "edge"), np.pad(copy, (0, missing), "edge")), self._spread)

    def close(self) -> int:
        """Let go of the inputs; the number of copies that were being classified, whose labels are lost."""
        self._slots = None
        return self._under_way


class DeviceBackend(Backend):
    """Noise, classifier and labels in one compiled step, data-parallel over the mesh.

    A classifier with large weights gives them apart, `functional() -> (apply, parameters)`, so that they are arguments
    of the step instead of constants in it; parameters that lie on the mesh already stay as they are.
    """

    def __init__(
        self, classifier: BaseClassifier, smoothing: HybridSmoothing, key: Key[Array, ""], batch_size: int, mesh: Mesh
    ):
        super().__init__(smoothing, key, batch_size, mesh, depth=2)
        functional = getattr(classifier, "functional", None)
        self._apply: Callable[..., Array]
        self._apply, parameters = (_Call(classifier), ()) if functional is None else functional()
        self._parameters = jax.tree.map(self._on_mesh, parameters)
        self._tolerance = getattr(classifier, "tie_tolerance", None)

    def submit(self, slot: np.ndarray, copy: np.ndarray) -> tuple[tuple[Array, Array], int]:
        """Start one step."""
        places = self.places(slot, copy)
        step = _step(self._apply, self._smoothing, self._tolerance, self._parameters, self._slots, self._key, *places)
        self._under_way += slot.size
        return step, slot.size

    def collect(self, handle: tuple[tuple[Array, Array], int]) -> tuple[np.ndarray, np.ndarray]:
        """Wait for a step: labels and ties of its real copies."""
        (labels, ties), size = handle
        found = np.asarray(labels)[:size], np.asarray(ties)[:size]
        self._under_way -= size
        return found

    def _on_mesh(self, leaf: Any) -> Any:
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.mesh == self._everywhere.mesh:
            return leaf
        return jax.device_put(leaf, self._everywhere)


@dataclasses.dataclass
class _Step:
    """A batch at a classifier on the host: noisy copies on the device, and how many of them have been asked for."""

    noisy: tuple[Array, Array]
    size: int
    asked: int = 0


class HostBackend(Backend):
    """Noise on the devices, decisions by a Python callable in worker threads.

    A batch goes to the classifier in pieces, in order, whose size follows its pace: one copy at first, whole batches
    where they take less than `PIECE_SECONDS`. What has been answered is so counted after a few seconds, however large
    the batch. At most `max_in_flight` pieces are at the classifier and one more waits: it is never flooded. A batch
    that is not full stays so, since each call may cost money.
    """

    pads = False

    def __init__(self, classifier: Any, smoothing: HybridSmoothing, key: Key[Array, ""], batch_size: int, mesh: Mesh):
        self._in_flight = int(getattr(classifier, "max_in_flight", 1))
        super().__init__(smoothing, key, batch_size, mesh, depth=self._in_flight + 1)
        self._classifier = classifier
        self._steps: deque[_Step] = deque()  # batches that have copies left to ask for
        self._pieces: deque[tuple[int, Future[tuple[np.ndarray, float]]]] = deque()
        self._piece = 1
        self._workers = ThreadPoolExecutor(self._in_flight, thread_name_prefix="classifier")

    def submit(self, slot: np.ndarray, copy: np.ndarray) -> None:
        """Draw the noise and queue the batch."""
        noisy = _noisy(self._smoothing, self._slots, self._key, *self.places(slot, copy))
        self._steps.append(_Step(noisy, slot.size))
        self._ask()

    def collect(self, handle: None) -> tuple[np.ndarray, np.ndarray]:
        """Wait for the oldest piece; an error of the classifier is raised here."""
        size, answer = self._pieces[0]
        labels, seconds = answer.result()
        self._pieces.popleft()
        self._piece = _piece_size(size, seconds, self.batch_size)
        self._ask()
        return labels, np.zeros(labels.shape, bool)

    def close(self) -> int:
        """Drop what is queued and let the workers end; a classifier that can give up what it is at is told to."""
        self._under_way = sum(size for size, answer in self._pieces if not answer.cancel())
        if self._under_way and (cancel := getattr(self._classifier, "cancel", None)) is not None:
            cancel()
        self._workers.shutdown(wait=True, cancel_futures=True)
        return super().close()

    def _ask(self) -> None:
        """Keep the workers busy with pieces of the oldest batches."""
        while self._steps and len(self._pieces) <= self._in_flight:
            step = self._steps[0]
            piece = slice(step.asked, min(step.asked + self._piece, step.size))
            self._pieces.append((piece.stop - piece.start, self._workers.submit(self._decide, step.noisy, piece)))
            step.asked = piece.stop
            if step.asked == step.size:
                self._steps.popleft()

    def _decide(self, noisy: tuple[Array, Array], piece: slice) -> tuple[np.ndarray, float]:
        """Labels of a piece, and the seconds that they took."""
        tokens, images = (np.asarray(part)[piece] for part in noisy)
        size, start = piece.stop - piece.start, time.monotonic()
        labels = np.asarray(self._classifier(tokens, images))
        if labels.shape != (size,) or labels.dtype.kind not in "biu":
            raise ValueError(
                f"The classifier must return one bool or integer per copy, shape ({size},), "
                f"got {labels.dtype} of shape {labels.shape}."
            )
        return labels, time.monotonic() - start


def _piece_size(size: int, seconds: float, most: int) -> int:
    """Copies that take about `PIECE_SECONDS`, at most 16 times as many as the last piece had.

    A power of two or a whole batch: a classifier that is compiled for each size sees few of them.
    """
    wanted = size * min(16.0, PIECE_SECONDS / max(seconds, 1e-9))
    return most if wanted >= most else 1 << max(0, int(wanted).bit_length() - 1)


class _Call:
    """A classifier without parameters of its own, as a pure function; equal for the same object."""

    def __init__(self, classifier: Callable[..., Any]):
        self._classifier = classifier

    def __call__(self, parameters: tuple[()], tokens: Array, images: Array) -> Array:
        return self._classifier(tokens, images)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Call) and self._classifier is other._classifier

    def __hash__(self) -> int:
        return hash((_Call, id(self._classifier)))


@functools.partial(jax.jit, donate_argnums=0)
def _put(slots: Slots, where: Array, rows: tuple[Array, ...]) -> Slots:
    return Slots(*(old.at[where].set(new) for old, new in zip(slots, rows, strict=True)))


def _draw(smoothing: HybridSmoothing, slots: Slots, key: Array, slot: Array, copy: Array) -> tuple[Array, Array]:
    """One noisy copy for each (slot, copy); its noise depends on (key, index of the input, copy) alone."""

    def draw(i: Array, s: Array) -> tuple[Array, Array]:
        own = jax.random.fold_in(jax.random.fold_in(key, slots.number[i]), s)
        return smoothing.sample(own, slots.tokens[i], slots.images[i], slots.eligible[i])

    return jax.vmap(draw)(slot, copy)


_noisy = jax.jit(_draw, static_argnums=0)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _step(
    apply: Callable[..., Array],
    smoothing: HybridSmoothing,
    tolerance: float | None,
    parameters: Any,
    slots: Slots,
    key: Array,
    slot: Array,
    copy: Array,
) -> tuple[Array, Array]:
    """Labels and ties of one noisy copy of each (slot, copy) pair."""
    out = apply(parameters, *_draw(smoothing, slots, key, slot, copy))
    if out.shape != slot.shape:
        raise ValueError(f"The classifier must return one label per copy, shape {slot.shape}, got {out.shape}.")
    if jnp.issubdtype(out.dtype, jnp.floating):
        if tolerance is None:
            raise ValueError(
                f"The classifier must return bool or integers, got {out.dtype}; a margin needs a tie_tolerance."
            )
        return out > 0, jnp.abs(out) <= tolerance
    return out, jnp.zeros(out.shape, bool)
