"""Qwen2.5-VL: a picture of any size in steps of 28 pixels, and rotary positions in time, height and width."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hybrid_rs_jax.models._attention import Implementation
from hybrid_rs_jax.models._decoder_sizes import DecoderConfig, decoder_sizes
from hybrid_rs_jax.models._keys import KeyTable, join
from hybrid_rs_jax.models._place import Place
from hybrid_rs_jax.models._qwen_tower import QwenTower, QwenVisionConfig, read_vision
from hybrid_rs_jax.models._rotary import rotary_config, rotary_tables
from hybrid_rs_jax.models._settings import Fields
from hybrid_rs_jax.models._vision_language import VisionLanguageModel
from hybrid_rs_jax.models.qwen2 import Qwen2, has_window

__all__ = ["Qwen25VL", "Qwen25VLConfig", "Qwen25VLDecoder"]

# The layout of the published files, and that of transformers since 4.52.
RENAMES = (
    (r"(?:model\.)?visual\.", "vision_tower."),
    (r"(?:model\.)?language_model\.(?:model\.)?", "language_model."),
    (r"lm_head\.", "language_model.lm_head."),
    (r"model\.", "language_model."),
)


@dataclasses.dataclass(frozen=True)
class Qwen25VLTextConfig(DecoderConfig):
    """A `DecoderConfig` with the shares of the rotary frequencies.

    Attributes:
      sections: numbers of frequencies, in turn for positions in time, in height and in width.
    """

    sections: tuple[int, ...] = (16, 24, 24)


@dataclasses.dataclass(frozen=True)
class Qwen25VLConfig:
    """Tower and decoder.

    Attributes:
      vision: sizes of the tower.
      decoder: "qwen2", whose tokenizer it has.
      text: sizes of the decoder.
      image_token_id: the token that holds the place of one image feature.
      frame: the tokens that stand before and behind a picture's features.
    """

    vision: QwenVisionConfig
    text: Qwen25VLTextConfig
    image_token_id: int
    frame: tuple[int, int]
    decoder: str = "qwen2"


class Qwen25VLDecoder(Qwen2):
    """A Qwen2 decoder that sees where in the picture a feature lies."""

    config: Qwen25VLTextConfig

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> Qwen25VLTextConfig:
        """Sizes from the text part of config.json, which may be the file itself.

        Raises:
          ValueError: for a setting that is not supported, or a value out of range.
        """
        fields = Fields(config)
        fields.only("hidden_act", "silu", "qwen2_5_vl")
        rotary = rotary_config(fields, 1e6, ("default", "mrope"))
        scaling = fields.section("rope_scaling") or fields.section("rope_parameters") or Fields({})
        defaults: dict[str, Any] = {"hidden_size": 8192, "layers": 80, "heads": 64, "eps": 1e-5, "rotary": rotary}
        sizes = decoder_sizes(fields, 152_064, 29_568, 8, **defaults)
        if has_window(fields, sizes["num_layers"]):
            raise fields.refuse("use_sliding_window", "false: sliding-window attention is not supported")
        half = sizes["hidden_size"] // sizes["num_heads"] // 2
        sections = scaling.integers("mrope_section", (16, 24, 24), low=0)
        if 2 * half != sizes["head_dim"] or sum(sections) != half:
            raise scaling.refuse("mrope_section", f"integers with the sum {half}, half of a head's features")
        return Qwen25VLTextConfig(**sizes, qkv_bias=True, sections=sections)

    def _tables(self, start: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines, where each frequency has the position of its axis.

        A text has the same position on all axes, one more for each token. The picture's features have that of its
        beginning in time, and count rows and columns from there; the text goes on behind the farthest of them.
        """
        index = np.arange(start, start + length)
        axes = np.stack([index] * 3)
        if (picture := self.picture) is not None:
            inside = (index >= picture.start) & (index < picture.stop)
            rows, columns = np.divmod(index - picture.start, picture.columns)
            axes = np.where(inside, picture.start + np.stack([0 * rows, rows, columns]), axes)
            skipped = picture.rows * picture.columns - max(picture.rows, picture.columns)
            axes = np.where(index >= picture.stop, index - skipped, axes)
        turns = np.repeat(np.arange(len(self.config.sections)) % 3, self.config.sections)
        return rotary_tables(self.config.rotary, start, length, self.config.head_dim, axes[turns].T)


class Qwen25VL(VisionLanguageModel):
    """A Qwen2.5-VL network for one picture; see `place`, without which all positions are those of a text."""

    vision_tower: QwenTower  # type: ignore[assignment]

    def __init__(
        self,
        config: Qwen25VLConfig,
        *,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        attention: Implementation = "auto",
        rngs: Any,
    ):
        self.config, self.dtype = config, dtype
        self.vision_tower = QwenTower(
            config.vision, dtype=dtype, param_dtype=param_dtype, attention=attention, rngs=rngs
        )
        self.language_model = Qwen25VLDecoder(
            config.text, dtype=dtype, param_dtype=param_dtype, attention=attention, rngs=rngs
        )

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> Qwen25VLConfig:
        """Sizes from config.json, with the decoder's in a part of their own or beside the others.

        Raises:
          ValueError: for parts or settings that are not supported, or a field that is not known.
        """
        fields = Fields(config)
        nested = fields.section("text_config")
        for section in (fields, nested or Fields({})):
            section.settle("video_token_id", "vision_token_id")
        if nested is not None:  # the outer ones count
            nested.settle("image_token_id", "vision_start_token_id", "vision_end_token_id")
        text = Qwen25VLDecoder.read_config(fields if nested is None else nested)
        if not text.tied and "tie_word_embeddings" in fields:  # either place may tie, as in transformers
            text = dataclasses.replace(text, tied=fields.flag("tie_word_embeddings"))
        vision = read_vision(fields.section("vision_config") or Fields({}), text.hidden_size)
        names = {"image": 151_655, "vision_start": 151_652, "vision_end": 151_653}
        token, begin, end = (fields.integer(f"{name}_token_id", default, low=0) for name, default in names.items())
        fields.refuse_unread("qwen2_5_vl")
        return Qwen25VLConfig(vision, text, token, (begin, end))

    def place(self, start: int | None, view_size: tuple[int, int] | None) -> None:
        """Say at which position the picture begins, and how high and wide it is; None for no picture."""
        if start is None or view_size is None:
            self.language_model.picture = None
        else:
            step = self.config.vision.step
            self.language_model.picture = Place(start, view_size[0] // step, view_size[1] // step)

    def image_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        """Placeholders of a picture of this height and width, as the tower sees it."""
        height, width = image_size or (self.config.vision.image_size,) * 2
        return height // self.config.vision.step * (width // self.config.vision.step)

    def image_features(
        self, pixels: Float[Array, "images tiles height width channels"], image_size: tuple[int, int] | None = None
    ) -> Float[Array, "images tokens hidden"]:
        """One embedding per 2 x 2 patches.

        Args:
          pixels: normalised, one view per picture: `tiles` is 1.
          image_size: not used; the view's own size counts.

        Raises:
          ValueError: for more than one view, or a size that is no multiple of 28 pixels.
        """
        if pixels.shape[1] != 1:
            raise ValueError(f"pixels must hold one view per picture, got {pixels.shape[1]}.")
        return self.vision_tower(pixels[:, 0])

    def key_table(self) -> KeyTable:
        """Where the tensors of a checkpoint belong."""
        parts = ("vision_tower", "language_model")
        return join([getattr(self, name).key_table().under(name) for name in parts], RENAMES)
