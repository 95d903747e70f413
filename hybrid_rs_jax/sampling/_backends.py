"""Where copies are drawn and classified: in one compiled step on the devices, or by a callable on the host.

A backend holds the inputs at work in slots on the devices, takes (slot, copy) pairs and gives labels back later, so
that the host prepares the next batch while this one is computed.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import logging
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

from hybrid_rs_jax._jax import own_settings
from hybrid_rs_jax.classifiers._votes import foreign_label, foreign_margin, refusal, votes_from_labels
from hybrid_rs_jax.classifiers.base import Abilities, BaseClassifier
from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.kernels._threefry import fold, key_words
from hybrid_rs_jax.kernels.grid import round_to_grid
from hybrid_rs_jax.kernels.smoothing import HybridNoise
from hybrid_rs_jax.sampling._trial import TRIAL_COPIES, Program, traced

__all__ = ["Backend", "DeviceBackend", "HostBackend", "Row", "data_mesh", "make_backend"]

_log = logging.getLogger("hybrid_rs_jax")
#: Seconds that a classifier on the host is busy with one piece of a batch, as a rule.
PIECE_SECONDS = 4.0


@dataclasses.dataclass(frozen=True)
class Row:
    """One input on its way to the devices.

    Attributes:
      tokens: int[L] clean token ids; image: float[H, W, C] clean pixels; eligible: bool[L], positions with token noise.
      index: number of the input within the run; the noise is keyed by it.
      forced: bool[L], positions that are resampled in every draw; None: ordinary draws.
      drawn, votes: what an earlier session has counted already.
    """

    tokens: np.ndarray
    image: np.ndarray
    eligible: np.ndarray
    index: int
    drawn: int = 0
    votes: Any = 0
    forced: np.ndarray | None = None


class Slots(NamedTuple):
    """The inputs at work: tokens [S, L], images [S, H, W, C], eligible [S, L], number uint32[S] of each in the run.

    Where pixels carry noise `images` holds their levels on the grid, int32; forced [S, L] is None for ordinary draws.
    """

    tokens: Array
    images: Array
    eligible: Array
    number: Array
    forced: Array | None = None


def data_mesh(devices: int | Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis "data" over this process's devices: all, the first so many, or these.

    Args:
      devices: how many, or which; None takes all.

    Returns:
      A mesh with the axis "data".

    Raises:
      ValueError: if there are not so many devices.

    >>> data_mesh(1).shape["data"]
    1
    """
    local = jax.local_devices()
    if devices is None or isinstance(devices, int):
        number = len(local) if devices is None else devices
        if not 1 <= number <= len(local):
            raise ValueError(f"devices must lie in 1..{len(local)}, the devices of this process, got {devices}.")
        devices = local[:number]
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def make_backend(
    classifier: BaseClassifier,
    smoothing: HybridSmoothing,
    key: Key[Array, ""],
    batch_size: int,
    slots: int,
    row: Row,
    *,
    classes: int | None = None,
    mesh: Mesh | None = None,
) -> Backend:
    """The backend that fits the classifier, with room for `slots` inputs shaped like `row`.

    On the host if it says `on_host`; compiled if it gives `functional`; else it is tried whether it may be traced.

    Raises:
      ValueError: if the classifier says that it is JAX (`on_host = False`) and the trial says that it is not.
    """
    abilities = Abilities.of(classifier)
    mesh = data_mesh() if mesh is None else mesh
    with own_settings():
        drawing = _Drawing(smoothing, key, batch_size, slots, row, mesh)
        if abilities.on_host:
            return HostBackend(drawing, classifier, abilities, classes)
        if abilities.functional is not None:
            return DeviceBackend(drawing, Program(*abilities.functional()), abilities, classes)
        program = traced(classifier, drawing.shapes(), drawing.trial(row))
        if isinstance(program, Program):
            return DeviceBackend(drawing, program, abilities, classes)
        if abilities.on_host is False:
            raise ValueError(
                f"The classifier {abilities.name} is declared to be JAX (on_host = False), but {program}; declare "
                "on_host = True, or wrap it in a HostClassifier."
            )
        _log.warning("The classifier %s is called on the host, not compiled: %s.", abilities.name, program)
        return HostBackend(drawing, classifier, abilities, classes)


