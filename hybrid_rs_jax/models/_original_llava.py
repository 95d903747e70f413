"""config.json of the original LLaVA repository, brought into the layout of transformers."""

from __future__ import annotations

import re
from typing import Any

from hybrid_rs_jax.models import llava, llava_onevision

__all__ = ["is_original", "translate"]

TOWERS: dict[str, dict[str, Any]] = {
    "clip-vit-large-patch14-336": llava.DEFAULT_VISION,
    "clip-vit-large-patch14": {**llava.DEFAULT_VISION, "image_size": 224},
    "siglip-so400m-patch14-384": llava_onevision.DEFAULT_VISION,
}


def is_original(config: dict[str, Any]) -> bool:
    """Whether the config is of the original layout: flat, with the tower given by name."""
    return "mm_vision_tower" in config and "vision_config" not in config


def translate(config: dict[str, Any]) -> dict[str, Any]:
    """The same settings under the names of transformers.

    The placeholder is -200, which no tokenizer gives: prompts are put together by position.

    Raises:
      ValueError: for a tower or a projector that is not known.
    """
    name = str(config["mm_vision_tower"]).rstrip("/").rsplit("/", 1)[-1]
    if name not in TOWERS:
        raise ValueError(f"mm_vision_tower must be one of {', '.join(TOWERS)}, got {config['mm_vision_tower']}.")
    if config.get("mm_projector_type", "mlp2x_gelu") != "mlp2x_gelu":
        raise ValueError(f"mm_projector_type must be mlp2x_gelu, got {config['mm_projector_type']}.")
    siglip = name.startswith("siglip")
    anyres = str(config.get("image_aspect_ratio", "pad")).startswith("anyres")
    architecture = " ".join([str(config.get("model_type")), *config.get("architectures", ())]).lower()
    text = {**config, "model_type": "qwen2" if "qwen" in architecture else "llama"}
    translated = {
        "model_type": "llava_onevision" if anyres else "llava",
        "text_config": text,
        "vision_config": TOWERS[name],
        # the original code drops SigLIP's last layer itself, and reads the output of the one before it
        "vision_feature_layer": -1 if siglip else config.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": "full" if siglip else "default",
        "image_token_index": -200,
        "tie_word_embeddings": config.get("tie_word_embeddings", False),
    }
    if anyres:
        translated["vision_aspect_ratio"] = config["image_aspect_ratio"]
        translated["image_grid_pinpoints"] = _pinpoints(config["image_grid_pinpoints"], TOWERS[name]["image_size"])
    return translated


def _pinpoints(value: Any, tile: int) -> list[list[int]]:
    """The pairs, also where they are written as "(1x1),...,(6x6)" in units of tiles."""
    if not isinstance(value, str):
        return value
    pairs = [(int(rows), int(columns)) for rows, columns in re.findall(r"(\d+)\s*[x,]\s*(\d+)", value)]
    if "..." in value and len(pairs) == 2:
        (low_rows, low_columns), (high_rows, high_columns) = pairs
        pairs = [(r, c) for r in range(low_rows, high_rows + 1) for c in range(low_columns, high_columns + 1)]
    unit = tile if all(max(pair) < tile for pair in pairs) else 1
    return [[rows * unit, columns * unit] for rows, columns in pairs]
