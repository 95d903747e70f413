"""Training of a Gaussian smoothness booster in the two stages of the second paper's Algorithm 1.

    stage 1, the denoiser P    (1 - E cos(f(P(x + e)), f(x))) + lambda_mse E |x - P(x + e)|^2       Eq. 7 to 9
    stage 2, the mapper M      (1 - E cos(z_m, f(x))) + lambda_stats l_stats                        Eq. 11 to 13

with `z = f(P(x + e))`, `z_m = z + M(z, sigma)`; the encoder f is frozen in both, the denoiser in the second. Eq. 8 and
11 are written there with the sign that would drive features apart. `l_stats` compares mean and standard deviation of
each feature before and after the mapper, over copies and tokens. `l_id` of Eq. 12 (weight .25 there) is zero by
construction of the mapper and is not computed.

The squared error is a mean over pixels in [0, 1]. Step `k` draws from `fold_in(seed, k)` alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from hybrid_rs_jax._checks import check_same_inputs, check_sigma, check_whole
from hybrid_rs_jax.models._training import TrainingState, apply_changes, load_optax, resume, run_steps
from hybrid_rs_jax.models.booster.mapper import Mapper, MapperConfig, MapperNetwork, scaled
from hybrid_rs_jax.models.denoiser.denoiser import Denoiser, parameters_digest
from hybrid_rs_jax.models.denoiser.unet import UNet

__all__ = ["BoosterPlan", "train_denoiser", "train_mapper"]


@dataclasses.dataclass(frozen=True)
class BoosterPlan:
    """How long and how fast the two stages learn; the defaults are the second paper's.

    Attributes:
      sigma_min, sigma_max: noise levels, in the units of pictures in [0, 1]; drawn log-uniformly, one per picture.
      epochs: passes over the pictures, in each stage.
      copies: noisy copies of each picture in a step.
      denoiser_batch, mapper_batch: pictures per step.
      denoiser_rate: of Adam; mapper_rate: of AdamW, at the start of a cosine that falls to zero.
      lambda_mse, lambda_stats: weights of the losses.
      average: share that the running mean of the weights keeps at each step, below 1; None: the last weights are used.
      checkpoint_every: steps between two checkpoints.
      seed: of initial weights, order of the pictures, levels and noise.

    Raises:
      ValueError: for a number out of range.
    """

    sigma_min: float = 0.25
    sigma_max: float = 0.5
    epochs: int = 8
    copies: int = 8
    denoiser_batch: int = 8
    mapper_batch: int = 16
    denoiser_rate: float = 1e-4
    mapper_rate: float = 2e-4
    lambda_mse: float = 0.25
    lambda_stats: float = 100.0
    average: float | None = None
    checkpoint_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "copies", "denoiser_batch", "mapper_batch", "checkpoint_every"):
            check_whole(name, getattr(self, name), 1)
        check_whole("seed", self.seed, 0)
        low, high = (check_sigma(getattr(self, name), name) for name in ("sigma_min", "sigma_max"))
        if low > high:
            raise ValueError(f"sigma_min must be at most sigma_max = {high:g}, got {low:g}.")
        for name in ("denoiser_rate", "mapper_rate", "lambda_mse", "lambda_stats"):
            value, least = getattr(self, name), "above" if name.endswith("rate") else "at least"
            if not (0 < value < math.inf or (value == 0 and least == "at least")):
                raise ValueError(f"{name} must be {least} 0 and finite, got {value}.")
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"average must lie in (0, 1) or be None, got {self.average}.")


def train_denoiser(
    denoiser: Denoiser,
    encoder: Any,
    images: np.ndarray,
    plan: BoosterPlan,
    *,
    tokens: np.ndarray | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[Denoiser, list[float]]:
    """Stage 1: train a denoiser further, for the features of one encoder.

    Args:
      denoiser: where it starts; it is left as it is.
      encoder: frozen; gives `functional()`, which can be differentiated.
      images: clean, in [0, 1], [pictures, height, width, channels], at least one batch of them.
      plan: losses, rates, noise.
      tokens: int32 [pictures, length]; None: one zero each, for an encoder of pictures.
      checkpoint: a file that holds the state of the run; where it exists the run goes on from there.
      progress: called every 50 steps with the step and the mean loss since the last call.

    Returns:
      The denoiser, and the mean losses.

    Raises:
      ValueError: if pictures or levels do not fit, the loss is not finite, or the checkpoint is of another run.
    """
    denoiser.check_images(images.shape)
    denoiser.check_sigma([plan.sigma_min, plan.sigma_max])
    encode, frozen = encoder.functional()
    apply, parameters = denoiser.functional()

    def loss_of(parameters: Any, batch: _Batch) -> Array:
        denoised = apply(parameters, batch.noisy, batch.sigma)
        aligned = cosine(encode(frozen, batch.tokens, denoised), batch.spread(encode(frozen, *batch.clean)))
        error = jnp.square(denoised - batch.spread(batch.clean[1])).mean()
        return (1 - aligned).mean() + plan.lambda_mse * error

    settings = {"denoiser": denoiser.describe()["weights_sha256"], "encoder": parameters_digest(frozen)}
    optimizer, data = load_optax().adam(plan.denoiser_rate), _checked(images, tokens, plan.denoiser_batch)
    stage = _Stage(plan, plan.denoiser_batch, optimizer, loss_of, checkpoint, settings, progress)
    best, losses = stage.run(parameters, data)
    graph = nnx.split(nnx.eval_shape(lambda: UNet(denoiser.config, dtype=denoiser.dtype, rngs=nnx.Rngs(0))))[0]
    return Denoiser(nnx.merge(graph, best), denoiser.rule, size=denoiser.size), losses


def train_mapper(
    config: MapperConfig,
    encoder: Any,
    denoiser: Denoiser | None,
    images: np.ndarray,
    plan: BoosterPlan,
    *,
    tokens: np.ndarray | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[Mapper, list[float]]:
    """Stage 2: train a mapper behind an encoder, with a denoiser before it or without.

    Args:
      config: sizes; they fit the encoder's features.
      denoiser: frozen; None: the encoder sees the noise.
      encoder, images, plan, tokens, checkpoint, progress: as for `train_denoiser`.

    Returns:
      The mapper, and the mean losses.

    Raises:
      ValueError: as `train_denoiser`, and if features do not fit the mapper.
    """
    if denoiser is not None:
        denoiser.check_images(images.shape)
        denoiser.check_sigma([plan.sigma_min, plan.sigma_max])
    data = _checked(images, tokens, plan.mapper_batch)
    encode, frozen = encoder.functional()
    clean_up, before = (None, ()) if denoiser is None else denoiser.functional()
    network = MapperNetwork(config, nnx.Rngs(plan.seed))
    made, (graph, parameters) = Mapper(network, config), nnx.split(network)

    def loss_of(parameters: Any, batch: _Batch) -> Array:
        shown = batch.noisy if clean_up is None else clean_up(before, batch.noisy, batch.sigma)
        feature = encode(frozen, batch.tokens, shown).astype(jnp.float32)
        made.check_features(feature.shape)
        z = scaled(feature, config.tokens)[0]
        mapped = z + nnx.merge(graph, parameters)(z, batch.sigma)
        aligned = cosine(mapped.reshape(feature.shape), batch.spread(encode(frozen, *batch.clean)))
        moments = [(x.mean(axis=(0, 1)), jnp.sqrt(x.var(axis=(0, 1)) + jnp.float32(1e-12))) for x in (z, mapped)]
        changed = sum(jnp.square(a - b).mean() for a, b in zip(*moments, strict=True))
        return (1 - aligned).mean() + plan.lambda_stats * changed

    settings: dict[str, object] = {"mapper": dataclasses.asdict(config), "encoder": parameters_digest(frozen)}
    settings["denoiser"] = None if denoiser is None else denoiser.describe()["weights_sha256"]
    steps = plan.epochs * (len(images) // plan.mapper_batch)
    optax = load_optax()
    optimizer = optax.adamw(optax.cosine_decay_schedule(plan.mapper_rate, max(steps, 1)))
    stage = _Stage(plan, plan.mapper_batch, optimizer, loss_of, checkpoint, settings, progress)
    best, losses = stage.run(parameters, data)
    return Mapper(nnx.merge(graph, best), config), losses


def cosine(features: Array, others: Array) -> Array:
    """Cosines of vectors [b, f] with vectors [b, f]."""
    features, others = features.astype(jnp.float32), others.astype(jnp.float32)
    lengths = (features * features).sum(axis=1) * (others * others).sum(axis=1)
    return (features * others).sum(axis=1) / jnp.sqrt(jnp.maximum(lengths, jnp.float32(1e-24)))


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Some pictures and noisy copies of them: picture i has the copies `i copies .. (i + 1) copies - 1`."""

    clean: tuple[Array, Array]
    tokens: Array
    noisy: Array
    sigma: Array
    copies: int

    def spread(self, values: Array) -> Array:
        """What belongs to a picture, once for each of its copies."""
        return jnp.repeat(values, self.copies, axis=0)


