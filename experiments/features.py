"""Feature-space smoothing on Fashion-MNIST: certified cosines and decisions of an encoder that never saw noise.

A small vision transformer (7 x 7 patches), trained without noise, and its 10 prototypes, at sigma = .25 and .5:

    plain       the encoder alone
    denoised    behind the denoiser that the package brings along, trained for the squared error
    denoiser    behind that of a Gaussian smoothness booster, trained further for this encoder's features
    mapper      before a smoothness mapper, without a denoiser
    both        the whole booster (Eq. 14)
    foreign-denoiser, foreign-both
                the same parts, of the booster that was trained for the encoder of the next folder; where there are
                several folders

For the first test pictures, which no training has seen:

    similarity    certified cosine with the clean feature against eps, from the law of the score and from its mean
                  (the second paper's Tables 1 and 6 in kind; averages take 0 where nothing is certified)
    decisions     certified accuracy of the prototype head: feature smoothing by its two certificates (cap and direct,
                  half of alpha each) against randomized smoothing of the same classifier (Clopper-Pearson, alpha), on
                  the same noisy copies (Table 2 in kind), for the first folder

Each folder is what train_gsb.py wrote with a seed of its own; the one that lies here is taken where none is given.
Laws and votes are kept: a run that is stopped goes on where it was.

    python experiments/features.py --out features
    python experiments/features.py --gsb experiments/fashion_gsb gsb1 gsb2 --out features
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from _common import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    SOFT,
    STYLE,
    certified,
    check_whole,
    is_finished,
    new_parser,
    saved,
    shares,
    start,
    write_result,
)
from _fashion import CLASSES, Pictures, add_data_arguments, load_fashion
from _fashion_vit import Encoder, Nearest, load
from train_gsb import DENOISER, MAPPERS

import hybrid_rs_jax as hrs
from hybrid_rs_jax._text import floor_text
from hybrid_rs_jax.certificate.prototypes import directions
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.features import Boosted, PrototypeHead, unit_features
from hybrid_rs_jax.models.booster import load_mapper
from hybrid_rs_jax.models.denoiser import fashion_denoiser, load_denoiser

SIGMAS = (0.25, 0.5)
ALPHA, TAU = 0.01, 0.5
#: In units of sigma.
EPSILONS = np.linspace(0, 3, 31)
BATCH = 1000
STORED = Path(__file__).parent / "fashion_gsb"
YELLOW = "#E69F00"
#: For these, and the first folder, decisions are certified too.
DECIDED = ("plain", "both")
COLOURS = {"plain": SOFT, "denoised": ORANGE, "mapper": INK, "denoiser": GREEN, "both": BLUE}
COLOURS |= {"foreign-denoiser": PURPLE, "foreign-both": YELLOW}


def kept(folder: Path, name: str, settings: dict[str, Any], compute: Any) -> np.ndarray:
    """Integers that were drawn, kept under a digest of all that they depend on."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return saved(folder / f"{name}-{digest}.npz", settings, lambda: {"counts": compute()})["counts"]


def boosted(encoder: Encoder, folder: Path, sigma: float, other: Path | None = None) -> dict[str, Any]:
    """The encoders of the table, by their names.

    Args:
      other: a folder whose booster was trained for another encoder; it is used on this one, too.
    """
    denoiser, both = load_denoiser(folder / DENOISER), load_mapper(folder / MAPPERS["both"])
    alone = load_mapper(folder / MAPPERS["mapper"])
    foreign = {}
    if other is not None:
        theirs = load_denoiser(other / DENOISER)
        foreign["foreign-denoiser"] = Boosted(encoder, sigma, denoiser=theirs)
        mapper = load_mapper(other / MAPPERS["both"])
        foreign["foreign-both"] = Boosted(encoder, sigma, denoiser=theirs, mapper=mapper)
    return {
        "plain": encoder,
        "denoised": Boosted(encoder, sigma, denoiser=fashion_denoiser()),
        "mapper": Boosted(encoder, sigma, mapper=alone),
        "denoiser": Boosted(encoder, sigma, denoiser=denoiser),
        "both": Boosted(encoder, sigma, denoiser=denoiser, mapper=both),
        **foreign,
    }


