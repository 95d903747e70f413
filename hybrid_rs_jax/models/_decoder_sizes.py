"""Sizes of a decoder, and how config.json says them."""

from __future__ import annotations

import dataclasses
from typing import Any

from hybrid_rs_jax.models._rotary import RotaryConfig, rotary_config
from hybrid_rs_jax.models._settings import Fields

__all__ = ["DecoderConfig", "decoder_sizes"]


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a decoder, in the words of config.json.

    Attributes:
      vocab_size: rows of the embedding.
      hidden_size: features per position.
      intermediate_size: features inside the SwiGLU block.
      num_layers: decoder layers.
      num_heads: query heads.
      num_key_value_heads: key and value heads; divides `num_heads`.
      head_dim: features per head.
      rms_norm_eps: added to the mean square.
      rotary: frequencies of the rotary embedding.
      qkv_bias: whether the query, key and value maps have a bias.
      output_bias: whether the attention's output map has one.
      mlp_bias: whether the SwiGLU maps have one.
      tied: whether the output layer is the embedding; None where config.json does not say it and the weights decide.
      positions: positions that the decoder was made for; None where config.json does not say it.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rotary: RotaryConfig = dataclasses.field(default_factory=RotaryConfig)
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    tied: bool | None = None
    positions: int | None = None

    def __post_init__(self) -> None:
        if self.num_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads must divide num_heads = {self.num_heads}, got {self.num_key_value_heads}."
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary embeddings, got {self.head_dim}.")


def decoder_sizes(
    fields: Fields,
    vocab_size: int,
    intermediate_size: int,
    key_value_heads: int | None = None,
    *,
    hidden_size: int = 4096,
    layers: int = 32,
    heads: int = 32,
    head_dim: int | None = None,
    eps: float = 1e-6,
    rotary: RotaryConfig | None = None,
) -> dict[str, Any]:
    """The fields of a `DecoderConfig` that all decoders read in the same way, with the defaults that differ."""
    width, heads = (
        fields.integer("hidden_size", hidden_size, high=2**18),
        fields.integer("num_attention_heads", heads, high=2**12),
    )
    groups = heads if key_value_heads is None or fields.is_null("num_key_value_heads") else key_value_heads
    positions = fields.integer("max_position_embeddings", 0, low=0)
    return {
        "vocab_size": fields.integer("vocab_size", vocab_size, high=2**24),
        "hidden_size": width,
        "intermediate_size": fields.integer("intermediate_size", intermediate_size, high=2**20),
        "num_layers": fields.integer("num_hidden_layers", layers, high=1024),
        "num_heads": heads,
        "num_key_value_heads": fields.integer("num_key_value_heads", groups, high=heads),
        "head_dim": fields.integer("head_dim", head_dim or max(1, width // heads), high=2**14),
        "rms_norm_eps": fields.number("rms_norm_eps", eps, high=1.0),
        "rotary": rotary_config(fields) if rotary is None else rotary,
        "tied": fields.flag("tie_word_embeddings") if "tie_word_embeddings" in fields else None,
        "positions": positions or None,
    }
