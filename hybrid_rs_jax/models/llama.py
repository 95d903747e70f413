"""The Llama decoder: no biases unless config.json asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybrid_rs_jax.models._decoder import Decoder
from hybrid_rs_jax.models._decoder_sizes import DecoderConfig, decoder_sizes
from hybrid_rs_jax.models._settings import Fields

__all__ = ["Llama"]


class Llama(Decoder):
    """A Llama language model.

    >>> Llama.read_config({"hidden_size": 512, "num_attention_heads": 8}).head_dim
    64
    """

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> DecoderConfig:
        """Sizes from the text part of config.json; what it leaves out has the architecture's default.

        Raises:
          ValueError: for an activation other than silu, an unknown rotary scaling, or a value out of range.
        """
        fields = Fields(config)
        fields.only("hidden_act", "silu", "llama")
        bias = fields.flag("attention_bias")
        return DecoderConfig(
            **decoder_sizes(fields, vocab_size=32_000, intermediate_size=11_008),
            qkv_bias=bias,
            output_bias=bias,
            mlp_bias=fields.flag("mlp_bias"),
        )