def measure(
    folder: Path,
    name: str,
    encoder: Any,
    head: PrototypeHead,
    clean: np.ndarray,
    images: np.ndarray,
    number: int,
    args: Any,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Draw and certify one encoder at one sigma: the row of the table, and the curves.

    Args:
      name: of the encoder and its sigma, "plain 0.25".
      clean: the plain encoder's features of the clean pictures, which all laws are compared with.
      number: of the folder, whose draws have a seed of their own; decisions are certified for the first one.
    """
    kind, sigma = name.split()[0], float(name.split()[1])
    smoothing, n, seed = hrs.HybridSmoothing(None, sigma), args.samples, args.seed + number
    tokens, labels = np.zeros((len(images), 1), np.int32), head(clean)
    described = {"encoder": encoder.describe(), "sigma": sigma, "samples": n, "inputs": len(images), "seed": seed}
    described["prototypes"] = hashlib.sha256(head.prototypes.tobytes()).hexdigest()

    def law(reference: np.ndarray) -> Any:
        key, options = jax.random.key(seed), {"batch_size": BATCH}
        return lambda: hrs.sample_features(encoder, tokens, images, smoothing, n, key, reference, **options).counts

    def votes() -> np.ndarray:
        classifier, key = Nearest(encoder, head), jax.random.key(seed)
        return hrs.sample_counts(classifier, tokens, images, smoothing, n, key, batch_size=BATCH)

    file = name.replace(" ", "-")
    edges = hrs.ScoreLaw.of([[0.5]]).edges
    similarity = hrs.ScoreLaw(kept(folder, f"cosine-{file}", described, law(unit_features(clean))), edges)
    delta = smoothing.total_variation(images[0].size)
    one = hrs.certify_features(similarity, smoothing, ALPHA, reference="fixed", total_variation=delta)
    curves = {
        "law": np.stack([one.similarity(e * sigma)[:, 0] for e in EPSILONS]),
        "mean": np.stack([one.mean_similarity(e * sigma)[:, 0] for e in EPSILONS]),
    }
    if number == 0 and kind in DECIDED:
        margins = kept(folder, f"margin-{file}", described, law(directions(labels, head.prototypes)))
        voted = kept(folder, f"votes-{file}", described, votes)[np.arange(len(labels)), labels]
        laws = {"similarity": similarity, "margin": hrs.ScoreLaw(margins, edges), "total_variation": delta}
        decision = hrs.certificate.certify_prototypes(clean, head.prototypes, smoothing, ALPHA, **laws)
        counted = certified(voted, n, smoothing, images[0].size, (0,), tau=TAU, alpha=ALPHA)
        curves |= {
            "feature smoothing": decision.radius[:, 0],
            "direct": decision.direct_radius[:, 0],
            "cap": decision.cap_radius[:, 0],
            "randomized smoothing": counted.radius[:, 0],
        }
    return row(name, n, one.radius(0.5)[:, 0], one.mean_radius(0.5)[:, 0], curves), curves


def row(
    name: str, n: int, radius: np.ndarray, mean_radius: np.ndarray, curves: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Numbers of one encoder at one sigma; radii in units of the pixels, 0 where nothing is certified."""
    encoder, sigma = name.split()

    def average(values: np.ndarray) -> float:
        return float(np.maximum(values, 0).mean())

    return {
        "encoder": encoder,
        "sigma": float(sigma),
        "samples": n,
        "mean_radius_cosine_half": average(radius),
        "mean_radius_cosine_half_mean_bound": average(mean_radius),
        "certified_share_cosine_half": float(np.mean(radius >= 0)),
        "cosine_by_law": shares(np.maximum(curves["law"], 0).mean(axis=1)),
        "cosine_by_mean": shares(np.maximum(curves["mean"], 0).mean(axis=1)),
        **{f"mean_radius_{key.replace(' ', '_')}": average(curves[key]) for key in DECISIONS if key in curves},
    }


def spread(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each encoder and sigma: mean, least and largest over the folders, and the gain over the plain encoder."""
    found = []
    for sigma in SIGMAS:
        for name in COLOURS:
            own = [line for line in rows if (line["encoder"], line["sigma"]) == (name, sigma)]
            if not own:
                continue
            line: dict[str, Any] = {"encoder": name, "sigma": sigma, "folders": len(own)}
            for key in ("mean_radius_cosine_half", "mean_radius_cosine_half_mean_bound"):
                values = np.array([one[key] for one in own])
                plain = [one[key] for one in rows if (one["encoder"], one["sigma"]) == ("plain", sigma)][: len(own)]
                line[key] = {"mean": values.mean(), "least": values.min(), "largest": values.max()}
                line[key]["least_gain"] = float(np.min(values / np.maximum(plain, 1e-9)))
            found.append(line)
    return found


DECISIONS = {"feature smoothing": BLUE, "direct": GREEN, "cap": ORANGE, "randomized smoothing": SOFT}


def plot_boosters(path: Path, found: dict[str, dict[str, np.ndarray]]) -> None:
    """Certified cosine of every encoder, one panel per sigma."""
    with plt.rc_context(STYLE):
        figure, (axes,) = plt.subplots(
            1, len(SIGMAS), figsize=(8.5, 3.4), sharey=True, layout="constrained", squeeze=False
        )
        for axis, sigma in zip(axes, SIGMAS, strict=True):
            for name, colour in COLOURS.items():
                if (curves := found.get(f"{name} {sigma}")) is not None:
                    axis.plot(EPSILONS * sigma, np.maximum(curves["law"], 0).mean(axis=1), color=colour, label=name)
            axis.set(title=f"sigma = {sigma}", xlabel="l2 distance", ylim=(0, 1), xlim=(0, 3 * sigma))
        axes[0].set_ylabel("certified cosine, mean")
        axes[-1].legend(frameon=False, fontsize=8)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def plot(path: Path, found: dict[str, dict[str, np.ndarray]], right: np.ndarray) -> None:
    """One column per encoder and sigma: certified cosine above, certified accuracy below."""
    with plt.rc_context(STYLE):
        layout: dict[str, Any] = {"figsize": (3.1 * len(found), 5.6), "sharey": "row", "layout": "constrained"}
        figure, axes = plt.subplots(2, len(found), squeeze=False, **layout)
        for (upper, lower), (name, curves) in zip(axes.T, found.items(), strict=True):
            sigma = float(name.split()[1])
            distances = EPSILONS * sigma
            for key, colour, label in (("law", BLUE, "law of the score"), ("mean", ORANGE, "mean (the paper)")):
                upper.plot(distances, np.maximum(curves[key], 0).mean(axis=1), color=colour, label=label)
            upper.set(title=f"{name.split()[0]}, sigma = {sigma}", ylim=(0, 1), xlim=(0, 3 * sigma))
            fine = np.linspace(0, 3 * sigma, 200)
            for key, colour in DECISIONS.items():
                wide = {"linewidth": 5, "alpha": 0.4} if key == "feature smoothing" else {}  # the larger of both
                lower.plot(fine, [np.mean(right & (curves[key] >= e)) for e in fine], color=colour, label=key, **wide)
            lower.set(xlabel="l2 radius", ylim=(0, 1), xlim=(0, 3 * sigma))
        axes[0, 0].set_ylabel("certified cosine, mean")
        axes[1, 0].set_ylabel("certified accuracy")
        for line in axes[:, -1]:
            line.legend(frameon=False, fontsize=8)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def run(args: argparse.Namespace) -> None:
    """Draw, certify, write."""
    check_whole(args, {"inputs": 1, "samples": 8})
    for folder in args.gsb:
        if not (folder / "result.json").exists():
            raise BadInputError(f"{folder} is no folder that train_gsb.py has finished.")
    settings: dict[str, Any] = {name: getattr(args, name) for name in ("inputs", "samples", "seed")}
    digests = [load_mapper(folder / MAPPERS["both"]).describe()["weights_sha256"] for folder in args.gsb]
    settings |= {"alpha": ALPHA, "sigmas": list(SIGMAS), "mappers": digests}
    if is_finished(args.out, settings):
        return
    training, test = (load_fashion(args.data, part, any_contents=args.any_contents) for part in ("train", "t10k"))
    if args.inputs > len(test.labels):
        raise BadInputError(f"--inputs must be at most {len(test.labels)}, the test pictures, got {args.inputs}.")
    images, labels = test.images[: args.inputs], test.labels[: args.inputs]
    rows: list[dict[str, Any]] = []
    encoders: list[dict[str, float]] = []
    for number, folder in enumerate(args.gsb):
        encoder = load(folder / "encoder.npz")
        head = PrototypeHead.of(encoder.features(training.images), training.labels, len(CLASSES))
        encoders.append(facts(encoder, head, test))
        print(f"{folder.name}: accuracy without noise {floor_text(encoders[-1]['accuracy'])}", flush=True)
        clean, found = encoder.features(images), {}
        other = args.gsb[(number + 1) % len(args.gsb)] if len(args.gsb) > 1 else None
        for sigma in SIGMAS:
            for kind, chosen in boosted(encoder, folder, sigma, other).items():
                name = f"{kind} {sigma}"
                line, found[name] = measure(args.out, name, chosen, head, clean, images, number, args)
                rows.append({"folder": number} | line)
                radii = {key: floor_text(value) for key, value in line.items() if key.startswith("mean_radius")}
                print(name, *(f"{key[12:]} {value}" for key, value in radii.items()), flush=True)
        if number == 0:
            right = head(clean) == labels
            plot(args.out / "features.png", {key: x for key, x in found.items() if "direct" in x}, right)
            plot_boosters(args.out / "boosters.png", found)
    content = {"encoders": encoders, "epsilon_over_sigma": shares(EPSILONS), "spread": spread(rows), "rows": rows}
    write_result(args.out, settings, content)


def facts(encoder: Encoder, head: PrototypeHead, test: Pictures) -> dict[str, float]:
    """Accuracy of the head on clean test pictures, and how far the classes lie apart."""
    features = encoder.features(test.images)
    between = (head.prototypes @ head.prototypes.T)[~np.eye(len(CLASSES), dtype=bool)]
    unit = unit_features(features)
    sums = np.stack([unit[test.labels == k].mean(axis=0) for k in range(len(CLASSES))])
    apart = (sums @ sums.T)[~np.eye(len(CLASSES), dtype=bool)]
    return {
        "accuracy": float(np.mean(head(features) == test.labels)),
        "mean_cosine_between_classes": float(apart.mean()),
        "largest_cosine_between_prototypes": float(between.max()),
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = new_parser(__doc__)
    add_data_arguments(made)
    made.add_argument("--inputs", type=int, default=24, help="test pictures, from the first (default: %(default)s)")
    made.add_argument("--samples", type=int, default=1000, help="copies per picture and law (default: %(default)s)")
    made.add_argument(
        "--gsb", type=Path, nargs="+", default=[STORED], help="what train_gsb.py wrote (default: fashion_gsb, here)"
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return start("features", run, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
