"""Denoisers against diffusers in PyTorch on the same CPU, at the same batch, with the same random weights.

Times are the best of several, taken in turns, so that both sides see the same load of the machine.

    python experiments/bench/denoiser.py --out bench_denoiser.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hybrid_rs_jax._files import atomic_file, json_text
from hybrid_rs_jax.models.denoiser import load_denoiser

#: Networks by size: name, side of the picture, batch, and the settings of diffusers' UNet2DModel.
SHAPES: dict[str, tuple[int, int, dict[str, Any]]] = {
    "small 28": (
        28,
        64,
        {
            "in_channels": 1,
            "out_channels": 1,
            "block_out_channels": (16, 32),
            "down_block_types": ("DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            "norm_num_groups": 4,
        },
    ),
    # the network of the package's denoiser; it sees a 28 x 28 picture as 7 x 7 tiles
    "fashion": (
        7,
        256,
        {
            "in_channels": 16,
            "out_channels": 16,
            "block_out_channels": (48,),
            "down_block_types": ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",),
            "mid_block_type": None,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "time_embedding_dim": 48,
        },
    ),
    # a quarter of the width of google/ddpm-cifar10-32, and otherwise the same
    "ddpm-cifar10 / 4": (
        32,
        16,
        {
            "block_out_channels": (32, 64, 64, 64),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": None,
            "downsample_padding": 0,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "norm_eps": 1e-6,
        },
    ),
    "ddpm-cifar10": (
        32,
        4,
        {
            "block_out_channels": (128, 256, 256, 256),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": None,
            "downsample_padding": 0,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "norm_eps": 1e-6,
        },
    ),
}


def best_seconds(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The shortest time of each, over rounds in which each runs once."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - begin)
    return best


def measure(side: int, batch: int, settings: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Milliseconds per picture of one denoising pass, here and there."""
    import torch
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    network = UNet2DModel(sample_size=side, **settings).eval()
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        DDPMScheduler().save_pretrained(folder)
        denoiser = load_denoiser(folder)
    pictures = np.random.default_rng(0).random((batch, side, side, network.config["in_channels"]), np.float32)
    on_device, there = jnp.asarray(pictures), torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())

    def with_torch() -> None:
        with torch.inference_mode():
            network(there, torch.tensor(259))

    functions = {"jax": lambda: denoiser(on_device, 0.5).block_until_ready(), "torch": with_torch}
    best_seconds(functions, 1)  # compiles
    seconds = best_seconds(functions, rounds)
    return {
        "side": side,
        "batch": batch,
        "parameters": denoiser.num_parameters,
        "mflop_per_picture": denoiser.flops(side, side) / 1e6,
        **{f"{name}_ms_per_picture": 1e3 * value / batch for name, value in seconds.items()},
        "torch_over_jax": seconds["torch"] / seconds["jax"],
    }


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--rounds", type=int, default=10, help="times that each side runs (default: %(default)s)")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES), help="which networks")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}.")
    import torch

    content: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "machine": platform.machine(), "device": jax.devices()[0].platform},
        "versions": {"jax": jax.__version__, "torch": torch.__version__},
        "threads_torch": torch.get_num_threads(),
    }
    for name in args.shapes:
        content[name] = measure(*SHAPES[name], args.rounds)
        print(json.dumps({name: content[name]}), flush=True)
    with atomic_file(args.out, force=True) as temporary:
        temporary.write_text(json_text(content) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
