"""Pixel steps: gradient descent in an l2 ball."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

__all__ = ["descend", "project_l2", "random_images"]


def project_l2(
    images: Float[Array, "n *pixels"], centre: Float[Array, "n *pixels"], epsilon: Float[Array, " n"]
) -> Float[Array, "n *pixels"]:
    """The nearest point of each ball of radius `epsilon` around `centre`: `c + (x - c) min(1, eps / |x - c|)`.

    Points within the ball stay as they are. The computed distance of others may exceed `epsilon` by rounding, which
    `attack` takes back by a shrunken radius.
    """
    offset = images - centre
    length = _norm(offset)
    scale = jnp.where(length > epsilon, epsilon / jnp.where(length > 0, length, jnp.ones_like(length)), 1)
    inside = _like(length <= epsilon, images)
    return jnp.where(inside, images, centre + offset * _like(scale, images))


def descend(
    images: Float[Array, "n *pixels"],
    centre: Float[Array, "n *pixels"],
    gradient: Float[Array, "n *pixels"],
    epsilon: Float[Array, " n"],
    step: Float[Array, " n"],
) -> Float[Array, "n *pixels"]:
    """One step of length `step` against the gradient, back into the ball; no step where the gradient is 0."""
    length = _norm(gradient)
    rate = jnp.where(length > 0, step / jnp.where(length > 0, length, jnp.ones_like(length)), jnp.zeros_like(step))
    return project_l2(images - gradient * _like(rate, images), centre, epsilon)


def random_images(
    keys: Key[Array, " n"], centre: Float[Array, "n *pixels"], epsilon: Float[Array, " n"]
) -> Float[Array, "n *pixels"]:
    """Uniform directions, all the way to the surface of the ball."""
    draw = jax.vmap(lambda key, image: jax.random.normal(key, image.shape, image.dtype))(keys, centre)
    length = jnp.maximum(_norm(draw), jnp.finfo(draw.dtype).tiny)
    return project_l2(centre + draw * _like(epsilon / length, centre), centre, epsilon)


def _norm(x: Float[Array, "n *pixels"]) -> Float[Array, " n"]:
    return jnp.sqrt(jnp.sum(jnp.square(x.reshape(x.shape[0], -1)), axis=1))


def _like(per_row: Array, images: Float[Array, "n *pixels"]) -> Array:
    return per_row.reshape(-1, *(1,) * (images.ndim - 1))
