"""What the config.json of a denoising U-Net says, in the layout of diffusers' `UNet2DModel`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["ACTIVATIONS", "UNetConfig"]

ACTIVATIONS = ("silu", "swish", "mish", "gelu", "relu")
#: Block types, without the prefix "UNetRes" of older files: (attention, how it changes the size; None: see config).
DOWN_BLOCKS = {
    "DownBlock2D": (False, "conv"),
    "AttnDownBlock2D": (True, None),
    "ResnetDownsampleBlock2D": (False, "resnet"),
}
UP_BLOCKS = {
    "UpBlock2D": (False, "conv"),
    "AttnUpBlock2D": (True, None),
    "ResnetUpsampleBlock2D": (False, "resnet"),
}
#: Settings of config.json that the network here knows only one value of.
FIXED = {"time_embedding_type": "positional", "class_embed_type": None, "num_class_embeds": None}
#: Settings that do not change what a trained network computes.
WITHOUT_EFFECT = ("sample_size", "dropout", "num_train_timesteps")
#: Types of the settings, for what a file may hold.
SEQUENCES: dict[str, tuple[type, str]] = {
    "block_out_channels": (int, "integers"),
    "down_block_types": (str, "names"),
    "up_block_types": (str, "names"),
}
NUMBERS = ("norm_eps", "freq_shift", "mid_block_scale_factor")
SCALARS: tuple[tuple[tuple[type, ...], tuple[str, ...], str], ...] = (
    ((int, float), NUMBERS, "a finite number"),
    (
        (int,),
        ("in_channels", "out_channels", "layers_per_block", "norm_num_groups", "downsample_padding"),
        "an integer",
    ),
    ((int, type(None)), ("attention_head_dim", "attn_norm_num_groups", "time_embedding_dim"), "an integer or null"),
    ((bool,), ("flip_sin_to_cos", "center_input_sample", "add_attention"), "true or false"),
    ((str,), ("resnet_time_scale_shift", "downsample_type", "upsample_type", "act_fn"), "a name"),
    ((str, type(None)), ("mid_block_type",), "a name or null"),
)
NETWORKS = ("UNet2DModel", "UNetUnconditionalModel")


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Sizes and variants of the network; names and defaults are those of config.json.

    Attributes:
      in_channels, out_channels: of the pictures; twice as many come out where the network also predicts a variance.
      block_out_channels: features at each resolution, the finest first; each halves the picture.
      down_block_types, up_block_types: one per resolution, the way down and the way up.
      mid_block_type: "UNetMidBlock2D", or None.
      layers_per_block: residual blocks per resolution on the way down; one more on the way up.
      attention_head_dim: features per head; None: one head.
      norm_num_groups, norm_eps: of the group norms; attn_norm_num_groups: of the one in the middle's attention.
      resnet_time_scale_shift: "default" adds the time, "scale_shift" scales and shifts by it.
      downsample_type, upsample_type: how blocks with attention change the size, "conv" or "resnet".
      downsample_padding: 1, or 0 for one row and column of zeros below and to the right.
      freq_shift, flip_sin_to_cos, time_embedding_dim: of the sinusoidal embedding of the time.
      mid_block_scale_factor: the middle's sums are divided by it.
      center_input_sample: the network takes pictures in [0, 1].
      act_fn: activation of the residual blocks.
      add_attention: whether the middle has attention.
      patch_size: tiles of so many by so many pixels are cut out and become channels, `in_channels` together; small
        networks are several times faster that way. Always 1 in diffusers.

    Raises:
      ValueError: for a value that is not supported.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    mid_block_type: str | None = "UNetMidBlock2D"
    layers_per_block: int = 2
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    downsample_padding: int = 1
    freq_shift: float = 0.0
    flip_sin_to_cos: bool = True
    time_embedding_dim: int | None = None
    mid_block_scale_factor: float = 1.0
    center_input_sample: bool = False
    act_fn: str = "silu"
    add_attention: bool = True
    patch_size: int = 1

    def __post_init__(self) -> None:
        self._check_sizes()
        self._check_choices()
        self._check_heads()
        if self.out_channels not in (self.in_channels, 2 * self.in_channels):
            raise ValueError(
                f"out_channels must be in_channels = {self.in_channels}, or twice that with a predicted variance, got "
                f"{self.out_channels}."
            )
        if math.isclose(self.block_out_channels[0] // 2, self.freq_shift):
            raise ValueError(f"freq_shift must not be half of block_out_channels[0], got {self.freq_shift}.")

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> UNetConfig:
        """The network that a config.json describes.

        Raises:
          ValueError: for another kind of network, or a setting that is unknown or not supported.
        """
        kind = config.get("_class_name", NETWORKS[0])
        if kind not in NETWORKS:
            raise ValueError(f"_class_name must be {NETWORKS[0]}, got {kind}.")
        for name, only in FIXED.items():
            if config.get(name, only) != only:
                raise ValueError(f"{name} must be {_json(only)}, got {_json(config[name])}.")
        fields = {field.name for field in dataclasses.fields(cls)}
        unknown = [
            name
            for name, value in config.items()
            if name not in fields and name not in FIXED and name not in WITHOUT_EFFECT and not name.startswith("_")
            if value not in (None, False)
        ]
        if unknown:
            raise ValueError(f"The settings of a U-Net must be ones that are known here, got {', '.join(unknown)}.")
        return cls(**{name: _typed(name, value) for name, value in config.items() if name in fields})

    def write(self) -> dict[str, object]:
        """The contents of config.json."""
        return {"_class_name": NETWORKS[0], **FIXED, **dataclasses.asdict(self)}

    @property
    def time_features(self) -> int:
        """Features of the embedded time."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def picture_channels(self) -> int:
        """Channels of the pictures that are denoised."""
        return self.in_channels // self.patch_size**2

    @property
    def halvings(self) -> int:
        """How often the picture's sides are halved: they must be multiples of two to this power."""
        return len(self.block_out_channels) - 1

    def down(self, level: int) -> tuple[bool, str]:
        """Whether the level has attention, and how the picture is halved behind it: "conv" or "resnet"."""
        attention, resample = DOWN_BLOCKS[_plain(self.down_block_types[level])]
        return attention, resample or self.downsample_type

    def up(self, number: int) -> tuple[bool, str]:
        """The same for the way up, counted from the coarsest level."""
        attention, resample = UP_BLOCKS[_plain(self.up_block_types[number])]
        return attention, resample or self.upsample_type

    def heads(self, channels: int) -> tuple[int, int]:
        """Number of attention heads, and features of each."""
        size = self.attention_head_dim or channels
        return channels // size, size

    @property
    def middle_norm_groups(self) -> int | None:
        """Groups of the norm in the middle's attention; None: it has no norm."""
        if self.attn_norm_num_groups is not None:
            return self.attn_norm_num_groups
        return self.norm_num_groups if self.resnet_time_scale_shift == "default" else None

    def check_pictures(self, shape: tuple[int, ...]) -> None:
        """Raise one sentence for pictures [B, H, W, C] that the network cannot take."""
        _, height, width, channels = shape
        step = 2**self.halvings * self.patch_size
        if channels != self.picture_channels:
            raise ValueError(
                f"images must have {self.picture_channels} channels, as the denoiser was made for, got {channels}."
            )
        if height % step or width % step or not height or not width:
            raise ValueError(
                f"images must have sides that are multiples of {step}, as the denoiser makes them {step} times "
                f"smaller, got {height} x {width}."
            )

    def _check_sizes(self) -> None:
        whole = {
            "in_channels": self.in_channels,
            "layers_per_block": self.layers_per_block,
            "norm_num_groups": self.norm_num_groups,
            "patch_size": self.patch_size,
            **{f"block_out_channels[{i}]": channels for i, channels in enumerate(self.block_out_channels)},
            **{
                name: getattr(self, name)
                for name in ("attention_head_dim", "attn_norm_num_groups", "time_embedding_dim")
                if getattr(self, name) is not None
            },
        }
        for name, value in whole.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
        if self.in_channels % self.patch_size**2:
            raise ValueError(
                f"in_channels must be a multiple of patch_size squared = {self.patch_size**2}, got {self.in_channels}."
            )
        levels = len(self.block_out_channels)
        if levels < 1 or len(self.down_block_types) != levels or len(self.up_block_types) != levels:
            raise ValueError(
                "block_out_channels, down_block_types and up_block_types must have the same length, at least 1, got "
                f"{levels}, {len(self.down_block_types)} and {len(self.up_block_types)}."
            )
        for groups in {self.norm_num_groups, self.attn_norm_num_groups or 1}:
            if bad := [channels for channels in self.block_out_channels if channels % groups]:
                raise ValueError(f"Groups of a norm must divide block_out_channels = {bad[0]}, got {groups}.")
        for name in ("norm_eps", "mid_block_scale_factor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")

    def _check_heads(self) -> None:
        levels = range(len(self.block_out_channels))
        widths = [self.block_out_channels[level] for level in levels if self.down(level)[0]]
        widths += [self.block_out_channels[::-1][level] for level in levels if self.up(level)[0]]
        if self.mid_block_type is not None and self.add_attention:
            widths.append(self.block_out_channels[-1])
        if widths and (self.attention_head_dim or 1) > min(widths):
            raise ValueError(
                f"attention_head_dim must be at most {min(widths)}, the fewest features where there is attention, got "
                f"{self.attention_head_dim}."
            )

    def _check_choices(self) -> None:
        choices: dict[str, tuple[Any, tuple[Any, ...]]] = {
            "mid_block_type": (self.mid_block_type, ("UNetMidBlock2D", None)),
            "resnet_time_scale_shift": (self.resnet_time_scale_shift, ("default", "scale_shift")),
            "downsample_type": (self.downsample_type, ("conv", "resnet")),
            "upsample_type": (self.upsample_type, ("conv", "resnet")),
            "downsample_padding": (self.downsample_padding, (0, 1)),
            "act_fn": (self.act_fn, ACTIVATIONS),
        }
        for kinds, names in ((DOWN_BLOCKS, self.down_block_types), (UP_BLOCKS, self.up_block_types)):
            for name in names:
                choices[f"A block of the way {'down' if kinds is DOWN_BLOCKS else 'up'}, {name},"] = (
                    _plain(name),
                    tuple(kinds),
                )
        for name, (value, legal) in choices.items():
            if value not in legal:
                raise ValueError(f"{name} must be one of {', '.join(map(_json, legal))}, got {_json(value)}.")


def _typed(name: str, value: Any) -> Any:
    """A value of config.json as the type of its setting."""
    if name in SEQUENCES:
        kind, word = SEQUENCES[name]
        if not isinstance(value, (list, tuple)) or any(type(one) is not kind for one in value):
            raise ValueError(f"{name} must be a list of {word}, got {_json(value)}.")
        return tuple(value)
    for kinds, names, word in SCALARS:
        if name in names and (type(value) not in kinds or value in (math.inf, -math.inf) or value != value):
            raise ValueError(f"{name} must be {word}, got {_json(value)}.")
    return float(value) if name in NUMBERS else value


def _plain(block: str) -> str:
    return str(block).removeprefix("UNetRes")


def _json(value: Any) -> str:
    return "null" if value is None else str(value)
