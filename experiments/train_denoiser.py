"""Train the small denoiser for 28 x 28 pictures on Fashion-MNIST, and write a folder that load_denoiser reads.

A run that is stopped goes on from its checkpoint: say the same command again. 6,000 steps of 128 pictures take about
15 CPU minutes.

    python experiments/train_denoiser.py --out denoiser
"""

from __future__ import annotations

import argparse
import json
import sys

import jax
import numpy as np
from _common import check_whole, new_parser, start
from _fashion import add_data_arguments, load_fashion

from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.models.denoiser import Denoiser, Diffusion, UNetConfig, save_denoiser
from hybrid_rs_jax.models.denoiser.training import TrainingPlan, train
from hybrid_rs_jax.report.progress import progress_bar
from hybrid_rs_jax.sampling import data_mesh

#: 202,000 parameters, 18.5 MFLOP per picture. Tiles of 4 x 4 pixels: a U-Net at full size is ten times slower.
NETWORK = UNetConfig(
    in_channels=16,
    out_channels=16,
    patch_size=4,
    block_out_channels=(48,),
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    mid_block_type=None,
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=None,
    time_embedding_dim=48,
)
RULE = Diffusion(prediction="v_prediction", fractional=True)
LEVELS = (0.12, 0.25, 0.5, 1.0)


def errors(denoiser: Denoiser, images: np.ndarray, seed: int) -> dict[str, float]:
    """Root mean squared error per level of noise, in the units of the pixels."""
    random = np.random.default_rng(seed)
    found = {}
    for sigma in LEVELS:
        noisy = (images + sigma * random.standard_normal(images.shape)).astype(np.float32)
        difference = np.asarray(denoiser(noisy, sigma), np.float64) - images
        found[f"{sigma:g}"] = float(np.sqrt(np.mean(difference**2)))
    return found


def run(args: argparse.Namespace) -> None:
    """Train, measure on pictures that were held out, write."""
    check_whole(args, {"steps": 1, "batch_size": 1, "until": 1, "devices": 1})
    target, checkpoint = args.out / "denoiser", args.out / "checkpoint.safetensors"
    if target.exists():
        raise BadInputError(f"{target} is finished and left as it is; choose another folder.")
    pictures = load_fashion(args.data, "train", any_contents=args.any_contents)
    args.out.mkdir(parents=True, exist_ok=True)
    until = min(args.until, args.steps)
    with library_sentences(), progress_bar("training", until, "steps", log=True) as progress:
        plan = TrainingPlan(
            steps=args.steps,
            batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            average=args.average or None,
            sigma_min=0.1,
            sigma_max=1.25,
            checkpoint_every=100,
            seed=args.seed,
        )
        mesh = data_mesh(args.devices) if args.devices > 1 else None
        denoiser, losses = train(
            NETWORK,
            RULE,
            pictures.images,
            plan,
            checkpoint=checkpoint,
            mesh=mesh,
            until=until,
            progress=lambda step, loss: progress(step),
        )
    held_out = load_fashion(args.data, "t10k", any_contents=args.any_contents).images[:1000]
    report = {"step": until, "loss": losses[-1], "rmse": errors(denoiser, held_out, args.seed)}
    print(json.dumps(report), flush=True)
    if until < args.steps:
        print(f"Stopped at step {until} of {args.steps}; the same command without --until goes on.")
        return
    dtype = np.float16 if args.half else np.float32
    save_denoiser(denoiser, target, dtype=dtype)
    record = {"steps": args.steps, "seed": args.seed, "jax": jax.__version__, **report}
    (args.out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(
        f"Wrote {target}: {denoiser.num_parameters:,} parameters, {denoiser.flops(28, 28) / 1e6:.1f} MFLOP a picture."
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = new_parser(__doc__)
    add_data_arguments(made)
    made.add_argument("--steps", type=int, default=6000, help="updates in all (default: %(default)s)")
    made.add_argument("--until", type=int, default=2**31 - 1, help="stop there with a checkpoint (default: at the end)")
    made.add_argument("--batch-size", type=int, default=128, help="pictures per update (default: %(default)s)")
    made.add_argument("--learning-rate", type=float, default=2e-3, help="the largest rate (default: %(default)s)")
    made.add_argument("--average", type=float, default=0.999, help="running mean of the weights; 0: none (%(default)s)")
    made.add_argument("--devices", type=int, default=1, help="devices that share a batch (default: %(default)s)")
    made.add_argument("--half", action="store_true", help="store the weights in float16")
    return made


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return start("train_denoiser", run, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
