"""Rotary position embeddings: frequencies from config.json, and the rotation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from hybrid_rs_jax.models._settings import Fields

__all__ = ["RotaryConfig", "rotary_config", "rotary_tables", "rotate"]


@dataclasses.dataclass(frozen=True)
class RotaryConfig:
    """Base of the frequencies and, for long contexts, how the low ones are slowed down.

    Attributes:
      theta: base of the geometric sequence of frequencies.
      factor: divisor of the slow frequencies, 1 for none.
      bands: None divides all frequencies ("linear"). A triple (low, high, original length) divides the frequencies
        with fewer than `low` turns in the original length, keeps those with more than `high` and blends between
        ("llama3").
    """

    theta: float = 10_000.0
    factor: float = 1.0
    bands: tuple[float, float, int] | None = None


def rotary_config(config: Mapping[str, Any]) -> RotaryConfig:
    """Read `rope_scaling` or, where it is absent, `rope_parameters`, with what stands beside them.

    Priorities are those of transformers 5: `rope_scaling` (older files, and what users add by hand) replaces
    `rope_parameters` as a whole; `rope_theta` inside wins over one beside it; an `original_max_position_embeddings`
    beside it wins over one inside.

    Raises:
      ValueError: for a scaling other than default, linear or llama3, a partial rotation, or a number out of range.
    """
    fields = Fields(config)
    scaling = fields.section("rope_scaling") or fields.section("rope_parameters") or Fields({})
    theta = scaling.number("rope_theta", fields.number("rope_theta", 10_000.0, high=1e15), high=1e15)
    for level in (scaling, fields):
        if level.number("partial_rotary_factor", 1.0) != 1.0:
            raise level.refuse("partial_rotary_factor", "1")
    if any(isinstance(value, dict) for value in scaling.values()):
        raise ValueError("rope_parameters must be the same for all layers, got one object per kind of layer.")
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    if kind == "default":
        return RotaryConfig(theta)
    if kind == "linear":
        return RotaryConfig(theta, scaling.number("factor"))
    if kind == "llama3":
        low = scaling.number("low_freq_factor")
        high = scaling.number("high_freq_factor", low=low)
        limit = fields.integer("max_position_embeddings", 2048)
        inside = scaling.integer("original_max_position_embeddings", limit)
        original = fields.integer("original_max_position_embeddings", inside)
        return RotaryConfig(theta, scaling.number("factor"), (low, high, original))
    raise ValueError(f"The rotary scaling must be default, linear or llama3, got {kind}.")


def rotary_tables(
    config: RotaryConfig, start: int, length: int, size: int
) -> tuple[Float32[np.ndarray, "length half"], Float32[np.ndarray, "length half"]]:
    """Cosines and sines for the positions `start .. start + length - 1` and heads of `size` features.

    Positions are static, so the tables are constants of the compiled program. Frequencies and angles are rounded to
    float32 as in the networks' training code; the functions are exact to float32 of that angle.
    """
    frequencies = _frequencies(config, size)
    positions = np.arange(start, start + length, dtype=np.float32)
    angles = (positions[:, None] * frequencies).astype(np.float64)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(
    x: Float[Array, "batch length heads size"],
    cosine: Float32[np.ndarray | Array, "*batch length half"],
    sine: Float32[np.ndarray | Array, "*batch length half"],
) -> Float[Array, "batch length heads size"]:
    """Rotate feature `i` against feature `i + size / 2`, in float32; tables are the same for all rows, or one each."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cosine[..., :, None, :], sine[..., :, None, :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def _frequencies(config: RotaryConfig, size: int) -> Float32[np.ndarray, " half"]:
    plain = (1.0 / config.theta ** (np.arange(0, size, 2, dtype=np.float64) / size)).astype(np.float32)
    slow = plain / np.float32(config.factor)
    if config.bands is None:
        return slow
    low, high, original = config.bands
    turns = original * plain.astype(np.float64) / (2 * math.pi)
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return ((1 - blend) * slow + blend * plain).astype(np.float32)
