"""The decoder that Qwen2 and Llama share: RMSNorm, rotary grouped-query attention, SwiGLU.

Every stage works on embeddings, so that image features can stand between tokens. Batches are padded on the right to a
static length; attention is causal, so padding needs no mask and `lengths` only say where the last token stands.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from hybrid_rs_jax.models._attention import (
    Implementation,
    attend,
    attend_last,
    attend_with_prefix,
    check_implementation,
)
from hybrid_rs_jax.models._keys import KERNEL, Key, KeyTable
from hybrid_rs_jax.models._rotary import RotaryConfig, rotary_config, rotary_tables, rotate
from hybrid_rs_jax.models._settings import Fields

__all__ = ["Decoder", "DecoderConfig", "PrefixCache", "decoder_sizes"]

KEYS = KeyTable(
    keys=(
        Key("embed_tokens.weight", "embed_tokens.embedding"),
        Key("layers.{layer}.input_layernorm.weight", "layers.{layer}.input_norm.scale"),
        Key("layers.{layer}.self_attn.{map}.weight", "layers.{layer}.attention.{map}.kernel", KERNEL),
        Key("layers.{layer}.self_attn.{map}.bias", "layers.{layer}.attention.{map}.bias"),
        Key("layers.{layer}.post_attention_layernorm.weight", "layers.{layer}.post_attention_norm.scale"),
        Key("layers.{layer}.mlp.{map}.weight", "layers.{layer}.mlp.{map}.kernel", KERNEL),
        Key("layers.{layer}.mlp.{map}.bias", "layers.{layer}.mlp.{map}.bias"),
        Key("norm.weight", "norm.scale"),
        Key("lm_head.weight", "lm_head.kernel", KERNEL),
    ),
    renames=((r"model\.", ""),),
    ignored=(r"(?:layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),
)


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


def decoder_sizes(fields: Fields, vocab_size: int, intermediate_size: int) -> dict[str, Any]:
    """The fields of a `DecoderConfig` that all decoders read in the same way, with two defaults that differ."""
    width, heads = (
        fields.integer("hidden_size", 4096, high=2**18),
        fields.integer("num_attention_heads", 32, high=2**12),
    )
    positions = fields.integer("max_position_embeddings", 0, low=0)
    return {
        "vocab_size": fields.integer("vocab_size", vocab_size, high=2**24),
        "hidden_size": width,
        "intermediate_size": fields.integer("intermediate_size", intermediate_size, high=2**20),
        "num_layers": fields.integer("num_hidden_layers", 32, high=1024),
        "num_heads": heads,
        "num_key_value_heads": fields.integer("num_key_value_heads", heads, high=heads),
        "head_dim": fields.integer("head_dim", max(1, width // heads), high=2**14),
        "rms_norm_eps": fields.number("rms_norm_eps", 1e-6, high=1.0),
        "rotary": rotary_config(fields),
        "tied": fields.flag("tie_word_embeddings") if "tie_word_embeddings" in fields else None,
        "positions": positions or None,
    }


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PrefixCache:
    """Keys and values of texts of one length that continuations share, one pair per layer.

    Attributes:
      keys: per layer `[prefixes, length, key_value_heads, head_dim]`, rotated.
      values: the same shape.
    """

    keys: tuple[Any, ...]  # arrays; JAX also builds the tree with other leaves
    values: tuple[Any, ...]

    @property
    def length(self) -> int:
        """Positions in a prefix; a continuation starts at this position."""
        return self.keys[0].shape[1]

    @property
    def pairs(self) -> list[tuple[Any, Any]]:
        """Keys and values of each layer."""
        return list(zip(self.keys, self.values, strict=True))


class RMSNorm(nnx.Module):
    """`x / sqrt(mean(x^2) + eps)` in float32, then times a learned scale in the network's dtype."""

    def __init__(self, width: int, eps: float, dtype: Any, param_dtype: Any):
        self.scale = nnx.Param(jnp.ones(width, param_dtype))
        self.eps, self.dtype = eps, dtype

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return wide.astype(self.dtype) * self.scale[...].astype(self.dtype)


