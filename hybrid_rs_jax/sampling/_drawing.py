"""Inputs in slots on the devices, and the noise on them: two compiled programs that serve all classifiers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key

from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.kernels._threefry import fold, key_words
from hybrid_rs_jax.kernels.grid import round_to_grid
from hybrid_rs_jax.kernels.smoothing import HybridNoise
from hybrid_rs_jax.sampling._trial import TRIAL_COPIES

__all__ = ["Drawing", "Row", "data_mesh"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One score on its way to the devices: an input, and which of its positions are forced.

    Attributes:
      tokens: int[L] clean token ids; image: float[H, W, C] clean pixels; eligible: bool[L], positions with token noise.
      index: number of the input within the run; the noise is keyed by it.
      forced: bool[L], positions that are resampled in every draw; None: ordinary draws.
      drawn, votes: what an earlier session has counted already.
      rule: number of the stopping rule that decides it, of those that the engine was given.
    """

    tokens: np.ndarray
    image: np.ndarray
    eligible: np.ndarray
    index: int
    drawn: int = 0
    votes: Any = 0
    forced: np.ndarray | None = None
    rule: int = 0

    def always(self, texts: int) -> np.ndarray | None:
        """The forced positions; where several texts share a picture those of ordinary draws are none, but named."""
        return np.zeros(self.eligible.shape, bool) if self.forced is None and texts > 1 else self.forced


class Slots(NamedTuple):
    """The inputs at work: tokens [S, L], images [S, H, W, C], eligible [S, L], number uint32[S] of each in the run.

    Where pixels carry noise `images` holds their levels on the grid, int32. Forced [S, K, L] belongs to the K texts of
    a picture; None for ordinary draws.
    """

    tokens: Array
    images: Array
    eligible: Array
    number: Array
    forced: Array | None = None


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


class Drawing:
    """Inputs in slots on the devices, and the noise on them.

    An input may have several texts, which differ in their forced positions and share its picture and its noise.

    Attributes:
      batch_size: largest number of noisy pictures per step, a multiple of the devices.
      texts: room for texts per input.
      everywhere: the sharding of what all devices hold.
      noise, slots: arguments of the compiled programs.
    """

    def __init__(
        self,
        smoothing: HybridSmoothing,
        key: Key[Array, ""],
        batch_size: int,
        slots: int,
        row: Row,
        mesh: Mesh,
        texts: int = 1,
    ):
        shards, self.texts = mesh.shape["data"], texts
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
        like += [] if (forced := row.always(texts)) is None else [np.stack([forced] * texts)]
        self.slots = Slots(*(jnp.zeros((slots, *x.shape), x.dtype, device=self.everywhere) for x in like))

    def _stored(self, image: np.ndarray) -> np.ndarray:
        """What a slot holds of a picture."""
        return image.astype(self._dtype) if self._step is None else round_to_grid(image, self._step)[0]

    def load(self, slots: Sequence[int], inputs: Sequence[Sequence[Row]]) -> None:
        """Put inputs, each with its texts, into slots; their number is rounded up to a power of two: few programs."""
        number = 1 << (len(slots) - 1).bit_length()
        rows = [texts[0] for texts in inputs]
        padded = [*rows, *[rows[-1]] * (number - len(rows))]
        images = [self._stored(row.image) for row in rows]
        forced = [self._forced(texts) for texts in [*inputs, *[inputs[-1]] * (number - len(rows))]]
        columns = (
            np.stack([row.tokens for row in padded]),
            np.stack([*images, *[images[-1]] * (number - len(rows))]),
            np.stack([row.eligible for row in padded]),
            np.array([row.index for row in padded], np.uint32),
            *([] if forced[0] is None else [np.stack([each for each in forced if each is not None])]),
        )
        where = np.array([*slots, *[slots[-1]] * (number - len(slots))], np.int32)
        self._numbers[where] = columns[3]
        self.slots = _put(self.slots, *jax.device_put((where, columns), self.everywhere))

    def _forced(self, texts: Sequence[Row]) -> np.ndarray | None:
        """Forced positions of each text of an input; the last one's in the places that are left."""
        masks = [mask for row in texts if (mask := row.always(self.texts)) is not None]
        return np.stack([*masks, *masks[-1:] * (self.texts - len(masks))]) if masks else None

    def places(self, *columns: np.ndarray) -> tuple[Array, ...]:
        """Pad a batch with its last entry and spread it over the devices."""
        padded = tuple(np.pad(column, (0, self.batch_size - column.size), "edge") for column in columns)
        return tuple(jax.device_put(padded, self._spread))

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
        self.load([0], [[row]])
        zeros = np.zeros(TRIAL_COPIES, np.int32)
        numbers = np.arange(2 * TRIAL_COPIES, dtype=np.uint32).reshape(2, -1)
        return [self.noisy(zeros, copy, zeros) for copy in numbers]

    def noisy(self, slot: Any, copy: Any, text: Any) -> tuple[Array, Array]:
        """Noisy copies of a batch; keys come from a program of their own, or they are derived again for each pixel."""
        return _noisy(self.noise, self.slots, self._keys(slot, copy), slot, text)

    def noisy_pictures(self, slot: Any, copy: Any) -> tuple[Array, Array]:
        """Noisy pictures of a batch, each with all texts of its input: tokens [pictures, texts, length]."""
        return _noisy_pictures(self.noise, self.slots, self._keys(slot, copy), slot)

    def _keys(self, slot: Any, copy: Any) -> Array:
        return _keys(self._key, self.slots.number, slot, copy)


@functools.partial(jax.jit, donate_argnums=0)
def _put(slots: Slots, where: Array, rows: tuple[Array, ...]) -> Slots:
    # a slot's forced positions are None where rows have none
    return Slots(*(old.at[where].set(new) for old, new in zip(slots, rows, strict=False) if old is not None))


@jax.jit
def _keys(key: Array, number: Array, slot: Array, copy: Array) -> Array:
    """The key of each (slot, copy): it depends on (key, index of the input, copy) alone."""
    return jax.vmap(lambda i, s: fold(fold(key, number[i]), s))(slot, copy)


@jax.jit
def _noisy(noise: HybridNoise, slots: Slots, keys: Array, slot: Array, text: Array) -> tuple[Array, Array]:
    """One noisy copy of the input in each slot, with one of its texts, under each key.

    Numbers of the noise are arguments: a sweep over sigma, beta or the alphabet compiles once.
    """

    def one(own: Array, i: Array, k: Array) -> tuple[Array, Array]:
        forced = None if slots.forced is None else slots.forced[i, k]
        return noise(own, slots.tokens[i], slots.images[i], slots.eligible[i], forced)

    return jax.vmap(one)(keys, slot, text)


@jax.jit
def _noisy_pictures(noise: HybridNoise, slots: Slots, keys: Array, slot: Array) -> tuple[Array, Array]:
    """One noisy picture of the input in each slot, and under the same key all of its texts."""
    assert slots.forced is not None

    def one(own: Array, i: Array, forced: Array) -> tuple[Array, Array]:
        return noise(own, slots.tokens[i], slots.images[i], slots.eligible[i], forced)

    texts = jax.vmap(one, in_axes=(None, None, 0), out_axes=(0, None))
    return jax.vmap(lambda own, i: texts(own, i, slots.forced[i]))(keys, slot)  # type: ignore[index]
