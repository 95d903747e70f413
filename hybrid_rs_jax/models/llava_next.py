"""LLaVA-NeXT (1.6): the tiles of LLaVA-OneVision with CLIP, all of them kept, before Llama or Mistral."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from hybrid_rs_jax.models._settings import Fields
from hybrid_rs_jax.models._vision_language import TOWERS, read_joint_config
from hybrid_rs_jax.models.llava import DEFAULT_VISION
from hybrid_rs_jax.models.llava_onevision import LlavaOnevision, LlavaOnevisionConfig, pinpoints

__all__ = ["LlavaNext"]

_CANVASES = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]


class LlavaNext(LlavaOnevision):
    """A LLaVA-NeXT network: by default CLIP without its class token, and Llama."""

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> LlavaOnevisionConfig:
        """Sizes from config.json.

        Raises:
          ValueError: for parts or settings that are not supported, or a field that is not known.
        """
        fields = Fields(config)
        joint = read_joint_config(fields, DEFAULT_VISION, "llama", -2, "default", 32_000)
        if joint.drop_first != bool(TOWERS[joint.tower].extra_tokens):
            legal = "'full'" if joint.drop_first else "'default'"
            raise fields.refuse("vision_feature_select_strategy", f"{legal} for llava_next with {joint.tower}")
        fields.only("use_image_newline_parameter", True, "llava_next")
        fields.only("vision_aspect_ratio", "anyres", "llava_next")
        grids = pinpoints(fields, joint.vision.image_size, _CANVASES)
        for section in (fields, fields.section("vision_config") or Fields({})):
            section.settle("vocab_size")  # of the decoder, once more, and of the tower's counterpart for texts
        if joint.image_token_id >= 0:  # the original layout is flat, and holds the settings of its training besides
            fields.refuse_unread("llava_next")
        shared = {field.name: getattr(joint, field.name) for field in dataclasses.fields(joint)}
        return LlavaOnevisionConfig(**shared, grid_pinpoints=grids, tile_limit=None)
