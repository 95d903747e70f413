"""The Gemma 3 decoder: norms around every block, local and global layers, and pictures that look both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from hybrid_rs_jax.models._activations import activation
from hybrid_rs_jax.models._attention import Implementation
from hybrid_rs_jax.models._decoder import KEYS, Decoder, PrefixCache, SwiGLU, at_last, joined
from hybrid_rs_jax.models._decoder_sizes import DecoderConfig, decoder_sizes
from hybrid_rs_jax.models._keys import Key, KeyTable
from hybrid_rs_jax.models._rotary import RotaryConfig, rotary_config, rotary_tables, rotate
from hybrid_rs_jax.models._settings import Fields

__all__ = ["GemmaConfig", "GemmaDecoder", "GemmaNorm"]

_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
_NORMS = {
    "post_attention_layernorm": "mixed_norm",  # of the output, unlike in Llama
    "pre_feedforward_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "fed_norm",
    "self_attn.q_norm": "attention.q_norm",
    "self_attn.k_norm": "attention.k_norm",
}
_OWN_KEYS = tuple(Key(f"layers.{{layer}}.{a}.weight", f"layers.{{layer}}.{b}.scale") for a, b in _NORMS.items())


@dataclasses.dataclass(frozen=True)
class GemmaConfig(DecoderConfig):
    """A `DecoderConfig` with what is Gemma's own; `rotary` is that of the global layers.

    Attributes:
      hidden_act: activation inside the gated block.
      query_scale: logits are `query . key / sqrt(query_scale)`.
      windows: for each layer the number of positions that a token sees, itself included; None for all.
      local_rotary: frequencies of the layers with a window.
    """

    hidden_act: str = "gelu_pytorch_tanh"
    query_scale: float = 256.0
    windows: tuple[int | None, ...] = ()
    local_rotary: RotaryConfig = dataclasses.field(default_factory=RotaryConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        activation(self.hidden_act)


class GemmaNorm(nnx.Module):
    """`x / sqrt(mean(x^2) + eps) * (1 + scale)`, all of it in float32."""

    def __init__(self, width: int, eps: float, dtype: Any, param_dtype: Any):
        self.scale = nnx.Param(jnp.zeros(width, param_dtype))
        self.eps, self.dtype = eps, dtype

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (wide * (1.0 + self.scale[...].astype(jnp.float32))).astype(self.dtype)


class GemmaAttention(nnx.Module):
    """Grouped-query attention with normalised queries and keys, under a mask that is known beforehand."""

    def __init__(self, config: GemmaConfig, dtype: Any, param_dtype: Any, rngs: Any):
        def linear(inputs: int, outputs: int) -> Any:
            bias = config.qkv_bias
            return nnx.Linear(inputs, outputs, use_bias=bias, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

        width, size = config.hidden_size, config.head_dim
        self.q_proj = linear(width, config.num_heads * size)
        self.k_proj = linear(width, config.num_key_value_heads * size)
        self.v_proj = linear(width, config.num_key_value_heads * size)
        self.o_proj = linear(config.num_heads * size, width)
        self.q_norm, self.k_norm = (GemmaNorm(size, config.rms_norm_eps, dtype, param_dtype) for _ in range(2))
        self.size, self.scale = size, config.query_scale**-0.5

    def __call__(
        self,
        x: Float[Array, "batch length width"],
        tables: tuple[np.ndarray, np.ndarray],
        mask: np.ndarray,
        prefix: tuple[Array, Array] | None,
    ) -> tuple[Float[Array, "batch length width"], tuple[Array, Array]]:
        heads = (*x.shape[:2], -1, self.size)
        query = rotate(self.q_norm(self.q_proj(x).reshape(heads)), *tables)
        key = rotate(self.k_norm(self.k_proj(x).reshape(heads)), *tables)
        value = self.v_proj(x).reshape(heads)
        keys, values = key, value
        if prefix is not None:
            keys, values = joined(prefix, (key, value))
        with jax.numpy_dtype_promotion("standard"):  # JAX's own kernels mix half precision with float32
            # cuDNN's kernel takes no heads of 256 features with a mask on every card
            mixed = jax.nn.dot_product_attention(
                query, keys, values, mask=jnp.asarray(mask)[None, None], scale=self.scale, implementation="xla"
            )
        return self.o_proj(mixed.reshape(*x.shape[:2], -1)), (key, value)


class GemmaLayer(nnx.Module):
    """Attention and gated block, each between two norms and added to its input."""

    def __init__(self, config: GemmaConfig, dtype: Any, param_dtype: Any, rngs: Any):
        def norm() -> Any:
            return GemmaNorm(config.hidden_size, config.rms_norm_eps, dtype, param_dtype)

        self.input_norm, self.mixed_norm, self.post_attention_norm, self.fed_norm = norm(), norm(), norm(), norm()
        self.attention = GemmaAttention(config, dtype, param_dtype, rngs)
        sizes = config.hidden_size, config.intermediate_size, False
        self.mlp = SwiGLU(*sizes, dtype, param_dtype, rngs, config.hidden_act)

    def __call__(
        self,
        x: Float[Array, "batch length width"],
        tables: tuple[np.ndarray, np.ndarray],
        mask: np.ndarray,
        prefix: tuple[Array, Array] | None,
    ) -> tuple[Float[Array, "batch length width"], tuple[Array, Array]]:
        mixed, key_value = self.attention(self.input_norm(x), tables, mask, prefix)
        x = x + self.mixed_norm(mixed)
        return x + self.fed_norm(self.mlp(self.post_attention_norm(x))), key_value


class GemmaDecoder(Decoder):
    """A Gemma 3 language model; where `picture` says so, its positions see each other both ways."""

    config: GemmaConfig
    norm_type = GemmaNorm

    @staticmethod
    def read_config(config: Mapping[str, Any]) -> GemmaConfig:
        """Sizes from the text part of config.json; what it leaves out has the architecture's default.

        Raises:
          ValueError: for a setting that is not supported, or a value out of range.
        """
        fields = Fields(config)
        for name in ("final_logit_softcapping", "attn_logit_softcapping"):
            if name in fields:  # transformers' Gemma 3 with pictures ignores both, so that no answer would be right
                raise fields.refuse(name, "null for gemma3")
        fields.only("use_bidirectional_attention", False, "gemma3")
        rotary, local = _rotaries(fields)
        defaults: dict[str, Any] = {"hidden_size": 2304, "layers": 26, "heads": 8, "head_dim": 256, "rotary": rotary}
        sizes = decoder_sizes(fields, 262_208, 9216, 4, **defaults)
        sizes["tied"] = fields.flag("tie_word_embeddings", True)
        bias, window = fields.flag("attention_bias"), fields.integer("sliding_window", 4096)
        return GemmaConfig(
            **sizes,
            qkv_bias=bias,
            output_bias=bias,
            hidden_act=fields.text("hidden_activation", "gelu_pytorch_tanh"),
            query_scale=fields.number("query_pre_attn_scalar", 256.0, high=1e9),
            windows=tuple(window if kind == _LOCAL else None for kind in _kinds(fields, sizes["num_layers"])),
            local_rotary=local,
        )

    def embed(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length width"]:
        """Rows of the embedding times the root of their length, rounded as the weights are."""
        return self.embed_tokens(tokens) * jnp.asarray(self.config.hidden_size**0.5, self.dtype)

    def key_table(self) -> KeyTable:
        """Where the tensors of a checkpoint belong."""
        others = tuple(key for key in KEYS.keys if "post_attention_layernorm" not in key.stored)
        return dataclasses.replace(KEYS, keys=(*_OWN_KEYS, *others))

    def last_hidden(
        self,
        embeddings: Float[Array, "batch length width"],
        lengths: Int[Array, " batch"],
        prefix: PrefixCache | None = None,
    ) -> Float[Array, "batch width"]:
        """Hidden state of each row's last token, behind the last norm; as for any `Decoder`."""
        return self.norm(at_last(self._run(embeddings, prefix)[0][-1], lengths)[:, 0])

    def _layer(self, index: int, implementation: Implementation, dtype: Any, param_dtype: Any, rngs: Any) -> Any:
        return GemmaLayer(self.config, dtype, param_dtype, rngs)

    def _run(
        self, embeddings: Array, prefix: PrefixCache | None, layers: int | None = None
    ) -> tuple[list[Array], list[tuple[Array, Array]]]:
        config, length = self.config, embeddings.shape[1]
        start = 0 if prefix is None else prefix.length
        masks = {window: self._mask(start, length, window) for window in {*config.windows}}
        rotary = {window: config.rotary if window is None else config.local_rotary for window in masks}
        tables = {window: rotary_tables(rotary[window], start, length, config.head_dim) for window in masks}
        pairs = [None] * config.num_layers if prefix is None else prefix.pairs
        states, own = [embeddings.astype(self.dtype)], []
        for layer, window, pair in list(zip(self.layers, config.windows, pairs, strict=True))[:layers]:
            x, key_value = layer(states[-1], tables[window], masks[window], pair)
            states.append(x)
            own.append(key_value)
        return states, own

    def _mask(self, start: int, length: int, window: int | None) -> np.ndarray:
        """bool[length, start + length]: which positions each of `start .. start + length - 1` sees.

        Raises:
          ValueError: if a prefix ends within the picture, whose first part would have to see the second.
        """
        query, key = np.arange(start, start + length)[:, None], np.arange(start + length)
        seen, picture = key <= query, self.picture
        if picture is not None:
            if any(picture.start < border < picture.stop for border in (start, start + length)):
                raise ValueError(
                    f"A text may not begin or end within the picture at {picture.start}..{picture.stop - 1}, whose "
                    f"positions see each other, got {start}..{start + length - 1}."
                )
            both = [(picture.start <= place) & (place < picture.stop) for place in (query, key)]
            seen = seen | (both[0] & both[1])
        return seen if window is None else seen & (key > query - window)


