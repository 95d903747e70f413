"""Training of a denoiser: pictures, fresh noise of random levels, the squared error of the network's answer.

    noise level   log-uniform in `sigma_min .. sigma_max`, in the units of pictures in [0, 1]
    loss          `E |network(scale x, time) - target|^2` with `x = clean + s noise` (see `schedule`)

Step `k` draws its pictures, levels and noise from `fold_in(seed, k)` alone, so a run that was killed and goes on from
its checkpoint ends as one that was not, but for rounding (the order of sums depends on threads and devices).
"""

from __future__ import annotations

import dataclasses
import importlib
import json
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

from hybrid_rs_jax._files import atomic_file, kind_of
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


@dataclasses.dataclass
class _State:
    """Everything that changes from step to step."""

    parameters: Any
    mean: Any
    optimizer: Any
    step: int = 0
    losses: list[float] = dataclasses.field(default_factory=list)

    @property
    def arrays(self) -> tuple[Any, Any, Any]:
        return self.parameters, self.mean, self.optimizer


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
    state = _State(parameters, jax.tree.map(jnp.copy, parameters), optimizer.init(parameters))
    settings: dict[str, Any] = {"config": config.write(), "rule": rule.describe(), "plan": dataclasses.asdict(plan)}
    settings["pictures"] = list(images.shape)
    if checkpoint is not None and kind_of(checkpoint) is not None:
        _resume(state, checkpoint, settings)
    update = _update(graph, rule, optimizer, plan, mesh, config.patch_size)
    data = jnp.asarray(images, jnp.float32)
    if mesh is not None:
        everywhere = NamedSharding(mesh, PartitionSpec())
        data = jax.device_put(data, everywhere)
        state.parameters, state.mean, state.optimizer = jax.device_put(state.arrays, everywhere)
    _loop(state, update, data, min(plan.steps, until or plan.steps), plan, checkpoint, settings, progress)
    used = state.mean if plan.average is not None else state.parameters
    return Denoiser(nnx.merge(graph, jax.device_get(used)), rule, size=images.shape[1:3]), state.losses


def _loop(
    state: _State,
    update: Callable[..., Any],
    data: Array,
    end: int,
    plan: TrainingPlan,
    checkpoint: Path | None,
    settings: dict[str, Any],
    progress: Callable[[int, float], None] | None,
) -> None:
    """A Python loop, not `lax.scan`: on a CPU, XLA uses one thread for what it finds inside a loop."""
    recent: list[Array] = []
    while state.step < end:
        *arrays, loss = update(*state.arrays, data, np.uint32(state.step))
        state.parameters, state.mean, state.optimizer = arrays
        state.step += 1
        recent.append(loss)
        saves = checkpoint is not None and (state.step % plan.checkpoint_every == 0 or state.step == end)
        if state.step % 50 == 0 or state.step == end or saves:
            state.losses.append(float(jnp.stack(recent).mean()))
            recent.clear()
            if not math.isfinite(state.losses[-1]):
                raise ValueError(f"The loss is no longer finite at step {state.step}; lower learning_rate.")
            if progress is not None:
                progress(state.step, state.losses[-1])
        if saves:
            assert checkpoint is not None
            _save(state, checkpoint, settings)


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
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
            changes, state = optimizer.update(slopes, state, parameters)
        parameters = _optax().apply_updates(parameters, changes)
        if plan.average is not None:
            # a mean over the first steps would remember the random start for long: it begins as a plain mean
            kept = jnp.minimum(plan.average, step.astype(jnp.float32) / (step.astype(jnp.float32) + 10))
            mean = jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, mean, parameters)
        return parameters, mean, state, loss

    return jax.jit(update, donate_argnums=(0, 1, 2))


def _optax() -> Any:
    try:
        return importlib.import_module("optax")
    except ImportError as error:
        raise ValueError('Training needs optax: pip install "hybrid-rs-jax[experiments]".') from error


def _optimizer(plan: TrainingPlan) -> Any:
    optax = _optax()
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


def _save(state: _State, path: Path, settings: dict[str, Any]) -> None:
    """All arrays in one safetensors file, with the step and the settings in its header."""
    from safetensors.numpy import save_file

    leaves = jax.tree.leaves(jax.device_get(state.arrays))
    tensors = {f"{number:05d}": np.ascontiguousarray(leaf) for number, leaf in enumerate(leaves)}
    header = {"settings": json.dumps(settings), "step": str(state.step), "losses": " ".join(map(repr, state.losses))}
    with atomic_file(path, force=True) as temporary:
        save_file(tensors, temporary, header)


def _resume(state: _State, path: Path, settings: dict[str, Any]) -> None:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            leaves = [file.get_tensor(name) for name in sorted(file.keys())]
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no whole checkpoint: {error}.") from error
    if header.get("settings") != json.dumps(settings):
        raise ValueError(f"{path} is the checkpoint of other settings; choose another file or remove it.")
    structure = jax.tree.structure(state.arrays)
    state.parameters, state.mean, state.optimizer = jax.tree.unflatten(structure, map(jnp.asarray, leaves))
    state.step, state.losses = int(header["step"]), [float(loss) for loss in header["losses"].split()]
