"""Denoised smoothing on Fashion-MNIST: a classifier that never saw noise, certified with and without a denoiser.

For sigma = .25, .5 and 1 the right class of the first test pictures is certified (tau = 1/2, one-sided Clopper-Pearson,
risk alpha per picture), for five base classifiers:

    clean       trained without noise, sees the noisy pictures
    denoised    the same one behind the denoiser that the package brings along
    two steps   the same one behind two steps of it, with half as many copies: equal cost
    wrong unit  the same one behind a denoiser that is told sigma where the noise on [-1, 1] is 2 sigma
    noisy       trained with noise of that sigma

At sigma = .5 the same pictures are then certified together with a prompt that names their class, and an attacker who
also appends words (`_denoised_text`): the hybrid certificate of ordinary draws, and the one with conditional draws too.

Counts and classifiers are kept in the folder: a run that is stopped goes on where it was.

    python experiments/denoised.py --out denoised
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import _denoised_text as text
import jax
import matplotlib.pyplot as plt
import numpy as np
from _common import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SOFT,
    STYLE,
    certified,
    check_whole,
    is_finished,
    new_parser,
    saved,
    start,
    write_result,
)
from _fashion import CLASSES, Pictures, add_data_arguments, load_fashion
from _fashion_model import Classifier, load_or_train

import hybrid_rs_jax as hrs
from hybrid_rs_jax._text import floor_text, percent_text
from hybrid_rs_jax.classifiers import Denoised
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.models.denoiser import Denoiser, fashion_denoiser, load_denoiser

SIGMAS = (0.25, 0.5, 1.0)
TAU, ALPHA = 0.5, 0.01
#: Flags that are part of the result's settings.
WHOLE = ("inputs", "samples", "steps", "text_inputs", "text_samples", "seed")
EPSILONS = np.linspace(0, 2.5, 101)
COLOURS = {"clean": SOFT, "denoised": BLUE, "two steps": PURPLE, "wrong unit": ORANGE, "noisy": GREEN}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to use a denoiser."""

    denoiser: Denoiser

    def describe(self) -> dict[str, Any]:
        """The denoiser, and what is done with it."""
        return {"variant": type(self).__name__, "denoiser": self.denoiser.describe()}


class WrongUnit(Variant):
    """What happens to whoever forgets that noise of sigma on [0, 1] is noise of 2 sigma on [-1, 1]."""

    def __call__(self, images: Any, sigma: Any) -> jax.Array:
        return self.denoiser(images, sigma / 2)


class TwoSteps(Variant):
    """From sigma to sigma / 2 along the predicted noise, and from there to the clean picture."""

    def __call__(self, images: Any, sigma: Any) -> jax.Array:
        return self.denoiser((images + self.denoiser(images, sigma)) / 2, sigma / 2)


def base_classifiers(clean: Classifier, noisy: Classifier, denoiser: Denoiser, sigma: float) -> dict[str, Any]:
    """The five classifiers of one sigma."""
    return {
        "clean": clean,
        "denoised": Denoised(clean, denoiser, sigma),
        "two steps": Denoised(clean, TwoSteps(denoiser), sigma),
        "wrong unit": Denoised(clean, WrongUnit(denoiser), sigma),
        "noisy": noisy,
    }


def votes(folder: Path, classifier: Any, pictures: Pictures, sigma: float, samples: int, seed: int) -> np.ndarray:
    """Copies of each picture that get the right class, int64[B]; kept in the folder under the classifier's digest."""
    tokens = np.zeros((len(pictures.images), 1), np.int32)
    settings: dict[str, Any] = {"sigma": sigma, "inputs": len(tokens), "samples": samples, "seed": seed}
    settings["classifier"] = classifier.describe()
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]

    def draw() -> dict[str, Any]:
        counts = hrs.sample_counts(
            classifier,
            tokens,
            pictures.images,
            hrs.HybridSmoothing(None, sigma),
            samples,
            jax.random.key(seed),
            classes=len(CLASSES),
            batch_size=500,
        )
        return {"successes": counts[np.arange(len(tokens)), pictures.labels]}

    return saved(folder / f"counts-{sigma:g}-{digest}.npz", settings, draw)["successes"]


def certified_radii(successes: np.ndarray, samples: int, sigma: float, pixels: int) -> np.ndarray:
    """Certified radius of the right class, float64[B]; -1 where it is not certified at all."""
    smoothing = hrs.HybridSmoothing(None, sigma)
    return certified(successes, samples, smoothing, pixels, (0,), tau=TAU, alpha=ALPHA).radius[:, 0]


def summary(radius: np.ndarray, successes: np.ndarray, samples: int) -> dict[str, float]:
    """Certified accuracy at some radii, mean radius (0 where nothing is certified), accuracy of a single copy."""
    rows = {f"certified_accuracy_at_{eps:g}": float(np.mean(radius >= eps)) for eps in (0, 0.25, 0.5, 1.0, 1.5, 2.0)}
    return rows | {
        "mean_radius": float(np.maximum(radius, 0).mean()),
        "accuracy_of_one_copy": float(successes.mean() / samples),
    }


