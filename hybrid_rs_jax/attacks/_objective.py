"""The smoothed score that the attacker pushes down, made soft, and its gradients through the noise.

Arrays of this module hold N attacks (inputs times restarts) with S noisy copies each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["Target", "gradients", "margins", "noisy_and_kept", "soft_logit"]


class Target(NamedTuple):
    """What is attacked: a margin of embeddings, its parameters, the table, and the noise in front of it."""

    margin: Callable[..., Array]
    smoothing: HybridSmoothing
    temperature: float
    parameters: Any
    table: Float[Array, "vocab width"]


def soft_logit(margin: Float[Array, "*n s"], temperature: float) -> Float[Array, "*n"]:
    """`logit E sigmoid(margin / temperature)` over the last axis.

    The logit is a growing function of the soft score, so it has the same minimum and the same direction of gradient,
    and it does not go flat in float32 where the score is near 0 or 1.
    """
    scaled = margin / jnp.asarray(temperature, margin.dtype)
    log_unsafe = jax.nn.logsumexp(jax.nn.log_sigmoid(scaled), axis=-1)
    return log_unsafe - jax.nn.logsumexp(jax.nn.log_sigmoid(-scaled), axis=-1)


def margins(
    target: Target,
    tokens: Int[Array, "n l"],
    images: Float[Array, "n *pixels"],
    keys: Key[Array, "n s"],
    eligible: Bool[Array, "n l"],
) -> Float[Array, "n s"]:
    """Margins of S noisy copies of each of N inputs; equal keys mean equal noise."""
    noisy, pixels = _noisy_copies(target.smoothing, tokens, images, keys, eligible)
    return _margins_of_embeddings(target, target.table[noisy], pixels)


def gradients(
    target: Target,
    tokens: Int[Array, "n l"],
    images: Float[Array, "n *pixels"],
    keys: Key[Array, "n s"],
    eligible: Bool[Array, "n l"],
) -> tuple[Float[Array, "n l e"], Float[Array, "n *pixels"]]:
    """Gradients of `soft_logit` in the clean token embeddings and in the clean pixels.

    `d/d one-hot[l, v] = <d/d embedding[l], table[v]>`. A position that the noise has replaced shows the network nothing
    of the attacker's token, and adds nothing to the gradient.
    """
    noisy, kept, pixels = noisy_and_kept(target.smoothing, tokens, images, keys, eligible)

    def total(embeddings: Float[Array, "n s l e"], pixels: Float[Array, "n s *pixels"]) -> Float[Array, ""]:
        return soft_logit(_margins_of_embeddings(target, embeddings, pixels), target.temperature).sum()

    # the noise is added to the pixels, so what moves a clean pixel moves each of its noisy copies as much
    slope, pixel_slope = jax.grad(total, argnums=(0, 1))(target.table[noisy], pixels)
    return jnp.where(kept[..., None], slope, jnp.zeros_like(slope)).sum(axis=1), pixel_slope.sum(axis=1)


def noisy_and_kept(
    smoothing: HybridSmoothing,
    tokens: Int[Array, "n l"],
    images: Float[Array, "n *pixels"],
    keys: Key[Array, "n s"],
    eligible: Bool[Array, "n l"],
) -> tuple[Int[Array, "n s l"], Bool[Array, "n s l"], Float[Array, "n s *pixels"]]:
    """Noisy tokens, where the noise let the attacker's token through, and noisy pixels.

    With one key, a kernel hits the same positions whatever the tokens are; so a position is kept if two different
    symbols both come through. One symbol would not do: the mask symbol looks the same whether it was hit or not.
    """
    other = jnp.where(tokens == 0, jnp.ones((), tokens.dtype), jnp.zeros((), tokens.dtype))
    both = jnp.stack([tokens, other], axis=1)
    pair = jax.vmap(smoothing.sample, in_axes=(None, 0, None, None), out_axes=(0, None))
    noisy, pixels = jax.vmap(jax.vmap(pair, in_axes=(0, None, None, None)))(keys, both, images, eligible)
    return noisy[:, :, 0], (noisy == both[:, None]).all(axis=2), pixels


def _noisy_copies(
    smoothing: HybridSmoothing,
    tokens: Int[Array, "n l"],
    images: Float[Array, "n *pixels"],
    keys: Key[Array, "n s"],
    eligible: Bool[Array, "n l"],
) -> tuple[Int[Array, "n s l"], Float[Array, "n s *pixels"]]:
    copies = jax.vmap(smoothing.sample, in_axes=(0, None, None, None))
    return jax.vmap(copies)(keys, tokens, images, eligible)


def _margins_of_embeddings(
    target: Target, embeddings: Float[Array, "n s l e"], images: Float[Array, "n s *pixels"]
) -> Float[Array, "n s"]:
    n, s = embeddings.shape[:2]
    flat = target.margin(
        target.parameters, embeddings.reshape(n * s, *embeddings.shape[2:]), images.reshape(n * s, *images.shape[2:])
    )
    return flat.reshape(n, s)
