"""Attention of a batch to itself and to a prefix that the whole batch shares."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["Implementation", "attend", "attend_with_prefix", "check_implementation"]

Implementation = Literal["auto", "xla", "cudnn"]


def attend(
    query: Float[Array, "batch length heads size"],
    key: Float[Array, "batch keys groups size"],
    value: Float[Array, "batch keys groups size"],
    *,
    causal: bool,
    implementation: Implementation = "auto",
) -> Float[Array, "batch length heads size"]:
    """Softmax attention; `heads` is a multiple of `groups` (grouped queries).

    Batches are padded on the right. A causal query sees no later position, so padding needs no mask: it spoils only
    its own outputs.
    """
    with jax.numpy_dtype_promotion("standard"):  # JAX's own kernels mix half precision with float32
        return jax.nn.dot_product_attention(
            query, key, value, is_causal=causal, implementation=_choose(implementation, query)
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
    """Causal attention to one's own positions after a prefix that all rows of the batch share.

    The two parts are computed apart and merged by their log-sum-exp, which is one softmax over both. For the prefix
    part the batch is folded into the length, so the prefix is never repeated per row.
    """
    batch, length, heads, size = query.shape
    chosen = _choose(implementation, query)
    folded = query.reshape(1, batch * length, heads, size)
    with jax.numpy_dtype_promotion("standard"):
        own, own_mass = jax.nn.dot_product_attention(
            query, key, value, is_causal=True, implementation=chosen, return_residual=True
        )
        shared, shared_mass = jax.nn.dot_product_attention(
            folded, prefix_key, prefix_value, implementation=chosen, return_residual=True
        )
    weight = jax.nn.sigmoid(
        own_mass.astype(jnp.float32) - shared_mass.reshape(batch, length, heads).astype(jnp.float32)
    )[..., None]
    merged = weight * own.astype(jnp.float32) + (1 - weight) * shared.reshape(query.shape).astype(jnp.float32)
    return merged.astype(query.dtype)


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
