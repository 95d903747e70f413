"""The Llama decoder: no biases unless config.json asks for them."""

from __future__ import annotations

from typing import Any

from hybrid_rs_jax.models._decoder import Decoder, DecoderConfig
from hybrid_rs_jax.models._rotary import rotary_config
from hybrid_rs_jax.models._settings import require, sizes

__all__ = ["Llama"]


class Llama(Decoder):
    """A Llama language model.

    >>> Llama.read_config({"hidden_size": 512, "num_attention_heads": 8}).head_dim
    64
    """

    @staticmethod
    def read_config(config: dict[str, Any]) -> DecoderConfig:
        """Sizes from the text part of config.json; what it leaves out has the architecture's default.

        Raises:
          ValueError: for an activation other than silu or an unknown rotary scaling.
        """
        require(config, "hidden_act", "silu", "llama")
        defaults = {"vocab_size": 32_000, "intermediate_size": 11_008}
        bias = bool(config.get("attention_bias", False))
        return DecoderConfig(
            **sizes(defaults | config),
            rotary=rotary_config(config),
            qkv_bias=bias,
            output_bias=bias,
            mlp_bias=bool(config.get("mlp_bias", False)),
        )