class _Drawing:
    """Inputs in slots on the devices, and the noise on them.

    Attributes:
      batch_size: largest number of copies per step, a multiple of the devices.
      everywhere: the sharding of what all devices hold.
      noise, slots: arguments of the compiled programs.
    """

    def __init__(
        self, smoothing: HybridSmoothing, key: Key[Array, ""], batch_size: int, slots: int, row: Row, mesh: Mesh
    ):
        shards = mesh.shape["data"]
        self.batch_size = -(-batch_size // shards) * shards
        self._spread = NamedSharding(mesh, PartitionSpec("data"))
        self.everywhere = NamedSharding(mesh, PartitionSpec())
        # floats of 64 bits stay so where JAX is told to have them
        self._dtype = np.dtype(jax.dtypes.canonicalize_dtype(row.image.dtype))
        self._step = smoothing.grid_step
        self.noise: HybridNoise = jax.device_put(smoothing.noise(self._dtype), self.everywhere)
        self._key = jax.device_put(key_words(key), self.everywhere)
        self._numbers = np.zeros(slots, np.int64)
        like = [row.tokens, self._stored(row.image), row.eligible, np.zeros((), np.uint32)]
        like += [] if row.forced is None else [row.forced]
        self.slots = Slots(*(jnp.zeros((slots, *x.shape), x.dtype, device=self.everywhere) for x in like))

    def _stored(self, image: np.ndarray) -> np.ndarray:
        """What a slot holds of a picture."""
        return image.astype(self._dtype) if self._step is None else round_to_grid(image, self._step)[0]

    def load(self, slots: Sequence[int], rows: Sequence[Row]) -> None:
        """Put inputs into slots; the number is rounded up to a power of two, so that few programs are compiled."""
        number = 1 << (len(slots) - 1).bit_length()
        padded = [*rows, *[rows[-1]] * (number - len(rows))]
        images = [self._stored(row.image) for row in rows]
        columns = (
            np.stack([row.tokens for row in padded]),
            np.stack([*images, *[images[-1]] * (number - len(rows))]),
            np.stack([row.eligible for row in padded]),
            np.array([row.index for row in padded], np.uint32),
            *([] if padded[0].forced is None else [np.stack([row.forced for row in padded if row.forced is not None])]),
        )
        where = np.array([*slots, *[slots[-1]] * (number - len(slots))], np.int32)
        self._numbers[where] = columns[3]
        self.slots = _put(self.slots, *jax.device_put((where, columns), self.everywhere))

    def places(self, slot: np.ndarray, copy: np.ndarray) -> tuple[Array, Array]:
        """Pad a batch with its last copy and spread it over the devices."""
        missing = self.batch_size - slot.size
        return jax.device_put((np.pad(slot, (0, missing), "edge"), np.pad(copy, (0, missing), "edge")), self._spread)

    def naming(self, slot: np.ndarray, copy: np.ndarray) -> Callable[[int], str]:
        """A function that says which copy a place of this batch is."""
        numbers = self._numbers[slot]  # a copy: the slot may hold another input later
        return lambda place: (
            f"on noisy copy {copy[min(place, copy.size - 1)]} of input {numbers[min(place, copy.size - 1)]}"
        )

    def shapes(self) -> tuple[Any, Any]:
        """What the classifier gets in a step, as shapes and dtypes."""
        tokens, images = self.slots.tokens, self.slots.images
        return (
            jax.ShapeDtypeStruct((self.batch_size, *tokens.shape[1:]), tokens.dtype),
            jax.ShapeDtypeStruct((self.batch_size, *images.shape[1:]), self._dtype),
        )

    def trial(self, row: Row) -> list[tuple[Array, Array]]:
        """Two batches of noisy copies of an input, to try a classifier on."""
        self.load([0], [row])
        slot = np.zeros(TRIAL_COPIES, np.int32)
        numbers = np.arange(2 * TRIAL_COPIES, dtype=np.uint32).reshape(2, -1)
        return [self.noisy(slot, copy) for copy in numbers]

    def noisy(self, slot: Any, copy: Any) -> tuple[Array, Array]:
        """Noisy copies of a batch; keys come from a program of their own, or they are derived again for each pixel."""
        return _noisy(self.noise, self.slots, _keys(self._key, self.slots.number, slot, copy), slot)


class Backend(abc.ABC):
    """Steps over the copies of a batch.

    Attributes:
      batch_size: largest number of copies per step.
      depth: steps that may be under way at the same time.
      pads: a step costs the same however few copies it holds.
    """

    pads = True

    def __init__(self, drawing: _Drawing, depth: int, classes: int | None):
        self._drawing: _Drawing | None = drawing
        self._classes = classes
        self.batch_size, self.depth = drawing.batch_size, depth
        self._under_way = 0

    @property
    def drawing(self) -> _Drawing:
        """Inputs and noise."""
        assert self._drawing is not None, "the backend is closed"
        return self._drawing

    def load(self, slots: Sequence[int], rows: Sequence[Row]) -> None:
        """Put inputs into slots."""
        with own_settings():
            self.drawing.load(slots, rows)

    @abc.abstractmethod
    def submit(self, slot: np.ndarray, copy: np.ndarray) -> Any:
        """Start one step; give what `collect` wants."""

    @abc.abstractmethod
    def collect(self, handle: Any) -> tuple[np.ndarray, np.ndarray]:
        """Wait for the oldest step: labels and ties of its next copies, one at least, until all have been given.

        Raises:
          ValueError: at the first margin that is not finite, or label that is no class.
        """

    def close(self) -> int:
        """Let go of the inputs; the number of copies that were being classified, whose labels are lost."""
        self._drawing = None
        return self._under_way


class DeviceBackend(Backend):
    """Noise, then classifier and labels, in two compiled programs, data-parallel over the mesh.

    In one program the compiler would draw the noise again for each use that a network makes of a pixel (nine times
    before a convolution of 3 x 3). And so the program of the noise serves all classifiers, and that of a classifier
    all kinds of noise. The classifier is a pure function of parameters, which are arguments of the step, no constants;
    parameters that lie on the mesh already stay as they are.
    """

    def __init__(self, drawing: _Drawing, program: Program, abilities: Abilities, classes: int | None):
        super().__init__(drawing, depth=2, classes=classes)
        self._apply, self._abilities = program.apply, abilities
        self._parameters = jax.tree.map(self._on_mesh, program.parameters)

    def submit(self, slot: np.ndarray, copy: np.ndarray) -> tuple[Any, int, Callable[[int], str]]:
        """Start one step."""
        drawing = self.drawing
        where = drawing.places(slot, copy)
        static = (self._apply, self._abilities.tie_tolerance, self._classes)
        with own_settings():
            try:
                step = _step(*static, self._parameters, *drawing.noisy(*where))
            except jax.errors.JAXTypeError as error:
                name, reason = self._abilities.name, str(error).partition("\n")[0]
                raise ValueError(
                    f"The classifier {name} cannot be traced by JAX; declare on_host = True. JAX says: {reason}"
                ) from error
        self._under_way += slot.size
        return step, slot.size, drawing.naming(slot, copy)

    def collect(self, handle: tuple[Any, int, Callable[[int], str]]) -> tuple[np.ndarray, np.ndarray]:
        """Wait for a step: labels and ties of its real copies."""
        (labels, ties, bad, first, value), size, naming = handle
        if int(bad):
            found = np.asarray(value)
            number = float(found) if jnp.issubdtype(found.dtype, jnp.floating) else int(found)
            raise ValueError(refusal(number, self._classes, naming(int(first))))
        decided = np.asarray(labels)[:size], np.asarray(ties)[:size]
        self._under_way -= size
        return decided

    def _on_mesh(self, leaf: Any) -> Any:
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.mesh == self.drawing.everywhere.mesh:
            return leaf
        return jax.device_put(leaf, self.drawing.everywhere)


@dataclasses.dataclass
class _Step:
    """A batch at a classifier on the host: noisy copies on the device, and how many of them have been asked for."""

    noisy: tuple[Array, Array]
    size: int
    naming: Callable[[int], str]
    asked: int = 0


class HostBackend(Backend):
    """Noise on the devices, decisions by a Python callable in worker threads.

    A batch goes to the classifier in pieces, in order, whose size follows its pace: one copy at first, whole batches
    where they take less than `PIECE_SECONDS`. What has been answered is so counted after a few seconds, however large
    the batch. At most `max_in_flight` pieces are at the classifier and one more waits: it is never flooded. A batch
    that is not full stays so, since each call may cost money.
    """

    pads = False

    def __init__(self, drawing: _Drawing, classifier: Any, abilities: Abilities, classes: int | None):
        super().__init__(drawing, depth=abilities.max_in_flight + 1, classes=classes)
        self._classifier, self._cancel, self._in_flight = classifier, abilities.cancel, abilities.max_in_flight
        self._steps: deque[_Step] = deque()  # batches that have copies left to ask for
        self._pieces: deque[tuple[int, Future[tuple[np.ndarray, float]]]] = deque()
        self._piece = 1
        self._workers = ThreadPoolExecutor(self._in_flight, thread_name_prefix="classifier")

    def submit(self, slot: np.ndarray, copy: np.ndarray) -> None:
        """Draw the noise and queue the batch."""
        drawing = self.drawing
        with own_settings():
            noisy = drawing.noisy(*drawing.places(slot, copy))
        self._steps.append(_Step(noisy, slot.size, drawing.naming(slot, copy)))
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
        if self._under_way and self._cancel is not None:
            self._cancel()
        self._workers.shutdown(wait=True, cancel_futures=True)
        return super().close()

    def _ask(self) -> None:
        """Keep the workers busy with pieces of the oldest batches."""
        while self._steps and len(self._pieces) <= self._in_flight:
            step = self._steps[0]
            piece = slice(step.asked, min(step.asked + self._piece, step.size))
            self._pieces.append((piece.stop - piece.start, self._workers.submit(self._decide, step, piece)))
            step.asked = piece.stop
            if step.asked == step.size:
                self._steps.popleft()

    def _decide(self, step: _Step, piece: slice) -> tuple[np.ndarray, float]:
        """Labels of a piece, and the seconds that they took."""
        tokens, images = (np.asarray(part)[piece] for part in step.noisy)
        size, start = piece.stop - piece.start, time.monotonic()
        labels = np.asarray(self._classifier(tokens, images))
        if labels.shape != (size,):
            raise ValueError(
                f"The classifier must return one bool or integer per copy, shape ({size},), "
                f"got {labels.dtype} of shape {labels.shape}."
            )
        votes = votes_from_labels(labels, self._classes, lambda at: step.naming(piece.start + at))
        return votes, time.monotonic() - start


def _piece_size(size: int, seconds: float, most: int) -> int:
    """Copies that take about `PIECE_SECONDS`, at most 16 times as many as the last piece had.

    A power of two or a whole batch: a classifier that is compiled for each size sees few of them.
    """
    wanted = size * min(16.0, PIECE_SECONDS / max(seconds, 1e-9))
    return most if wanted >= most else 1 << max(0, int(wanted).bit_length() - 1)


@functools.partial(jax.jit, donate_argnums=0)
def _put(slots: Slots, where: Array, rows: tuple[Array, ...]) -> Slots:
    # a slot's forced positions are None where rows have none
    return Slots(*(old.at[where].set(new) for old, new in zip(slots, rows, strict=False) if old is not None))


@jax.jit
def _keys(key: Array, number: Array, slot: Array, copy: Array) -> Array:
    """The key of each (slot, copy): it depends on (key, index of the input, copy) alone."""
    return jax.vmap(lambda i, s: fold(fold(key, number[i]), s))(slot, copy)


@jax.jit
def _noisy(noise: HybridNoise, slots: Slots, keys: Array, slot: Array) -> tuple[Array, Array]:
    """One noisy copy of the input in each slot, under each key.

    Numbers of the noise are arguments: a sweep over sigma, beta or the alphabet compiles once.
    """

    def one(own: Array, i: Array) -> tuple[Array, Array]:
        forced = None if slots.forced is None else slots.forced[i]
        return noise(own, slots.tokens[i], slots.images[i], slots.eligible[i], forced)

    return jax.vmap(one)(keys, slot)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _step(
    apply: Callable[..., Array],
    tolerance: float | None,
    classes: int | None,
    parameters: Any,
    tokens: Array,
    images: Array,
) -> tuple[Array, Array, Array, Array, Array]:
    """Labels and ties of noisy copies; how many are no votes, the first one, its value."""
    out = apply(parameters, tokens, images)
    if out.shape != tokens.shape[:1]:
        raise ValueError(f"The classifier must return one label per copy, shape {tokens.shape[:1]}, got {out.shape}.")
    labels, ties, bad = _votes(out, tolerance, classes)
    first = jnp.argmax(bad)
    return labels, ties, bad.sum(dtype=jnp.int32), first, out[first]


def _votes(out: Array, tolerance: float | None, classes: int | None) -> tuple[Array, Array, Array]:
    """Labels, ties, and where there is no vote."""
    if jnp.issubdtype(out.dtype, jnp.floating):
        if tolerance is None:
            raise ValueError(
                f"The classifier must return bool or integers, got {out.dtype}; a margin needs a tie_tolerance."
            )
        return out > 0, jnp.abs(out) <= tolerance, foreign_margin(out)
    labels = out.astype(bool if classes is None else jnp.int32)
    return labels, jnp.zeros(out.shape, bool), foreign_label(out, classes)
