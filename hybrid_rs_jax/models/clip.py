"""The CLIP vision tower, as LLaVA-1.5 uses it: class token, layer norm before the first layer, no projection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from hybrid_rs_jax.models._attention import Implementation
from hybrid_rs_jax.models._keys import Key, KeyTable
from hybrid_rs_jax.models._vision import ENCODER_KEYS, VisionConfig, VisionTower, layer_norm, vision_config

__all__ = ["Clip"]

KEYS = (
    Key("embeddings.class_embedding", "class_embedding"),
    Key("pre_layrnorm.weight", "pre_norm.scale"),  # the misspelling is the checkpoints' own
    Key("pre_layrnorm.bias", "pre_norm.bias"),
    *ENCODER_KEYS,
)


class Clip(VisionTower):
    """A CLIP tower that returns the class token's feature, then one per patch.

    >>> config = Clip.read_config({"image_size": 336, "patch_size": 14}, feature_layers=(-2,))
    >>> config.grid
    24
    """

    patch_bias = False
    extra_tokens = 1

    def __init__(
        self,
        config: VisionConfig,
        *,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        attention: Implementation = "auto",
        rngs: Any,
    ):
        super().__init__(config, dtype=dtype, param_dtype=param_dtype, attention=attention, rngs=rngs)
        width = config.hidden_size
        self.class_embedding = nnx.Param(width**-0.5 * rngs.params.normal((width,), param_dtype))
        self.pre_norm = layer_norm(config, dtype, param_dtype, rngs)

    @staticmethod
    def read_config(config: Mapping[str, Any], feature_layers: tuple[int, ...] = (-1,)) -> VisionConfig:
        """Sizes from the vision part of config.json; what it leaves out has the architecture's default."""
        return vision_config(config, feature_layers, patch_size=32, hidden_act="quick_gelu", layer_norm_eps=1e-5)

    def embed(self, pixels: Float[Array, "tiles height width channels"]) -> Float[Array, "tiles tokens hidden"]:
        """Class token and patches plus their learned positions, normalised."""
        patches = self.patch_embedding(pixels)
        first = self.class_embedding[...].astype(self.dtype)
        first = jnp.broadcast_to(first, (patches.shape[0], 1, patches.shape[2]))
        x = jnp.concatenate([first, patches], axis=1) + self.position_embedding[...].astype(self.dtype)
        return self.pre_norm(x)

    def key_table(self) -> KeyTable:
        """Where the tensors of a checkpoint belong."""
        return KeyTable(KEYS, ((r"vision_model\.", ""),), self.unused())
