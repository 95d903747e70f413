"""A vision-language guard as an encoder of text and picture together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from hybrid_rs_jax.classifiers.vlm import VlmGuard

__all__ = ["GuardEncoder"]


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
        return _jitted(self._apply, self._parameters, jnp.asarray(tokens, jnp.int32), jnp.asarray(images, jnp.float32))

    def functional(self) -> tuple[Callable[..., Array], Any]:
        """The encoder as a pure function `apply(parameters, tokens, images)`, and the parameters."""
        return self._apply, self._parameters

    def describe(self) -> dict[str, object]:
        """The guard, and the layer."""
        return self.guard.describe() | {
            "name": "hybrid_rs_jax.features.GuardEncoder",
            "layer": "last hidden state where the answers part",
        }


_jitted: Any = jax.jit(lambda apply, *arguments: apply(*arguments), static_argnums=0)
