"""Targeted attacks on a vision-language guard whose tower is plain, smoothed, or smoothed with a booster.

The tiny LLaVA-OneVision guard in tiny_guard/ chooses one of ten: it is asked about the picture with each of ten texts,
one per digit, and the text that it finds most unsafe names the digit. A smoothed tower is the mean of unit features of
8 fresh noisy copies (sigma = .25), times a fixed length; behind it stands one pass of the decoder. Each held-out
picture is to be taken for one of the next digit, by the objectives of AttackVLM (global), M-Attack (crops) and FOA
(transport), white-box and adaptive: gradients go through the noise, the denoiser and the mapper of what is attacked.

    cosine      FCS, between the features of the clean and of the attacked picture, by the same tower (fresh noise each)
    accuracy    share of the pictures whose own digit is chosen
    success     share whose target's digit is chosen
    certified   mean l2 radius within which the smoothed feature's cosine with the clean one stays at least 1/2

(Tables 4 and 5 of the second paper in kind; Table 3, captioning, is not reproduced: it needs generated text and a
judge.) 16/255 in every one of 192 numbers is an l2 change of .87, twice the certified radius (at 224 x 224 it would be
24.3, sixty times): all but the last column is measured, not proven. The booster is trained here on the training
pictures: a small denoiser from scratch, then the two stages of train_gsb.py.

    python experiments/smoothed_tower.py --out smoothed-tower
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _common import check_whole, is_finished, new_parser, start, write_result

import hybrid_rs_jax as hrs
from hybrid_rs_jax import attacks
from hybrid_rs_jax._text import floor_text
from hybrid_rs_jax.classifiers import VlmGuard
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.features import Boosted, GuardTower
from hybrid_rs_jax.models.booster import MapperConfig
from hybrid_rs_jax.models.booster.training import BoosterPlan, train_denoiser, train_mapper
from hybrid_rs_jax.models.denoiser import Diffusion, UNetConfig
from hybrid_rs_jax.models.denoiser.training import TrainingPlan, train

TINY = Path(__file__).parent / "tiny_guard"
SIGMA, COPIES, ALPHA = 0.25, 8, 0.01
SIDE, DIGITS = 8, 10
SMOOTHING = hrs.HybridSmoothing(None, SIGMA)
#: Name, objective, norm, budget of each attack.
CASES = (
    *((f"{name} linf 16/255", name, "linf", 16 / 255) for name in ("global", "crops", "transport")),
    ("global linf 32/255", "global", "linf", 32 / 255),
    *((f"global l2 {epsilon:g}", "global", "l2", epsilon) for epsilon in (0.25, 1.5, 3.0)),
)
#: 2 x 2 patches of 64 features; tiles of 2 x 2 pixels, as in train_denoiser.py.
PATCHES, WIDTH = 4, 64
NETWORK = UNetConfig(
    in_channels=12,
    out_channels=12,
    patch_size=2,
    block_out_channels=(32,),
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    mid_block_type=None,
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=None,
    time_embedding_dim=32,
)
RULE = Diffusion(prediction="v_prediction", fractional=True)


def opened() -> VlmGuard:
    """The tiny guard, with its own policy."""
    size = {"text_length": demo.LENGTH, "image_size": (SIDE, SIDE)}
    return VlmGuard.from_pretrained(TINY, policy=TINY / "policy.txt", **size)


def questions(guard: VlmGuard, seed: int) -> np.ndarray:
    """One text per digit, an action with its word: symbols [10, length]."""
    return np.stack([guard.symbols(demo.draw_prompt(random.Random(seed), "ask", digit)) for digit in range(DIGITS)])


def coloured(images: np.ndarray) -> np.ndarray:
    """Grey pictures with three channels."""
    return np.repeat(images, 3, axis=3)


def booster(tower: GuardTower, images: np.ndarray, args: argparse.Namespace) -> Boosted:
    """Denoiser and mapper, trained for the tower on pictures that no attack sees."""
    plan = TrainingPlan(
        steps=args.steps_denoiser, warmup=50, sigma_min=0.1, sigma_max=0.5, average=0.99, seed=args.seed
    )
    denoiser, _ = train(NETWORK, RULE, images, plan)
    rates = {"denoiser_rate": 5e-4, "mapper_rate": 2e-3, "lambda_stats": 100 * WIDTH / 1024}
    stages = BoosterPlan(SIGMA, SIGMA, epochs=args.epochs, seed=args.seed, **rates)
    denoiser, _ = train_denoiser(denoiser, tower, images, stages)
    mapper, _ = train_mapper(MapperConfig(WIDTH, PATCHES), tower, denoiser, images, stages)
    return Boosted(tower, SIGMA, denoiser=denoiser, mapper=mapper)


def radius(encoder: Any, images: np.ndarray, args: argparse.Namespace) -> float:
    """Mean certified l2 radius for the cosine 1/2 with the clean feature; 0 where nothing is certified."""
    tokens, delta = np.zeros((len(images), 1), np.int32), SMOOTHING.total_variation(images[0].size)
    law = hrs.sample_features(encoder, tokens, images, SMOOTHING, args.samples, jax.random.key(args.seed))
    certificate = hrs.certify_features(law, SMOOTHING, ALPHA, total_variation=delta)
    return float(np.maximum(certificate.radius(0.5), 0).mean())


class Victim:
    """A guard with one of the towers: features and chosen digits of pictures.

    Args:
      smoothed: the smoothed tower; None: the plain one.
    """

    def __init__(self, guard: VlmGuard, texts: np.ndarray, smoothed: hrs.SmoothedTower | None):
        self.guard, self.texts, self.smoothed = guard, texts, smoothed
        self.tower = GuardTower(guard)

    @property
    def encoder(self) -> Any:
        """What attacks go through."""
        return self.tower if self.smoothed is None or self.smoothed.encoder is None else self.smoothed.encoder

    def asked(self, images: np.ndarray, key: Any) -> tuple[np.ndarray, np.ndarray]:
        """Unit features [b, features], and the digits that are chosen, [b]."""
        if self.smoothed is None:
            read = np.asarray(self.tower(np.zeros((len(images), 1), np.int32), images), np.float64)
        else:
            read = self.smoothed.length * self.smoothed.features(images, key)
        tokens = np.broadcast_to(self.texts, (len(images), *self.texts.shape))
        chosen = np.asarray(self.guard.margin_of_tower(tokens, read)).argmax(axis=1)
        return read / np.linalg.norm(read, axis=1, keepdims=True), chosen


def attacked(victim: Victim, images: np.ndarray, targets: np.ndarray, args: argparse.Namespace) -> dict[str, Any]:
    """Pictures of each attack by its name, the clean ones first."""
    tokens, key = np.zeros((len(images), 1), np.int32), jax.random.key(args.seed)
    cases = {"none": images}
    for name, objective, norm, epsilon in CASES:
        effort = attacks.TargetedSettings(
            objective, norm, steps=args.steps, restarts=args.restarts, copies=COPIES, patches=PATCHES, clusters=2
        )
        given = (victim.encoder, tokens, images, targets, epsilon, key)
        smoothing = None if victim.smoothed is None else SMOOTHING
        cases[name] = attacks.attack_towards(*given, smoothing=smoothing, settings=effort).images
    return cases


def run(args: argparse.Namespace) -> None:
    """Train the booster, attack each tower, ask the guard, write."""
    least = {"inputs": 1, "steps": 1, "restarts": 1, "samples": 8, "steps_denoiser": 1, "epochs": 1}
    check_whole(args, least)
    settings = {name: getattr(args, name) for name in (*least, "seed")} | {"sigma": SIGMA, "copies": COPIES}
    if is_finished(args.out, settings):
        return
    held_out = demo.load_demo("held_out")
    if args.inputs > len(held_out):
        raise BadInputError(f"--inputs must be at most {len(held_out)}, the held-out pictures, got {args.inputs}.")
    guard = opened()
    training = coloured(demo.load_demo("train").images)
    shown = held_out.take(range(args.inputs))
    images, digits = coloured(shown.images), shown.digits
    wanted = (digits + 1) % DIGITS
    # a target is a training picture of the next digit
    places = [np.flatnonzero(demo.load_demo("train").digits == digit)[0] for digit in range(DIGITS)]
    targets = training[places][wanted]
    rows: list[dict[str, Any]] = []
    with library_sentences():
        tower, texts, length = (
            GuardTower(guard),
            questions(guard, args.seed),
            hrs.SmoothedTower.length_of(guard, training),
        )
        boosted = booster(tower, training, args)
        towers = {
            "plain": None,
            "smoothed": hrs.SmoothedTower(guard, SMOOTHING, length, COPIES),
            "smoothed, booster": hrs.SmoothedTower(guard, SMOOTHING, length, COPIES, boosted),
        }
        for name, smoothed in towers.items():
            victim = Victim(guard, texts, smoothed)
            certified = None if smoothed is None else radius(victim.encoder, images, args)
            clean = victim.asked(images, jax.random.key(args.seed + 1))[0]
            for number, (case, found) in enumerate(attacked(victim, images, targets, args).items()):
                feature, chosen = victim.asked(found, jax.random.fold_in(jax.random.key(args.seed + 2), number))
                row = {"tower": name, "attack": case, "cosine": float((feature * clean).sum(axis=1).mean())}
                row |= {"accuracy": float(np.mean(chosen == digits)), "success": float(np.mean(chosen == wanted))}
                row["l2"] = float(np.sqrt(((found - images) ** 2).sum(axis=(1, 2, 3))).mean())
                rows.append(row | {"certified": certified})
                shown_row = [value if isinstance(value, str) else floor_text(value) for value in row.values()]
                print(", ".join(shown_row), flush=True)
            if certified is not None:
                print(f"{name}: mean certified radius {floor_text(certified)}", flush=True)
    write_result(args.out, settings, {"length": length, "rows": rows})


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = new_parser(__doc__)
    made.add_argument("--inputs", type=int, default=40, help="held-out pictures, from the first (default: %(default)s)")
    made.add_argument("--samples", type=int, default=1000, help="copies per certified radius (default: %(default)s)")
    made.add_argument("--steps", type=int, default=40, help="gradient steps per restart (default: %(default)s)")
    made.add_argument("--restarts", type=int, default=1, help="starting points (default: %(default)s)")
    made.add_argument("--steps-denoiser", type=int, default=600, help="updates of the denoiser (default: %(default)s)")
    made.add_argument("--epochs", type=int, default=3, help="of each stage of the booster (default: %(default)s)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return start("smoothed_tower", run, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
