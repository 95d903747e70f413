"""Feature-space smoothing on Fashion-MNIST: certified cosines and decisions of an encoder that never saw noise.

A small vision transformer (7 x 7 patches), trained without noise, its 10 prototypes, and the same encoder behind the
denoiser that the package brings along, at sigma = .25 and .5. For the first test pictures:

    similarity    certified cosine with the clean feature against eps, from the law of the score and from its mean
                  (the second paper's Tables 1 and 6 in kind; averages take 0 where nothing is certified)
    decisions     certified accuracy of the prototype head: feature smoothing by its two certificates (cap and direct,
                  half of alpha each) against randomized smoothing of the same classifier (Clopper-Pearson, alpha), on
                  the same noisy copies (Table 2 in kind)

Laws and votes are kept in the folder: a run that is stopped goes on where it was.

    python experiments/features.py --out features
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
    ORANGE,
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
from _fashion import CLASSES, FOLDER, Pictures, load_fashion
from _fashion_vit import Encoder, Nearest, load_or_train

import hybrid_rs_jax as hrs
from hybrid_rs_jax._text import floor_text
from hybrid_rs_jax.certificate.prototypes import directions
from hybrid_rs_jax.classifiers import Denoised
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.features import PrototypeHead, unit_features
from hybrid_rs_jax.models.denoiser import fashion_denoiser

SIGMAS = (0.25, 0.5)
ALPHA, TAU = 0.01, 0.5
#: In units of sigma.
EPSILONS = np.linspace(0, 3, 31)
BATCH = 1000


def kept(folder: Path, name: str, settings: dict[str, Any], compute: Any) -> np.ndarray:
    """Integers that were drawn, kept under a digest of all that they depend on."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return saved(folder / f"{name}-{digest}.npz", settings, lambda: {"counts": compute()})["counts"]


def measure(
    folder: Path, name: str, encoder: Any, head: PrototypeHead, clean: np.ndarray, images: np.ndarray, args: Any
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Draw and certify one encoder at one sigma: the row of the table, and the curves.

    Args:
      name: of the encoder and its sigma, "plain 0.25".
      clean: the plain encoder's features of the clean pictures, which all laws are compared with.
    """
    sigma = float(name.split()[1])
    smoothing, n = hrs.HybridSmoothing(None, sigma), args.samples
    tokens, labels = np.zeros((len(images), 1), np.int32), head(clean)
    described = {"encoder": encoder.describe(), "sigma": sigma, "samples": n, "inputs": len(images), "seed": args.seed}
    described["prototypes"] = hashlib.sha256(head.prototypes.tobytes()).hexdigest()

    def law(reference: np.ndarray) -> Any:
        key, options = jax.random.key(args.seed), {"batch_size": BATCH}
        return lambda: hrs.sample_features(encoder, tokens, images, smoothing, n, key, reference, **options).counts

    def votes() -> np.ndarray:
        classifier, key = Nearest(encoder, head), jax.random.key(args.seed)
        return hrs.sample_counts(classifier, tokens, images, smoothing, n, key, batch_size=BATCH)

    file = name.replace(" ", "-")
    edges = hrs.ScoreLaw.of([[0.5]]).edges
    similarity = hrs.ScoreLaw(kept(folder, f"cosine-{file}", described, law(unit_features(clean))), edges)
    margin = hrs.ScoreLaw(kept(folder, f"margin-{file}", described, law(directions(labels, head.prototypes))), edges)
    voted = kept(folder, f"votes-{file}", described, votes)[np.arange(len(labels)), labels]

    delta = smoothing.total_variation(images[0].size)
    one = hrs.certify_features(similarity, smoothing, ALPHA, reference="fixed", total_variation=delta)
    laws = {"similarity": similarity, "margin": margin, "total_variation": delta}
    decision = hrs.certificate.certify_prototypes(clean, head.prototypes, smoothing, ALPHA, **laws)
    plain = certified(voted, n, smoothing, images[0].size, (0,), tau=TAU, alpha=ALPHA).radius[:, 0]
    radius, mean_radius = one.radius(0.5)[:, 0], one.mean_radius(0.5)[:, 0]
    curves = {
        "law": np.stack([one.similarity(e * sigma)[:, 0] for e in EPSILONS]),
        "mean": np.stack([one.mean_similarity(e * sigma)[:, 0] for e in EPSILONS]),
        "feature smoothing": decision.radius[:, 0],
        "direct": decision.direct_radius[:, 0],
        "cap": decision.cap_radius[:, 0],
        "randomized smoothing": plain,
    }
    return row(name, n, radius, mean_radius, curves), curves


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
        **{f"mean_radius_{key.replace(' ', '_')}": average(curves[key]) for key in DECISIONS},
    }


DECISIONS = {"feature smoothing": BLUE, "direct": GREEN, "cap": ORANGE, "randomized smoothing": SOFT}


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
    """Train what is missing, draw, certify, write."""
    check_whole(args, {"inputs": 1, "samples": 8, "steps": 1})
    with library_sentences():
        denoiser = fashion_denoiser()
    settings = {name: getattr(args, name) for name in ("inputs", "samples", "steps", "seed")}
    settings |= {"alpha": ALPHA, "sigmas": list(SIGMAS), "denoiser": denoiser.describe()["weights_sha256"]}
    if is_finished(args.out, settings):
        return
    training, test = (load_fashion(args.data, part, any_contents=args.any_contents) for part in ("train", "t10k"))
    if args.inputs > len(test.labels):
        raise BadInputError(f"--inputs must be at most {len(test.labels)}, the test pictures, got {args.inputs}.")
    encoder = load_or_train(args.out / "encoder.npz", lambda: training, args.steps, args.seed)
    head = PrototypeHead.of(encoder.features(training.images), training.labels, len(CLASSES))
    content = {"encoder": facts(encoder, head, test)}
    print(f"accuracy without noise {floor_text(content['encoder']['accuracy'])}", flush=True)
    images, labels = test.images[: args.inputs], test.labels[: args.inputs]
    clean, rows, found = encoder.features(images), [], {}
    for sigma in SIGMAS:
        for name, chosen in (("plain", encoder), ("denoised", Denoised(encoder, denoiser, sigma))):
            line, found[f"{name} {sigma}"] = measure(args.out, f"{name} {sigma}", chosen, head, clean, images, args)
            rows.append(line)
            keys = ("cosine_half", "cosine_half_mean_bound", "feature_smoothing", "randomized_smoothing")
            numbers = "  ".join(f"{key} {floor_text(line[f'mean_radius_{key}'])}" for key in keys)
            print(f"{name} sigma {sigma}: mean radius  {numbers}", flush=True)
    plot(args.out / "features.png", found, head(clean) == labels)
    write_result(args.out, settings, content | {"epsilon_over_sigma": shares(EPSILONS), "rows": rows})


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
    made.add_argument("--data", type=Path, default=FOLDER, help="folder with the four files (default: %(default)s)")
    made.add_argument("--any-contents", action="store_true", help="the files are your own, in the same format")
    made.add_argument("--inputs", type=int, default=100, help="test pictures, from the first (default: %(default)s)")
    made.add_argument("--samples", type=int, default=1000, help="copies per picture and law (default: %(default)s)")
    made.add_argument("--steps", type=int, default=4000, help="updates of the encoder (default: %(default)s)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return start("features", run, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
