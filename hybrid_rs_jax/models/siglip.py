"""The SigLIP vision tower, as LLaVA-OneVision uses it: patches only, no class token, no pooling head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float

from hybrid_rs_jax.models._keys import KeyTable
from hybrid_rs_jax.models._vision import ENCODER_KEYS, VisionConfig, VisionTower, vision_config

__all__ = ["Siglip"]


class Siglip(VisionTower):
    """A SigLIP tower that returns one feature per patch.

    >>> config = Siglip.read_config({"image_size": 384, "patch_size": 14})
    >>> config.grid
    27
    """

    @staticmethod
    def read_config(config: Mapping[str, Any], feature_layers: tuple[int, ...] = (-1,)) -> VisionConfig:
        """Sizes from the vision part of config.json; what it leaves out has the architecture's default."""
        return vision_config(config, feature_layers, patch_size=16, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6)

    def embed(self, pixels: Float[Array, "tiles height width channels"]) -> Float[Array, "tiles tokens hidden"]:
        """Patches plus their learned positions."""
        return self.patch_embedding(pixels) + self.position_embedding[...].astype(self.dtype)

    def key_table(self) -> KeyTable:
        """Where the tensors of a checkpoint belong."""
        return KeyTable(ENCODER_KEYS, ((r"vision_model\.", ""),), self.unused())
