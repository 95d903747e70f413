"""The vision transformer that SigLIP and CLIP share: patches, pre-norm encoder layers, no pooling head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from hybrid_rs_jax.models._activations import activation
from hybrid_rs_jax.models._attention import Implementation, attend, check_implementation
from hybrid_rs_jax.models._keys import KERNEL, Key
from hybrid_rs_jax.models._settings import Fields

__all__ = ["ENCODER_KEYS", "VisionConfig", "VisionTower", "layer_norm", "vision_config"]

ENCODER_KEYS = (
    Key("embeddings.patch_embedding.weight", "patch_embedding.kernel", (2, 3, 1, 0)),
    Key("embeddings.patch_embedding.bias", "patch_embedding.bias"),
    Key("embeddings.position_embedding.weight", "position_embedding"),
    Key("encoder.layers.{layer}.layer_norm{n}.weight", "layers.{layer}.norm{n}.scale"),
    Key("encoder.layers.{layer}.layer_norm{n}.bias", "layers.{layer}.norm{n}.bias"),
    Key("encoder.layers.{layer}.self_attn.{map}.weight", "layers.{layer}.attention.{map}.kernel", KERNEL),
    Key("encoder.layers.{layer}.self_attn.{map}.bias", "layers.{layer}.attention.{map}.bias"),
    Key("encoder.layers.{layer}.mlp.{map}.weight", "layers.{layer}.mlp.{map}.kernel", KERNEL),
    Key("encoder.layers.{layer}.mlp.{map}.bias", "layers.{layer}.mlp.{map}.bias"),
)


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of a vision tower.

    Attributes:
      hidden_size: features per patch.
      intermediate_size: features inside the two-layer perceptron.
      num_layers: encoder layers of the checkpoint. Layers behind the last feature layer are neither built nor loaded.
      num_heads: attention heads; divides `hidden_size`.
      image_size: height and width of a tile in pixels.
      patch_size: height and width of a patch in pixels.
      num_channels: channels per pixel.
      hidden_act: activation, by its name in config.json.
      layer_norm_eps: added to the variance.
      feature_layers: hidden states to return, side by side; 0 is the input of the first layer, -1 the output of the
        last one.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    image_size: int
    patch_size: int
    num_channels: int
    hidden_act: str
    layer_norm_eps: float
    feature_layers: tuple[int, ...] = (-1,)

    def __post_init__(self) -> None:
        activation(self.hidden_act)
        if self.patch_size > self.image_size:
            raise ValueError(f"patch_size must be at most image_size = {self.image_size}, got {self.patch_size}.")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads must divide hidden_size = {self.hidden_size}, got {self.num_heads}.")
        bad = [layer for layer in self.feature_layers if not -self.num_layers - 1 <= layer <= self.num_layers]
        if bad or not self.feature_layers:
            raise ValueError(
                f"vision_feature_layer must lie in {-self.num_layers - 1}..{self.num_layers}, got {bad or 'none'}."
            )

    def takes(self, size: tuple[int, int]) -> bool:
        """Whether the tower takes views of this height and width."""
        return size == (self.image_size, self.image_size)

    @property
    def legal(self) -> str:
        """Sizes of views that the tower takes, in words."""
        return f"{self.image_size} x {self.image_size}"

    @property
    def states(self) -> tuple[int, ...]:
        """The feature layers, counted from the input."""
        return tuple(layer % (self.num_layers + 1) for layer in self.feature_layers)

    @property
    def grid(self) -> int:
        """Patches along each side of a tile; pixels that fill no whole patch are not read."""
        return self.image_size // self.patch_size


def vision_config(
    config: Mapping[str, Any], feature_layers: tuple[int, ...], patch_size: int, hidden_act: str, layer_norm_eps: float
) -> VisionConfig:
    """Sizes from the vision part of config.json; both towers share the defaults of all but three of them."""
    fields = Fields(config)
    return VisionConfig(
        hidden_size=fields.integer("hidden_size", 768, high=2**18),
        intermediate_size=fields.integer("intermediate_size", 3072, high=2**20),
        num_layers=fields.integer("num_hidden_layers", 12, high=1024),
        num_heads=fields.integer("num_attention_heads", 12, high=2**12),
        image_size=fields.integer("image_size", 224, high=2**13),
        patch_size=fields.integer("patch_size", patch_size, high=2**13),
        num_channels=fields.integer("num_channels", 3, high=64),
        hidden_act=fields.text("hidden_act", hidden_act),
        layer_norm_eps=fields.number("layer_norm_eps", layer_norm_eps, high=1.0),
        feature_layers=feature_layers,
    )


class PatchEmbedding(nnx.Module):
    """One linear map on the pixels of each patch."""

    def __init__(self, config: VisionConfig, use_bias: bool, dtype: Any, param_dtype: Any, rngs: Any):
        size, width = config.patch_size, config.hidden_size
        shape = (size, size, config.num_channels, width)
        scale = (size * size * config.num_channels) ** -0.5
        self.kernel = nnx.Param(scale * rngs.params.normal(shape, param_dtype))
        self.bias = nnx.Param(jnp.zeros(width, param_dtype)) if use_bias else None
        self.size, self.dtype = size, dtype

    def __call__(self, pixels: Float[Array, "tiles height width channels"]) -> Float[Array, "tiles patches features"]:
        tiles, height, width, channels = pixels.shape
        rows, columns, size = height // self.size, width // self.size, self.size
        cut = pixels[:, : rows * size, : columns * size].astype(self.dtype)
        patches = cut.reshape(tiles, rows, size, columns, size, channels).transpose(0, 1, 3, 2, 4, 5)
        kernel = self.kernel[...].astype(self.dtype).reshape(size * size * channels, -1)
        x = patches.reshape(tiles, rows * columns, -1) @ kernel
        return x if self.bias is None else x + self.bias[...].astype(self.dtype)


class EncoderAttention(nnx.Module):
    """Attention of every patch to every patch."""

    def __init__(self, config: VisionConfig, implementation: Implementation, dtype: Any, param_dtype: Any, rngs: Any):
        def linear() -> Any:
            width = config.hidden_size
            return nnx.Linear(width, width, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

        self.q_proj, self.k_proj, self.v_proj, self.out_proj = linear(), linear(), linear(), linear()
        self.heads, self.implementation = config.num_heads, implementation

    def __call__(self, x: Float[Array, "tiles patches features"]) -> Float[Array, "tiles patches features"]:
        heads = (*x.shape[:2], self.heads, -1)
        query, key, value = (part(x).reshape(heads) for part in (self.q_proj, self.k_proj, self.v_proj))
        mixed = attend(query, key, value, causal=False, implementation=self.implementation)
        return self.out_proj(mixed.reshape(x.shape))


class Perceptron(nnx.Module):
    """`fc2(act(fc1(x)))`."""

    def __init__(self, config: VisionConfig, dtype: Any, param_dtype: Any, rngs: Any):
        outer, inner = config.hidden_size, config.intermediate_size
        self.fc1 = nnx.Linear(outer, inner, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.fc2 = nnx.Linear(inner, outer, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.act = activation(config.hidden_act)

    def __call__(self, x: Float[Array, "tiles patches features"]) -> Float[Array, "tiles patches features"]:
        return self.fc2(self.act(self.fc1(x)))


class EncoderLayer(nnx.Module):
    """Attention and perceptron, each on the normalised input and added to it."""

    def __init__(self, config: VisionConfig, implementation: Implementation, dtype: Any, param_dtype: Any, rngs: Any):
        self.norm1 = layer_norm(config, dtype, param_dtype, rngs)
        self.attention = EncoderAttention(config, implementation, dtype, param_dtype, rngs)
        self.norm2 = layer_norm(config, dtype, param_dtype, rngs)
        self.mlp = Perceptron(config, dtype, param_dtype, rngs)

    def __call__(self, x: Float[Array, "tiles patches features"]) -> Float[Array, "tiles patches features"]:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTower(nnx.Module):
    """Patches and encoder layers; a subclass says how the encoder's input is embedded.

    Args:
      config: sizes.
      dtype: dtype of the computation.
      param_dtype: dtype of the stored weights.
      attention: "xla", "cudnn", or "auto" (cuDNN on a GPU in half precision).
      rngs: random numbers for the initial weights.
    """

    patch_bias = True  # whether the patch map has a bias
    extra_tokens = 0  # tokens that stand before the patches

    def __init__(
        self,
        config: VisionConfig,
        *,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        attention: Implementation = "auto",
        rngs: Any,
    ):
        check_implementation(attention)
        self.config, self.dtype = config, dtype
        self.patch_embedding = PatchEmbedding(config, self.patch_bias, dtype, param_dtype, rngs)
        positions = (config.grid**2 + self.extra_tokens, config.hidden_size)
        self.position_embedding = nnx.Param(config.hidden_size**-0.5 * rngs.params.normal(positions, param_dtype))
        depth = max(config.states)
        self.layers = nnx.List([EncoderLayer(config, attention, dtype, param_dtype, rngs) for _ in range(depth)])

    def __call__(self, pixels: Float[Array, "tiles height width channels"]) -> Float[Array, "tiles tokens features"]:
        """The feature layers side by side, with the class token first where the tower has one.

        Args:
          pixels: normalised, `image_size` high and wide.

        Raises:
          ValueError: for pixels of another size.
        """
        states = self.hidden_states(pixels)
        return jnp.concatenate([states[layer] for layer in self.config.states], axis=-1)

    def hidden_states(
        self, pixels: Float[Array, "tiles height width channels"]
    ) -> list[Float[Array, "tiles tokens hidden"]]:
        """The input and the output of every layer that was built."""
        expected = (self.config.image_size, self.config.image_size, self.config.num_channels)
        if pixels.shape[1:] != expected:
            raise ValueError(f"pixels must have shape [tiles, {', '.join(map(str, expected))}], got {pixels.shape}.")
        states = [self.embed(pixels)]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return states

    def embed(self, pixels: Float[Array, "tiles height width channels"]) -> Float[Array, "tiles tokens hidden"]:
        """Input of the first layer."""
        raise NotImplementedError

    def unused(self) -> tuple[str, ...]:
        """Patterns of stored tensors behind the last feature layer."""
        layers = "|".join(map(str, range(len(self.layers), self.config.num_layers)))
        pooling = (r"post_layernorm\..*", r"head\..*", r"embeddings\.position_ids")
        return (*pooling, rf"encoder\.layers\.(?:{layers})\..*") if layers else pooling


def layer_norm(config: VisionConfig, dtype: Any, param_dtype: Any, rngs: Any) -> Any:
    """Layer norm whose variance is not a difference of squares."""
    return nnx.LayerNorm(
        config.hidden_size,
        epsilon=config.layer_norm_eps,
        use_fast_variance=False,
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )
