"""Pixel steps: gradient descent in an l2 ball, and back to the grid of the noise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from hybrid_rs_jax.kernels._threefry import key_words
from hybrid_rs_jax.kernels.grid import draw_levels, pixel_noise

__all__ = ["descend", "project_l2", "random_images", "to_grid"]

#: Directions of random starts: the integers of a normal whose standard deviation is so many steps.
_DIRECTION_STEPS = 64.0
#: An offset this close to whole steps is whole: what is left is rounding.
_WHOLE = 1e-2


def project_l2(
    images: Float[Array, "n *pixels"], centre: Float[Array, "n *pixels"], epsilon: Float[Array, " n"]
) -> Float[Array, "n *pixels"]:
    """The nearest point of each ball of radius `epsilon` around `centre`: `c + (x - c) min(1, eps / |x - c|)`.

    Points within the ball stay as they are. The computed distance of others may exceed `epsilon` by rounding, which
    `attack` takes back by a shrunken radius.

    Args:
      images: points.
      centre: of each ball.
      epsilon: radius of each ball, at least 0.

    Returns:
      Points, those within their ball unchanged.

    >>> moved = project_l2(jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2)), jnp.array([1.0]))
    >>> round(float(moved[0, 0]), 2), round(float(moved[0, 1]), 2)
    (0.6, 0.8)
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
    """Directions that are uniform up to the rounding of their draws, all the way to the surface of the ball."""
    noise = pixel_noise(_DIRECTION_STEPS, 1.0, centre.dtype)
    draw = jax.vmap(lambda key: draw_levels(key_words(key), centre.shape[1:], noise))(keys).astype(centre.dtype)
    length = jnp.maximum(_norm(draw), jnp.finfo(draw.dtype).tiny)
    return project_l2(centre + draw * _like(epsilon / length, centre), centre, epsilon)


def to_grid(
    images: Float[Array, "n *pixels"], centre: Float[Array, "n *pixels"], epsilon: Float[Array, " n"], step: float
) -> Float[Array, "n *pixels"]:
    """Pictures on the grid within the ball, near the given ones: attacked pictures are pictures (method, section 13).

    `centre` lies on the grid of step `step`. Offsets are cut to whole steps towards the centre, then taken to the next
    step where the cut was largest, as many as the ball allows: where an offset is far less than a step everywhere it
    ends in full steps of those pixels that it pulls at the most.
    """
    unit = jnp.asarray(step, images.dtype)
    offset = ((images - centre) / unit).reshape(len(images), -1)
    whole = jnp.trunc(offset)
    rest = jnp.abs(offset - whole)
    cost = 2 * jnp.abs(whole) + 1
    order = jnp.argsort(-rest, axis=1)
    room = jnp.square(epsilon / unit) - jnp.square(whole).sum(axis=1)
    spent = jnp.cumsum(jnp.take_along_axis(cost, order, axis=1), axis=1)
    rank = jnp.argsort(order, axis=1)
    taken = jnp.take_along_axis(spent <= room[:, None], rank, axis=1) & (rest > _WHOLE)
    levels = jnp.rint(centre / unit) + (whole + jnp.where(taken, jnp.sign(offset), 0)).reshape(images.shape)
    return levels * unit


def _norm(x: Float[Array, "n *pixels"]) -> Float[Array, " n"]:
    return jnp.sqrt(jnp.sum(jnp.square(x.reshape(x.shape[0], -1)), axis=1))


def _like(per_row: Array, images: Float[Array, "n *pixels"]) -> Array:
    return per_row.reshape(-1, *(1,) * (images.ndim - 1))
