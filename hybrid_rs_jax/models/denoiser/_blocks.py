"""The parts of a denoising U-Net: convolutions, norms, residual blocks, attention, and the blocks of a resolution."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from hybrid_rs_jax.models.denoiser.config import UNetConfig

__all__ = ["DownBlock", "MiddleBlock", "Parts", "UpBlock", "activation", "silu"]

Pixels = Float[Array, "batch height width channels"]
Features = Float[Array, "batch rows columns features"]
Time = Float[Array, "#batch times"]


@dataclasses.dataclass(frozen=True)
class Parts:
    """Makes the layers of one network: what they share is said once.

    Attributes:
      config: sizes and variants.
      dtype: of the computation; group norms and the time are always float32.
      param_dtype: of the weights.
      rngs: random numbers for the initial weights.
    """

    config: UNetConfig
    dtype: Any
    param_dtype: Any
    rngs: Any

    def conv(self, inputs: int, outputs: int, size: int = 3, stride: int = 1, padding: Any = None) -> Conv:
        """A convolution; `padding` in rows before and after, by default what keeps the size."""
        around = (size // 2, size // 2) if padding is None else padding
        kernel = self._weights((size, size, inputs, outputs), size * size * inputs)
        return Conv(kernel, self._zeros(outputs), stride, around, self.dtype)

    def linear(self, inputs: int, outputs: int, dtype: Any = None) -> Linear:
        """A linear map of the last axis."""
        return Linear(self._weights((inputs, outputs), inputs), self._zeros(outputs), dtype or self.dtype)

    def norm(self, channels: int, groups: int | None = None) -> GroupNorm:
        """A group norm."""
        scale = jnp.ones(channels, self.param_dtype)
        return GroupNorm(scale, self._zeros(channels), groups or self.config.norm_num_groups, self.config.norm_eps)

    def _weights(self, shape: tuple[int, ...], inputs: int) -> Array:
        return (inputs**-0.5 * self.rngs.params.normal(shape, jnp.float32)).astype(self.param_dtype)

    def _zeros(self, size: int) -> Array:
        return jnp.zeros(size, self.param_dtype)


class Conv(nnx.Module):
    """A convolution with zeros around the picture."""

    def __init__(self, kernel: Array, bias: Array, stride: int, padding: tuple[int, int], dtype: Any):
        self.kernel, self.bias = nnx.Param(kernel), nnx.Param(bias)
        self.stride, self.padding, self.dtype = stride, padding, dtype

    def __call__(self, x: Pixels) -> Features:
        kernel, around, step = self.kernel[...].astype(self.dtype), (self.padding,) * 2, (self.stride,) * 2
        if kernel.shape[:2] == (1, 1):
            x = jnp.einsum("bhwi,io->bhwo", x, kernel[0, 0])
        else:
            x = jax.lax.conv_general_dilated(x, kernel, step, around, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return x + self.bias[...].astype(self.dtype)


class Linear(nnx.Module):
    """`x @ kernel + bias`."""

    def __init__(self, kernel: Array, bias: Array, dtype: Any):
        self.kernel, self.bias, self.dtype = nnx.Param(kernel), nnx.Param(bias), dtype

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        return x.astype(self.dtype) @ self.kernel[...].astype(self.dtype) + self.bias[...].astype(self.dtype)


class GroupNorm(nnx.Module):
    """Normalises each group of channels over the picture, in float32 whatever comes in."""

    def __init__(self, scale: Array, bias: Array, groups: int, epsilon: float):
        self.scale, self.bias = nnx.Param(scale), nnx.Param(bias)
        self.groups, self.epsilon = groups, epsilon

    def __call__(self, x: Pixels) -> Features:
        # means over the picture first, then over the channels of a group: both run along whole vectors of channels;
        # one scale and one shift per channel, so that the last pass over the picture is a product and a sum
        wide = x.astype(jnp.float32)
        mean = self._over_group(wide.mean(axis=(1, 2)))
        variance = self._over_group(jnp.square(wide - mean).mean(axis=(1, 2)))
        scale = self.scale[...].astype(jnp.float32) * jax.lax.rsqrt(variance + jnp.float32(self.epsilon))
        shift = self.bias[...].astype(jnp.float32) - mean * scale
        return (wide * scale + shift).astype(x.dtype)

    def _over_group(self, means: Float[Array, "batch channels"]) -> Float[Array, "batch 1 1 channels"]:
        batch, channels = means.shape
        grouped = means.reshape(batch, self.groups, -1)
        return jnp.broadcast_to(grouped.mean(axis=2, keepdims=True), grouped.shape).reshape(batch, 1, 1, channels)


class ResnetBlock(nnx.Module):
    """Two convolutions, told the time between them, added to their input.

    Args:
      parts: makes the layers.
      inputs, outputs: channels.
      resize: "down" or "up" halves or doubles the picture; None keeps it.
      divisor: the sum is divided by it.
    """

    def __init__(self, parts: Parts, inputs: int, outputs: int, resize: str | None = None, divisor: float = 1.0):
        config = parts.config
        self.scale_shift = config.resnet_time_scale_shift == "scale_shift"
        self.norm1, self.conv1 = parts.norm(inputs), parts.conv(inputs, outputs)
        times = 2 if self.scale_shift else 1
        self.time_emb_proj = parts.linear(config.time_features, times * outputs, jnp.float32)
        self.norm2, self.conv2 = parts.norm(outputs), parts.conv(outputs, outputs)
        self.conv_shortcut = parts.conv(inputs, outputs, 1) if inputs != outputs else None
        self.act, self.resize, self.divisor = activation(config.act_fn), resize, divisor

    def __call__(self, x: Pixels, time: Time) -> Features:
        h = self.act(self.norm1(x))
        if self.resize is not None:
            change = {"down": halve, "up": double}[self.resize]
            x, h = change(x), change(h)
        h = self.conv1(h)
        told = self.time_emb_proj(self.act(time))[:, None, None, :].astype(h.dtype)
        if self.scale_shift:
            scale, shift = jnp.split(told, 2, axis=-1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + told)
        h = self.conv2(self.act(h))
        x = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return _divided(x + h, self.divisor)


class Attention(nnx.Module):
    """Attention of every pixel to every pixel, added to its input."""

    def __init__(self, parts: Parts, channels: int, groups: int | None, divisor: float = 1.0):
        self.heads, size = parts.config.heads(channels)
        inner = self.heads * size
        self.group_norm = None if groups is None else parts.norm(channels, groups)
        self.to_q, self.to_k, self.to_v = (parts.linear(channels, inner) for _ in range(3))
        self.to_out = nnx.List([parts.linear(inner, channels)])
        self.divisor = divisor

    def __call__(self, x: Pixels) -> Features:
        normed = x if self.group_norm is None else self.group_norm(x)
        flat = normed.reshape(x.shape[0], -1, x.shape[-1])
        query, key, value = (
            part(flat).reshape(*flat.shape[:2], self.heads, -1) for part in (self.to_q, self.to_k, self.to_v)
        )
        with jax.numpy_dtype_promotion("standard"):  # JAX's own code mixes half precision with float32
            mixed = jax.nn.dot_product_attention(query, key, value)
        out = self.to_out[0](mixed.reshape(*flat.shape[:2], -1))
        return _divided(out.reshape(x.shape) + x, self.divisor)


class Downsample(nnx.Module):
    """A convolution with stride two."""

    def __init__(self, parts: Parts, channels: int):
        padding = (0, 1) if parts.config.downsample_padding == 0 else (1, 1)
        self.conv = parts.conv(channels, channels, 3, 2, padding)

    def __call__(self, x: Pixels, time: Time) -> Features:
        return self.conv(x)


class Upsample(nnx.Module):
    """Each pixel four times, and a convolution."""

    def __init__(self, parts: Parts, channels: int):
        self.conv = parts.conv(channels, channels)

    def __call__(self, x: Pixels, time: Time) -> Features:
        return self.conv(double(x))


class DownBlock(nnx.Module):
    """One resolution on the way down; gives all that the way up will want to see again."""

    def __init__(self, parts: Parts, level: int):
        config = parts.config
        channels, inputs = config.block_out_channels[level], config.block_out_channels[max(level - 1, 0)]
        attention, resample = config.down(level)
        self.resnets = nnx.List(
            [ResnetBlock(parts, inputs if i == 0 else channels, channels) for i in range(config.layers_per_block)]
        )
        self.attentions = _attentions(parts, channels, config.layers_per_block) if attention else None
        self.downsamplers = _resizing(parts, channels, resample, "down") if level < config.halvings else None

    def __call__(self, x: Pixels, time: Time) -> list[Array]:
        states = []
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            x = x if self.attentions is None else self.attentions[i](x)
            states.append(x)
        if self.downsamplers is not None:
            states.append(self.downsamplers[0](x, time))
        return states


class MiddleBlock(nnx.Module):
    """The coarsest resolution between the two ways."""

    def __init__(self, parts: Parts):
        config, channels = parts.config, parts.config.block_out_channels[-1]
        divisor = config.mid_block_scale_factor
        self.resnets = nnx.List([ResnetBlock(parts, channels, channels, None, divisor) for _ in range(2)])
        attentions = [Attention(parts, channels, config.middle_norm_groups, divisor)] if config.add_attention else None
        self.attentions = None if attentions is None else nnx.List(attentions)

    def __call__(self, x: Pixels, time: Time) -> Features:
        x = self.resnets[0](x, time)
        x = x if self.attentions is None else self.attentions[0](x)
        return self.resnets[1](x, time)


class UpBlock(nnx.Module):
    """One resolution on the way up; each residual block also sees a state of the way down."""

    def __init__(self, parts: Parts, number: int):
        config = parts.config
        widths = config.block_out_channels[::-1]
        channels, before, finer = widths[number], widths[max(number - 1, 0)], widths[min(number + 1, len(widths) - 1)]
        attention, resample = config.up(number)
        count = config.layers_per_block + 1
        inputs = [before if i == 0 else channels for i in range(count)]
        seen = [finer if i == count - 1 else channels for i in range(count)]
        self.resnets = nnx.List(
            [ResnetBlock(parts, own + other, channels) for own, other in zip(inputs, seen, strict=True)]
        )
        self.attentions = _attentions(parts, channels, count) if attention else None
        self.upsamplers = _resizing(parts, channels, resample, "up") if number < config.halvings else None

    def __call__(self, x: Pixels, seen: list[Array], time: Time) -> Features:
        for i, resnet in enumerate(self.resnets):
            x = resnet(jnp.concatenate([x, seen.pop()], axis=-1), time)
            x = x if self.attentions is None else self.attentions[i](x)
        return x if self.upsamplers is None else self.upsamplers[0](x, time)


def activation(name: str) -> Callable[[Array], Array]:
    """The function of that name, one of `ACTIVATIONS`."""
    functions: dict[str, Callable[[Array], Array]] = {
        "silu": silu,
        "swish": silu,
        "mish": jax.nn.mish,
        "gelu": _gelu,
        "relu": jax.nn.relu,
    }
    return functions[name]


def silu(x: Array) -> Array:
    """`x sigmoid(x)` by `sigmoid(2 h) = (1 + tanh h) / 2`: on a CPU tanh is short, and exp with a division long."""
    half = 0.5 * x
    return half + half * jnp.tanh(half)


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def halve(x: Pixels) -> Features:
    """The mean of each square of four pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def double(x: Pixels) -> Features:
    """Each pixel four times."""
    batch, height, width, channels = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return wide.reshape(batch, 2 * height, 2 * width, channels)


def _resizing(parts: Parts, channels: int, resample: str, way: str) -> Any:
    if resample == "resnet":
        return nnx.List([ResnetBlock(parts, channels, channels, way)])
    return nnx.List([(Downsample if way == "down" else Upsample)(parts, channels)])


def _attentions(parts: Parts, channels: int, count: int) -> Any:
    return nnx.List([Attention(parts, channels, parts.config.norm_num_groups) for _ in range(count)])


def _divided(x: Array, divisor: float) -> Array:
    return x if divisor == 1 else x / divisor
