"""From a .pt file of guided-diffusion (or improved-diffusion) to a folder that `load_denoiser` and diffusers read.

    python -m hybrid_rs_jax.models.denoiser.convert 256x256_diffusion_uncond.pt denoiser-256 --size 256

The file is opened with `torch.load(weights_only=True)`: arrays come out of it, code does not run. Its network is that
of `unet.UNet` under other names; sizes and variants are read from names and shapes. What they do not say, options do.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Mapping

import numpy as np
from flax import nnx

from hybrid_rs_jax._files import check_target_folder
from hybrid_rs_jax.models._converter import at_least_one, converter_parser, run_converter
from hybrid_rs_jax.models._torch_files import read_pt
from hybrid_rs_jax.models.denoiser.config import UNetConfig
from hybrid_rs_jax.models.denoiser.folder import stored_shapes, write_folder
from hybrid_rs_jax.models.denoiser.schedule import SCHEDULES, Diffusion
from hybrid_rs_jax.models.denoiser.unet import UNet

__all__ = ["convert", "main"]

Tensors = Mapping[str, np.ndarray]
#: Parts of a residual block, of an attention, and of the frame around the blocks: their names, and diffusers'.
RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "proj_out": "to_out.0"}
FRAME = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
GROUPS = 32  # of every norm, in that repository


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the names in the file say of the network: levels, and residual blocks at each on the way down."""

    levels: int
    layers: int

    def input_block(self, level: int, layer: int) -> str:
        """Name of a block on the way down; `layer = layers` is the one that halves the picture."""
        return f"input_blocks.{1 + level * (self.layers + 1) + layer}"

    def output_block(self, number: int, layer: int) -> str:
        """Name of a block on the way up, counted from the coarsest level."""
        return f"output_blocks.{number * (self.layers + 1) + layer}"


def convert(tensors: Tensors, head_channels: int = 64, legacy_order: bool = True) -> tuple[UNetConfig, Tensors]:
    """The network's settings, and its tensors under the names of diffusers.

    Args:
      tensors: by the names of the repository's `UNetModel`.
      head_channels: features per attention head.
      legacy_order: heads are split before query, key and value (all published files); else after.

    Raises:
      ValueError: if the tensors are not those of such a network.
    """
    if "label_emb.weight" in tensors:
        raise ValueError("The network must be unconditional, but it has embeddings of classes (label_emb.weight).")
    shape = _shape(tensors)
    config = _config(tensors, shape, head_channels)
    found: dict[str, np.ndarray] = {}
    for old, new in {**FRAME, **_residual_names(tensors, shape)}.items():
        for kind in ("weight", "bias"):
            if f"{old}.{kind}" in tensors:
                found[f"{new}.{kind}"] = tensors[f"{old}.{kind}"]
    used = {f"{old}.{kind}" for old in (*FRAME, *_residual_names(tensors, shape)) for kind in ("weight", "bias")}
    for old, new in _attention_places(tensors, shape).items():
        found |= _attention(tensors, old, new, head_channels, legacy_order)
        used |= {f"{old}.{part}.{kind}" for part in (*ATTENTION, "qkv") for kind in ("weight", "bias")}
    _compare(config, found, sorted(tensors.keys() - used))
    return config, found


