"""Training of a denoiser: pictures, fresh noise of random levels, the squared error of the network's answer.

    noise level   log-uniform in `sigma_min .. sigma_max`, in the units of pictures in [0, 1]
    loss          `E |network(scale x, time) - target|^2` with `x = clean + s noise` (see `schedule`)

Step `k` draws its pictures, levels and noise from `fold_in(seed, k)` alone, so a run that was killed and goes on from
its checkpoint ends as one that was not, but for rounding (the order of sums depends on threads and devices).
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
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from hybrid_rs_jax.models._training import TrainingState, apply_changes, load_optax, resume, run_steps
from hybrid_rs_jax.models.denoiser.config import UNetConfig
from hybrid_rs_jax.models.denoiser.denoiser import Denoiser, to_patches
from hybrid_rs_jax.models.denoiser.schedule import Diffusion
from hybrid_rs_jax.models.denoiser.unet import UNet

__all__ = ["TrainingPlan", "train"]


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast a denoiser learns.

    Attributes:
      steps: updates of the weights.
      batch_size: pictures per update; a multiple of the devices of a mesh.
      learning_rate: the largest, after `warmup` steps; then it falls to zero along a cosine.
      warmup: steps at the start, while the rate rises from zero.
      average: share that the running mean of the weights keeps at each step, below 1; None: the last weights are used.
      sigma_min, sigma_max: levels of noise, in the units of pictures in [0, 1].
      checkpoint_every: steps between two checkpoints.
      seed: of initial weights, pictures and noise.

    Raises:
      ValueError: for a number out of range.
    """

    steps: int = 6000
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup: int = 200
    average: float | None = 0.999
    sigma_min: float = 0.1
    sigma_max: float = 1.25
    checkpoint_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("warmup", 0), ("checkpoint_every", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
                raise ValueError(f"{name} must be an integer in {least}..{2**31 - 1}, got {value!r}.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate}.")
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"average must lie in (0, 1) or be None, got {self.average}.")
        if not 0 < self.sigma_min <= self.sigma_max < math.inf:
            raise ValueError(
                f"sigma_min and sigma_max must be positive and in this order, got {self.sigma_min} and "
                f"{self.sigma_max}."
            )


def train(
    config: UNetConfig,
    rule: Diffusion,
    images: np.ndarray,
    plan: TrainingPlan,
    *,
    checkpoint: Path | None = None,
    mesh: Mesh | None = None,
    until: int | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[Denoiser, list[float]]:
    """Train a denoiser on clean pictures.

    Args:
      config: of the network.
      rule: what the network is asked; `fractional=True` for one that is told the very level of the noise.
      images: clean, in [0, 1], floats [pictures, height, width, channels].
      plan: steps, rates, levels of noise, seed.
      checkpoint: a file that holds the state of the run; where it exists the run goes on from there.
      mesh: devices with the axis "data" that share each batch; None: one device.
      until: stop (with a checkpoint) after that step; the rate still falls as `plan.steps` says.
      progress: called every 50 steps with the step and the mean loss since the last call.

    Returns:
      The denoiser (of the mean weights, if there is a mean), and the mean losses.

    Raises:
      ValueError: if pictures or levels do not fit the network, or the checkpoint is of another run.
    """
    _check(config, rule, images, plan, mesh)
    optimizer = _optimizer(plan)
    network = UNet(config, rngs=nnx.Rngs(plan.seed))
    graph, parameters = nnx.split(network)
    state = TrainingState.start(parameters, optimizer)
    settings: dict[str, object] = {"config": config.write(), "rule": rule.describe(), "plan": dataclasses.asdict(plan)}
    settings["pictures"] = list(images.shape)
    resume(state, checkpoint, settings)
    update = _update(graph, rule, optimizer, plan, mesh, config.patch_size)
    data = jnp.asarray(images, jnp.float32)
    if mesh is not None:
        everywhere = NamedSharding(mesh, PartitionSpec())
        data = jax.device_put(data, everywhere)
        state.parameters, state.mean, state.optimizer = jax.device_put(state.arrays, everywhere)
    end, every = min(plan.steps, until or plan.steps), plan.checkpoint_every
    run_steps(
        state, update, data, end, checkpoint_every=every, checkpoint=checkpoint, settings=settings, progress=progress
    )
    return Denoiser(nnx.merge(graph, state.best(plan.average)), rule, size=images.shape[1:3]), state.losses


def _update(
    graph: Any, rule: Diffusion, optimizer: Any, plan: TrainingPlan, mesh: Mesh | None, patch: int
) -> Callable[..., Any]:
    """One compiled step: `(parameters, mean, optimizer, data, step) -> (the three, loss)`."""
    low, high = math.log(2 * plan.sigma_min), math.log(2 * plan.sigma_max)

    def loss_of(parameters: Any, data: Array, step: Array) -> Array:
        which, level, noise = jax.random.split(jax.random.fold_in(jax.random.key(plan.seed), step), 3)
        chosen = jax.random.randint(which, (plan.batch_size,), 0, data.shape[0])
        clean = 2 * data[chosen] - 1
        if mesh is not None:
            clean = jax.lax.with_sharding_constraint(clean, NamedSharding(mesh, PartitionSpec("data")))
        s = jnp.exp(jax.random.uniform(level, (plan.batch_size,), jnp.float32, low, high))
        wide = s[:, None, None, None]
        drawn = jax.random.normal(noise, clean.shape, jnp.float32)
        asked = rule.ask(s)
        seen = asked.scale[:, None, None, None] * (clean + wide * drawn)
        answer = nnx.merge(graph, parameters)(to_patches(seen, patch), asked.time)
        return jnp.square(answer - to_patches(rule.target(clean, drawn, wide), patch)).mean()

    def update(parameters: Any, mean: Any, state: Any, data: Array, step: Array) -> Any:
        loss, slopes = jax.value_and_grad(loss_of)(parameters, data, step)
        parameters, mean, state = apply_changes(optimizer, slopes, parameters, mean, state, step, plan.average)
        return parameters, mean, state, loss

    return jax.jit(update, donate_argnums=(0, 1, 2))


def _optimizer(plan: TrainingPlan) -> Any:
    optax = load_optax()
    warmup = min(plan.warmup, plan.steps - 1)
    rate = optax.warmup_cosine_decay_schedule(0.0, plan.learning_rate, warmup, plan.steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def _check(config: UNetConfig, rule: Diffusion, images: np.ndarray, plan: TrainingPlan, mesh: Mesh | None) -> None:
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images must have shape [pictures, height, width, channels], got {list(images.shape)}.")
    config.check_pictures(images.shape)
    if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images must lie in [0, 1], got {images.min()} to {images.max()}.")
    if config.out_channels != config.in_channels:
        raise ValueError("out_channels must be in_channels: a network that predicts a variance is not trained here.")
    if 2 * plan.sigma_max > rule.range[1]:
        raise ValueError(f"sigma_max must be at most {rule.range[1] / 2:.6g}, the schedule's, got {plan.sigma_max}.")
    devices = 1 if mesh is None else mesh.shape["data"]
    if plan.batch_size % devices:
        raise ValueError(f"batch_size must be a multiple of the {devices} devices, got {plan.batch_size}.")
