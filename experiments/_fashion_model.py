"""A small convolutional classifier of Fashion-MNIST, trained with or without noise."""

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

__all__ = ["Classifier", "load_or_train"]

BATCH = 128
RATE = 2e-3


class Network(nnx.Module):
    """Two convolutions with stride two, two dense layers: 0.8 MFLOP per picture."""

    def __init__(self, rngs: nnx.Rngs):
        options: dict[str, Any] = {"strides": 2, "rngs": rngs, "dtype": jnp.float32}
        self.first = nnx.Conv(1, 16, (5, 5), **options)
        self.second = nnx.Conv(16, 32, (3, 3), **options)
        self.hidden = nnx.Linear(7 * 7 * 32, 64, rngs=rngs, dtype=jnp.float32)
        self.out = nnx.Linear(64, len(CLASSES), rngs=rngs, dtype=jnp.float32)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = nnx.relu(self.second(nnx.relu(self.first(2 * images - 1))))
        return self.out(nnx.relu(self.hidden(x.reshape(len(images), -1))))


class Classifier:
    """The class of each picture, as a base classifier with ten classes; tokens are not looked at."""

    classes = len(CLASSES)

    def __init__(self, parameters: Any):
        self.parameters = parameters

    def __call__(self, tokens: Any, images: Any) -> jax.Array:
        return _jitted(self.parameters, tokens, images)

    def functional(self) -> tuple[Callable[..., jax.Array], Any]:
        """The class as a function of the parameters."""
        return _apply, self.parameters

    def describe(self) -> dict[str, str]:
        """Name and digest of the weights."""
        digest = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(self.parameters)))
        return {"name": "fashion classifier", "weights_sha256": digest.hexdigest()}


def load_or_train(path: Path, pictures: Callable[[], Pictures], sigma: float, steps: int, seed: int) -> Classifier:
    """The classifier that an earlier call left at `path`, or a new one.

    Args:
      path: .npz file.
      pictures: gives the training set, if it is needed.
      sigma: noise that is added to each training picture; 0: none.
      steps: updates with 128 pictures.
      seed: of weights, pictures and noise.

    Raises:
      BadInputError: if the file is of other settings.
    """
    settings = f"sigma {sigma} steps {steps} seed {seed}"
    leaves, structure = jax.tree.flatten(_graph()[1])
    if path.exists():
        with np.load(path) as file:
            if str(file["settings"]) != settings:
                raise BadInputError(f"{path} holds a classifier of other settings; choose another folder.")
            return Classifier(jax.tree.unflatten(structure, [jnp.asarray(file[str(i)]) for i in range(len(leaves))]))
    parameters = _train(pictures(), sigma, steps, seed)
    arrays: dict[str, Any] = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(parameters))}
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, settings=np.array(settings), **arrays)
    return Classifier(parameters)


def _train(pictures: Pictures, sigma: float, steps: int, seed: int) -> Any:
    graph, parameters = nnx.split(Network(nnx.Rngs(seed)))
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))
    images, labels = jnp.asarray(pictures.images), jnp.asarray(pictures.labels)

    def loss_of(parameters: Any, step: jax.Array) -> jax.Array:
        which, noise = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
        chosen = jax.random.randint(which, (BATCH,), 0, len(images))
        seen = images[chosen] + sigma * jax.random.normal(noise, (BATCH, *images.shape[1:]))
        logits = nnx.merge(graph, parameters)(seen)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen]).mean()

    @jax.jit
    def update(parameters: Any, state: Any, step: jax.Array) -> tuple[Any, Any]:
        slopes = jax.grad(loss_of)(parameters, step)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
            changes, state = optimizer.update(slopes, state)
        return optax.apply_updates(parameters, changes), state

    state = optimizer.init(parameters)
    for step in range(steps):
        parameters, state = update(parameters, state, np.uint32(step))
    return parameters


@functools.cache
def _graph() -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: Network(nnx.Rngs(0))))


def _apply(parameters: Any, tokens: jax.Array, images: jax.Array) -> jax.Array:
    return jnp.argmax(nnx.merge(_graph()[0], parameters)(images), axis=-1).astype(jnp.int32)


_jitted = jax.jit(_apply)
