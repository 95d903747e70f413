"""A small vision transformer for Fashion-MNIST: an encoder whose features are compared by their cosine."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _fashion import CLASSES, Pictures
from flax import nnx

from hybrid_rs_jax._files import atomic_file
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.features import PrototypeHead

__all__ = ["Encoder", "Nearest", "load", "load_or_train"]

PATCH, WIDTH, LAYERS, HEADS = 7, 48, 3, 3
BATCH, RATE = 128, 2e-3
#: Sharpness of the softmax over cosines: it draws the classes apart.
SHARPNESS = 16.0


class Layer(nnx.Module):
    """Attention and two dense layers, each on the normalised input and added to it."""

    def __init__(self, rngs: nnx.Rngs):
        self.norm1, self.norm2 = (nnx.LayerNorm(WIDTH, rngs=rngs, dtype=jnp.float32) for _ in range(2))
        self.mixed = nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs, dtype=jnp.float32)
        self.out = nnx.Linear(WIDTH, WIDTH, rngs=rngs, dtype=jnp.float32)
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs, dtype=jnp.float32)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs, dtype=jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        query, key, value = jnp.split(self.mixed(self.norm1(x)).reshape(*x.shape[:2], 3 * HEADS, -1), 3, axis=2)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * jnp.float32((WIDTH // HEADS) ** -0.5)
        x = x + self.out(jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value).reshape(x.shape))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class Network(nnx.Module):
    """16 patches of 7 x 7 pixels, three layers, the mean over the patches: 48 features, 87,000 parameters."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Linear(PATCH * PATCH, WIDTH, rngs=rngs, dtype=jnp.float32)
        self.position = nnx.Param(0.1 * jax.random.normal(rngs.params(), (1, (28 // PATCH) ** 2, WIDTH), jnp.float32))
        self.layers = nnx.List([Layer(rngs) for _ in range(LAYERS)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs, dtype=jnp.float32)
        self.classes = nnx.Param(jax.random.normal(rngs.params(), (len(CLASSES), WIDTH), jnp.float32))

    def __call__(self, images: jax.Array) -> jax.Array:
        side = 28 // PATCH
        cut = (2 * images - 1).reshape(-1, side, PATCH, side, PATCH).transpose(0, 1, 3, 2, 4)
        x = self.embed(cut.reshape(-1, side * side, PATCH * PATCH)) + self.position[...]
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).mean(axis=1)

    def logits(self, images: jax.Array) -> jax.Array:
        """Cosines with one learned direction per class, for training."""
        return jnp.float32(SHARPNESS) * (_unit(self(images)) @ _unit(self.classes[...]).T)


class Encoder:
    """Features of each picture; tokens are not looked at."""

    def __init__(self, parameters: Any):
        self.parameters = parameters

    def __call__(self, tokens: Any, images: Any) -> jax.Array:
        return _jitted(self.parameters, tokens, images)

    def functional(self) -> tuple[Callable[..., jax.Array], Any]:
        """The features as a function of the parameters."""
        return _apply, self.parameters

    def describe(self) -> dict[str, str]:
        """Name and digest of the weights."""
        digest = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(self.parameters)))
        return {"name": "fashion encoder", "weights_sha256": digest.hexdigest()}

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features of clean pictures, in batches."""
        parts = [images[start : start + 1000] for start in range(0, len(images), 1000)]
        return np.concatenate([np.asarray(self(np.zeros((len(part), 1), np.int32), part)) for part in parts])


class Nearest:
    """The class of the nearest prototype of each copy's feature: what plain randomized smoothing votes on."""

    classes = len(CLASSES)

    def __init__(self, encoder: Any, head: PrototypeHead):
        self.encoder, self.head = encoder, head

    def __call__(self, tokens: Any, images: Any) -> jax.Array:
        apply, parameters = self.functional()
        return apply(parameters, tokens, images)

    def functional(self) -> tuple[Callable[..., jax.Array], Any]:
        """The class as a function of the encoder's parameters and the prototypes."""
        inner, parameters = self.encoder.functional()
        return _nearest(inner), (parameters, self.head.prototypes.astype(np.float32))


def load_or_train(path: Path, pictures: Callable[[], Pictures], steps: int, seed: int) -> Encoder:
    """The encoder that an earlier call left at `path`, or a new one, trained without noise; its weights are float16.

    Raises:
      BadInputError: if the file is of other settings.
    """
    settings = f"steps {steps} seed {seed}"
    if not path.exists():
        trained = jax.tree.leaves(_train(pictures(), steps, seed))
        stored: dict[str, Any] = {str(i): np.asarray(leaf, np.float16) for i, leaf in enumerate(trained)}
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, settings=np.array(settings), **stored)
    return load(path, settings)


def load(path: Path, settings: str | None = None) -> Encoder:
    """The encoder at `path`.

    Raises:
      BadInputError: if the file is of other settings.
    """
    leaves, structure = jax.tree.flatten(_graph()[1])
    with np.load(path) as file:
        if settings not in (None, str(file["settings"])):
            raise BadInputError(f"{path} holds an encoder of other settings; choose another folder.")
        found = [jnp.asarray(file[str(i)], jnp.float32) for i in range(len(leaves))]
    return Encoder(jax.tree.unflatten(structure, found))


def _train(pictures: Pictures, steps: int, seed: int) -> Any:
    graph, parameters = nnx.split(Network(nnx.Rngs(seed)))
    optimizer = optax.adamw(optax.cosine_decay_schedule(RATE, steps), weight_decay=1e-2)
    images, labels = jnp.asarray(pictures.images), jnp.asarray(pictures.labels)

    def loss_of(parameters: Any, chosen: jax.Array) -> jax.Array:
        logits = nnx.merge(graph, parameters).logits(images[chosen])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen]).mean()

    @jax.jit
    def update(parameters: Any, state: Any, step: jax.Array) -> tuple[Any, Any]:
        chosen = jax.random.randint(jax.random.fold_in(jax.random.key(seed), step), (BATCH,), 0, len(images))
        slopes = jax.grad(loss_of)(parameters, chosen)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
            changes, state = optimizer.update(slopes, state, parameters)
        return optax.apply_updates(parameters, changes), state

    state = optimizer.init(parameters)
    for step in range(steps):
        parameters, state = update(parameters, state, np.uint32(step))
    return parameters


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@functools.cache
def _graph() -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: Network(nnx.Rngs(0))))


def _apply(parameters: Any, tokens: jax.Array, images: jax.Array) -> jax.Array:
    return nnx.merge(_graph()[0], parameters)(images)


_jitted = jax.jit(_apply)


@functools.cache
def _nearest(inner: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def apply(parameters: Any, tokens: jax.Array, images: jax.Array) -> jax.Array:
        behind, prototypes = parameters
        return jnp.argmax(inner(behind, tokens, images) @ prototypes.T, axis=-1).astype(jnp.int32)

    return apply
