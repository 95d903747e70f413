"""LLaVA-1.5: one view of the picture, its patches in place of the placeholders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float

from hybrid_rs_jax.models._vision_language import VisionLanguageConfig, VisionLanguageModel, read_joint_config

__all__ = ["Llava"]

DEFAULT_VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}


class Llava(VisionLanguageModel):
    """A LLaVA-1.5 network: by default CLIP and Llama; SigLIP and Qwen2 work in their place."""

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> VisionLanguageConfig:
        """Sizes from config.json.

        Raises:
          ValueError: for parts or settings that are not supported.
        """
        return read_joint_config(config, DEFAULT_VISION, "llama", -2, "default", 32_000)

    def image_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        """Placeholders of a picture: the same for every size."""
        tower = self.vision_tower
        return self.config.vision.grid**2 + tower.extra_tokens - int(self.config.drop_first)

    def image_features(
        self, pixels: Float[Array, "images tiles height width channels"], image_size: tuple[int, int] | None = None
    ) -> Float[Array, "images tokens hidden"]:
        """One embedding per patch.

        Args:
          pixels: normalised, one view per picture: `tiles` is 1.
          image_size: not used; every picture becomes one view.

        Raises:
          ValueError: for more than one view.
        """
        if pixels.shape[1] != 1:
            raise ValueError(f"pixels must hold one view per picture, got {pixels.shape[1]}.")
        return self.encode(pixels[:, 0])

    def from_tower(
        self, features: Float[Array, "images tiles patches features"], image_size: tuple[int, int] | None = None
    ) -> Float[Array, "images tokens hidden"]:
        """One embedding per patch, from the tower's features of the one view."""
        return self.projector(features[:, 0])
