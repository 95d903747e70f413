"""config.json of the original LLaVA repository, brought into the layout of transformers.

There the file is flat, the tower is given by its name, and nothing says how pictures are processed: the code does. It
may hold a `vision_config` and a `text_config` besides, of another model; they mean nothing there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hybrid_rs_jax.models import llava, llava_onevision
from hybrid_rs_jax.models._settings import Fields

__all__ = ["image_processing", "is_original", "translate"]

TOWERS: dict[str, Mapping[str, Any]] = {
    "clip-vit-large-patch14-336": llava.DEFAULT_VISION,
    "clip-vit-large-patch14": {**llava.DEFAULT_VISION, "image_size": 224},
    "siglip-so400m-patch14-384": llava_onevision.DEFAULT_VISION,
}
_MOST_TILES = 64  # along one side


def is_original(config: Mapping[str, Any]) -> bool:
    """Whether the config is of the original layout; whatever else it holds, the tower's name decides."""
    return config.get("mm_vision_tower") is not None


def translate(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings under the names of transformers.

    The placeholder is -200, which no tokenizer gives: prompts are put together by position.

    Raises:
      ValueError: for a tower, a projector, a decoder or a way of splicing that is not known.
    """
    fields = Fields(config)
    tower, siglip, tiled = _tower(fields), _is_siglip(fields), _is_tiled(fields)
    fields.choice("mm_projector_type", ("mlp2x_gelu",))
    if fields.flag("mm_use_im_start_end"):
        raise fields.refuse("mm_use_im_start_end", "false")
    # "patch" drops the class token and "cls_patch" keeps it; SigLIP has none
    kept = fields.choice("mm_vision_select_feature", ("patch", "cls_patch"), "patch") == "cls_patch"
    foreign = ("vision_config", "text_config")
    translated: dict[str, Any] = {
        "model_type": ("llava_onevision" if siglip else "llava_next") if tiled else "llava",
        "text_config": {name: value for name, value in config.items() if name not in foreign}
        | {"model_type": _decoder(fields)},
        "vision_config": tower,
        # the original code drops SigLIP's last layer itself, and reads the output of the one before it
        "vision_feature_layer": -1 if siglip else fields.integer("mm_vision_select_layer", -2, low=-1025, high=1024),
        "vision_feature_select_strategy": "full" if siglip or kept else "default",
        "image_token_index": -200,
    }
    if tiled:
        fields.choice("mm_patch_merge_type", ("spatial_unpad",))
        translated["vision_aspect_ratio"] = fields.text("image_aspect_ratio")
        translated["image_grid_pinpoints"] = _pinpoints(fields, tower["image_size"])
    return translated


def image_processing(config: Mapping[str, Any]) -> dict[str, object]:
    """What the original code does to a picture, as the contents of a preprocessor_config.json."""
    fields = Fields(config)
    side, siglip = _tower(fields)["image_size"], _is_siglip(fields)
    if siglip:
        size = {"height": side, "width": side}
        content: dict[str, object] = {"size": size, "image_mean": 0.5, "image_std": 0.5, "do_center_crop": False}
    else:
        content = {"size": {"shortest_edge": side}, "crop_size": side}
    if _is_tiled(fields):
        tiles = {"image_processor_type": f"Llava{'Onevision' if siglip else 'Next'}ImageProcessor"}
        return {**content, **tiles, "image_grid_pinpoints": _pinpoints(fields, side)}
    padded = fields.text("image_aspect_ratio", "square") == "pad"
    return {**content, "image_processor_type": "LlavaImageProcessor", "do_pad": padded}


def _tower(fields: Fields) -> Mapping[str, Any]:
    name = fields.text("mm_vision_tower").rstrip("/").rsplit("/", 1)[-1]
    if name not in TOWERS:
        raise ValueError(f"mm_vision_tower must be one of {', '.join(TOWERS)}, got {fields['mm_vision_tower']:.80}.")
    return TOWERS[name]


def _is_siglip(fields: Fields) -> bool:
    return _tower(fields)["model_type"] == "siglip_vision_model"


def _is_tiled(fields: Fields) -> bool:
    ratio = fields.text("image_aspect_ratio", "square")
    if ratio not in ("square", "pad") and not ratio.startswith("anyres"):
        raise fields.refuse("image_aspect_ratio", "square, pad, anyres or anyres_max_N")
    return ratio.startswith("anyres")


def _decoder(fields: Fields) -> str:
    """The decoder, which only the name of the architecture tells."""
    named = " ".join([fields.text("model_type", "llava"), *fields.texts("architectures")]).lower()
    if "qwen" in named:
        return "qwen2"
    if other := re.search(r"mixtral|mpt|gemma|phi", named):
        raise ValueError(
            f"The decoder of an original LLaVA checkpoint must be Qwen2, Llama or Mistral, got {other.group()}."
        )
    return "mistral" if "mistral" in named else "llama"


def _pinpoints(fields: Fields, tile: int) -> list[list[int]]:
    """The canvases as (height, width).

    The original writes (width, height) in pixels, as a list or as its text, or "(1x1),...,(6x6)" in units of tiles.
    """
    value = fields.get("image_grid_pinpoints")
    if not isinstance(value, str):
        return [[height, width] for width, height in fields.pairs("image_grid_pinpoints")]
    pairs = [(int(first), int(second)) for first, second in re.findall(r"(\d{1,5})\s*[x,]\s*(\d{1,5})", value)]
    in_tiles = "x" in value
    if in_tiles and len(pairs) == 2 and max(max(pair) for pair in pairs) <= _MOST_TILES:
        (low_x, low_y), (high_x, high_y) = pairs
        pairs = [(x, y) for x in range(low_x, high_x + 1) for y in range(low_y, high_y + 1)]
    if not pairs or min(min(pair) for pair in pairs) < 1:
        raise fields.refuse("image_grid_pinpoints", 'pairs of pixels, or a range of tiles like "(1x1),...,(6x6)"')
    unit = tile if in_tiles else 1
    return [[height * unit, width * unit] for width, height in pairs]
