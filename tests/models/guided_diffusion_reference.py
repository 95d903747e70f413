"""The network of guided-diffusion as its paper and its files describe it, in PyTorch, for tests of the conversion.

Layers have the names that they have in published files. Set GUIDED_DIFFUSION to a clone of the repository, and the
tests take its own network instead of this one.
"""

import importlib
import math
import os
import sys

import torch
from torch import nn


def network(
    *, channels, multipliers, layers, attention_levels, head, scale_shift, resnet_resample, variance, legacy=True
):
    """A small U-Net; `attention_levels` are counted from the finest."""
    clone = os.environ.get("GUIDED_DIFFUSION")
    if clone is None:
        return Reference(channels, multipliers, layers, attention_levels, head, scale_shift, resnet_resample, variance)
    sys.path.insert(0, clone)
    return importlib.import_module("guided_diffusion.unet").UNetModel(
        image_size=16,
        in_channels=3,
        model_channels=channels,
        out_channels=6 if variance else 3,
        num_res_blocks=layers,
        attention_resolutions=[2**level for level in attention_levels],
        channel_mult=multipliers,
        num_head_channels=head,
        use_scale_shift_norm=scale_shift,
        resblock_updown=resnet_resample,
        use_new_attention_order=not legacy,
    )


class Residual(nn.Module):
    def __init__(self, inputs, outputs, features, scale_shift, resize=None):
        super().__init__()
        self.scale_shift, self.resize = scale_shift, resize
        self.in_layers = nn.Sequential(nn.GroupNorm(32, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(features, (1 + scale_shift) * outputs))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, outputs), nn.SiLU(), nn.Identity(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def sized(self, x):
        if self.resize == "down":
            return nn.functional.avg_pool2d(x, 2)
        return x if self.resize is None else nn.functional.interpolate(x, scale_factor=2, mode="nearest")

    def forward(self, x, time):
        h = self.in_layers[2](self.sized(self.in_layers[1](self.in_layers[0](x))))
        told = self.emb_layers(time)[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + told)
        return self.skip_connection(self.sized(x)) + h


class Attention(nn.Module):
    """One map gives, for each head in turn, its queries, then its keys, then its values."""

    def __init__(self, channels, head):
        super().__init__()
        self.head = head
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x, time):
        flat = x.flatten(2)
        mixed = []
        for part in self.qkv(self.norm(flat)).split(3 * self.head, dim=1):
            query, key, value = part.split(self.head, dim=1)
            weights = (query.transpose(1, 2) @ key / math.sqrt(self.head)).softmax(dim=-1)
            mixed.append(value @ weights.transpose(1, 2))
        return (flat + self.proj_out(torch.cat(mixed, dim=1))).reshape(x.shape)


class Resample(nn.Module):
    """A convolution that halves, or doubles, the picture."""

    def __init__(self, channels, down):
        super().__init__()
        layer = nn.Conv2d(channels, channels, 3, stride=2 if down else 1, padding=1)
        setattr(self, "op" if down else "conv", layer)

    def forward(self, x, time):
        if hasattr(self, "op"):
            return self.op(x)
        return self.conv(nn.functional.interpolate(x, scale_factor=2, mode="nearest"))


class Block(nn.ModuleList):
    def forward(self, x, time):
        for part in self:
            x = part(x) if isinstance(part, nn.Conv2d) else part(x, time)
        return x


class Reference(nn.Module):
    def __init__(self, channels, multipliers, layers, attention_levels, head, scale_shift, resnet_resample, variance):
        super().__init__()
        self.channels, features = channels, 4 * channels
        self.time_embed = nn.Sequential(nn.Linear(channels, features), nn.SiLU(), nn.Linear(features, features))
        widths = [channels * multiplier for multiplier in multipliers]
        now = widths[0]
        self.input_blocks = nn.ModuleList([Block([nn.Conv2d(3, now, 3, padding=1)])])
        seen = [now]

        def resample(width, way):
            if resnet_resample:
                return Residual(width, width, features, scale_shift, way)
            return Resample(width, way == "down")

        def attention(level, width):
            return [Attention(width, head)] if level in attention_levels else []

        for level, width in enumerate(widths):
            for _ in range(layers):
                self.input_blocks.append(Block([Residual(now, width, features, scale_shift), *attention(level, width)]))
                now = width
                seen.append(now)
            if level < len(widths) - 1:
                self.input_blocks.append(Block([resample(now, "down")]))
                seen.append(now)
        middle = [Residual(now, now, features, scale_shift) for _ in range(2)]
        self.middle_block = Block([middle[0], Attention(now, head), middle[1]])
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for layer in range(layers + 1):
                parts = [Residual(now + seen.pop(), width, features, scale_shift), *attention(level, width)]
                now = width
                if layer == layers and level > 0:
                    parts.append(resample(now, "up"))
                self.output_blocks.append(Block(parts))
        self.out = nn.Sequential(nn.GroupNorm(32, now), nn.SiLU(), nn.Conv2d(now, 6 if variance else 3, 3, padding=1))

    def forward(self, x, timesteps):
        half = self.channels // 2
        angles = timesteps[:, None] * torch.exp(-math.log(10_000) * torch.arange(half) / half)
        time = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        states = []
        for block in self.input_blocks:
            x = block(x, time)
            states.append(x)
        x = self.middle_block(x, time)
        for block in self.output_blocks:
            x = block(torch.cat([x, states.pop()], dim=1), time)
        return self.out(x)
