"""Train a Gaussian smoothness booster for the small vision transformer of features.py, and write what it needs.

First the encoder, without noise (or the one that --encoder names); then the two stages of the second paper, with its
settings but for the number of pictures, ten times its rate for the mapper, which sees few steps here, and the weight of
the loss on statistics, which goes with the number of features. The denoiser,
from the one that the package brings along, learns to keep this encoder's features; a mapper is trained behind both, and
one behind the encoder alone, to tell the two parts apart. Only training pictures are used. A run that is stopped goes
on from its checkpoints: say the same command again.

    python experiments/train_gsb.py --out gsb
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from _common import check_whole, is_finished, new_parser, start, write_result
from _fashion import add_data_arguments, load_fashion
from _fashion_vit import WIDTH, load, load_or_train

from hybrid_rs_jax.errors import library_sentences
from hybrid_rs_jax.models.booster import MapperConfig, load_mapper, save_mapper
from hybrid_rs_jax.models.booster.training import BoosterPlan, train_denoiser, train_mapper
from hybrid_rs_jax.models.denoiser import fashion_denoiser, load_denoiser, save_denoiser
from hybrid_rs_jax.report.progress import progress_bar

SIGMAS = (0.25, 0.5)
MAPPER_RATE = 2e-3
#: The paper's 100 are for means and deviations of 1,024 features of a unit vector; of 48 they are that much larger.
LAMBDA_STATS = 100 * WIDTH / 1024
DENOISER, MAPPERS = "denoiser", {"both": "mapper.safetensors", "mapper": "mapper_alone.safetensors"}


def run(args: argparse.Namespace) -> None:
    """Train what is missing, write."""
    check_whole(args, {"pictures": 16, "epochs": 1, "steps": 1})
    settings = {name: getattr(args, name) for name in ("pictures", "epochs", "steps", "seed")}
    settings |= {"sigmas": list(SIGMAS), "average": args.average or None}
    if is_finished(args.out, settings):
        return
    training = load_fashion(args.data, "train", any_contents=args.any_contents)
    if args.encoder is None:
        encoder = load_or_train(args.out / "encoder.npz", lambda: training, args.steps, args.seed)
    else:
        encoder = load(args.encoder)
        shutil.copyfile(args.encoder, args.out / "encoder.npz")
    images = training.images[np.random.default_rng(args.seed).permutation(len(training.images))[: args.pictures]]
    average = args.average or None
    rates = {"mapper_rate": MAPPER_RATE, "lambda_stats": LAMBDA_STATS}
    plan = BoosterPlan(*SIGMAS, epochs=args.epochs, seed=args.seed, average=average, **rates)
    dtype, losses = np.float16, {}

    def train(name: str, batch: int, stage: Any, *given: Any) -> Any:
        checkpoint = args.out / f"{name}.checkpoint"
        steps = args.epochs * (len(images) // batch)
        with library_sentences(), progress_bar(name, steps, "steps", log=True) as progress:
            told = {"checkpoint": checkpoint, "progress": lambda step, loss: progress(step)}
            made, losses[name] = stage(*given, images, plan, **told)
        return made

    # each part is rounded as it is stored before the next one is trained behind it
    if not (args.out / DENOISER).exists():
        made = train("denoiser", plan.denoiser_batch, train_denoiser, fashion_denoiser(), encoder)
        save_denoiser(made, args.out / DENOISER, dtype=dtype)
    denoiser = load_denoiser(args.out / DENOISER)
    for name, before in (("both", denoiser), ("mapper", None)):
        target = args.out / MAPPERS[name]
        if not target.exists():
            config = MapperConfig(features=WIDTH)
            save_mapper(train(name, plan.mapper_batch, train_mapper, config, encoder, before), target, dtype=dtype)
        load_mapper(target)
    for path in args.out.glob("*.checkpoint"):
        path.unlink()
    write_result(args.out, settings, {"losses": losses})
    print(json.dumps({name: [loss[0], loss[-1]] for name, loss in losses.items()}), flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = new_parser(__doc__)
    add_data_arguments(made)
    made.add_argument("--encoder", type=Path, help="encoder.npz of an earlier run (default: a new one is trained)")
    made.add_argument("--pictures", type=int, default=1000, help="of the training part (default: %(default)s)")
    made.add_argument("--epochs", type=int, default=8, help="passes over them, in each stage (default: %(default)s)")
    made.add_argument("--steps", type=int, default=4000, help="updates of the encoder (default: %(default)s)")
    made.add_argument("--average", type=float, default=0.0, help="running mean of the weights; 0: none (%(default)s)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return start("train_gsb", run, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
