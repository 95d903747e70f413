"""Reading config.json: sizes, and settings that must have one value."""

from __future__ import annotations

from typing import Any

__all__ = ["require", "sizes"]


def require(config: dict[str, Any], name: str, value: object, architecture: str) -> None:
    """Raise one sentence when the setting is given and is not the one that the network implements."""
    if config.get(name, value) not in (value, None):
        raise ValueError(f"{name} must be {value} for {architecture}, got {config[name]}.")


def sizes(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `DecoderConfig` that both decoders read in the same way."""
    width, heads = config.get("hidden_size", 4096), config.get("num_attention_heads", 32)
    groups = config.get("num_key_value_heads")
    return {
        "vocab_size": config["vocab_size"],
        "hidden_size": width,
        "intermediate_size": config["intermediate_size"],
        "num_layers": config.get("num_hidden_layers", 32),
        "num_heads": heads,
        "num_key_value_heads": heads if groups is None else groups,
        "head_dim": config.get("head_dim") or width // heads,
        "rms_norm_eps": config.get("rms_norm_eps", 1e-6),
        "tied": bool(config.get("tie_word_embeddings", False)),
    }
