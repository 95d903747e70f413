"""The generator of all noise: threefry2x32 in counter mode, written out, so that no setting of JAX can exchange it.

A draw owns a key, `fold(fold(run key, index), draw)`, equal to JAX's own `fold_in` of a threefry key. What is drawn
under a key comes in streams that are independent of each other: word `i` of stream `s` is the block cipher at the
counter `(s, i)`. So the noise of a picture does not depend on how much noise its text takes, and a new kind of noise
takes a new stream without moving the others. JAX's own derivations (`split`, `fold_in`) use counters that begin with
0, streams never do.

Written out (20 rounds of additions, rotations and exclusive ors of 32-bit words) it fuses with what is made of the
words: on a CPU ten times faster than JAX's primitive, which loops over the rounds.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

__all__ = ["IMAGE", "TOKEN_HITS", "TOKEN_SYMBOLS", "fold", "key_words", "random_words", "run_key", "typed_key"]

#: Streams; each number is used for one purpose.
IMAGE, TOKEN_HITS, TOKEN_SYMBOLS = 0x696D6167, 0x746F6B31, 0x746F6B32

_IMPLEMENTATION = "threefry2x32"
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA

Words = UInt32[Array, "2"]


def run_key(seed: int) -> jax.Array:
    """The run key of a seed in 0..2^64-1: what `jax.random.key(seed)` is where the environment has changed nothing.

    Args:
      seed: an integer in 0..2^64-1.

    Returns:
      A threefry key.

    Raises:
      ValueError: if the seed is out of range.

    >>> run_key(0).shape
    ()
    """
    if isinstance(seed, bool) or seed != int(seed) or not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must be an integer in 0..2^64-1, got {seed}.")
    words = np.array([int(seed) >> 32, int(seed) & 0xFFFFFFFF], np.uint32)
    return typed_key(jnp.asarray(words))


def typed_key(words: Words) -> jax.Array:
    """Two words as a JAX key of the generator."""
    return jax.random.wrap_key_data(words, impl=_IMPLEMENTATION)


def key_words(key: jax.Array) -> Words:
    """The two words of a key, typed or raw, inside or outside of `jit`.

    A key of another generator is turned into one of this: rbg keys hold the words of the same seed twice, so a seed
    gives the same draws whatever `jax_default_prng_impl` says; other data is hashed.

    Raises:
      ValueError: for what is no key, or more than one.
    """
    if (dtype := getattr(key, "dtype", None)) is None or not _is_key(dtype):
        raise ValueError(f"key must be a JAX key, as jax.random.key(0) gives one, got {key!r:.80}.")
    data = key if dtype == jnp.uint32 else jax.random.key_data(key)
    if data.shape == (2,):
        return data
    if data.shape != (4,):
        raise ValueError(f"key must be one JAX key of 2 or 4 words, got key data of shape {list(data.shape)}.")
    first, second = data[:2], data[2:]
    mixed = jnp.stack(threefry(first[0], first[1], second[0], second[1]))
    return jnp.where((first == second).all(), first, mixed)


def _is_key(dtype: Any) -> bool:
    return dtype == jnp.uint32 or bool(jnp.issubdtype(dtype, jax.dtypes.prng_key))


def fold(words: Words, number: jax.Array) -> Words:
    """The key of `number` under a key, as `jax.random.fold_in` gives it."""
    return jnp.stack(threefry(words[0], words[1], jnp.zeros((), jnp.uint32), number.astype(jnp.uint32)))


def random_words(
    words: Words, stream: int, shape: tuple[int, ...]
) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """Two independent uniform words for each element of `shape`, which has at most 2^32 elements."""
    counter = jax.lax.iota(jnp.uint32, int(np.prod(shape, dtype=np.int64))).reshape(shape)
    return threefry(words[0], words[1], jnp.uint32(stream), counter)


def threefry(key0: jax.Array, key1: jax.Array, x0: jax.Array, x1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The block cipher threefry2x32 with 20 rounds (Salmon et al. 2011); arguments broadcast, all uint32."""
    keys = (key0, key1, key0 ^ key1 ^ jnp.uint32(_PARITY))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for group in range(5):
        for turn in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << jnp.uint32(turn)) | (x1 >> jnp.uint32(32 - turn)))
        x0, x1 = x0 + keys[(group + 1) % 3], x1 + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return x0, x1
