"""Attention of a batch to itself and to a prefix that the whole batch shares."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

__all__ = ["Implementation", "attend", "attend_with_prefix", "check_implementation"]

Implementation = Literal["auto", "xla", "cudnn"]


def attend(
    query: Float[Array, "batch length heads size"],
    key: Float[Array, "batch keys groups size"],
    value: Float[Array, "batch keys groups size"],
    *,
    causal: bool,
    implementation: Implementation = "auto",
    key_lengths: Int[Array, " batch"] | None = None,
) -> Float[Array, "batch length heads size"]:
    """Softmax attention; `heads` is a multiple of `groups` (grouped queries).

    Keys from `key_lengths` on are not seen. Batches are padded on the right. A causal query sees no later position, so
    padding needs no mask: it spoils only its own outputs.
    """
    with jax.numpy_dtype_promotion("standard"):  # JAX's own kernels mix half precision with float32
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            is_causal=causal,
            key_value_seq_lengths=key_lengths,
            implementation=_choose(implementation, query),
        )


def attend_with_prefix(
    query: Float[Array, "batch length heads size"],
    key: Float[Array, "batch length groups size"],
    value: Float[Array, "batch length groups size"],
    prefix_key: Float[Array, "1 prefix groups size"],
    prefix_value: Float[Array, "1 prefix groups size"],
    *,
    implementation: Implementation = "auto",
) -> Float[Array, "batch length heads size"]:
    """Causal attention to one's own positions after a prefix that all rows of the batch share: one softmax over both.

    Two softmaxes that are merged by their log-sum-exps would not do in half precision: JAX rounds those to the dtype of
    the keys, where a log-sum-exp of 2,048 has steps of 16. Both ways here keep all statistics in float32:

    - XLA: the logits of both parts side by side, so the prefix is never repeated per row.
    - cuDNN: one causal kernel over prefix and own positions, with queries of zeros in the prefix's places. Its extra
      work is that of the prefix, so it serves prefixes that are no longer than the text; longer ones go to XLA.
    """
    if _choose(implementation, query) == "cudnn" and prefix_key.shape[1] <= query.shape[1]:
        return _one_causal_kernel(query, key, value, prefix_key, prefix_value, "cudnn")
    return _side_by_side(query, key, value, prefix_key, prefix_value)


def _one_causal_kernel(
    query: Array, key: Array, value: Array, prefix_key: Array, prefix_value: Array, implementation: Implementation
) -> Array:
    """Attention over prefix and own positions as one text; the first `prefix` outputs are thrown away."""
    batch, prefix = len(query), prefix_key.shape[1]
    queries = jnp.pad(query, ((0, 0), (prefix, 0), (0, 0), (0, 0)))
    keys, values = (
        jnp.concatenate([jnp.broadcast_to(shared, (batch, *shared.shape[1:])), own], axis=1)
        for shared, own in ((prefix_key, key), (prefix_value, value))
    )
    return attend(queries, keys, values, causal=True, implementation=implementation)[:, prefix:]


def _side_by_side(query: Array, key: Array, value: Array, prefix_key: Array, prefix_value: Array) -> Array:
    """`softmax([q k_prefix, q k_own]) [v_prefix, v_own]`: statistics in float32, whatever the dtype."""
    batch, length, heads, size = query.shape
    groups, prefix = key.shape[2], prefix_key.shape[1]
    grouped = query.reshape(batch, length, groups, heads // groups, size)
    logits = jnp.concatenate(
        [
            jnp.einsum("btgrd,sgd->bgrts", grouped, prefix_key[0], preferred_element_type=jnp.float32),
            jnp.einsum("btgrd,bsgd->bgrts", grouped, key, preferred_element_type=jnp.float32),
        ],
        axis=-1,
    ) * np.float32(size**-0.5)
    later = np.triu(np.ones((length, length), bool), 1)
    hidden = np.concatenate([np.zeros((length, prefix), bool), later], axis=1)
    weights = jax.nn.softmax(jnp.where(hidden, np.float32(-jnp.inf), logits), axis=-1).astype(value.dtype)
    mixed = jnp.einsum(
        "bgrts,sgd->btgrd", weights[..., :prefix], prefix_value[0], preferred_element_type=jnp.float32
    ) + jnp.einsum("bgrts,bsgd->btgrd", weights[..., prefix:], value, preferred_element_type=jnp.float32)
    return mixed.reshape(query.shape).astype(query.dtype)


def check_implementation(implementation: str) -> None:
    """Raise one sentence for a name that is not an implementation."""
    if implementation not in ("auto", "xla", "cudnn"):
        raise ValueError(f"attention must be 'auto', 'xla' or 'cudnn', got {implementation!r}.")


def _choose(implementation: Implementation, query: Array) -> Literal["xla", "cudnn"]:
    """The kernel of cuDNN where it exists for the device, the dtype and the head size; XLA elsewhere."""
    if implementation != "auto":
        return implementation
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    size = query.shape[-1]
    return "cudnn" if jax.default_backend() == "gpu" and half and size % 8 == 0 and size <= 128 else "xla"
