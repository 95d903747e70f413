"""The vision tower of Qwen2.5-VL: windows in most layers, rotary positions in two directions, 2 x 2 patches merged.

The size of a picture is static, so its patches are brought into the order of the windows once, and every window is a
run of neighbours.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from hybrid_rs_jax.models._activations import activation
from hybrid_rs_jax.models._attention import Implementation, attend, check_implementation
from hybrid_rs_jax.models._decoder import RMSNorm, SwiGLU
from hybrid_rs_jax.models._keys import KERNEL, Key, KeyTable
from hybrid_rs_jax.models._rotary import RotaryConfig, rotary_tables, rotate
from hybrid_rs_jax.models._settings import Fields

__all__ = ["QwenTower", "QwenVisionConfig", "read_vision"]

_EPS = 1e-6  # of all its norms, whatever config.json says

KEYS = KeyTable(
    keys=(
        Key("patch_embed.proj.weight", "patch_kernel", (2, 3, 4, 1, 0)),
        Key("blocks.{layer}.norm{n}.weight", "layers.{layer}.norm{n}.scale"),
        Key("blocks.{layer}.attn.qkv.weight", "layers.{layer}.qkv.kernel", KERNEL),
        Key("blocks.{layer}.attn.qkv.bias", "layers.{layer}.qkv.bias"),
        Key("blocks.{layer}.attn.proj.weight", "layers.{layer}.out_proj.kernel", KERNEL),
        Key("blocks.{layer}.attn.proj.bias", "layers.{layer}.out_proj.bias"),
        Key("blocks.{layer}.mlp.{map}.weight", "layers.{layer}.mlp.{map}.kernel", KERNEL),
        Key("blocks.{layer}.mlp.{map}.bias", "layers.{layer}.mlp.{map}.bias"),
        Key("merger.ln_q.weight", "merge_norm.scale"),
        Key("merger.mlp.0.weight", "linear_1.kernel", KERNEL),
        Key("merger.mlp.0.bias", "linear_1.bias"),
        Key("merger.mlp.2.weight", "linear_2.kernel", KERNEL),
        Key("merger.mlp.2.bias", "linear_2.bias"),
    )
)


@dataclasses.dataclass(frozen=True)
class QwenVisionConfig:
    """Sizes of the tower.

    Attributes:
      hidden_size: features per patch.
      intermediate_size: features inside the SwiGLU block.
      num_layers: layers.
      num_heads: attention heads; divides `hidden_size`.
      num_channels: channels per pixel.
      patch_size: height and width of a patch in pixels.
      frames: equal pictures that a patch stacks, as if they were neighbours in a film.
      merge: patches along each side that become one feature.
      window: features along each side of a window.
      full_layers: layers in which every patch sees every other.
      out_size: features behind the merger, the decoder's width.
      hidden_act: activation inside the SwiGLU block.
      theta: base of the rotary frequencies.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_channels: int
    patch_size: int
    frames: int
    merge: int
    window: int
    full_layers: tuple[int, ...]
    out_size: int
    hidden_act: str
    theta: float = 10_000.0

    def __post_init__(self) -> None:
        activation(self.hidden_act)
        if self.hidden_size % (4 * self.num_heads):
            raise ValueError(
                f"hidden_size must be a multiple of 4 x num_heads = {4 * self.num_heads}, got {self.hidden_size}."
            )

    @property
    def step(self) -> int:
        """Pixels along each side that become one feature: sizes of pictures are multiples of it."""
        return self.patch_size * self.merge

    @property
    def image_size(self) -> int:
        """Height and width of a picture where nothing else is asked for: 16 x 16 features."""
        return 16 * self.step

    @property
    def legal(self) -> str:
        """Sizes of pictures that the tower takes, in words."""
        return f"multiples of {self.step}"

    def takes(self, size: tuple[int, int]) -> bool:
        """Whether the tower takes pictures of this height and width."""
        return not (size[0] % self.step or size[1] % self.step)


