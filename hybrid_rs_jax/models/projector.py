"""The map from vision features to the decoder's embeddings: two linear layers with an activation between."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from hybrid_rs_jax.models._activations import activation
from hybrid_rs_jax.models._keys import KERNEL, Key, KeyTable

__all__ = ["Projector"]

KEYS = KeyTable(
    keys=(
        Key("{map}.weight", "{map}.kernel", KERNEL),
        Key("{map}.bias", "{map}.bias"),
    )
)


class Projector(nnx.Module):
    """`linear_2(act(linear_1(features)))`.

    Args:
      inputs: features per patch, all feature layers together.
      outputs: the decoder's width.
      hidden_act: activation, by its name in config.json.
      use_bias: whether both maps have a bias.
      dtype: dtype of the computation.
      param_dtype: dtype of the stored weights.
      rngs: random numbers for the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden_act: str = "gelu",
        use_bias: bool = True,
        *,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: Any,
    ):
        linear = functools.partial(nnx.Linear, use_bias=use_bias, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.linear_1, self.linear_2 = linear(inputs, outputs), linear(outputs, outputs)
        self.act = activation(hidden_act)

    def __call__(self, features: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        return self.linear_2(self.act(self.linear_1(features)))

    def key_table(self) -> KeyTable:
        """Where the tensors of a checkpoint belong."""
        return KEYS
