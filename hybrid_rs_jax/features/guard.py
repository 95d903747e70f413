"""A vision-language guard as an encoder of text and picture together, and its vision tower as one of pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from hybrid_rs_jax._jax import applied
from hybrid_rs_jax.classifiers.vlm import VlmGuard

__all__ = ["GuardEncoder", "GuardTower"]


class GuardEncoder:
    """The decoder's last hidden state where the two answers part: what the guard decides by, of text and picture.

    With a kernel for the tokens its certified cosine holds for attacks on both at once.

    Args:
      guard: whose features, one that decides by logits.

    Raises:
      ValueError: if the guard generates its answers.
    """

    def __init__(self, guard: VlmGuard):
        _, self._parameters = guard.functional()
        self.guard, self._apply = guard, guard.prompt.forward.hidden

    def __call__(self, tokens: Any, images: Any) -> Float32[Array, "b features"]:
        """Encode each pair: symbols, integers [b, text_length], and floats [b, height, width, 3].

        Raises:
          ValueError: if shapes are not those of the guard.
        """
        wanted = ([self.guard.settings.text_length], [*self.guard.image_size, 3])
        found = tuple(list(np.shape(part)[1:]) for part in (tokens, images))
        if found != wanted:
            raise ValueError(f"tokens and images of a pair must have shapes {wanted[0]} and {wanted[1]}, got {found}.")
        return applied(self._apply, self._parameters, jnp.asarray(tokens, jnp.int32), jnp.asarray(images, jnp.float32))

    def functional(self) -> tuple[Callable[..., Array], Any]:
        """The encoder as a pure function `apply(parameters, tokens, images)`, and the parameters."""
        return self._apply, self._parameters

    def describe(self) -> dict[str, object]:
        """The guard, and the layer."""
        return self.guard.describe() | {
            "name": "hybrid_rs_jax.features.GuardEncoder",
            "layer": "last hidden state where the answers part",
        }


class GuardTower:
    """The vision tower inside of a LLaVA guard: what its projector reads of a picture, as one vector.

    The patches of all views stand side by side, at the guard's own resolution and behind its own image processing; the
    certified cosine is that of all of them together. Tokens are not looked at.

    Args:
      guard: whose tower, of a LLaVA network that decides by logits.

    Raises:
      ValueError: if it has none, or generates its answers.
    """

    def __init__(self, guard: VlmGuard):
        self._apply, self._parameters = guard.tower()
        self.guard = guard

    def __call__(self, tokens: Any, images: Any) -> Float32[Array, "b features"]:
        """Encode each picture, floats [b, height, width, 3].

        Raises:
          ValueError: if pictures are not of the guard's size.
        """
        if (found := list(np.shape(images)[1:])) != (wanted := [*self.guard.image_size, 3]):
            raise ValueError(f"images must have shape {['b', *wanted]}, got {['b', *found]}.")
        return applied(self._apply, self._parameters, jnp.asarray(tokens, jnp.int32), jnp.asarray(images, jnp.float32))

    def functional(self) -> tuple[Callable[..., Array], Any]:
        """The encoder as a pure function `apply(parameters, tokens, images)`, and the parameters."""
        return self._apply, self._parameters

    def describe(self) -> dict[str, object]:
        """The guard, and the layer."""
        layer = {"name": "hybrid_rs_jax.features.GuardTower", "layer": "what the projector reads"}
        return self.guard.describe() | layer