def read_vision(fields: Fields, out_size: int) -> QwenVisionConfig:
    """Sizes from the vision part of config.json.

    Raises:
      ValueError: for a value out of range, or another width than the decoder's.
    """
    fields.settle("tokens_per_second")  # of films
    fields.only("in_chans", 3, "qwen2_5_vl")
    patch, merge = fields.integer("patch_size", 14, high=2**10), fields.integer("spatial_merge_size", 2, high=64)
    fields.only("spatial_patch_size", patch, "qwen2_5_vl")
    fields.only("out_hidden_size", out_size, f"a decoder of width {out_size}")
    rope = fields.section("rope_parameters") or Fields({})
    rope.only("rope_type", "axial", "qwen2_5_vl")
    return QwenVisionConfig(
        hidden_size=fields.integer("hidden_size", 3584, high=2**18),
        intermediate_size=fields.integer("intermediate_size", 3420, high=2**20),
        num_layers=fields.integer("depth", 32, high=1024),
        num_heads=fields.integer("num_heads", 16, high=2**12),
        num_channels=fields.integer("in_channels", 3, high=64),
        patch_size=patch,
        frames=fields.integer("temporal_patch_size", 2, high=64),
        merge=merge,
        window=fields.integer("window_size", 112, low=patch * merge, high=2**14) // merge // patch,
        full_layers=fields.integers("fullatt_block_indexes", (7, 15, 23, 31), low=0),
        out_size=out_size,
        hidden_act=fields.text("hidden_act", "silu"),
        theta=rope.number("rope_theta", 10_000.0, high=1e15),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """The windows of a picture of `rows x columns` features, from left to right, then down.

    Attributes:
      order: the features, numbered row by row, in the order of their windows.
      slots: [windows, length of the longest] places in that order of each window's patches, its last one repeated.
      lengths: patches of each window.
      back: where each patch stands in `slots`.
    """

    order: np.ndarray
    slots: np.ndarray
    lengths: np.ndarray
    back: np.ndarray

    @classmethod
    def of(cls, rows: int, columns: int, window: int, patches: int) -> Windows:
        """The windows, for so many patches per feature."""
        cells = np.arange(rows * columns).reshape(rows, columns)
        corners = [(top, left) for top in range(0, rows, window) for left in range(0, columns, window)]
        parts = [cells[top : top + window, left : left + window].ravel() for top, left in corners]
        lengths = np.array([part.size * patches for part in parts])
        begins = np.cumsum(lengths) - lengths
        steps = np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)
        back = [np.arange(length) + number * lengths.max() for number, length in enumerate(lengths)]
        return cls(np.concatenate(parts), begins[:, None] + steps, lengths, np.concatenate(back))


