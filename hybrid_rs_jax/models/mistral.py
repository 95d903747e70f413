"""The Mistral decoder: Llama without biases, and a window that no prompt may exceed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array

from hybrid_rs_jax.models._decoder import Decoder, PrefixCache
from hybrid_rs_jax.models._decoder_sizes import DecoderConfig, decoder_sizes
from hybrid_rs_jax.models._settings import Fields

__all__ = ["Mistral"]


class Mistral(Decoder):
    """A Mistral language model for texts of at most its window, within which attention is plainly causal.

    >>> Mistral.read_config({"max_position_embeddings": 32768, "sliding_window": 4096}).positions
    4096
    """

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> DecoderConfig:
        """Sizes from the text part of config.json; what it leaves out has the architecture's default.

        Raises:
          ValueError: for an activation other than silu, an unknown rotary scaling, or a value out of range.
        """
        fields = Fields(config)
        fields.only("hidden_act", "silu", "mistral")
        sizes = decoder_sizes(fields, vocab_size=32_000, intermediate_size=14_336, key_value_heads=8)
        if not fields.is_null("sliding_window"):  # null is no window, and an absent field the default one
            window = fields.integer("sliding_window", 4096)
            sizes["positions"] = min(window, sizes["positions"] or window)
        return DecoderConfig(**sizes)

    def _run(self, embeddings: Array, prefix: PrefixCache | None, layers: int | None = None) -> Any:
        """As in every decoder, for a text within the window.

        Raises:
          ValueError: for a longer one, whose first positions the last ones would not see.
        """
        length = embeddings.shape[1] + (0 if prefix is None else prefix.length)
        if self.config.positions is not None and length > self.config.positions:
            raise ValueError(
                f"A text may take at most the {self.config.positions} positions of the decoder's window, got {length}."
            )
        return super()._run(embeddings, prefix, layers)