class SelfAttention(nnx.Module):
    """Causal grouped-query attention with rotary embeddings, after a prefix where there is one."""

    def __init__(self, config: DecoderConfig, implementation: Implementation, dtype: Any, param_dtype: Any, rngs: Any):
        def linear(inputs: int, outputs: int, bias: bool) -> Any:
            return nnx.Linear(inputs, outputs, use_bias=bias, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

        width, size = config.hidden_size, config.head_dim
        self.q_proj = linear(width, config.num_heads * size, config.qkv_bias)
        self.k_proj = linear(width, config.num_key_value_heads * size, config.qkv_bias)
        self.v_proj = linear(width, config.num_key_value_heads * size, config.qkv_bias)
        self.o_proj = linear(config.num_heads * size, width, config.output_bias)
        self.size, self.implementation = size, implementation

    def __call__(
        self,
        x: Float[Array, "batch length width"],
        cosine: Float32[np.ndarray, "length half"],
        sine: Float32[np.ndarray, "length half"],
        prefix: tuple[Array, Array] | None,
    ) -> tuple[Float[Array, "batch length width"], tuple[Array, Array]]:
        heads = (*x.shape[:2], -1, self.size)
        query = rotate(self.q_proj(x).reshape(heads), cosine, sine)
        key = rotate(self.k_proj(x).reshape(heads), cosine, sine)
        value = self.v_proj(x).reshape(heads)
        if prefix is None:
            mixed = attend(query, key, value, causal=True, implementation=self.implementation)
        else:
            mixed = attend_with_prefix(query, key, value, *prefix, implementation=self.implementation)
        return self.o_proj(mixed.reshape(*x.shape[:2], -1)), (key, value)

    def last(
        self,
        x: Float[Array, "batch length width"],
        cosine: Float32[np.ndarray, "length half"],
        sine: Float32[np.ndarray, "length half"],
        prefix: tuple[Array, Array] | None,
        lengths: Int[Array, " batch"],
    ) -> Float[Array, "batch 1 width"]:
        """What each row's last position gives: keys and values of all, the query and the output map of one."""
        heads, own = (*x.shape[:2], -1, self.size), lengths - 1
        key = rotate(self.k_proj(x).reshape(heads), cosine, sine)
        value = self.v_proj(x).reshape(heads)
        query = self.q_proj(at_last(x, lengths)).reshape(len(x), 1, -1, self.size)
        turned = rotate(query, jnp.asarray(cosine)[own][:, None], jnp.asarray(sine)[own][:, None])
        mixed = attend_last(turned, key, value, lengths, prefix)
        return self.o_proj(mixed.reshape(len(x), 1, -1))


class SwiGLU(nnx.Module):
    """`down(silu(gate(x)) * up(x))`."""

    def __init__(self, config: DecoderConfig, dtype: Any, param_dtype: Any, rngs: Any):
        def linear(inputs: int, outputs: int) -> Any:
            return nnx.Linear(
                inputs, outputs, use_bias=config.mlp_bias, dtype=dtype, param_dtype=param_dtype, rngs=rngs
            )

        self.gate_proj = linear(config.hidden_size, config.intermediate_size)
        self.up_proj = linear(config.hidden_size, config.intermediate_size)
        self.down_proj = linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nnx.Module):
    """Attention and SwiGLU, each on the normalised input and added to it."""

    def __init__(self, config: DecoderConfig, implementation: Implementation, dtype: Any, param_dtype: Any, rngs: Any):
        self.input_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype, param_dtype)
        self.attention = SelfAttention(config, implementation, dtype, param_dtype, rngs)
        self.post_attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype, param_dtype)
        self.mlp = SwiGLU(config, dtype, param_dtype, rngs)

    def __call__(
        self,
        x: Float[Array, "batch length width"],
        cosine: Float32[np.ndarray, "length half"],
        sine: Float32[np.ndarray, "length half"],
        prefix: tuple[Array, Array] | None,
    ) -> tuple[Float[Array, "batch length width"], tuple[Array, Array]]:
        mixed, key_value = self.attention(self.input_norm(x), cosine, sine, prefix)
        x = x + mixed
        return x + self.mlp(self.post_attention_norm(x)), key_value

    def last(
        self,
        x: Float[Array, "batch length width"],
        cosine: Float32[np.ndarray, "length half"],
        sine: Float32[np.ndarray, "length half"],
        prefix: tuple[Array, Array] | None,
        lengths: Int[Array, " batch"],
    ) -> Float[Array, "batch 1 width"]:
        """The layer's output at each row's last position alone."""
        one = at_last(x, lengths) + self.attention.last(self.input_norm(x), cosine, sine, prefix, lengths)
        return one + self.mlp(self.post_attention_norm(one))


