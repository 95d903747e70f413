"""An attack on smoothed features: turn them away from a reference, within an l2 ball and a number of tokens."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Key

from hybrid_rs_jax._checks import check_budget, check_epsilon, check_mask, check_same_inputs, check_whole
from hybrid_rs_jax._jax import own_settings
from hybrid_rs_jax.attacks._pixels import descend, random_images, to_grid
from hybrid_rs_jax.classifiers.base import Abilities, for_smoothing
from hybrid_rs_jax.confidence import mean_lower_bound_from_histogram
from hybrid_rs_jax.confidence.score_law import ScoreLaw
from hybrid_rs_jax.features.base import Encoder
from hybrid_rs_jax.features.units import unit_features
from hybrid_rs_jax.kernels import HybridSmoothing, UniformKernel
from hybrid_rs_jax.kernels._threefry import key_words
from hybrid_rs_jax.kernels.grid import draw_levels, round_to_grid, to_pixels

__all__ = ["AttackedFeatures", "FeatureAttackSettings", "attack_features", "score_upper_bound"]


@dataclasses.dataclass(frozen=True)
class FeatureAttackSettings:
    """Effort of an attack.

    Args:
      restarts: starting points, each with tokens of its own; the first one starts at the clean picture.
      steps: gradient steps on the pixels.
      copies: noisy copies behind each gradient.
      selection_copies: fresh noisy copies that choose among the restarts.

    Raises:
      ValueError: if a number is below 1.
    """

    restarts: int = 3
    steps: int = 40
    copies: int = 16
    selection_copies: int = 256

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_whole(field.name, getattr(self, field.name), 1)


@dataclasses.dataclass(frozen=True)
class AttackedFeatures:
    """What an attack found.

    Attributes:
      tokens: int32[B, L]; images: [B, H, W, C], on the grid of the noise, within the ball around the clean ones.
      cosine: mean cosine of the noisy copies that chose it, float64[B]; fresh draws decide what it is worth.
    """

    tokens: np.ndarray
    images: np.ndarray
    cosine: np.ndarray


def attack_features(
    encoder: Encoder,
    tokens: Any,
    images: Any,
    smoothing: HybridSmoothing,
    reference: Any,
    epsilon: Any,
    key: Key[Any, ""],
    *,
    d: int = 0,
    eligible: Any = None,
    settings: FeatureAttackSettings | None = None,
) -> AttackedFeatures:
    """Look for inputs whose smoothed feature has a small cosine with the reference, `min E <f(z), u>`.

    White-box and adaptive: gradients go through the noise and all that the encoder does to a picture (a denoiser, for
    instance), the mean over copies is what is descended. Tokens are replaced at random, anew for each restart.

    Args:
      encoder: one that gives `functional()` and can be differentiated.
      tokens, images, smoothing, eligible: as for `sample_features`.
      reference: vectors [inputs, features].
      epsilon: l2 budget of each input, at least 0; broadcasts.
      key: of the attack's own randomness.
      d: eligible tokens that are replaced.
      settings: effort.

    Returns:
      The inputs found, and their estimated cosines.

    Raises:
      ValueError: if the encoder has no `functional`, pixels carry no noise, or an argument is out of range.
    """
    tokens, images = np.asarray(tokens), np.asarray(images)
    effort = FeatureAttackSettings() if settings is None else settings
    check_same_inputs(tokens, images)
    functional, d = Abilities.of(for_smoothing(encoder, smoothing)).functional, check_budget(d)
    if functional is None:
        raise ValueError("encoder must give functional(), through which gradients go.")
    step = smoothing.grid_step
    if smoothing.sigma is None or step is None:
        raise ValueError("attack_features needs pixel noise, but the smoothing has none (sigma is None).")
    if d and not isinstance(smoothing.discrete, UniformKernel):
        raise ValueError(f"d must be 0 without a uniform kernel, got {d}.")
    mask = check_mask("eligible", eligible, tokens.shape)
    radius = np.broadcast_to(check_epsilon(epsilon), (len(images),)).astype(np.float32) * np.float32(1 - 1e-5)
    centre = jnp.asarray(round_to_grid(images, step)[0], jnp.float32) * jnp.float32(step)
    unit = jnp.asarray(unit_features(reference), jnp.float32)
    apply, parameters = functional()
    best: AttackedFeatures | None = None
    with own_settings():
        for restart in range(effort.restarts):
            own = jax.random.fold_in(key, restart)
            changed = _replaced(tokens, mask, d, smoothing, jax.random.fold_in(own, 0)) if d else tokens
            shown = (jnp.asarray(changed), jnp.asarray(mask))
            found = _descended(apply, parameters, shown, centre, unit, radius, smoothing, own, restart, effort)
            grid = to_grid(found, centre, jnp.asarray(radius), step)
            last = jax.random.fold_in(own, 1)
            cosine = _cosines(apply, smoothing, effort.selection_copies, parameters, *shown, grid, unit, last)
            best = _better(best, AttackedFeatures(changed, np.asarray(grid), np.asarray(cosine, np.float64)))
    assert best is not None
    return best


def score_upper_bound(law: ScoreLaw, risk: float) -> Float[np.ndarray, " inputs"]:
    """Upper confidence bound on the mean score of each input, each wrong with probability at most `risk`.

    A certified score above it refutes the certificate: draws count at the UPPER edges of their bins here, plus what
    the sampler took off for rounding, which lies far below a bin.

    Args:
      law: histograms of scores.
      risk: of each bound, in (0, 1).

    Returns:
      Bounds in [0, 1], rounded up.

    Raises:
      ValueError: if the risk is out of range.

    >>> law = ScoreLaw.of(np.full((1, 1000), 0.5))
    >>> bool(0.5 < score_upper_bound(law, 0.01)[0] < 0.6)
    True
    """
    return 1 - np.asarray(mean_lower_bound_from_histogram(law.counts[:, ::-1], 1 - law.edges[:0:-1], risk))


def _descended(
    apply: Callable[..., Any],
    parameters: Any,
    shown: tuple[Any, Any],
    centre: Any,
    unit: Any,
    radius: np.ndarray,
    smoothing: HybridSmoothing,
    key: Any,
    restart: int,
    effort: FeatureAttackSettings,
) -> Any:
    """Pixels after the gradient steps, whose length falls from a quarter of the radius."""
    pixels, bound = centre, jnp.asarray(radius)
    if restart:
        pixels = random_images(jax.random.split(jax.random.fold_in(key, 2), len(centre)), centre, bound)
    for step in range(effort.steps):
        draw = jax.random.fold_in(key, 3 + step)
        slope = _slopes(apply, smoothing, effort.copies, parameters, *shown, pixels, unit, draw)
        pixels = descend(pixels, centre, slope, bound, bound * jnp.float32(0.25 * (1 - step / effort.steps) + 0.02))
    return pixels


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _cosines(
    apply: Callable[..., Any],
    smoothing: HybridSmoothing,
    copies: int,
    parameters: Any,
    tokens: Any,
    eligible: Any,
    images: Any,
    unit: Any,
    key: Any,
) -> Any:
    """Mean cosine of noisy copies of each input, differentiable in the images."""
    inputs = len(images)
    repeated = jnp.repeat(tokens, copies, axis=0)
    if smoothing.discrete is not None:
        keys = jax.random.split(jax.random.fold_in(key, 0), inputs * copies)
        repeated = jax.vmap(smoothing.discrete.sample)(keys, repeated, jnp.repeat(eligible, copies, axis=0))
    noisy, table = jnp.repeat(images, copies, axis=0), smoothing.noise(jnp.float32).pixels
    if table is not None:
        keys = jax.random.split(jax.random.fold_in(key, 1), inputs * copies)
        noisy += jax.vmap(lambda own: to_pixels(draw_levels(key_words(own), images.shape[1:], table), table))(keys)
    features = apply(parameters, repeated, noisy).astype(jnp.float32)
    length = jnp.sqrt(jnp.maximum((features * features).sum(axis=1), jnp.float32(1e-30)))
    return ((features * jnp.repeat(unit, copies, axis=0)).sum(axis=1) / length).reshape(inputs, copies).mean(axis=1)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _slopes(apply: Any, smoothing: HybridSmoothing, copies: int, parameters: Any, *rest: Any) -> Any:
    tokens, eligible, images, unit, key = rest

    def total(images: Any) -> Any:
        return _cosines(apply, smoothing, copies, parameters, tokens, eligible, images, unit, key).sum()

    return jax.grad(total)(images)


def _replaced(tokens: np.ndarray, mask: np.ndarray, d: int, smoothing: HybridSmoothing, key: Any) -> np.ndarray:
    """Random symbols at `d` random eligible positions of each input."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    changed = tokens.copy()
    for row, allowed in zip(changed, mask, strict=True):
        places = rng.permutation(np.flatnonzero(allowed))[:d]
        row[places] = rng.integers(0, smoothing.discrete.vocab_size, len(places))  # type: ignore[union-attr]
    return changed


def _better(one: AttackedFeatures | None, other: AttackedFeatures) -> AttackedFeatures:
    if one is None:
        return other
    wins = other.cosine < one.cosine
    tokens = np.where(wins[:, None], other.tokens, one.tokens)
    images = np.where(wins.reshape(-1, *(1,) * (one.images.ndim - 1)), other.images, one.images)
    return AttackedFeatures(tokens, images, np.minimum(one.cosine, other.cosine))
