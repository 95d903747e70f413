"""An attack on certified features, inside the certified radius: can it refute the certificate?

The demo encoder (text and picture together) at beta = .9, sigma = .25: for each held-out unsafe input the certified
radius at which the cosine with the clean feature stays at least 1/2, for d = 0 and 1 changed tokens; then a white-box
attack of exactly this budget, and fresh draws at a stated total risk. A certificate would be refuted by an upper
confidence bound on the attacked score below 3/4. Beyond the radius (2, 4, 8 times) the same attack says how far the
certificate is from what this attack reaches.

With `--encoder tiny_guard` the same for the vision-language checkpoint that lies here: 64 numbers, the decoder's last
hidden state of text and picture.

    python experiments/feature_attack.py --out feature-attack
    python experiments/feature_attack.py --encoder tiny_guard --samples 300 --factors 1 --out joint-attack
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from _common import (
    BLUE,
    ORANGE,
    STYLE,
    add_input_arguments,
    check_whole,
    is_finished,
    new_parser,
    start,
    suffix_and_all,
    take_inputs,
    uniform,
    write_result,
)

import hybrid_rs_jax as hrs
from hybrid_rs_jax import attacks
from hybrid_rs_jax._text import counted
from hybrid_rs_jax.classifiers import VlmGuard
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.features import DemoEncoder, GuardEncoder, unit_features

BETA, SIGMA, SIMILARITY = 0.9, 0.25, 0.5
#: Risk of the certificates per input, and of a false refutation in all.
ALPHA, RISK = 1e-3, 0.01
FACTORS = (1, 2, 4, 8)
TINY = Path(__file__).parent / "tiny_guard"


def run(args: argparse.Namespace) -> None:
    """Draw, certify, attack, draw again, write."""
    check_whole(args, {"inputs": 1, "samples": 8, "steps": 1, "restarts": 1, "copies": 1})
    if min(args.factors) < 1:
        raise BadInputError(f"--factors must be at least 1, got {min(args.factors)}.")
    names = ("encoder", "inputs", "samples", "steps", "restarts", "copies", "factors", "seed")
    settings: dict[str, Any] = {name: getattr(args, name) for name in names}
    settings |= {"alpha": ALPHA, "risk": RISK, "beta": BETA, "sigma": SIGMA, "similarity": SIMILARITY}
    if is_finished(args.out, settings):
        return
    encoder, smoothing, tokens, images, mask = taken(args.encoder, args.inputs)
    clean = unit_features(encoder(tokens, images))
    draw, search, judge = (jax.random.key(args.seed + offset) for offset in (0, 1_000_000, 2_000_000))
    delta = smoothing.total_variation(images[0].size)
    given = (encoder, tokens, images, smoothing)
    law = hrs.sample_features(*given, args.samples, draw, clean, eligible=mask)
    certificate = hrs.certify_features(law, smoothing, ALPHA, (0, 1), reference="fixed", total_variation=delta)
    radius, rows = certificate.radius(SIMILARITY), []
    effort = attacks.FeatureAttackSettings(args.restarts, args.steps, args.copies)
    for column, d in enumerate((0, 1)):
        for factor in args.factors:
            own = np.maximum(radius[:, column], 0) * factor
            options = {"d": d, "eligible": mask, "settings": effort}
            found = attacks.attack_features(*given, clean, own, search, **options)
            attacked = (found.tokens, found.images)
            fresh = hrs.sample_features(encoder, *attacked, smoothing, args.samples, judge, clean, eligible=mask)
            rows.append(judged(d, factor, radius[:, column], fresh))
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items() if name != "cosines"), flush=True)
    plot(args.out / "feature_attack.png", rows)
    write_result(args.out, settings, {"rows": rows})


def taken(name: str, count: int | None) -> tuple[Any, hrs.HybridSmoothing, np.ndarray, np.ndarray, np.ndarray]:
    """Encoder, smoothing, symbols, pictures, and where an attacker may change symbols."""
    inputs = take_inputs(count)
    if name == "demo":
        smoothing, mask = hrs.HybridSmoothing(uniform(BETA), SIGMA), suffix_and_all()[0]
        return DemoEncoder.load(), smoothing, inputs.tokens, inputs.images, mask
    options: dict[str, Any] = {"text_length": demo.LENGTH, "image_size": inputs.images.shape[1:3]}
    guard = VlmGuard.from_pretrained(TINY, policy=TINY / "policy.txt", **options)
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(BETA, guard.vocab_size), SIGMA)
    tokens = np.stack([guard.symbols(text) for text in inputs.prompts])
    return GuardEncoder(guard), smoothing, tokens, np.repeat(inputs.images, 3, axis=3), tokens == 0


def judged(d: int, factor: int, radius: np.ndarray, fresh: hrs.ScoreLaw) -> dict[str, Any]:
    """What the fresh draws on attacked inputs say."""
    certified = radius >= 0
    cases = 2 * len(radius)  # two budgets at the certified radius
    upper = attacks.score_upper_bound(fresh, RISK / cases)
    cosines = 2 * (fresh.counts @ fresh.edges[:-1] / fresh.n) - 1
    below = certified & (upper < (1 + SIMILARITY) / 2)
    return {
        "d": d,
        "times_radius": factor,
        "certified": int(certified.sum()),
        "refuted" if factor == 1 else "shown_below": int(below.sum()),
        "mean_cosine": float(cosines[certified].mean()),
        "least_cosine": float(cosines[certified].min()),
        "mean_radius": float(radius[certified].mean()),
        "cosines": np.sort(cosines[certified]).round(4).tolist(),
    }


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """Attacked cosines, sorted, for each distance."""
    with plt.rc_context(STYLE):
        figure, (axes,) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained", squeeze=False)
        for axis, d in zip(axes, (0, 1), strict=True):
            own = [row for row in rows if row["d"] == d]
            for row, shade in zip(own, np.linspace(1, 0.3, len(own)), strict=True):
                share = np.linspace(0, 1, len(row["cosines"]))
                label = "certified radius" if row["times_radius"] == 1 else f"{row['times_radius']} times that"
                axis.plot(share, row["cosines"], color=BLUE, alpha=shade, label=label)
            axis.axhline(SIMILARITY, color=ORANGE, linestyle="--", linewidth=1, label="certified at the radius")
            axis.set(title=counted(d, "token") + " changed", xlabel="share of the inputs", xlim=(0, 1))
        axes[0].set_ylabel("cosine under attack")
        lines, labels = axes[0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside lower center", ncol=len(lines), frameon=False, fontsize=8)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = new_parser(__doc__)
    add_input_arguments(made, 2000, "input, budget and distance")
    kinds = ("demo", "tiny_guard")
    made.add_argument("--encoder", choices=kinds, default="demo", help="whose features (default: %(default)s)")
    made.add_argument("--steps", type=int, default=40, help="gradient steps per restart (default: %(default)s)")
    made.add_argument("--restarts", type=int, default=3, help="starting points (default: %(default)s)")
    made.add_argument("--copies", type=int, default=16, help="noisy copies behind each gradient (default: %(default)s)")
    made.add_argument(
        "--factors", type=int, nargs="+", default=list(FACTORS), help="times the certified radius (default: 1 2 4 8)"
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return start("feature_attack", run, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