def _shape(tensors: Tensors) -> Shape:
    """Levels end where a block of the way up holds an upsampling behind its residual block and attention."""
    numbers = [int(match[1]) for name in tensors if (match := re.match(r"output_blocks\.(\d+)\.", name))]
    if not numbers or "input_blocks.0.0.weight" not in tensors:
        raise ValueError("The file must hold a U-Net of guided-diffusion, but it has no input_blocks or output_blocks.")
    blocks = 1 + max(numbers)
    levels = 1 + sum(_upsampler(tensors, f"output_blocks.{number}") is not None for number in range(blocks))
    if blocks % levels or blocks // levels < 2:
        raise ValueError(f"Each level must have as many blocks, but {blocks} output_blocks have {levels} levels.")
    return Shape(levels, blocks // levels - 1)


def _upsampler(tensors: Tensors, block: str) -> str | None:
    """Name of the part of a block that doubles the picture."""
    for part in ("1", "2"):
        if f"{block}.{part}.in_layers.2.weight" in tensors or f"{block}.{part}.conv.weight" in tensors:
            return f"{block}.{part}"
    return None


def _config(tensors: Tensors, shape: Shape, head_channels: int) -> UNetConfig:
    def width(level: int) -> int:
        return len(_get(tensors, f"{shape.input_block(level, 0)}.0.out_layers.3.weight"))

    widths = tuple(width(level) for level in range(shape.levels))
    attention = [f"{shape.input_block(level, 0)}.1.qkv.weight" in tensors for level in range(shape.levels)]
    inner = f"{shape.input_block(0, shape.layers)}.0.op.weight"
    resample = "conv" if shape.levels == 1 or inner in tensors else "resnet"
    down, up = (f"Resnet{way}sampleBlock2D" if resample == "resnet" else f"{way}Block2D" for way in ("Down", "Up"))
    first = f"{shape.input_block(0, 0)}.0.emb_layers.1.weight"
    return UNetConfig(
        in_channels=_get(tensors, "input_blocks.0.0.weight").shape[1],
        out_channels=len(_get(tensors, "out.2.weight")),
        block_out_channels=widths,
        down_block_types=tuple("AttnDownBlock2D" if there else down for there in attention),
        up_block_types=tuple("AttnUpBlock2D" if there else up for there in reversed(attention)),
        layers_per_block=shape.layers,
        attention_head_dim=head_channels,
        norm_num_groups=GROUPS,
        attn_norm_num_groups=GROUPS,
        norm_eps=1e-5,
        resnet_time_scale_shift="scale_shift" if len(_get(tensors, first)) == 2 * widths[0] else "default",
        downsample_type=resample,
        upsample_type=resample,
        downsample_padding=1,
        time_embedding_dim=len(_get(tensors, "time_embed.2.weight")),
    )


def _residual_names(tensors: Tensors, shape: Shape) -> dict[str, str]:
    """Residual blocks, and convolutions that change the size: old names of their layers, and new ones."""
    places = {"middle_block.0": "mid_block.resnets.0", "middle_block.2": "mid_block.resnets.1"}
    renamed = {}
    for level in range(shape.levels):
        for layer in range(shape.layers):
            places[f"{shape.input_block(level, layer)}.0"] = f"down_blocks.{level}.resnets.{layer}"
        for layer in range(shape.layers + 1):
            places[f"{shape.output_block(level, layer)}.0"] = f"up_blocks.{level}.resnets.{layer}"
        if level < shape.levels - 1:
            below, above = f"{shape.input_block(level, shape.layers)}.0", shape.output_block(level, shape.layers)
            places[below] = f"down_blocks.{level}.downsamplers.0"
            renamed[f"{below}.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            if (up := _upsampler(tensors, above)) is not None:
                places[up] = f"up_blocks.{level}.upsamplers.0"
                renamed[f"{up}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    return renamed | {f"{old}.{a}": f"{new}.{b}" for old, new in places.items() for a, b in RESIDUAL.items()}


def _attention_places(tensors: Tensors, shape: Shape) -> dict[str, str]:
    places = {"middle_block.1": "mid_block.attentions.0"}
    for level in range(shape.levels):
        for layer in range(shape.layers):
            places[f"{shape.input_block(level, layer)}.1"] = f"down_blocks.{level}.attentions.{layer}"
        for layer in range(shape.layers + 1):
            places[f"{shape.output_block(level, layer)}.1"] = f"up_blocks.{level}.attentions.{layer}"
    return {old: new for old, new in places.items() if f"{old}.qkv.weight" in tensors}


def _attention(tensors: Tensors, old: str, new: str, head_channels: int, legacy_order: bool) -> dict[str, np.ndarray]:
    """One map to queries, keys and values, cut into three.

    Its rows are [head, which of the three, feature] in the legacy order, else [which, head, feature].
    """
    found = {}
    for a, b in ATTENTION.items():
        for kind in ("weight", "bias"):
            value = _get(tensors, f"{old}.{a}.{kind}")
            found[f"{new}.{b}.{kind}"] = value.reshape(value.shape[:2])
    for kind in ("weight", "bias"):
        value = _get(tensors, f"{old}.qkv.{kind}")
        channels = len(value) // 3
        if channels % head_channels:
            raise ValueError(f"head_channels must divide the {channels} channels of {old}, got {head_channels}.")
        heads = channels // head_channels
        order = (heads, 3, head_channels) if legacy_order else (3, heads, head_channels)
        cut = value.reshape(*order, *value.shape[1:2])
        for which, name in enumerate(("to_q", "to_k", "to_v")):
            part = cut[:, which] if legacy_order else cut[which]
            found[f"{new}.{name}.{kind}"] = part.reshape(channels, *value.shape[1:2])
    return found


def _compare(config: UNetConfig, found: Tensors, unused: list[str]) -> None:
    """Raise one sentence for everything that the network misses or does not know."""
    wanted = stored_shapes(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))))
    faults = [f"{name} is unknown" for name in unused]
    faults += [f"{name} is missing" for name in wanted if name not in found]
    faults += [
        f"{name} has shape {list(value.shape)}, not {list(wanted[name]) if name in wanted else 'any'}"
        for name, value in found.items()
        if wanted.get(name) != value.shape
    ]
    if faults:
        shown = "; ".join(faults[:20]) + (f"; and {len(faults) - 20} more" if len(faults) > 20 else "")
        raise ValueError(f"The file must hold a U-Net of guided-diffusion, but {shown}.")


