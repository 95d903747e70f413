"""Attention of a batch to itself and to prefixes that its rows share."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

__all__ = ["Implementation", "attend", "attend_last", "attend_with_prefix", "check_implementation"]

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
    prefix_key: Float[Array, "prefixes prefix groups size"],
    prefix_value: Float[Array, "prefixes prefix groups size"],
    *,
    implementation: Implementation = "auto",
) -> Float[Array, "batch length heads size"]:
    """Causal attention to one's own positions after a prefix: one softmax over both.

    `prefixes` divides `batch`, and rows that share a prefix follow each other: row `i` continues prefix
    `i // (batch / prefixes)`. No prefix is repeated per row where several rows share it.

    Two softmaxes that are merged by their log-sum-exps would not do in half precision: JAX rounds those to the dtype of
    the keys, where a log-sum-exp of 2,048 has steps of 16. All ways here keep all statistics in float32:

    - XLA: the logits of both parts side by side.
    - cuDNN: one causal kernel over prefix and own positions, with queries of zeros in the prefix's places. Its extra
      work is that of the prefix, so it serves prefixes that are no longer than the text.
    - cuDNN, longer prefixes: the rows that share one lie behind it as one text, and a mask keeps them apart. Its extra
      work is that of the masked pairs of rows, so it serves rows that are together no longer than their prefix.

    Whatever is left goes to XLA.
    """
    parts = query, key, value, prefix_key, prefix_value
    if _choose(implementation, query) == "cudnn":
        prefix, shared = prefix_key.shape[1], len(query) // len(prefix_key)
        if prefix <= query.shape[1]:
            return _one_causal_kernel(*parts, "cudnn")
        if shared * query.shape[1] <= prefix:
            return _one_masked_kernel(*parts, "cudnn")
    later = np.triu(np.ones((query.shape[1],) * 2, bool), 1)
    return _side_by_side(query, key, value, (prefix_key, prefix_value), ~later[None])


def attend_last(
    query: Float[Array, "batch 1 heads size"],
    key: Float[Array, "batch length groups size"],
    value: Float[Array, "batch length groups size"],
    lengths: Int[Array, " batch"],
    prefix: tuple[Float[Array, "prefixes prefix groups size"], Float[Array, "prefixes prefix groups size"]] | None,
) -> Float[Array, "batch 1 heads size"]:
    """Attention of each row's last position, number `lengths - 1`, to its prefix, what stands before it and itself."""
    shown = jnp.arange(key.shape[1], dtype=lengths.dtype) < lengths[:, None]
    return _side_by_side(query, key, value, prefix, shown[:, None])


def _one_causal_kernel(
    query: Array, key: Array, value: Array, prefix_key: Array, prefix_value: Array, implementation: Implementation
) -> Array:
    """Attention over prefix and own positions as one text; the first `prefix` outputs are thrown away."""
    shared, prefix = len(query) // len(prefix_key), prefix_key.shape[1]
    queries = jnp.pad(query, ((0, 0), (prefix, 0), (0, 0), (0, 0)))
    keys, values = (
        jnp.concatenate([jnp.repeat(before, shared, axis=0, total_repeat_length=len(query)), own], axis=1)
        for before, own in ((prefix_key, key), (prefix_value, value))
    )
    return attend(queries, keys, values, causal=True, implementation=implementation)[:, prefix:]


def _one_masked_kernel(
    query: Array, key: Array, value: Array, prefix_key: Array, prefix_value: Array, implementation: Implementation
) -> Array:
    """Attention of all rows that share a prefix as one text behind it, each row to the prefix and itself."""
    prefixes, prefix, (batch, length) = len(prefix_key), prefix_key.shape[1], query.shape[:2]
    shared = batch // prefixes
    own = np.kron(np.eye(shared, dtype=bool), np.tril(np.ones((length, length), bool)))
    mask = np.concatenate([np.ones((shared * length, prefix), bool), own], axis=1)
    queries, keys, values = (part.reshape(prefixes, -1, *part.shape[2:]) for part in (query, key, value))
    with jax.numpy_dtype_promotion("standard"):
        mixed = jax.nn.dot_product_attention(
            queries,
            jnp.concatenate([prefix_key, keys], axis=1),
            jnp.concatenate([prefix_value, values], axis=1),
            mask=jnp.asarray(mask)[None, None],
            implementation=None if implementation == "auto" else implementation,
        )
    return mixed.reshape(query.shape)


def _side_by_side(
    query: Array, key: Array, value: Array, prefix: tuple[Array, Array] | None, shown: np.ndarray | Array
) -> Array:
    """`softmax([q k_prefix, q k_own]) [v_prefix, v_own]`: statistics in float32, whatever the dtype.

    `shown` [rows, queries, keys] says which own positions are seen; rows may be one for all.
    """
    batch, length, heads, size = query.shape
    groups, own = key.shape[2], key.shape[1]
    grouped = query.reshape(batch, length, groups, heads // groups, size)
    logits = [
        jnp.where(
            shown[:, None, None], jnp.einsum("btgrd,bsgd->bgrts", grouped, key, preferred_element_type=jnp.float32),
            np.float32(-jnp.inf),
        )
    ]  # fmt: skip
    if prefix is not None:
        before = len(prefix[0])
        together = grouped.reshape(before, batch // before, *grouped.shape[1:])
        long = jnp.einsum("pktgrd,psgd->pkgrts", together, prefix[0], preferred_element_type=jnp.float32)
        logits.append(long.reshape(*logits[0].shape[:-1], -1))
    weights = jax.nn.softmax(jnp.concatenate(logits, axis=-1) * np.float32(size**-0.5), axis=-1).astype(value.dtype)
    mixed = jnp.einsum("bgrts,bsgd->btgrd", weights[..., :own], value, preferred_element_type=jnp.float32)
    if prefix is not None:
        far = weights[..., own:].reshape(*long.shape)
        seen = jnp.einsum("pkgrts,psgd->pktgrd", far, prefix[1], preferred_element_type=jnp.float32)
        mixed = mixed + seen.reshape(mixed.shape)
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
