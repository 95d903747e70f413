"""What the LLaVA networks share: tower, projector, decoder, and features spliced between tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from hybrid_rs_jax.models._activations import activation
from hybrid_rs_jax.models._attention import Implementation
from hybrid_rs_jax.models._decoder import Decoder
from hybrid_rs_jax.models._decoder_sizes import DecoderConfig
from hybrid_rs_jax.models._keys import Key, KeyTable, join
from hybrid_rs_jax.models._settings import Fields
from hybrid_rs_jax.models._vision import VisionConfig, VisionTower
from hybrid_rs_jax.models.clip import Clip
from hybrid_rs_jax.models.llama import Llama
from hybrid_rs_jax.models.mistral import Mistral
from hybrid_rs_jax.models.projector import Projector
from hybrid_rs_jax.models.qwen2 import Qwen2
from hybrid_rs_jax.models.siglip import Siglip

__all__ = ["DECODERS", "TOWERS", "VisionLanguageConfig", "VisionLanguageModel", "read_joint_config"]

DECODERS: dict[str, type[Any]] = {"qwen2": Qwen2, "llama": Llama, "mistral": Mistral}
TOWERS: dict[str, type[Any]] = {"siglip_vision_model": Siglip, "clip_vision_model": Clip}

# Layouts in the order in which they appeared: the original LLaVA repository; transformers up to 4.51, whose names
# 4.52 to 5.x still write; the names of the modules since 4.52. Since 5.x a tower has no "vision_model" inside.
RENAMES = (
    (r"(?:model\.)?language_model\.lm_head\.", "language_model.lm_head."),
    (r"language_model\.model\.", "language_model."),
    (r"model\.language_model\.", "language_model."),
    (r"lm_head\.", "language_model.lm_head."),
    (r"model\.vision_tower\.vision_tower\.vision_model\.", "vision_tower."),
    (r"(?:model\.)?vision_tower\.(?:vision_model\.)?", "vision_tower."),
    (r"(?:model\.)?multi_modal_projector\.", "projector."),
    (r"model\.mm_projector\.0\.", "projector.linear_1."),
    (r"model\.mm_projector\.2\.", "projector.linear_2."),
    (r"(?:model\.)?image_newline$", "image_newline"),
    (r"model\.(?=embed_tokens\.|layers\.|norm\.|rotary_emb\.)", "language_model."),
)


@dataclasses.dataclass(frozen=True)
class VisionLanguageConfig:
    """A tower, a decoder and what joins them.

    Attributes:
      tower: "siglip_vision_model" or "clip_vision_model".
      vision: sizes of the tower.
      decoder: "qwen2", "llama" or "mistral".
      text: sizes of the decoder.
      image_token_id: the token that holds the place of one image feature.
      drop_first: whether the tower's first token is dropped (the class token; strategy "default").
      projector_act: activation of the projector.
      projector_bias: whether its maps have a bias.
    """

    tower: str
    vision: VisionConfig
    decoder: str
    text: DecoderConfig
    image_token_id: int
    drop_first: bool
    projector_act: str
    projector_bias: bool

    def __post_init__(self) -> None:
        activation(self.projector_act)


class VisionLanguageModel(nnx.Module):
    """Tower, projector and decoder. A subclass says which features a picture gives.

    Args:
      config: what `read_config` returned.
      dtype: dtype of the computation; logits are float32 in any case.
      param_dtype: dtype of the stored weights.
      attention: "xla", "cudnn", or "auto" (cuDNN on a GPU in half precision).
      rngs: random numbers for the initial weights.
    """

    own_keys: ClassVar[tuple[Key, ...]] = ()

    def __init__(
        self,
        config: Any,
        *,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        attention: Implementation = "auto",
        rngs: Any,
    ):
        options: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.config, self.dtype = config, dtype
        self.vision_tower: VisionTower = TOWERS[config.tower](config.vision, attention=attention, **options)
        self.projector = Projector(
            config.vision.hidden_size * len(config.vision.feature_layers),
            config.text.hidden_size,
            config.projector_act,
            config.projector_bias,
            **options,
        )
        self.language_model: Decoder = DECODERS[config.decoder](config.text, attention=attention, **options)

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        pixels: Float[Array, "images tiles height width channels"] | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> Float32[Array, "batch length vocabulary"]:
        """Logits at every position, for parity with other implementations."""
        features = None if pixels is None else self.image_features(pixels, image_size)
        return self.language_model(self.embed(tokens, features))

    def encode(self, pixels: Float[Array, "tiles height width channels"]) -> Float[Array, "tiles patches hidden"]:
        """Tower and projector: one embedding per patch."""
        return self.projector(self.tower_features(pixels))

    def tower_features(
        self, pixels: Float[Array, "tiles height width channels"]
    ) -> Float[Array, "tiles patches features"]:
        """What the projector reads: the tower's features, without the class token where the network drops it."""
        features = self.vision_tower(pixels)
        return features[:, 1:] if self.config.drop_first else features

    def from_tower(
        self, features: Float[Array, "images tiles patches features"], image_size: tuple[int, int] | None = None
    ) -> Float[Array, "images tokens hidden"]:
        """`image_features` from the tower's features of all views of each picture, for example smoothed ones."""
        raise NotImplementedError

    def image_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        """Placeholders that a picture of this height and width takes in the text."""
        raise NotImplementedError

    def image_features(
        self, pixels: Float[Array, "images tiles height width channels"], image_size: tuple[int, int] | None = None
    ) -> Float[Array, "images tokens hidden"]:
        """The embeddings that stand for each picture in the text."""
        raise NotImplementedError

    def embed(
        self,
        tokens: Int[Array, "batch length"],
        features: Float[Array, "images tokens hidden"] | None = None,
        image_start: int | None = None,
    ) -> Float[Array, "batch length hidden"]:
        """Embed tokens, with a picture's features in place of its placeholders.

        Args:
          tokens: token ids, padded on the right.
          features: one picture per row, or a single one that all rows share.
          image_start: position of the first placeholder. Give it wherever noise may write tokens: then a placeholder
            among the noise is an ordinary token, and cannot move the picture. None finds the placeholders by their
            id; those beyond the number of features stay ordinary tokens.

        Raises:
          ValueError: if the features do not fit in the text at `image_start`.
        """
        count = 0 if features is None else features.shape[1]
        if image_start is None:
            marked = tokens == self.config.image_token_id
            order = jnp.cumsum(marked, axis=1) - 1
            marked = marked & (order < count)
        else:
            if not 0 <= image_start <= tokens.shape[1] - count:
                raise ValueError(
                    f"image_start must lie in 0..{tokens.shape[1] - count} for {count} image features in "
                    f"{tokens.shape[1]} tokens, got {image_start}."
                )
            order = jnp.broadcast_to(jnp.arange(tokens.shape[1]) - image_start, tokens.shape)
            marked = (order >= 0) & (order < count)
        words = self.language_model.embed(jnp.where(marked, 0, tokens))
        if features is None:
            return words
        pictures = jnp.take_along_axis(features, jnp.clip(order, 0, count - 1)[..., None], axis=1)
        return jnp.where(marked[..., None], pictures.astype(words.dtype), words)

    def place(self, start: int | None, view_size: tuple[int, int] | None) -> None:
        """Say at which position the picture begins, and how high and wide its views are; None for no picture.

        Networks to which a picture is nothing but so many positions have no use for it.
        """

    def key_table(self) -> KeyTable:
        """Where the tensors of a checkpoint belong."""
        parts = ("vision_tower", "projector", "language_model")
        tables = [getattr(self, name).key_table().under(name) for name in parts]
        return join([KeyTable(self.own_keys), *tables], RENAMES)