def _get(tensors: Tensors, name: str) -> np.ndarray:
    if name not in tensors:
        raise ValueError(f"The file must hold a U-Net of guided-diffusion, but {name} is missing.")
    return tensors[name]


def _parser() -> argparse.ArgumentParser:
    made = converter_parser(
        "hybrid_rs_jax.models.denoiser.convert",
        "Convert a .pt file of guided-diffusion or improved-diffusion to a folder of safetensors.",
        "256x256_diffusion_uncond.pt out --size 256",
        file=".pt",
    )
    made.add_argument("--head-channels", type=int, default=64, help="features per attention head (default: 64)")
    made.add_argument("--size", type=int, help="side of the pictures that it was trained on")
    made.add_argument("--schedule", choices=SCHEDULES, default="linear", help="noise schedule (default: linear)")
    made.add_argument("--steps", type=int, default=1000, help="time steps of the schedule (default: 1000)")
    made.add_argument("--new-attention-order", action="store_true", help="trained with use_new_attention_order")
    return made


def _write(args: argparse.Namespace) -> int:
    at_least_one("--head-channels", args.head_channels)
    at_least_one("--size", args.size)
    rule = Diffusion(args.schedule, args.steps)
    check_target_folder(args.out)
    config, tensors = convert(read_pt(args.file), args.head_channels, not args.new_attention_order)
    if args.half:
        tensors = {name: value.astype(np.float16) for name, value in tensors.items()}
    write_folder(args.out, config, rule, tensors, None if args.size is None else (args.size, args.size))
    return sum(value.size for value in tensors.values())


def main(argv: list[str] | None = None) -> int:
    """Command line; bad input ends with one sentence and exit code 2."""
    return run_converter(_parser(), _write, lambda out: f"hybrid_rs_jax.models.load_denoiser({str(out)!r})", argv)


if __name__ == "__main__":
    sys.exit(main())
