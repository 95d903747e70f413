"""The Qwen2 decoder: biases on query, key and value, and none elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybrid_rs_jax.models._decoder import Decoder
from hybrid_rs_jax.models._decoder_sizes import DecoderConfig, decoder_sizes
from hybrid_rs_jax.models._settings import Fields

__all__ = ["Qwen2", "has_window"]


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
    def read_config(config: Mapping[str, Any]) -> DecoderConfig:
        """Sizes from the text part of config.json; what it leaves out has the architecture's default.

        Raises:
          ValueError: for an activation other than silu, a layer with a sliding window, an unknown rotary scaling, or a
            value out of range.
        """
        fields = Fields(config)
        fields.only("hidden_act", "silu", "qwen2")
        sizes = decoder_sizes(fields, vocab_size=151_936, intermediate_size=22_016)
        if has_window(fields, sizes["num_layers"]):
            raise ValueError("use_sliding_window must be false: sliding-window attention is not supported.")
        return DecoderConfig(**sizes, qkv_bias=True)


def has_window(fields: Fields, layers: int) -> bool:
    """Whether any layer sees a window only: those from `max_window_layers` on, unless `layer_types` says which."""
    fields.settle("sliding_window", "max_window_layers", "use_sliding_window")  # any window is refused
    if "layer_types" in fields:
        return any(kind != "full_attention" for kind in fields.texts("layer_types"))
    first = fields.integer("max_window_layers", 28, low=0)
    return fields.flag("use_sliding_window") and first < layers
