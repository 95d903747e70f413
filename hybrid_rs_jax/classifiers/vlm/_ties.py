"""How far rounding moves a margin: where the same copy stands in another batch, or shares its picture."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hybrid_rs_jax.classifiers.vlm.forward import CompiledPrompt

__all__ = ["largest_change", "tie_tolerance"]

# Changes of margins between batches of 1, 3, 7, 16 and 64 on a CPU, for random networks of 2 layers of width 32 and of
# 8 layers of width 256, whose margins span 0.2 and 8: at most 2.5e-5 in float32 and 0.29 in bfloat16. Not measured on
# trained weights.
_ON_CPU = {"float32": 1e-3, "bfloat16": 1.0}
#: Elsewhere the guard itself is asked, and what is seen on a few copies is taken so many times.
_SAFETY = 4.0
_PICTURES, _TEXTS = 2, 4


def tie_tolerance(prompt: CompiledPrompt, dtype: str, symbols: int, text_length: int) -> float:
    """The largest change of a margin by rounding that is expected; measured, not proved.

    Args:
      prompt: with a picture.
      dtype: of the computation.
      symbols: size of the alphabet.
      text_length: positions of the text.
    """
    if jax.default_backend() == "cpu":
        return _ON_CPU[dtype]
    change, size = largest_change(prompt, symbols, text_length)
    return max(_SAFETY * change, float(jnp.finfo(dtype).eps) * size)


@lru_cache(maxsize=8)
def largest_change(prompt: CompiledPrompt, symbols: int, text_length: int) -> tuple[float, float]:
    """Largest difference between margins of the same eight pairs in three kinds of batches, and the largest margin.

    They go through one by one, in one batch, and as texts that share their pictures; noise takes the place of inputs.
    """
    random, plan = np.random.default_rng(0), prompt.layout.pixels
    assert plan is not None, "the prompt has a picture"
    tokens = random.integers(1, symbols, (_PICTURES * _TEXTS, text_length)).astype(np.int32)
    images = random.normal(0.5, 0.5, (_PICTURES, *plan.image_size, 3)).astype(np.float32)
    each = np.repeat(images, _TEXTS, axis=0)

    def margins(texts: np.ndarray, pictures: np.ndarray) -> Float[np.ndarray, " pairs"]:
        return np.asarray(prompt.margin(jnp.asarray(texts), jnp.asarray(pictures)), np.float64)

    alone = np.concatenate([margins(tokens[i : i + 1], each[i : i + 1]) for i in range(len(tokens))])
    by_picture: Any = jnp.asarray(tokens.reshape(_PICTURES, _TEXTS, -1)), jnp.asarray(images)
    shared = jax.jit(prompt.forward.of_pictures)(prompt.parameters, *by_picture)
    found = np.stack([alone, margins(tokens, each), np.asarray(shared, np.float64).reshape(-1)])
    return float(np.ptp(found, axis=0).max()), float(np.abs(found).max())