def _kinds(fields: Fields, layers: int) -> tuple[str, ...]:
    """Which layers are local: by name, or all but each sixth."""
    if "layer_types" in fields:
        fields.settle("sliding_window_pattern", "_sliding_window_pattern")
        kinds = fields.texts("layer_types")
        if len(kinds) != layers or not {*kinds} <= {_LOCAL, _GLOBAL}:
            raise fields.refuse("layer_types", f"{layers} times {_LOCAL} or {_GLOBAL}")
        return kinds
    fields.settle("_sliding_window_pattern")
    pattern = fields.integer("sliding_window_pattern", 6)
    return tuple(_LOCAL if number % pattern else _GLOBAL for number in range(1, layers + 1))


def _rotaries(fields: Fields) -> tuple[RotaryConfig, RotaryConfig]:
    """Frequencies of global and of local layers.

    Older files have `rope_theta`, `rope_scaling` (for global layers alone) and `rope_local_base_freq`; newer ones one
    object per kind of layer in `rope_parameters`.
    """
    both = fields.section("rope_parameters") or Fields({})
    local, whole, scaling = both.section(_LOCAL), both.section(_GLOBAL), fields.section("rope_scaling")
    bases = fields.number("rope_theta", 1e6, high=1e15), fields.number("rope_local_base_freq", 1e4, high=1e15)
    return _rotary(bases[0], whole, scaling), _rotary(bases[1], local)


def _rotary(theta: float, *sections: Fields | None) -> RotaryConfig:
    """Frequencies from sections of which each wins over those before it, with no field left over."""
    merged: dict[str, Any] = {}
    for section in sections:
        if section is not None:
            merged |= section
            section.settle(*section)
    fields = Fields({"rope_parameters": merged})
    found = rotary_config(fields, theta)
    fields.refuse_unread("gemma3")
    return found
