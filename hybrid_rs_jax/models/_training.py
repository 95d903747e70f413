"""The loop around a compiled step of training: state, checkpoints, losses."""

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
from jaxtyping import Array

from hybrid_rs_jax._files import atomic_file, kind_of

__all__ = ["TrainingState", "apply_changes", "load_optax", "resume", "run_steps"]


@dataclasses.dataclass
class TrainingState:
    """Everything that changes from step to step."""

    parameters: Any
    mean: Any
    optimizer: Any
    step: int = 0
    losses: list[float] = dataclasses.field(default_factory=list)

    @classmethod
    def start(cls, parameters: Any, optimizer: Any) -> TrainingState:
        """The state before the first step."""
        return cls(parameters, jax.tree.map(jnp.copy, parameters), optimizer.init(parameters))

    @property
    def arrays(self) -> tuple[Any, Any, Any]:
        """What the compiled step takes and gives."""
        return self.parameters, self.mean, self.optimizer

    def best(self, average: float | None) -> Any:
        """The weights to use: their running mean where there is one."""
        return jax.device_get(self.parameters if average is None else self.mean)


def run_steps(
    state: TrainingState,
    update: Callable[..., Any],
    data: Any,
    end: int,
    *,
    checkpoint_every: int,
    checkpoint: Path | None = None,
    settings: dict[str, object] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> None:
    """Call `update(parameters, mean, optimizer, data, step)` until step `end`.

    A Python loop, not `lax.scan`: on a CPU, XLA uses one thread for what it finds inside a loop.

    Raises:
      ValueError: if the loss is no longer finite.
    """
    recent: list[Array] = []
    while state.step < end:
        *arrays, loss = update(*state.arrays, data, np.uint32(state.step))
        state.parameters, state.mean, state.optimizer = arrays
        state.step += 1
        recent.append(loss)
        saves = checkpoint is not None and (state.step % checkpoint_every == 0 or state.step == end)
        if state.step % 50 == 0 or state.step == end or saves:
            state.losses.append(float(jnp.stack(recent).mean()))
            recent.clear()
            if not math.isfinite(state.losses[-1]):
                raise ValueError(f"The loss is no longer finite at step {state.step}; lower learning_rate.")
            if progress is not None:
                progress(state.step, state.losses[-1])
        if saves:
            assert checkpoint is not None
            _save(state, checkpoint, settings or {})


def apply_changes(
    optimizer: Any, slopes: Any, parameters: Any, mean: Any, state: Any, step: Array, average: float | None
) -> tuple[Any, Any, Any]:
    """One update of weights, their running mean, and the optimizer's state."""
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        changes, state = optimizer.update(slopes, state, parameters)
    parameters = load_optax().apply_updates(parameters, changes)
    if average is not None:
        # a mean over the first steps would remember the random start for long: it begins as a plain mean
        kept = jnp.minimum(average, step.astype(jnp.float32) / (step.astype(jnp.float32) + 10))
        mean = jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, mean, parameters)
    return parameters, mean, state


def load_optax() -> Any:
    """The module optax.

    Raises:
      ValueError: if it is not installed.
    """
    try:
        return importlib.import_module("optax")
    except ImportError as error:
        raise ValueError('Training needs optax: pip install "hybrid-rs-jax[experiments]".') from error


def resume(state: TrainingState, path: Path | None, settings: dict[str, object]) -> None:
    """Go on from a checkpoint, where there is one.

    Raises:
      ValueError: if it is cut off, or of other settings.
    """
    import safetensors

    if path is None or kind_of(path) is None:
        return
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


def _save(state: TrainingState, path: Path, settings: dict[str, object]) -> None:
    """All arrays in one safetensors file, with the step and the settings in its header."""
    from safetensors.numpy import save_file

    leaves = jax.tree.leaves(jax.device_get(state.arrays))
    tensors = {f"{number:05d}": np.ascontiguousarray(leaf) for number, leaf in enumerate(leaves)}
    header = {"settings": json.dumps(settings), "step": str(state.step), "losses": " ".join(map(repr, state.losses))}
    with atomic_file(path, force=True) as temporary:
        save_file(tensors, temporary, header)
