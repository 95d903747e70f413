"""A guard of a text and a picture for denoised smoothing: hybrid certificates, from ordinary and conditional draws.

The prompt names a class of Fashion-MNIST (a trusted word) and has places behind it where an attacker may append words.
The guard says Unsafe where the picture shows what the prompt names, unless two or more of the words behind it are among
a tenth of the alphabet that make a prompt look harmless.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _common as common
import jax
import jax.numpy as jnp
import numpy as np
from _fashion import CLASSES, Pictures

import hybrid_rs_jax as hrs
from hybrid_rs_jax.results.counts import Counts
from hybrid_rs_jax.sampling.design import design_draws

BETA, ALPHABET, PLACES = 0.5, 512, 6
HARMLESS = range(len(CLASSES), len(CLASSES) + ALPHABET // 10)
PAD = ALPHABET - 1
#: Score that the filter must keep: one copy in twenty flags.
TAU, ALPHA = 0.05, 0.01
BUDGETS = tuple(range(5))
ELIGIBLE = np.arange(1 + PLACES) > 0
WAYS = ("ordinary", "both")


class NamedClass:
    """Unsafe where the picture shows what the prompt names and the words behind it are not harmless ones."""

    def __init__(self, classifier: Any):
        self.classifier = classifier

    def __call__(self, tokens: Any, images: Any) -> jax.Array:
        apply, parameters = self.functional()
        return apply(parameters, jnp.asarray(tokens), jnp.asarray(images))

    def functional(self) -> tuple[Callable[..., jax.Array], Any]:
        """The decision as a function of the classifier's parameters."""
        apply, parameters = self.classifier.functional()
        return _named(apply), parameters

    def describe(self) -> dict[str, Any]:
        """The rule, and the classifier behind it."""
        return {"name": "named class", "harmless": [HARMLESS.start, HARMLESS.stop]} | {
            "classifier": self.classifier.describe()
        }


@functools.cache
def _named(apply: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def decide(parameters: Any, tokens: jax.Array, images: jax.Array) -> jax.Array:
        words = tokens[:, 1:]
        harmless = ((words >= HARMLESS.start) & (words < HARMLESS.stop)).sum(axis=1)
        return (apply(parameters, tokens, images) == tokens[:, 0]) & (harmless < 2)

    return decide


def prompts(labels: np.ndarray) -> np.ndarray:
    """The class of each picture, and nothing behind it: int32[B, 1 + PLACES]."""
    tokens = np.full((len(labels), 1 + PLACES), PAD, np.int32)
    tokens[:, 0] = labels
    return tokens


def measure(
    folder: Path, guards: dict[str, Any], pictures: Pictures, sigma: float, samples: int, seed: int
) -> list[dict[str, Any]]:
    """A row for each guard and way of drawing: share certified and mean radius at each number of appended words."""
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(BETA, ALPHABET), sigma)
    delta = smoothing.total_variation(pictures.images[0].size)
    limits = (samples, BUDGETS[-1], PLACES, TAU, ALPHA)
    design = design_draws("both", smoothing, *limits, ordered=True, total_variation=delta)
    rows = []
    for name, guard in guards.items():
        draw = functools.partial(_drawn, folder, name, guard, pictures, smoothing, seed)
        ids = tuple(map(str, range(len(pictures.labels))))
        plain = draw(samples, None)
        parts = np.stack([draw(part.draws, part.sets and part.sets[0]) for part in design.parts], axis=1)
        n = np.broadcast_to(np.array([part.draws for part in design.parts]), parts.shape)
        ways = {
            "ordinary": Counts(ids, plain, np.full_like(plain, samples)),
            "both": Counts(ids, parts, n, samples=design.samples),
        }
        for way, counts in ways.items():
            settings = (smoothing, pictures.images[0].size, BUDGETS)
            radius = common.certified_samples(counts, *settings, tau=TAU, alpha=ALPHA).radius
            found = {
                "certified": common.shares((radius >= 0).mean(axis=0)),
                "mean_radius": common.shares(np.maximum(radius, 0).mean(axis=0)),
            }
            rows.append({"sigma": sigma, "classifier": name, "draws": way, "samples": samples, **found})
            shares = " ".join(f"{share:.2f}" for share in found["certified"])
            print(f"text and picture, {name:9s} {way:9s} certified at d = 0..{BUDGETS[-1]}: {shares}", flush=True)
    return rows


def _drawn(
    folder: Path,
    name: str,
    guard: Any,
    pictures: Pictures,
    smoothing: hrs.HybridSmoothing,
    seed: int,
    n: int,
    places: Sequence[int] | None,
) -> np.ndarray:
    """Unsafe copies of each input, with these places behind the prompt forced; kept in the folder."""
    forced = None if places is None else np.isin(np.arange(1 + PLACES), 1 + np.array(places))
    settings = {
        "smoothing": repr(smoothing),
        "inputs": len(pictures.labels),
        "n": n,
        "seed": seed,
        "forced": None if places is None else list(places),
        "classifier": guard.describe(),
    }

    def draw() -> dict[str, Any]:
        tokens, key = prompts(pictures.labels), jax.random.key(seed)
        options: dict[str, Any] = {"eligible": ELIGIBLE, "forced": forced, "batch_size": 500}
        return {"successes": hrs.sample_counts(guard, tokens, pictures.images, smoothing, n, key, **options)}

    which = "ordinary" if places is None else f"forced-{len(places)}"
    return common.saved(folder / f"text-{name}-{n}-{which}.npz", settings, draw)["successes"]


def plot(path: Path, rows: Sequence[dict[str, Any]], colours: dict[str, str], where: str) -> None:
    """Share certified, and mean radius, against the number of appended words."""
    figure, axes = common.new_figure(1, 2, (9.6, 3.8))
    for row in rows:
        style = {"color": colours[row["classifier"]], "marker": "o"}
        style |= {"linestyle": "-"} if row["draws"] == "both" else {"linestyle": ":"}
        kind = "conditional too" if row["draws"] == "both" else "ordinary draws"
        axes[0][0].plot(BUDGETS, row["certified"], label=f"{row['classifier']}, {kind}", **style)
        axes[0][1].plot(BUDGETS, row["mean_radius"], **style)
    axes[0][0].set(xlabel="appended words d (eps = 0)", ylabel="share certified", ylim=(0, 1), xticks=BUDGETS)
    axes[0][1].set(xlabel="appended words d", ylabel="mean certified radius", ylim=(0, None), xticks=BUDGETS)
    axes[0][1].legend(*axes[0][0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="upper right")
    common.save_figure(figure, path, "A prompt and a picture: the denoiser carries over to hybrid certificates", where)
