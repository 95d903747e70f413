"""Targeted attacks on features, by the objectives of three published ones: a picture that is taken for another.

    global      cos(f(x'), f(t)), the objective of AttackVLM (Zhao et al., 2023)
    crops       the same for a fresh random crop of each of x' and t at every step, resized to the whole: M-Attack (Li
                et al., 2025)
    transport   the global cosine, less the optimal transport cost between cluster centres of the patch features of
                both, again on crops; several encoders are weighed by how slowly they come near: FOA-Attack (Jia et al.,
                2025)

All are white-box and adaptive: gradients go through the noise, and through the denoiser and the mapper of a boosted
encoder. Written from the papers' formulas; where those leave a number open it is an argument here.

An l-infinity budget of 16/255 on 224 x 224 x 3 pixels allows an l2 change of 24.3: far outside of any certified radius.
What such an attack does not reach is measured, not proven.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from hybrid_rs_jax._checks import check_epsilon, check_same_inputs, check_whole
from hybrid_rs_jax._jax import own_settings
from hybrid_rs_jax.attacks._pixels import descend, random_images
from hybrid_rs_jax.classifiers.base import Abilities, for_smoothing
from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["TargetedResult", "TargetedSettings", "attack_towards", "sinkhorn_cost"]

OBJECTIVES, NORMS = ("global", "crops", "transport"), ("linf", "l2")
#: Rounds of k-means, and of Sinkhorn's iteration.
_CLUSTER_ROUNDS, _SINKHORN_ROUNDS = 5, 50


@dataclasses.dataclass(frozen=True)
class TargetedSettings:
    """Objective, norm and effort.

    Args:
      objective: "global", "crops" or "transport".
      norm: of the budget, "linf" or "l2".
      steps: gradient steps; restarts: starting points, the first one the clean picture.
      copies: noisy copies behind each gradient; 1 without noise.
      smallest_crop: least side of a crop, as a share of the picture's.
      patches: vectors that a feature is made of, for "transport".
      clusters: centres per picture, at most `patches`.
      local_weight: of the transport cost.
      sharpness: regularisation of the transport plan, in units of the cost.

    Raises:
      ValueError: for a value that is out of range.
    """

    objective: str = "global"
    norm: str = "linf"
    steps: int = 100
    restarts: int = 3
    copies: int = 8
    smallest_crop: float = 0.5
    patches: int = 1
    clusters: int = 3
    local_weight: float = 0.2
    sharpness: float = 0.1

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "copies", "patches", "clusters"):
            check_whole(name, getattr(self, name), 1)
        for name, legal in (("objective", OBJECTIVES), ("norm", NORMS)):
            if getattr(self, name) not in legal:
                raise ValueError(f"{name} must be one of {', '.join(legal)}, got {getattr(self, name)!r}.")
        if not 0 < self.smallest_crop <= 1:
            raise ValueError(f"smallest_crop must lie in (0, 1], got {self.smallest_crop}.")
        if self.objective == "transport" and not self.clusters <= self.patches:
            raise ValueError(f"clusters must be at most patches = {self.patches}, got {self.clusters}.")


@dataclasses.dataclass(frozen=True)
class TargetedResult:
    """What an attack found.

    Attributes:
      images: float32[B, H, W, C] in [0, 1], within the budget around the clean ones.
      towards: mean cosine of noisy copies with the target's clean feature, over the encoders, float64[B].
    """

    images: np.ndarray
    towards: np.ndarray


def attack_towards(
    encoders: Any,
    tokens: Any,
    images: Any,
    targets: Any,
    epsilon: Any,
    key: Key[Any, ""],
    *,
    smoothing: HybridSmoothing | None = None,
    settings: TargetedSettings | None = None,
) -> TargetedResult:
    """Look for pictures near `images` whose features are those of `targets`.

    Args:
      encoders: one, or several that are attacked together; each gives `functional()`.
      tokens: int32 [B, L], as they are shown to the encoders.
      images, targets: floats in [0, 1], [B, H, W, C]; row i is to be taken for target i.
      epsilon: budget in the norm of the settings, one for all or one each.
      key: of crops, noise and starts.
      smoothing: the pixel noise that gradients go through; None: none is added.
      settings: objective, norm, effort.

    Returns:
      The pictures, and the cosines that they reach with their targets.

    Raises:
      ValueError: if an encoder has no `functional`, shapes differ, or a number is out of range.
    """
    effort = TargetedSettings() if settings is None else settings
    many = list(encoders) if isinstance(encoders, Sequence) else [encoders]
    tokens, images, targets = np.asarray(tokens), np.asarray(images, np.float32), np.asarray(targets, np.float32)
    check_same_inputs(tokens, images)
    if targets.shape != images.shape:
        raise ValueError(f"targets must have the shape of images, {list(images.shape)}, got {list(targets.shape)}.")
    plain = [Abilities.of(getattr(one, "plain", one)).functional for one in many]
    attacked = [Abilities.of(one if smoothing is None else for_smoothing(one, smoothing)).functional for one in many]
    if any(one is None for one in plain + attacked):
        raise ValueError("encoder must give functional(), through which gradients go.")
    bound = jnp.asarray(np.broadcast_to(check_epsilon(epsilon), (len(images),)), jnp.float32)
    sigma = 0.0 if smoothing is None else float(smoothing.sigma or 0.0)
    shown = jnp.asarray(tokens)
    with own_settings():
        parts = [tuple(found() for found in pair if found is not None) for pair in zip(attacked, plain, strict=True)]
        applies = tuple((ours[0], theirs[0]) for ours, theirs in parts)
        given = (tuple((ours[1], theirs[1]) for ours, theirs in parts), shown, jnp.asarray(targets))
        centre, best = jnp.asarray(images), None
        for restart in range(effort.restarts):
            own = jax.random.fold_in(key, restart)
            found = _search(applies, effort, sigma, given, centre, bound, own, restart)
            last = _loss(applies, dataclasses.replace(effort, objective="global"), sigma)
            gains = last(given, found, jnp.ones(len(many), jnp.float32), jax.random.fold_in(own, 1))[1]
            result = TargetedResult(np.asarray(found), np.asarray(gains.mean(axis=0), np.float64))
            best = result if best is None else _better(best, result)
    assert best is not None
    return best


def sinkhorn_cost(cost: Array, sharpness: float, rounds: int = _SINKHORN_ROUNDS) -> Array:
    """`<P, C>` with P the entropic transport plan between uniform weights; differentiable in the cost.

    Args:
      cost: floats [..., n, m].
      sharpness: weight of the entropy, above 0; towards 0 the plan becomes the optimal one.
      rounds: of the iteration.

    >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]], jnp.float32)
    >>> round(float(sinkhorn_cost(cost, 0.01)), 3)
    0.0
    """
    n, m = cost.shape[-2:]
    kernel = jax.lax.stop_gradient(-cost / sharpness)  # the envelope theorem: the plan may be held fixed

    def round_(_: Any, columns: Array) -> Array:
        rows = -jax.nn.logsumexp(kernel + columns[..., None, :], axis=-1) - np.float32(np.log(n))
        return -jax.nn.logsumexp(kernel + rows[..., None], axis=-2) - np.float32(np.log(m))

    columns = jax.lax.fori_loop(0, rounds, round_, jnp.zeros((*cost.shape[:-2], m), cost.dtype))
    rows = -jax.nn.logsumexp(kernel + columns[..., None, :], axis=-1) - np.float32(np.log(n))
    plan = jnp.exp(kernel + rows[..., None] + columns[..., None, :])
    return (plan * cost).sum(axis=(-2, -1))


def _search(
    applies: Any,
    effort: TargetedSettings,
    sigma: float,
    given: Any,
    centre: Array,
    bound: Array,
    key: Any,
    restart: int,
) -> Array:
    """Pixels after the gradient steps, whose length falls from a quarter of the budget."""
    pixels = centre
    if restart and effort.norm == "l2":
        pixels = random_images(jax.random.split(jax.random.fold_in(key, 2), len(centre)), centre, bound)
    elif restart:
        start = jax.random.uniform(jax.random.fold_in(key, 2), centre.shape, jnp.float32, -1, 1)
        pixels = centre + start * bound.reshape(-1, 1, 1, 1)
    step = _step(applies, effort, sigma)
    weights, before = jnp.ones(len(applies), jnp.float32), None
    for number in range(effort.steps):
        share = jnp.float32(0.25 * (1 - number / effort.steps) + 0.02)
        pixels, losses = step(given, pixels, centre, bound, share, weights, jax.random.fold_in(key, 3 + number))
        if effort.objective == "transport" and before is not None:
            # the dynamic weights of FOA: who comes near slowly counts more
            weights = len(applies) * jax.nn.softmax(losses / jnp.maximum(before, 1e-6))
        before = losses
    return pixels


@functools.cache
def _step(applies: Any, effort: TargetedSettings, sigma: float) -> Callable[..., Any]:
    """One gradient step: the pixels after it, and the loss of each encoder before it."""
    loss = _loss(applies, effort, sigma)

    @jax.jit
    def step(
        given: Any, pixels: Array, centre: Array, bound: Array, share: Array, weights: Array, key: Any
    ) -> tuple[Array, Array]:
        def total(pixels: Array) -> tuple[Array, Array]:
            losses, _ = loss(given, pixels, weights, key)
            return (weights[:, None] * losses).sum(), losses.mean(axis=1)

        slope, losses = jax.grad(total, has_aux=True)(pixels)
        if effort.norm == "l2":
            pixels = descend(pixels, centre, slope, bound, bound * share)
        else:
            wide = bound.reshape(-1, 1, 1, 1)
            pixels = centre + jnp.clip(pixels - jnp.sign(slope) * wide * share - centre, -wide, wide)
        # towards the centre in every pixel, so it stays within the budget
        return jnp.clip(pixels, 0, 1), losses

    return step


@functools.cache
def _loss(applies: Any, effort: TargetedSettings, sigma: float) -> Callable[..., Any]:
    """`(losses [encoders, B], cosines [encoders, B])` of pictures, for each encoder."""
    copies = effort.copies if sigma else 1

    def loss(given: Any, pixels: Array, weights: Array, key: Any) -> tuple[Array, Array]:
        parameters, tokens, targets = given
        keys = jax.random.split(key, 3)
        shown, wanted = pixels, targets
        if effort.objective != "global":
            shown, wanted = (_crops(x, k, effort.smallest_crop) for x, k in ((pixels, keys[0]), (targets, keys[1])))
        noisy = jnp.repeat(shown, copies, axis=0)
        noisy = noisy + jnp.float32(sigma) * jax.random.normal(keys[2], noisy.shape, jnp.float32)
        losses, cosines = [], []
        for (attacked, plain), (ours, theirs) in zip(applies, parameters, strict=True):
            feature = attacked(ours, jnp.repeat(tokens, copies, axis=0), noisy).astype(jnp.float32)
            goal = jnp.repeat(plain(theirs, tokens, wanted).astype(jnp.float32), copies, axis=0)
            aligned = (_unit(feature) * _unit(goal)).sum(axis=1)
            lost = 1 - aligned
            if effort.objective == "transport":
                centres = [
                    _centres(_unit(x.reshape(len(x), effort.patches, -1)), effort.clusters) for x in (feature, goal)
                ]
                cost = 1 - jnp.einsum("bnd,bmd->bnm", *map(_unit, centres))
                lost = lost + effort.local_weight * sinkhorn_cost(cost, effort.sharpness)
            losses.append(lost.reshape(-1, copies).mean(axis=1))
            cosines.append(aligned.reshape(-1, copies).mean(axis=1))
        return jnp.stack(losses), jnp.stack(cosines)

    return jax.jit(loss)


def _crops(images: Array, key: Any, smallest: float) -> Array:
    """A random square part of each picture, enlarged to the whole (bilinear)."""
    sides = jnp.array(images.shape[1:3], jnp.float32)

    def one(image: Array, key: Any) -> Array:
        draw = jax.random.uniform(key, (3,), jnp.float32)
        share = smallest + (1 - smallest) * draw[0]
        scale = jnp.full(2, 1 / share, jnp.float32)
        corner = -draw[1:] * (1 - share) * sides / share
        return jax.image.scale_and_translate(image, image.shape, (0, 1), scale, corner, "bilinear", antialias=False)

    return jax.vmap(one)(images, jax.random.split(key, len(images)))


def _centres(features: Array, clusters: int) -> Array:
    """Centres of the patch features of each picture, [B, clusters, D]: k-means, started at patches far apart."""
    start = features[:, :: features.shape[1] // clusters][:, :clusters]
    centres = jax.lax.stop_gradient(start)
    fixed = jax.lax.stop_gradient(features)
    for _ in range(_CLUSTER_ROUNDS):
        member = jax.nn.one_hot(
            jnp.einsum("bpd,bcd->bpc", fixed, _unit(centres)).argmax(axis=2), clusters, dtype=jnp.float32
        )
        sums = jnp.einsum("bpc,bpd->bcd", member, fixed)
        centres = jnp.where(member.sum(axis=1)[..., None] > 0, sums, centres)
    # gradients go through the members of each cluster, not through who they are; an empty one keeps its patch
    own = jnp.einsum("bpc,bpd->bcd", member, features)
    return jnp.where(member.sum(axis=1)[..., None] > 0, own, centres)


def _unit(x: Array) -> Array:
    return x / jnp.sqrt(jnp.maximum((x * x).sum(axis=-1, keepdims=True), jnp.float32(1e-24)))


def _better(one: TargetedResult, other: TargetedResult) -> TargetedResult:
    wins = other.towards > one.towards
    images = np.where(wins.reshape(-1, 1, 1, 1), other.images, one.images)
    return TargetedResult(images, np.maximum(one.towards, other.towards))
