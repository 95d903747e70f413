"""The Qwen2 decoder: biases on query, key and value, and none elsewhere."""

from __future__ import annotations

from typing import Any

from hybrid_rs_jax.models._decoder import Decoder, DecoderConfig
from hybrid_rs_jax.models._rotary import rotary_config
from hybrid_rs_jax.models._settings import require, sizes

__all__ = ["Qwen2"]


class Qwen2(Decoder):
    """A Qwen2 language model.

    >>> from flax import nnx
    >>> import jax.numpy as jnp
    >>> sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    >>> config = Qwen2.read_config(sizes | {"num_attention_heads": 2, "num_key_value_heads": 1})
    >>> model = Qwen2(config, rngs=nnx.Rngs(0))
    >>> model(model.embed(jnp.zeros((1, 3), jnp.int32))).shape
    (1, 3, 32)
    """

    @staticmethod
    def read_config(config: dict[str, Any]) -> DecoderConfig:
        """Sizes from the text part of config.json; what it leaves out has the architecture's default.

        Raises:
          ValueError: for an activation other than silu, sliding-window attention or an unknown rotary scaling.
        """
        require(config, "hidden_act", "silu", "qwen2")
        if "sliding_attention" in (config.get("layer_types") or ()) or config.get("use_sliding_window"):
            raise ValueError("use_sliding_window must be false: sliding-window attention is not supported.")
        defaults = {"vocab_size": 151_936, "intermediate_size": 22_016, "num_key_value_heads": 32}
        return DecoderConfig(**sizes(defaults | config), rotary=rotary_config(config), qkv_bias=True)
