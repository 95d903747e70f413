"""LLaVA-OneVision: a base view and any-resolution tiles, with a newline embedding behind every row of features."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from hybrid_rs_jax.models._anyres import TilePlan, interpolation, tile_plan
from hybrid_rs_jax.models._attention import Implementation
from hybrid_rs_jax.models._keys import Key
from hybrid_rs_jax.models._settings import Fields
from hybrid_rs_jax.models._vision_language import VisionLanguageConfig, VisionLanguageModel, read_joint_config

__all__ = ["LlavaOnevision", "LlavaOnevisionConfig", "pinpoints"]

DEFAULT_VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
_GRIDS = [(384 * rows, 384 * columns) for rows in range(1, 7) for columns in range(1, 7)]


@dataclasses.dataclass(frozen=True)
class LlavaOnevisionConfig(VisionLanguageConfig):
    """A `VisionLanguageConfig` with the tiles.

    Attributes:
      grid_pinpoints: resolutions (height, width) that pictures are cut into.
      tile_limit: the number of tiles beyond which features are resized; None for no limit.
    """

    grid_pinpoints: tuple[tuple[int, int], ...]
    tile_limit: int | None


class LlavaOnevision(VisionLanguageModel):
    """A LLaVA-OneVision network: by default SigLIP and Qwen2."""

    own_keys = (Key("image_newline", "image_newline"),)

    def __init__(
        self,
        config: LlavaOnevisionConfig,
        *,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        attention: Implementation = "auto",
        rngs: Any,
    ):
        super().__init__(config, dtype=dtype, param_dtype=param_dtype, attention=attention, rngs=rngs)
        width = config.text.hidden_size
        self.image_newline = nnx.Param(width**-0.5 * rngs.params.normal((width,), param_dtype))

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> LlavaOnevisionConfig:
        """Sizes from config.json.

        Raises:
          ValueError: for parts or settings that are not supported.
        """
        joint = read_joint_config(config, DEFAULT_VISION, "qwen2", -1, "full", 151_646)
        size = joint.vision.image_size
        fields = {field.name: getattr(joint, field.name) for field in dataclasses.fields(joint)}
        limit = _tile_limit(Fields(config).text("vision_aspect_ratio", "anyres_max_9"))
        if joint.drop_first:
            raise ValueError("vision_feature_select_strategy must be 'full' for llava_onevision, got 'default'.")
        return LlavaOnevisionConfig(**fields, grid_pinpoints=pinpoints(config, size, _GRIDS), tile_limit=limit)

    def plan(self, image_size: tuple[int, int]) -> TilePlan:
        """Tiles and kept features for pictures of this height and width in pixels."""
        vision = self.config.vision
        return tile_plan(
            image_size, self.config.grid_pinpoints, vision.image_size, vision.patch_size, self.config.tile_limit
        )

    def image_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        """Placeholders that a picture of this height and width takes in the text."""
        return self.plan(_given(image_size)).tokens

    def image_features(
        self, pixels: Float[Array, "images tiles height width channels"], image_size: tuple[int, int] | None = None
    ) -> Float[Array, "images tokens hidden"]:
        """Encode all views and pack them.

        Args:
          pixels: normalised; the base view first, then the tiles row by row. Where the grid is a single tile, one
            view may be given: it is encoded once and serves as both.
          image_size: height and width of the pictures before they were resized; one for the whole batch.

        Returns:
          `image_tokens(image_size)` embeddings per picture.

        Raises:
          ValueError: if the number of views does not fit the grid, or `image_size` is missing.
        """
        images, views = pixels.shape[:2]
        self._check_views(views, image_size)
        features = self.encode(pixels.reshape(images * views, *pixels.shape[2:]))
        return self.pack(features.reshape(images, views, *features.shape[1:]), image_size)

    def base_features(
        self, pixels: Float[Array, "images 1 height width channels"]
    ) -> Float[Array, "images tokens hidden"]:
        """Encode pictures as each of several in a prompt: the base view and one newline, no tiles."""
        features = self.encode(pixels[:, 0])
        newline = jnp.broadcast_to(self.image_newline[...].astype(features.dtype), (len(pixels), 1, features.shape[2]))
        return jnp.concatenate([features, newline], axis=1)

    def from_tower(
        self, features: Float[Array, "images tiles patches features"], image_size: tuple[int, int] | None = None
    ) -> Float[Array, "images tokens hidden"]:
        """The packed embeddings of a picture, from the tower's features of its views."""
        return self.pack(self.projector(features), image_size)

    def pack(
        self, features: Float[Array, "images views patches hidden"], image_size: tuple[int, int] | None = None
    ) -> Float[Array, "images tokens hidden"]:
        """Put the tiles together, cut the padding off, resize where there are too many, and end rows with newlines.

        Raises:
          ValueError: if the number of views does not fit the grid, or `image_size` is missing.
        """
        images, views, _, width = features.shape
        plan = self._check_views(views, image_size)
        base, tiles = features[:, 0], features if views == 1 else features[:, 1:]
        side = plan.patches
        grid = tiles.reshape(images, plan.rows, plan.columns, side, side, width).transpose(0, 1, 3, 2, 4, 5)
        grid = grid.reshape(images, plan.rows * side, plan.columns * side, width)
        grid = grid[:, plan.top : plan.top + plan.height, plan.left : plan.left + plan.width]
        if plan.resized:
            down = jnp.asarray(interpolation(plan.height, plan.out_height), self.dtype)
            across = jnp.asarray(interpolation(plan.width, plan.out_width), self.dtype)
            grid = jnp.einsum("ph,qw,ihwd->ipqd", down, across, grid)
        newline = jnp.broadcast_to(self.image_newline[...].astype(grid.dtype), (*grid.shape[:2], 1, width))
        rows = jnp.concatenate([grid, newline], axis=2).reshape(images, -1, width)
        return jnp.concatenate([base, rows], axis=1)

    def _check_views(self, views: int, image_size: tuple[int, int] | None) -> TilePlan:
        plan = self.plan(_given(image_size))
        if views != 1 + plan.tiles and not views == plan.tiles == 1:
            raise ValueError(
                f"Pictures of size {image_size} take {1 + plan.tiles} views (base view and {plan.rows} x "
                f"{plan.columns} tiles), got {views}."
            )
        return plan


def _given(image_size: tuple[int, int] | None) -> tuple[int, int]:
    if image_size is None:
        raise ValueError("image_size must be the pictures' height and width for a network with tiles, got None.")
    return image_size


def pinpoints(config: Mapping[str, Any], tile: int, default: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Resolutions from config.json, or the architecture's own where it names none."""
    pairs = Fields(config).pairs("image_grid_pinpoints", default)
    bad = [pair for pair in pairs if pair[0] % tile or pair[1] % tile]
    if bad:
        raise ValueError(
            f"image_grid_pinpoints must be pairs of multiples of the tile's {tile} pixels, got {bad[0]}"
            f"{f' and {len(bad) - 1} more' if len(bad) > 1 else ''}."
        )
    return pairs


def _tile_limit(name: str) -> int | None:
    match = re.fullmatch(r"anyres(?:_max_([1-9]\d{0,3}))?", name)
    if not match:
        raise ValueError(f"vision_aspect_ratio must be 'anyres' or 'anyres_max_N', got {name!r:.80}.")
    return int(match.group(1)) if match.group(1) else None