def read_joint_config(
    config: Mapping[str, Any],
    default_vision: Mapping[str, Any],
    default_decoder: str,
    default_layer: int,
    default_strategy: str,
    default_token: int,
) -> VisionLanguageConfig:
    """The part of config.json that all families write alike.

    Raises:
      ValueError: for parts or settings that are not supported, or a value out of range.
    """
    fields = Fields(config)
    vision = fields.section("vision_config") or Fields(default_vision)
    text = fields.section("text_config") or Fields({}, "text_config.")
    tower = vision.choice("model_type", TOWERS, default_vision["model_type"])
    decoder = text.choice("model_type", DECODERS, default_decoder)
    strategy = fields.choice("vision_feature_select_strategy", ("default", "full"), default_strategy)
    layers = fields.integers("vision_feature_layer", (default_layer,), low=-1025, high=1024)
    placeholder = fields.integer("image_token_id", default_token, low=-200)
    sizes = DECODERS[decoder].read_config(text)
    tied = fields.flag("tie_word_embeddings") if "tie_word_embeddings" in fields else None
    if tied is not None and not sizes.tied:  # either place may tie, as in transformers
        sizes = dataclasses.replace(sizes, tied=tied)
    return VisionLanguageConfig(
        tower=tower,
        vision=TOWERS[tower].read_config(vision, layers),
        decoder=decoder,
        text=sizes,
        image_token_id=fields.integer("image_token_index", placeholder, low=-200),
        drop_first=strategy == "default",
        projector_act=fields.text("projector_hidden_act", "gelu"),
        projector_bias=fields.flag("multimodal_projector_bias", True),
    )