@dataclasses.dataclass(frozen=True)
class _Stage:
    """What one stage is made of."""

    plan: BoosterPlan
    batch: int
    optimizer: Any
    loss_of: Callable[[Any, _Batch], Array]
    checkpoint: Path | None
    settings: dict[str, object]
    progress: Callable[[int, float], None] | None

    def run(self, parameters: Any, data: tuple[Array, Array]) -> tuple[Any, list[float]]:
        """Weights and losses at the end."""
        # a step gives its buffers back to the next one; those of the caller stay
        state = TrainingState.start(jax.tree.map(jnp.copy, parameters), self.optimizer)
        settings = self.settings | {"plan": dataclasses.asdict(self.plan), "pictures": list(data[1].shape)}
        resume(state, self.checkpoint, settings)
        run_steps(
            state,
            jax.jit(self._update, donate_argnums=(0, 1, 2)),
            data,
            self.plan.epochs * (len(data[0]) // self.batch),
            checkpoint_every=self.plan.checkpoint_every,
            checkpoint=self.checkpoint,
            settings=settings,
            progress=self.progress,
        )
        return state.best(self.plan.average), state.losses

    def _update(self, parameters: Any, mean: Any, state: Any, data: tuple[Array, Array], step: Array) -> Any:
        batch = self._drawn(data, step)
        loss, slopes = jax.value_and_grad(self.loss_of)(parameters, batch)
        return *apply_changes(self.optimizer, slopes, parameters, mean, state, step, self.plan.average), loss

    def _drawn(self, data: tuple[Array, Array], step: Array) -> _Batch:
        """The pictures of a step, in an order that is new in each epoch, and their noise."""
        plan, (tokens, images) = self.plan, data
        steps = jnp.uint32(len(images) // self.batch)
        seed = jax.random.key(plan.seed)
        order = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(seed, 0), step // steps), len(images))
        level, noise = jax.random.split(jax.random.fold_in(jax.random.fold_in(seed, 1), step))
        start = (step % steps).astype(jnp.int32) * self.batch
        chosen = jax.lax.dynamic_slice(order, (start,), (self.batch,))
        clean = (tokens[chosen], images[chosen])
        low, high = math.log(plan.sigma_min), math.log(plan.sigma_max)
        levels = jnp.exp(jax.random.uniform(level, (self.batch,), jnp.float32, low, max(high, low + 1e-6)))
        copies = jnp.repeat(clean[1], plan.copies, axis=0)
        sigma = jnp.minimum(jnp.repeat(levels, plan.copies), jnp.float32(plan.sigma_max))
        drawn = jax.random.normal(noise, copies.shape, jnp.float32)
        noisy = copies + sigma.reshape(-1, 1, 1, 1) * drawn
        return _Batch(clean, jnp.repeat(clean[0], plan.copies, axis=0), noisy, sigma, plan.copies)


def _checked(images: np.ndarray, tokens: np.ndarray | None, batch: int) -> tuple[Array, Array]:
    if images.ndim != 4 or len(images) < batch:
        raise ValueError(
            f"images must have shape [pictures, height, width, channels] with at least {batch} pictures, one batch, "
            f"got {list(images.shape)}."
        )
    if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images must lie in [0, 1], got {images.min()} to {images.max()}.")
    tokens = np.zeros((len(images), 1), np.int32) if tokens is None else np.asarray(tokens, np.int32)
    check_same_inputs(tokens, images)
    return jnp.asarray(tokens), jnp.asarray(images, jnp.float32)