class QwenLayer(nnx.Module):
    """Attention within windows or to all patches, and SwiGLU, each on the normalised input and added to it."""

    def __init__(
        self, config: QwenVisionConfig, implementation: Implementation, dtype: Any, param_dtype: Any, rngs: Any
    ):
        width, options = config.hidden_size, {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.norm1, self.norm2 = (RMSNorm(width, _EPS, dtype, param_dtype) for _ in range(2))
        self.qkv = nnx.Linear(width, 3 * width, **options)
        self.out_proj = nnx.Linear(width, width, **options)
        self.mlp = SwiGLU(width, config.intermediate_size, True, dtype, param_dtype, rngs, config.hidden_act)
        self.heads, self.implementation = config.num_heads, implementation

    def __call__(
        self, x: Float[Array, "pictures patches width"], tables: tuple[np.ndarray, np.ndarray], windows: Windows | None
    ) -> Float[Array, "pictures patches width"]:
        parts = self.qkv(self.norm1(x)).reshape(*x.shape[:2], 3, self.heads, -1)
        query, key, value = rotate(parts[:, :, 0], *tables), rotate(parts[:, :, 1], *tables), parts[:, :, 2]
        if windows is None:
            mixed = attend(query, key, value, causal=False, implementation=self.implementation)
        else:
            mixed = self._within(windows, query, key, value)
        x = x + self.out_proj(mixed.reshape(x.shape))
        return x + self.mlp(self.norm2(x))

    def _within(self, windows: Windows, *parts: Array) -> Array:
        pictures, (number, longest) = len(parts[0]), windows.slots.shape
        apart = [part[:, windows.slots.ravel()].reshape(-1, longest, *part.shape[2:]) for part in parts]
        lengths = None if (windows.lengths == longest).all() else jnp.tile(jnp.asarray(windows.lengths), pictures)
        mixed = attend(*apart, causal=False, implementation=self.implementation, key_lengths=lengths)
        return mixed.reshape(pictures, number * longest, *mixed.shape[2:])[:, windows.back]


class QwenTower(nnx.Module):
    """The tower with its merger.

    Args:
      config: sizes.
      dtype: dtype of the computation.
      param_dtype: dtype of the stored weights.
      attention: "xla", "cudnn", or "auto" (cuDNN on a GPU in half precision).
      rngs: random numbers for the initial weights.
    """

    def __init__(
        self,
        config: QwenVisionConfig,
        *,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        attention: Implementation = "auto",
        rngs: Any,
    ):
        check_implementation(attention)
        self.config, self.dtype = config, dtype
        width, size = config.hidden_size, config.patch_size
        shape = (config.frames, size, size, config.num_channels, width)
        linear = functools.partial(nnx.Linear, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.patch_kernel = nnx.Param(float(np.prod(shape[:-1])) ** -0.5 * rngs.params.normal(shape, param_dtype))
        self.layers = nnx.List(
            [QwenLayer(config, attention, dtype, param_dtype, rngs) for _ in range(config.num_layers)]
        )
        self.merge_norm = RMSNorm(width, _EPS, dtype, param_dtype)
        merged = width * config.merge**2
        self.linear_1, self.linear_2 = linear(merged, merged), linear(merged, config.out_size)

    def __call__(
        self, pixels: Float[Array, "pictures height width channels"]
    ) -> Float[Array, "pictures features hidden"]:
        """One feature per `merge x merge` patches, row by row.

        Raises:
          ValueError: for a size that is no multiple of `step` pixels.
        """
        config, size = self.config, pixels.shape[1:3]
        if not config.takes((size[0], size[1])):
            raise ValueError(f"pixels must be multiples of {config.step} high and wide, got {size[0]} x {size[1]}.")
        rows, columns, block = size[0] // config.step, size[1] // config.step, config.merge**2
        windows = Windows.of(rows, columns, config.window, block)
        tables = self._tables(rows, columns, windows.order)
        x = self._patches(pixels, rows, columns)[:, windows.order].reshape(len(pixels), -1, config.hidden_size)
        for number, layer in enumerate(self.layers):
            x = layer(x, tables, None if number in config.full_layers else windows)
        merged = self.merge_norm(x).reshape(len(pixels), rows * columns, -1)
        features = self.linear_2(jax.nn.gelu(self.linear_1(merged), approximate=False))
        return features[:, np.argsort(windows.order)]

    def key_table(self) -> KeyTable:
        """Where the tensors of a checkpoint belong."""
        return KEYS

    def _patches(self, pixels: Array, rows: int, columns: int) -> Array:
        """Embedded patches [pictures, features, patches of a feature, width]; the frames are equal, so kernels add."""
        merge, size = self.config.merge, self.config.patch_size
        cut = pixels.astype(self.dtype).reshape(len(pixels), rows, merge, size, columns, merge, size, -1)
        cut = cut.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(len(pixels), rows * columns, merge**2, -1)
        kernel = jnp.sum(self.patch_kernel[...].astype(jnp.float32), axis=0).astype(self.dtype)
        return cut @ kernel.reshape(cut.shape[-1], -1)

    def _tables(self, rows: int, columns: int, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines: half of the frequencies for the row of a patch, half for its column."""
        merge, size = self.config.merge, self.config.hidden_size // self.config.num_heads // 2
        inner = np.stack(np.divmod(np.arange(merge**2), merge))
        corner = np.stack(np.divmod(order, columns)) * merge
        places = (corner[:, :, None] + inner[:, None, :]).reshape(2, -1, 1)
        rotary, count = RotaryConfig(self.config.theta), places.shape[1]
        down, across = (rotary_tables(rotary, 0, count, size, axis) for axis in places)
        cosine, sine = (np.concatenate(pair, axis=1) for pair in zip(down, across, strict=True))
        return cosine, sine
