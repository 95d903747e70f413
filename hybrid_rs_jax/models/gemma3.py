"""Gemma 3: one view of the picture, its patches averaged to 256 embeddings that see each other both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from hybrid_rs_jax.models._attention import Implementation
from hybrid_rs_jax.models._gemma_decoder import GemmaConfig, GemmaDecoder, GemmaNorm
from hybrid_rs_jax.models._keys import Key, KeyTable, join
from hybrid_rs_jax.models._place import Place
from hybrid_rs_jax.models._settings import Fields
from hybrid_rs_jax.models._vision import VisionConfig, layer_norm
from hybrid_rs_jax.models._vision_language import VisionLanguageModel
from hybrid_rs_jax.models.siglip import Siglip

__all__ = ["Gemma3", "Gemma3Config"]

# Layouts of transformers up to 4.51, since 4.52, and of ShieldGemma 2, which wraps them once more.
RENAMES = (
    (r"(?:model\.)*language_model\.lm_head\.", "language_model.lm_head."),
    (r"(?:model\.)*language_model\.(?:model\.)?", "language_model."),
    (r"(?:model\.)*lm_head\.", "language_model.lm_head."),
    (r"(?:model\.)*vision_tower\.(?:vision_model\.)?", "vision_tower."),
    (r"(?:model\.)*multi_modal_projector\.", "projector."),
)
KEYS = KeyTable(
    keys=(
        Key("mm_input_projection_weight", "kernel"),
        Key("mm_soft_emb_norm.weight", "norm.scale"),
    )
)


@dataclasses.dataclass(frozen=True)
class Gemma3Config:
    """Tower, decoder and what joins them.

    Attributes:
      vision: sizes of the SigLIP tower.
      text: sizes of the decoder.
      image_token_id: the token that holds the place of one image feature.
      frame: the tokens that stand before and behind a picture's features.
      side: features along each side of a picture.
      decoder: the tokenizer's family.
    """

    vision: VisionConfig
    text: GemmaConfig
    image_token_id: int
    frame: tuple[int, int]
    side: int
    decoder: str = "gemma3_text"


class NormedSiglip(Siglip):
    """A SigLIP tower with the norm behind its last layer, which the LLaVA networks leave out."""

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
        self.last_norm = layer_norm(config, dtype, param_dtype, rngs)

    def __call__(self, pixels: Float[Array, "tiles height width channels"]) -> Float[Array, "tiles tokens features"]:
        return self.last_norm(super().__call__(pixels))

    def key_table(self) -> KeyTable:
        """Where the tensors of a checkpoint belong."""
        table, stored = super().key_table(), "post_layernorm"
        own = (Key(f"{stored}.weight", "last_norm.scale"), Key(f"{stored}.bias", "last_norm.bias"))
        ignored = tuple(pattern for pattern in table.ignored if not pattern.startswith(stored))
        return dataclasses.replace(table, keys=(*own, *table.keys), ignored=ignored)


class GemmaProjector(nnx.Module):
    """`norm(mean over squares of patches) @ kernel`."""

    def __init__(self, config: Gemma3Config, dtype: Any, param_dtype: Any, rngs: Any):
        width = config.vision.hidden_size
        self.norm = GemmaNorm(width, config.vision.layer_norm_eps, dtype, param_dtype)
        shape = (width, config.text.hidden_size)
        self.kernel = nnx.Param(width**-0.5 * rngs.params.normal(shape, param_dtype))
        self.side, self.dtype = config.side, dtype

    def __call__(self, features: Float[Array, "images patches width"]) -> Float[Array, "images tokens hidden"]:
        images, patches, width = features.shape
        step = round(patches**0.5) // self.side
        squares = features.reshape(images, self.side, step, self.side, step, width)
        pooled = jnp.mean(squares.astype(jnp.float32), axis=(2, 4)).astype(self.dtype)
        return self.norm(pooled.reshape(images, -1, width)) @ self.kernel[...].astype(self.dtype)

    def key_table(self) -> KeyTable:
        """Where the tensors of a checkpoint belong."""
        return KEYS


class Gemma3(VisionLanguageModel):
    """A Gemma 3 network for one picture; without `place` its positions are those of a text."""

    projector: GemmaProjector  # type: ignore[assignment]

    def __init__(
        self,
        config: Gemma3Config,
        *,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        attention: Implementation = "auto",
        rngs: Any,
    ):
        options: dict[str, object] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.config, self.dtype = config, dtype
        self.vision_tower = NormedSiglip(config.vision, attention=attention, **options)
        self.projector = GemmaProjector(config, **options)
        self.language_model = GemmaDecoder(config.text, attention=attention, **options)

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> Gemma3Config:
        """Sizes from config.json.

        Raises:
          ValueError: for parts or settings that are not supported, or a field that is not known.
        """
        fields = Fields(config)
        fields.settle("yes_token_index", "no_token_index")  # of ShieldGemma 2, which names its labels so
        vision_fields, text_fields = (fields.section(name) or Fields({}) for name in ("vision_config", "text_config"))
        vision_fields.only("model_type", "siglip_vision_model", "gemma3")
        vision, text = Siglip.read_config(vision_fields), GemmaDecoder.read_config(text_fields)
        if "tie_word_embeddings" in fields:  # the outer place counts, as in transformers
            text = dataclasses.replace(text, tied=fields.flag("tie_word_embeddings"))
        tokens = fields.integer("mm_tokens_per_image", 256, high=2**20)
        side = round(tokens**0.5)
        if side**2 != tokens or vision.grid % side:
            legal = f"the square of a divisor of {vision.grid}, the patches along a side"
            raise fields.refuse("mm_tokens_per_image", legal)
        image = fields.integer("image_token_id", 262_144, low=0)
        frame = fields.integer("boi_token_index", 255_999, low=0), fields.integer("eoi_token_index", 256_000, low=0)
        found = Gemma3Config(vision, text, fields.integer("image_token_index", image, low=0), frame, side)
        fields.refuse_unread("gemma3")
        return found

    def place(self, start: int | None, view_size: tuple[int, int] | None) -> None:
        """Say at which position the picture begins; None for no picture."""
        side = self.config.side
        self.language_model.picture = None if start is None else Place(start, side, side)

    def encode(self, pixels: Float[Array, "tiles height width channels"]) -> Float[Array, "tiles tokens hidden"]:
        """Tower and projector."""
        return self.projector(self.vision_tower(pixels))

    def image_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        """Placeholders of a picture: the same for every size."""
        return self.config.side**2

    def image_features(
        self, pixels: Float[Array, "images tiles height width channels"], image_size: tuple[int, int] | None = None
    ) -> Float[Array, "images tokens hidden"]:
        """One embedding per square of patches.

        Args:
          pixels: normalised, one view per picture: `tiles` is 1.
          image_size: not used; every picture becomes one view.

        Raises:
          ValueError: for more than one view.
        """
        if pixels.shape[1] != 1:
            raise ValueError(f"pixels must hold one view per picture, got {pixels.shape[1]}.")
        return self.encode(pixels[:, 0])

    def key_table(self) -> KeyTable:
        """Where the tensors of a checkpoint belong."""
        parts = ("vision_tower", "projector", "language_model")
        return join([getattr(self, name).key_table().under(name) for name in parts], RENAMES)