class Decoder(nnx.Module):
    """A causal language model that reads embeddings and gives hidden states, logits or a prefix cache.

    The layers are a plain loop: with 24 layers on a CPU a scan compiles in 0.4 s against 0.6 s, but copies each
    layer's weights out of the stack on every call and runs up to 20 % slower.

    Args:
      config: sizes.
      dtype: dtype of the computation.
      param_dtype: dtype of the stored weights.
      attention: "xla", "cudnn", or "auto" (cuDNN on a GPU in half precision).
      rngs: random numbers for the initial weights.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        attention: Implementation = "auto",
        rngs: Any,
    ):
        check_implementation(attention)
        self.config, self.dtype = config, dtype
        self.embed_tokens = nnx.Embed(
            config.vocab_size, config.hidden_size, dtype=dtype, param_dtype=param_dtype, rngs=rngs
        )
        self.layers = nnx.List(
            [DecoderLayer(config, attention, dtype, param_dtype, rngs) for _ in range(config.num_layers)]
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype, param_dtype)
        if not config.tied:
            self.lm_head = nnx.Linear(
                config.hidden_size, config.vocab_size, use_bias=False, dtype=dtype, param_dtype=param_dtype, rngs=rngs
            )

    def __call__(
        self, embeddings: Float[Array, "batch length width"], prefix: PrefixCache | None = None
    ) -> Float32[Array, "batch length vocabulary"]:
        """Logits at every position. For parity and generation; a guard asks `last_logits`."""
        return self.logits(self.hidden(embeddings, prefix))

    def key_table(self) -> KeyTable:
        """Where the tensors of a checkpoint belong."""
        return KEYS

    def embed(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length width"]:
        """Rows of the embedding; a token outside of the vocabulary gives NaN."""
        return self.embed_tokens(tokens)

    def hidden(
        self, embeddings: Float[Array, "batch length width"], prefix: PrefixCache | None = None
    ) -> Float[Array, "batch length width"]:
        """Hidden states behind the last norm, which the output layer reads."""
        return self.norm(self._run(embeddings, prefix)[0][-1])

    def hidden_states(
        self, embeddings: Float[Array, "batch length width"], prefix: PrefixCache | None = None
    ) -> list[Float[Array, "batch length width"]]:
        """The input and the output of every layer, before the last norm: `num_layers + 1` arrays."""
        return self._run(embeddings, prefix)[0]

    def last_hidden(
        self,
        embeddings: Float[Array, "batch length width"],
        lengths: Int[Array, " batch"],
        prefix: PrefixCache | None = None,
    ) -> Float[Array, "batch width"]:
        """Hidden state of each row's last token, behind the last norm.

        Args:
          embeddings: padded on the right; what stands in the padding has no influence.
          lengths: tokens per row without padding and without the prefix, in 1..length.
          prefix: what the rows continue; rows that share one of several prefixes follow each other.
        """
        x, _ = self._run(embeddings, prefix, self.config.num_layers - 1)
        tables = self._tables(embeddings, prefix)
        last = self.layers[-1].last(x[-1], *tables, None if prefix is None else prefix.pairs[-1], lengths)
        return self.norm(last[:, 0])

    def last_logits(
        self,
        embeddings: Float[Array, "batch length width"],
        lengths: Int[Array, " batch"],
        prefix: PrefixCache | None = None,
    ) -> Float32[Array, "batch vocabulary"]:
        """Logits for the token that follows each row; no array over all positions and the vocabulary exists."""
        return self.logits(self.last_hidden(embeddings, lengths, prefix))

    def logits(self, hidden: Float[Array, "*batch width"]) -> Float32[Array, "*batch vocabulary"]:
        """The output layer. The sum is kept in float32: in bfloat16 neighbouring logits would often tie."""
        hidden = hidden.astype(self.dtype)
        if self.config.tied:
            weight, equation = self.embed_tokens.embedding[...], "...d,vd->...v"
        else:
            weight, equation = self.lm_head.kernel[...], "...d,dv->...v"
        return jnp.einsum(equation, hidden, weight.astype(self.dtype), preferred_element_type=jnp.float32)

    def extend(
        self, embeddings: Float[Array, "prefixes length width"], prefix: PrefixCache | None = None
    ) -> PrefixCache:
        """Run texts once and keep their keys and values for all that continues them.

        Args:
          embeddings: texts of one length, without padding.
          prefix: what these texts themselves continue: one for all, or one for so many rows each.

        Returns:
          The cache of each text behind its prefix.
        """
        pairs = self._run(embeddings, prefix)[1]
        keys, values = (tuple(parts) for parts in zip(*pairs, strict=True))
        if prefix is None:
            return PrefixCache(keys, values)
        return PrefixCache(_append(prefix.keys, keys), _append(prefix.values, values))

    def _run(
        self, embeddings: Array, prefix: PrefixCache | None, layers: int | None = None
    ) -> tuple[list[Array], list[tuple[Array, Array]]]:
        """Input and output of the first so many layers, and the keys and values of each."""
        cosine, sine = self._tables(embeddings, prefix)
        pairs = [None] * self.config.num_layers if prefix is None else prefix.pairs
        states, own = [embeddings.astype(self.dtype)], []
        for layer, pair in list(zip(self.layers, pairs, strict=True))[:layers]:
            x, key_value = layer(states[-1], cosine, sine, pair)
            states.append(x)
            own.append(key_value)
        return states, own

    def _tables(
        self, embeddings: Array, prefix: PrefixCache | None
    ) -> tuple[Float32[np.ndarray, "length half"], Float32[np.ndarray, "length half"]]:
        start = 0 if prefix is None else prefix.length
        return rotary_tables(self.config.rotary, start, embeddings.shape[1], self.config.head_dim)


def at_last(x: Float[Array, "batch length width"], lengths: Int[Array, " batch"]) -> Float[Array, "batch 1 width"]:
    """Each row at position `lengths - 1`."""
    return jnp.take_along_axis(x, (lengths - 1)[:, None, None], axis=1)


def _append(prefix: tuple[Array, ...], own: tuple[Array, ...]) -> tuple[Array, ...]:
    def joined(before: Array, behind: Array) -> Array:
        rows = len(behind)
        spread = jnp.repeat(before, rows // len(before), axis=0, total_repeat_length=rows)
        return jnp.concatenate([spread, behind], axis=1)

    return tuple(map(joined, prefix, own))
