"""Activation functions by the names that config.json uses."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import Array

__all__ = ["activation"]


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def _gelu_tanh(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)


def _quick_gelu(x: Array) -> Array:
    return x * jax.nn.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def activation(name: str) -> Callable[[Array], Array]:
    """The function of that name; a ValueError names the supported ones."""
    if name not in _ACTIVATIONS:
        raise ValueError(f"The activation must be one of {', '.join(_ACTIVATIONS)}, got {name}.")
    return _ACTIVATIONS[name]
