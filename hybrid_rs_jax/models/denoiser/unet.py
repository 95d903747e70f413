"""The U-Net of denoising diffusion: a noisy picture and a time in, the noise (or the picture, or both mixed) out."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from hybrid_rs_jax.models.denoiser._blocks import DownBlock, MiddleBlock, Parts, UpBlock, silu
from hybrid_rs_jax.models.denoiser.config import UNetConfig

__all__ = ["TimeEmbedding", "UNet", "sinusoids"]


class UNet(nnx.Module):
    """What `UNet2DModel` of diffusers computes, with the channels last; parameters have the same names.

    Args:
      config: sizes and variants.
      dtype: dtype of the computation; group norms and the embedding of the time are float32 at any.
      param_dtype: dtype of the stored weights.
      rngs: random numbers for the initial weights.
    """

    def __init__(self, config: UNetConfig, *, dtype: Any = jnp.float32, param_dtype: Any = jnp.float32, rngs: Any):
        parts = Parts(config, dtype, param_dtype, rngs)
        first, levels = config.block_out_channels[0], len(config.block_out_channels)
        self.config, self.dtype = config, dtype
        self.conv_in = parts.conv(config.in_channels, first)
        self.time_embedding = TimeEmbedding(parts)
        self.down_blocks = nnx.List([DownBlock(parts, level) for level in range(levels)])
        self.mid_block = None if config.mid_block_type is None else MiddleBlock(parts)
        self.up_blocks = nnx.List([UpBlock(parts, number) for number in range(levels)])
        self.conv_norm_out, self.conv_out = parts.norm(first), parts.conv(first, config.out_channels)

    def __call__(
        self, x: Float[Array, "batch height width channels"], time: Float[Array, "#batch"]
    ) -> Float[Array, "batch height width outputs"]:
        """One pass.

        Args:
          x: as the network was trained on, usually scaled to [-1, 1] and noisy; sides are multiples of
            `2 ** config.halvings`.
          time: one for all or one each; need not be whole.

        Raises:
          ValueError: for another number of channels, or sides that cannot be halved so often.
        """
        embedded = self.time_embedding(time)
        x = x.astype(self.dtype)
        states = [self.conv_in(2 * x - 1 if self.config.center_input_sample else x)]
        for down in self.down_blocks:
            states += down(states[-1], embedded)
        x = states[-1] if self.mid_block is None else self.mid_block(states[-1], embedded)
        for up in self.up_blocks:
            x = up(x, states, embedded)
        return self.conv_out(silu(self.conv_norm_out(x)))


class TimeEmbedding(nnx.Module):
    """Sinusoids of the time and two linear maps, in float32."""

    def __init__(self, parts: Parts):
        first, features = parts.config.block_out_channels[0], parts.config.time_features
        self.linear_1 = parts.linear(first, features, jnp.float32)
        self.linear_2 = parts.linear(features, features, jnp.float32)
        self.config = parts.config

    def __call__(self, time: Float[Array, " batch"]) -> Float[Array, "batch features"]:
        config = self.config
        waves = sinusoids(time, config.block_out_channels[0], config.freq_shift, config.flip_sin_to_cos)
        return self.linear_2(silu(self.linear_1(waves)))


def sinusoids(time: Float[Array, " batch"], size: int, shift: float, cosines_first: bool) -> Float[Array, "batch size"]:
    """`sin(w_k t)` and `cos(w_k t)` with `w_k = 10000 ** (-k / (size // 2 - shift))`; an odd size ends with a zero."""
    half = size // 2
    frequencies = np.exp(-math.log(10_000) * np.arange(half) / (half - shift)).astype(np.float32)
    angles = time.astype(jnp.float32)[:, None] * frequencies
    waves = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.pad(jnp.concatenate(waves[::-1] if cosines_first else waves, axis=1), ((0, 0), (0, size % 2)))
