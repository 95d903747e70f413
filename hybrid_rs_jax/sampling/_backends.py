"""Where copies are drawn and classified: in one compiled step on the devices, or by a callable on the host.

A backend holds the inputs at work on the devices, each with one text or several, which differ in their forced
positions. It takes pairs of a slot, `input * texts + text`, and a copy, and gives labels back later, so that the host
prepares the next batch while this one is computed.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import logging
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Key

from hybrid_rs_jax._jax import own_settings
from hybrid_rs_jax.classifiers._pairs import pairs_text
from hybrid_rs_jax.classifiers._votes import (
    columns_text,
    foreign_label,
    foreign_margin,
    refusal,
    returned_array,
    votes_from_labels,
)
from hybrid_rs_jax.classifiers.base import Abilities, BaseClassifier
from hybrid_rs_jax.errors import raised_by
from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.sampling._drawing import Drawing, Row, data_mesh
from hybrid_rs_jax.sampling._trial import COMPANY, Program, check_host_company, traced

__all__ = ["Backend", "DeviceBackend", "HostBackend", "make_backend"]

_log = logging.getLogger("hybrid_rs_jax")
#: Classifiers of which the log says that they are called on the host.
_on_host: weakref.WeakSet[Any] = weakref.WeakSet()
#: Seconds that a classifier on the host is busy with one piece of a batch, as a rule.
PIECE_SECONDS = 4.0
#: Seconds until a classifier that still answers is told again to give up.
_CANCEL_SECONDS = 1.0


def make_backend(
    classifier: BaseClassifier,
    smoothing: HybridSmoothing,
    key: Key[Array, ""],
    batch_size: int,
    inputs: int,
    row: Row,
    *,
    texts: int = 1,
    classes: int | None = None,
    mesh: Mesh | None = None,
) -> Backend:
    """The backend that fits the classifier, with room for `inputs` inputs shaped like `row`, of `texts` texts each.

    Several texts share a noisy picture; for classifiers that give `functional` and `shared_picture`.

    On the host if it says `on_host`; compiled if it gives `functional`; else it is tried whether it may be traced.

    Raises:
      ValueError: if the classifier says that it is JAX (`on_host = False`) and the trial says that it is not.
    """
    abilities = Abilities.of(classifier)
    mesh = data_mesh() if mesh is None else mesh
    with own_settings():
        drawing = Drawing(smoothing, key, batch_size, inputs, row, mesh, texts)
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
        if not _said_before(classifier):
            _log.warning("The classifier %s is called on the host, not compiled: %s.", abilities.name, program)
        return HostBackend(drawing, classifier, abilities, classes)


def _said_before(classifier: Any) -> bool:
    """Whether the log has been told of this object: a filter at run time asks for a backend with each request."""
    try:
        known = classifier in _on_host
        _on_host.add(classifier)
    except TypeError:  # it cannot be hashed, or nothing can refer to it weakly
        return False
    return known


class Backend(abc.ABC):
    """Steps over the copies of a batch.

    Attributes:
      batch_size: largest number of noisy pictures per step; of copies, where an input has one text.
      depth: steps that may be under way at the same time.
      pads: a step costs the same however few copies it holds.
    """

    pads = True

    def __init__(self, drawing: Drawing, depth: int, classes: int | None):
        self._drawing: Drawing | None = drawing
        self._classes = classes
        self.batch_size, self.depth = drawing.batch_size, depth
        self._under_way = 0

    @property
    def drawing(self) -> Drawing:
        """Inputs and noise."""
        assert self._drawing is not None, "the backend is closed"
        return self._drawing

    def load(self, places: Sequence[int], inputs: Sequence[Sequence[Row]]) -> None:
        """Put inputs, each with its texts, into places that are free."""
        with own_settings():
            self.drawing.load(places, inputs)

    @abc.abstractmethod
    def submit(self, slot: np.ndarray, copy: np.ndarray) -> Any:
        """Start one step; give what `collect` wants."""

    @abc.abstractmethod
    def collect(self, handle: Any) -> tuple[np.ndarray, np.ndarray]:
        """Wait for the oldest step: labels and ties of its next copies, one at least, until all have been given.

        Raises:
          ValueError: at the first margin that is not finite, or label that is no class.
        """

    def give_up(self) -> int:
        """Begin nothing more; the number of copies that are being classified, whose labels are lost."""
        return self._under_way

    def close(self) -> None:
        """Let go of the inputs, after `give_up`."""
        self._drawing = None


class DeviceBackend(Backend):
    """Noise, then classifier and labels, in two compiled programs, data-parallel over the mesh.

    In one program the compiler would draw the noise again for each use that a network makes of a pixel (nine times
    before a convolution of 3 x 3). And so the program of the noise serves all classifiers, and that of a classifier
    all kinds of noise. The classifier is a pure function of parameters, which are arguments of the step, no constants;
    parameters that lie on the mesh already stay as they are.
    """

    def __init__(self, drawing: Drawing, program: Program, abilities: Abilities, classes: int | None):
        super().__init__(drawing, depth=2, classes=classes)
        self._apply, self._abilities = program.apply, abilities
        shared = abilities.shared_picture
        self._apply_to_pictures = None if shared is None or drawing.texts == 1 else shared()
        self._parameters = jax.tree.map(self._on_mesh, program.parameters)

    def submit(self, slot: np.ndarray, copy: np.ndarray) -> tuple[Any, int, Callable[[int], str]]:
        """Start one step."""
        drawing, (place, text) = self.drawing, np.divmod(slot, self.drawing.texts)
        with own_settings():
            try:
                with raised_by(f"the classifier {self._abilities.name}"):
                    step = self._started(place, copy, text)
            except jax.errors.JAXTypeError as error:
                name, reason = self._abilities.name, str(error).partition("\n")[0]
                raise ValueError(
                    f"The classifier {name} cannot be traced by JAX; declare on_host = True. JAX says: {reason}"
                ) from error
        self._under_way += slot.size
        return step, slot.size, drawing.naming(place, copy)

    def _started(self, place: np.ndarray, copy: np.ndarray, text: np.ndarray) -> Any:
        """A step over copies, or over pictures where one of them has several texts to decide."""
        drawing, rest = self.drawing, (self._abilities.tie_tolerance, self._classes, self._parameters)
        pairs = place.astype(np.int64) << 32 | copy
        _, first, owner = np.unique(pairs, return_index=True, return_inverse=True)
        if self._apply_to_pictures is None or first.size == pairs.size:
            return _step(self._apply, *rest, *drawing.noisy(*drawing.places(place, copy, text)))
        noisy = drawing.noisy_pictures(*drawing.places(place[first], copy[first]))
        wanted = (owner * drawing.texts + text).astype(np.int32)
        padding = (0, drawing.batch_size * drawing.texts - wanted.size)
        return _step(self._apply_to_pictures, *rest, *noisy, np.pad(wanted, padding, "edge"))

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

    def __init__(self, drawing: Drawing, classifier: Any, abilities: Abilities, classes: int | None):
        super().__init__(drawing, depth=abilities.max_in_flight + 1, classes=classes)
        self._classifier, self._name = classifier, abilities.name
        self._cancel, self._in_flight = abilities.cancel, abilities.max_in_flight
        self._steps: deque[_Step] = deque()  # batches that have copies left to ask for
        self._pieces: deque[tuple[int, Future[tuple[np.ndarray, float]]]] = deque()
        self._piece = 1
        # a door that can give up its questions asks a service, one about each copy, and each may cost money
        self._look_at_company = abilities.cancel is None
        self._workers = ThreadPoolExecutor(self._in_flight, thread_name_prefix="classifier")

    def submit(self, slot: np.ndarray, copy: np.ndarray) -> None:
        """Draw the noise and queue the batch."""
        drawing = self.drawing
        with own_settings():
            noisy = drawing.noisy(*drawing.places(slot, copy, np.zeros_like(slot)))
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

    def give_up(self) -> int:
        """Drop what is queued; the number of copies that went to the classifier and were not collected."""
        return sum(size for size, answer in self._pieces if not answer.cancel())

    def close(self) -> None:
        """Let the workers end; a classifier that can give up what it is at is told to."""
        answers = [answer for _, answer in self._pieces if not answer.cancelled()]
        if self._cancel is not None:
            while wait(answers, 0).not_done:
                self._cancel()
                wait(answers, _CANCEL_SECONDS)  # again: a worker may have been on its way to the classifier
        self._workers.shutdown(wait=True, cancel_futures=True)
        super().close()

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
        start = time.monotonic()
        votes = self._asked(tokens, images, lambda at: step.naming(piece.start + at))
        seconds = time.monotonic() - start
        if self._look_at_company and len(votes) > COMPANY and np.any(votes != votes[0]):
            self._look_at_company = False
            check_host_company(self._asked, tokens, images, votes)
        return votes, seconds

    def _asked(self, tokens: np.ndarray, images: np.ndarray, place: Callable[[int], str] | None = None) -> np.ndarray:
        """What the classifier says of some copies."""
        with raised_by(lambda: f"the classifier {self._name} (called with {pairs_text(tokens, images)})"):
            returned = self._classifier(tokens, images)
        labels = returned_array(returned)
        if labels.shape != (len(tokens),):
            raise ValueError(
                f"The classifier must return one bool or integer per copy, shape ({len(tokens)},), "
                f"got {labels.dtype} of shape {labels.shape}{columns_text(labels.shape, self._classes)}."
            )
        return votes_from_labels(labels, self._classes, place)


def _piece_size(size: int, seconds: float, most: int) -> int:
    """Copies that take about `PIECE_SECONDS`, at most 16 times as many as the last piece had.

    A power of two or a whole batch: a classifier that is compiled for each size sees few of them.
    """
    wanted = size * min(16.0, PIECE_SECONDS / max(seconds, 1e-9))
    return most if wanted >= most else 1 << max(0, int(wanted).bit_length() - 1)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _step(
    apply: Callable[..., Array],
    tolerance: float | None,
    classes: int | None,
    parameters: Any,
    tokens: Array,
    images: Array,
    wanted: Array | None = None,
) -> tuple[Array, Array, Array, Array, Array]:
    """Labels and ties of noisy copies; how many are no votes, the first one, its value.

    With several texts per picture, of the `wanted` ones, numbered picture by picture.
    """
    out = apply(parameters, tokens, images)
    if out.shape != tokens.shape[:-1]:
        advice = columns_text(out.shape, classes) if tokens.ndim == 2 else ""
        raise ValueError(
            f"The classifier must return one label per copy, shape {tokens.shape[:-1]}, got {out.shape}{advice}."
        )
    out = out if wanted is None else out.reshape(-1)[wanted]
    labels, ties, bad = _votes(out, tolerance, classes)
    first = jnp.argmax(bad)
    return labels, ties, bad.sum(dtype=jnp.int32), first, out[first]


def _votes(out: Array, tolerance: float | None, classes: int | None) -> tuple[Array, Array, Array]:
    """Labels, ties, and where there is no vote."""
    if jnp.issubdtype(out.dtype, jnp.floating):
        if tolerance is None:
            raise ValueError(
                f"The classifier must return bool or integers, got {out.dtype}: a score needs a threshold "
                "(--threshold), a margin a tie_tolerance."
            )
        return out > 0, jnp.abs(out) <= tolerance, foreign_margin(out)
    if out.dtype != bool and not jnp.issubdtype(out.dtype, jnp.integer):
        raise ValueError(f"The classifier must return bool or integers, got {out.dtype}.")
    labels = out.astype(bool if classes is None else jnp.int32)
    return labels, jnp.zeros(out.shape, bool), foreign_label(out, classes)