def plot(path: Path, radii: dict[float, dict[str, np.ndarray]]) -> None:
    """Certified accuracy against the radius, one panel per sigma."""
    with plt.rc_context(STYLE):
        layout: dict[str, Any] = {"figsize": (11, 3.4), "sharey": True, "layout": "constrained", "squeeze": False}
        figure, (axes,) = plt.subplots(1, len(radii), **layout)
        for axis, (sigma, found) in zip(axes, radii.items(), strict=True):
            for name, radius in found.items():
                shares = [np.mean(radius >= epsilon) for epsilon in EPSILONS]
                axis.plot(EPSILONS, shares, color=COLOURS[name], label=name)
            axis.set(title=f"sigma = {sigma:g}", xlabel="l2 radius", ylim=(0, 1), xlim=(0, 2.2 * sigma))
        axes[0].set_ylabel("certified accuracy")
        axes[-1].legend(frameon=False)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def run(args: argparse.Namespace) -> None:
    """Train what is missing, draw, certify, write."""
    check_whole(args, {"inputs": 1, "samples": 8, "steps": 1, "text_inputs": 1, "text_samples": 100})
    with library_sentences():
        denoiser = fashion_denoiser() if args.denoiser is None else load_denoiser(args.denoiser)
    chosen = {name: getattr(args, name) for name in WHOLE}
    settings = chosen | {"tau": TAU, "alpha": ALPHA, "denoiser": denoiser.describe()["weights_sha256"]}
    if is_finished(args.out, settings):
        return
    test = load_fashion(args.data, "t10k", any_contents=args.any_contents)
    if args.inputs > len(test.labels):
        raise BadInputError(f"--inputs must be at most {len(test.labels)}, the test pictures, got {args.inputs}.")

    @functools.cache
    def training() -> Pictures:
        return load_fashion(args.data, "train", any_contents=args.any_contents)

    classifiers = {
        sigma: load_or_train(args.out / f"classifier-{sigma:g}.npz", training, sigma, args.steps, args.seed)
        for sigma in (0.0, *SIGMAS)
    }
    plain = np.asarray(classifiers[0.0](np.zeros((len(test.labels), 1), np.int32), test.images))
    pictures = Pictures(test.images[: args.inputs], test.labels[: args.inputs])
    rows, radii = measure(args.out, classifiers, denoiser, pictures, args.samples, args.seed)
    plot(args.out / "denoised.png", radii)
    together = with_text(
        args, classifiers, denoiser, Pictures(pictures.images[: args.text_inputs], pictures.labels[: args.text_inputs])
    )
    found = {"accuracy_without_noise": float(np.mean(plain == test.labels)), "rows": rows, "text_and_picture": together}
    write_result(args.out, settings, found)


def with_text(
    args: argparse.Namespace, classifiers: dict[float, Classifier], denoiser: Denoiser, pictures: Pictures
) -> list[dict[str, Any]]:
    """The hybrid certificates, at the middle sigma."""
    sigma = SIGMAS[len(SIGMAS) // 2]
    clean = text.NamedClass(classifiers[0.0])
    guards = {
        "clean": clean,
        "denoised": Denoised(clean, denoiser, sigma),
        "noisy": text.NamedClass(classifiers[sigma]),
    }
    rows = text.measure(args.out, guards, pictures, sigma, args.text_samples, args.seed)
    count = f"{len(pictures.labels)} inputs, {args.text_samples} draws each"
    where = f"{count}, sigma {sigma}, beta {text.BETA}, tau {text.TAU}"
    text.plot(args.out / "denoised_text.png", rows, COLOURS, where)
    return rows


def measure(
    folder: Path, classifiers: dict[float, Classifier], denoiser: Denoiser, pictures: Pictures, samples: int, seed: int
) -> tuple[list[dict[str, Any]], dict[float, dict[str, np.ndarray]]]:
    """Draw and certify every base classifier at every sigma: rows of the table, and certified radii."""
    rows, radii = [], {}
    for sigma in SIGMAS:
        radii[sigma] = {}
        chosen = base_classifiers(classifiers[0.0], classifiers[sigma], denoiser, sigma)
        for name, classifier in chosen.items():
            copies = max(1, samples // 2) if name == "two steps" else samples
            successes = votes(folder, classifier, pictures, sigma, copies, seed)
            radius = certified_radii(successes, copies, sigma, pictures.images[0].size)
            radii[sigma][name] = radius
            found = summary(radius, successes, copies)
            rows.append({"sigma": sigma, "classifier": name, "samples": copies, **found})
            accuracy, mean = percent_text(int((radius >= 0).sum()), len(radius)), floor_text(found["mean_radius"])
            print(f"sigma {sigma:<5g} {name:11s} certified {accuracy:>7s}  mean radius {mean}", flush=True)
    return rows, radii


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = new_parser(__doc__)
    add_data_arguments(made)
    made.add_argument("--denoiser", type=Path, help="folder of another denoiser (default: the one in the package)")
    made.add_argument("--inputs", type=int, default=500, help="test pictures, from the first (default: %(default)s)")
    made.add_argument("--samples", type=int, default=200, help="copies per picture and sigma (default: %(default)s)")
    made.add_argument("--text-inputs", type=int, default=100, help="of these with a prompt (default: %(default)s)")
    made.add_argument("--text-samples", type=int, default=2000, help="copies of each of them (default: %(default)s)")
    made.add_argument("--steps", type=int, default=4000, help="updates of each classifier (default: %(default)s)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return start("denoised", run, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
