"""The built-in demo guard as an encoder of text and picture together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float32

from hybrid_rs_jax.classifiers.demo_guard import DemoGuard
from hybrid_rs_jax.models.demo_guard import DemoGuardConfig, DemoGuardNetwork

__all__ = ["DemoEncoder"]


class DemoEncoder:
    """The demo guard's last layer but one at the position that decides: 64 numbers per pair, of text and picture.

    Mean cosine between two of the demo's 454 inputs: .29 if both are Unsafe, .36 if both are Safe, -.21 otherwise. A
    certified cosine is to be read beside these.

    Args:
      guard: whose features; `DemoEncoder.load()` takes the trained guard of the package.
    """

    def __init__(self, guard: DemoGuard):
        self.guard, self.config = guard, guard.config
        self._parameters = guard.functional()[1]

    @classmethod
    def load(cls) -> DemoEncoder:
        """The encoder of the trained guard that the package brings along."""
        return cls(DemoGuard.load())

    def __call__(self, tokens: Any, images: Any) -> Float32[Array, "b features"]:
        """Encode each pair: integers [b, 16] in 0..511, floats [b, 8, 8, 1]."""
        return _jitted(self.config)(self._parameters, tokens, images)

    def functional(self) -> tuple[Callable[..., Array], Any]:
        """The encoder as a pure function `apply(parameters, tokens, images)`, and the parameters."""
        return _apply(self.config), self._parameters

    def describe(self) -> dict[str, str]:
        """Name, and SHA-256 of the weights."""
        return self.guard.describe() | {
            "name": "hybrid_rs_jax.features.DemoEncoder",
            "layer": "joint_up at the strongest position",
        }


@functools.cache
def _apply(config: DemoGuardConfig) -> Callable[..., Array]:
    graph, _ = nnx.split(nnx.eval_shape(lambda: DemoGuardNetwork(config, nnx.Rngs(0))))

    def apply(parameters: Any, tokens: Array, images: Array) -> Array:
        network = nnx.merge(graph, parameters)
        states = network.hidden_states(tokens, images)
        strongest = network.scores(states).argmax(axis=1)
        return jnp.take_along_axis(states, strongest[:, None, None], axis=1)[:, 0]

    return apply


@functools.cache
def _jitted(config: DemoGuardConfig) -> Callable[..., Array]:
    return jax.jit(_apply(config))
