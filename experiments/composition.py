"""Unimodal certificates do not compose (paper Proposition 4.1): the counterexample, and how often it matters.

    python experiments/composition.py --out composition

1. The counterexample, exactly. Two symbols and one Gaussian; the unimodal worst cases stay above tau, the joint one
does not, and a base classifier is given that reaches it. The paper's ratios gamma(a) = 1, gamma(b) = M cannot be taken
literally: a ratio of two laws on {a, b} has clean mean 1, so p(b) (M - 1) = 0. Here they are those of uniform
replacement on two symbols, beta/(1 - beta) and (1 - beta)/beta.

2. On all held-out unsafe inputs of the demo (suffix threat), over a grid of (d, eps). "Combining" means: text-only says
that d tokens are fine, image-only says that eps is fine, so (d, eps) is claimed of the guard that is smoothed by both
noises. Two ways of getting the certificates:

  slices  both from the hybrid score: the budgets (d, 0) and (0, eps) of one and the same smoothed guard
  runs    each from a run of its own with noise on one modality alone, as a user of two unimodal tools would

A claim counts as refuted when the UPPER bound on the joint worst-case score at (d, eps), for the hybrid p_A of this
input, is at most tau.

What is refuted: the inference. There is a base classifier whose hybrid score at this input is exactly the measured
p_A, so that both slices are certified for it too, and whose smoothed score at some attack within (d, eps) is at most
tau. For "runs" we check in addition that this classifier has the measured image-only score as well, on clean tokens;
its text-only score can be made 1 at no cost, since the clean picture has probability 0 under pixel noise.
What is not refuted: that the demo guard itself holds at (d, eps). It is one classifier among those with these scores,
and nothing is known about it beyond them. Without the hybrid score "runs" imply nothing at all at d >= 1, eps > 0:
each looks at one modality on a set that the other one's noise never hits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import _common as common
import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

import hybrid_rs_jax as hrs
from hybrid_rs_jax._text import floor_text
from hybrid_rs_jax.certificate.bounds import worst_case_bounds
from hybrid_rs_jax.data import demo

SIGMA, BETA = 0.25, 0.25
BUDGETS = tuple(range(1, 9))
EPSILONS = np.round(np.linspace(0.05, 2.0, 40), 2)
#: The counterexample: uniform replacement on two symbols, one position, eps = sigma.
EXAMPLE = {"beta": 0.3, "p_a": 0.8, "rho": 1.0, "tau": 0.36}
WAYS = ("slices", "runs")


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return common.start("composition.py", run, parser().parse_args(argv))


def parser() -> argparse.ArgumentParser:
    """Flags."""
    made = common.new_parser(__doc__)
    common.add_input_arguments(made, 2000, "input and noise")
    return made


def run(args: argparse.Namespace) -> None:
    """The counterexample, then the inputs."""
    common.check_whole(args, {"samples": 1, "inputs": 1})
    inputs = common.take_inputs(args.inputs)
    settings = {
        "seed": args.seed,
        "inputs": len(inputs),
        "n": args.samples,
        "tau": common.TAU,
        "alpha": common.ALPHA,
        "sigma": SIGMA,
        "beta": BETA,
        "budgets": list(BUDGETS),
        "example": EXAMPLE,
    }
    if common.is_finished(args.out, settings):
        return
    scores, seconds = lower_bounds(args, inputs)
    content = {
        "counterexample": counterexample(**EXAMPLE),
        "epsilons": EPSILONS.tolist(),
        "composition": refuted_claims(scores),
        "seconds": seconds,
    }
    draw_figure(args, settings, content, scores["hybrid"])
    common.write_result(args.out, settings, content)
    print(summary(content))


# 1. the counterexample


def counterexample(beta: float, p_a: float, rho: float, tau: float) -> dict[str, Any]:
    """Unimodal, separable and joint worst cases of two symbols {a, b} and one Gaussian, and the classifier to blame.

    The clean symbol is a, the attacked one b: p = (1 - beta, beta), q = (beta, 1 - beta), and the Gaussian is shifted
    by rho standard deviations towards larger values.

    Args:
      beta: replacement probability, below 1/2; taken as it is drawn.
      p_a: clean score.
      rho: shift, above 0.
      tau: threshold.

    Returns:
      worst cases, the last two as (lower, upper); the classifier accepts z <= cut[symbol].
    """
    kernel = hrs.UniformKernel(beta, 2)
    smoothing, beta = hrs.HybridSmoothing(kernel, 1.0), kernel.beta  # beta as it is drawn, a multiple of 2^-32
    text = [float(bound) for bound in worst_case_bounds(p_a, 1, 0.0, smoothing)]
    image = [float(bound) for bound in worst_case_bounds(p_a, 0, rho, smoothing)]
    joint = [float(bound) for bound in worst_case_bounds(p_a, 1, rho, smoothing)]
    cuts = joint_cuts(beta, p_a, rho)
    clean, attacked = score_of_cuts(cuts, beta), score_of_cuts(cuts - rho, 1 - beta)
    return {
        "p": [1 - beta, beta],
        "q": [beta, 1 - beta],
        "ratios": [beta / (1 - beta), (1 - beta) / beta],
        "p_a": p_a,
        "rho": rho,
        "tau": tau,
        "text_only": text,
        "image_only": image,
        "best_separable_region": best_rectangle(beta, p_a, rho),
        "joint": joint,
        "classifier": {"cut": cuts.tolist(), "clean_score": clean, "attacked_score": attacked},
        "both_unimodal_certified": text[0] > tau and image[0] > tau,
        "joint_refuted": joint[1] <= tau and clean >= p_a and attacked <= tau,
    }


def joint_cuts(beta: float, p_a: float, rho: float) -> np.ndarray:
    """Cuts of the optimal region {log ratio(symbol) + rho z - rho^2/2 <= log t}, whose clean mass is at least p_a."""
    step = np.log((1 - beta) / beta)
    # ratios e^-step and e^step: the cut of b lies 2 step / rho below that of a
    gap = np.array([0.0, -2 * step / rho])
    root = brentq(lambda c: score_of_cuts(c + gap, beta) - p_a, -40.0, 40.0, xtol=1e-14)
    while score_of_cuts(root + gap, beta) < p_a:
        root = float(np.nextafter(root, np.inf))
    return root + gap


def score_of_cuts(cuts: np.ndarray, second: float) -> float:
    """Mass of {z <= cut[symbol]} where the second symbol has mass `second` and z is a standard normal."""
    return float((1 - second) * ndtr(cuts[0]) + second * ndtr(cuts[1]))


def best_rectangle(beta: float, p_a: float, rho: float) -> float:
    """Least attacked mass of a region {ratio_1 <= t1} and {ratio_2 <= t2} of clean mass p_a: {a} or {a, b}, z <= c."""
    both = ndtr(ndtri(p_a) - rho)
    if p_a >= 1 - beta:
        return float(both)
    return float(min(both, beta * ndtr(ndtri(p_a / (1 - beta)) - rho)))


# 2. the inputs


def lower_bounds(
    args: argparse.Namespace, inputs: demo.DemoInputs
) -> tuple[dict[str, hrs.Certificate], dict[str, dict[str, float]]]:
    """Certificates from noise on both modalities, on the text alone, on the image alone."""
    kernel = common.uniform(BETA)
    noises = {
        "hybrid": hrs.HybridSmoothing(kernel, SIGMA),
        "text": hrs.HybridSmoothing(kernel, None),
        "image": hrs.HybridSmoothing(None, SIGMA),
    }
    found, seconds = {}, {}
    for name, smoothing in noises.items():
        counts = common.drawn(args.out, name, smoothing, inputs, [demo.suffix_mask()], args.samples, args.seed)
        successes = counts["successes"][0]
        found[name] = common.certified(successes, args.samples, smoothing, common.PIXELS, (0, *BUDGETS))
        seconds[name] = dict(zip(("wall_s", "cpu_s"), counts["seconds"].tolist(), strict=True))
    return found, seconds


def refuted_claims(scores: Mapping[str, hrs.Certificate]) -> dict[str, Any]:
    """How many claims of either way of combining the joint bound refutes, over inputs x budgets x eps."""
    hybrid, tau = scores["hybrid"], scores["hybrid"].tau
    d, eps = np.array(BUDGETS), EPSILONS
    p, complement = hybrid.p_a[:, None, None], hybrid.complement[:, None, None]
    lower, upper = worst_case_bounds(p, d[:, None], eps, hybrid.smoothing, complement=complement)
    witness = image_score_of_worst(hybrid) >= scores["image"].p_a[:, None, None]
    result: dict[str, Any] = {"certified": cells(lower > tau), "open": int(((lower <= tau) & (upper > tau)).sum())}
    for way, text, image in zip(WAYS, ("hybrid", "text"), ("hybrid", "image"), strict=True):
        token_claim = scores[text].radius[:, 1:] >= 0
        pixel_claim = scores[image].radius[:, 0, None] >= eps
        claimed = token_claim[:, :, None] & pixel_claim[:, None, :]
        refuted = claimed & (upper <= tau)
        made = claimed.any(axis=(1, 2))
        result[way] = {
            "inputs_with_a_claim": float(made.mean()),
            "inputs_with_a_refuted_claim": float(refuted.any(axis=(1, 2)).mean()),
            "claims": int(claimed.sum()),
            "claims_refuted": int(refuted.sum()),
            "claims_proven": int((claimed & (lower > tau)).sum()),
            "refuted_share_of_claims": float(refuted.sum() / max(1, claimed.sum())),
            "refuted_share_of_claims_by_d": (
                refuted.sum(axis=(0, 2)) / np.maximum(1, claimed.sum(axis=(0, 2)))
            ).tolist(),
            "refuted_share_of_inputs": cells(refuted),
        }
        if way == "runs":
            result[way]["refuted_by_a_classifier_with_all_three_scores"] = int((refuted & witness).sum())
    return result


def image_score_of_worst(hybrid: hrs.Certificate) -> np.ndarray:
    """Image-only score of the optimal (worst) classifier at (d, eps), float64[inputs, budgets, eps].

    It accepts where the joint log ratio is at most c, with c such that its clean hybrid score is p_A. With clean tokens
    the discrete ratio is the smallest one, so the score is Phi((c - l_min)/rho + rho/2).
    """
    pairs, back = np.unique(hybrid.p_a, return_inverse=True)
    assert hybrid.smoothing.sigma is not None
    found = np.empty((pairs.size, len(BUDGETS), EPSILONS.size))
    for i, d in enumerate(BUDGETS):
        law = hybrid.smoothing.likelihood_ratios(d)[0]
        log_ratio, mass = np.asarray(law.log_ratio), np.exp(np.asarray(law.log_p))
        for j, rho in enumerate((EPSILONS / hybrid.smoothing.sigma).tolist()):
            low, high = np.full(pairs.size, -300.0), np.full(pairs.size, 300.0)
            for _ in range(80):
                middle = (low + high) / 2
                score = (mass * ndtr((middle[:, None] - log_ratio) / rho + rho / 2)).sum(axis=1)
                low, high = np.where(score < pairs, middle, low), np.where(score < pairs, high, middle)
            found[:, i, j] = ndtr((low - log_ratio[0]) / rho + rho / 2)
    return found[back.ravel()]


def cells(where: np.ndarray) -> list[list[float]]:
    """Share of inputs at each (d, eps)."""
    return where.mean(axis=0).tolist()


# figure and words


def draw_figure(
    args: argparse.Namespace, settings: Mapping[str, Any], content: Mapping[str, Any], hybrid: hrs.Certificate
) -> None:
    """The counterexample; the frontier of a typical input; the share of inputs wrongly claimed at each (d, eps)."""
    figure, axes = common.new_figure(1, 3, (11.0, 4.2))
    draw_example(axes[0, 0], content["counterexample"])
    typical = int(np.argsort(hybrid.p_a, kind="stable")[len(hybrid.p_a) // 2])
    draw_typical(axes[0, 1], hybrid, typical)
    way = content["composition"]["slices"]
    share = 100 * np.array(way["refuted_share_of_inputs"])
    edges = np.concatenate([EPSILONS - 0.025, EPSILONS[-1:] + 0.025])
    shown = axes[0, 2].pcolormesh(np.arange(0.5, len(BUDGETS) + 1), edges, share.T, cmap="magma_r", vmin=0, vmax=100)
    figure.colorbar(shown, ax=axes[0, 2], label="inputs wrongly claimed (%)")
    common.panel_title(axes[0, 2], "Claimed, but refuted: all inputs")
    axes[0, 2].set_xticks(BUDGETS)
    axes[0, 2].grid(False)
    for ax in axes[0, 1:]:
        ax.set_xlabel("token budget $d$")
        ax.set_ylabel(r"pixel budget $\varepsilon$ ($\ell_2$)")
    setting = (
        f"Demo guard, suffix threat: {settings['inputs']} held-out unsafe inputs; n = {settings['n']:,}; "
        f"σ = {SIGMA:g}; β = {BETA:g}; τ = {settings['tau']:.2g}; α = {settings['alpha']:g} per input"
    )
    common.save_figure(
        figure, args.out / "composition.png", "Two unimodal certificates do not make a joint one", setting
    )


def draw_example(ax: Any, example: Mapping[str, Any]) -> None:
    """Worst cases as bars, with the threshold."""
    names = ("text\nonly", "image\nonly", "best\nseparable", "joint")
    values = (example["text_only"][0], example["image_only"][0], example["best_separable_region"], example["joint"][1])
    colours = (common.BLUE, common.BLUE, common.SOFT, common.ORANGE)
    ax.bar(range(4), values, color=colours, width=0.65)
    for place, value in enumerate(values):
        ax.annotate(f"{value:.3f}", (place, value), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=9)
    ax.axhline(example["tau"], color=common.INK, ls="--", lw=1.2, label=f"threshold τ = {example['tau']:g}")
    ax.set_xticks(range(4), names)
    ax.set_ylabel("worst-case smoothed score")
    ax.set_ylim(0, 0.8)
    ax.grid(axis="x", visible=False)
    beta, p_a, rho = example["p"][1], example["p_a"], example["rho"]
    common.panel_title(ax, f"Two symbols: β = {beta:g}, $p_A$ = {p_a:g}, ε = {rho:g}σ")
    ax.legend(frameon=False, fontsize=9, loc="upper right")


def draw_typical(ax: Any, hybrid: hrs.Certificate, row: int) -> None:
    """The joint frontier of one input inside of the rectangle that composition would claim."""
    radius = hybrid.radius[row]
    certified = radius >= 0
    d = np.arange(radius.size)
    last = int(d[certified][-1])
    ax.fill_between([0, last], 0, radius[0], color=common.ORANGE, alpha=0.25, lw=0, label="claimed by composition")
    ax.fill_between(d[certified], 0, radius[certified], color=common.BLUE, alpha=0.35, lw=0)
    ax.plot(
        d[certified], radius[certified], color=common.BLUE, marker="o", lw=2, label="jointly certified (at the dots)"
    )
    ax.set_xlim(-0.15, last + 0.4)
    ax.set_ylim(0, radius[0] * 1.3)
    ax.set_xticks(d[: last + 1])
    common.panel_title(ax, f"One input, $p_A$ ≥ {floor_text(float(hybrid.p_a[row]), 4)}")
    ax.legend(frameon=False, fontsize=9, loc="upper right")


def summary(content: Mapping[str, Any]) -> str:
    """The numbers in a few lines."""
    example, found = content["counterexample"], content["composition"]
    lines = [
        f"counterexample: text-only {floor_text(example['text_only'][0], 4)}, image-only "
        f"{floor_text(example['image_only'][0], 4)}, joint at most {example['joint'][1]:.4f}, tau {example['tau']:g}"
    ]
    for way in WAYS:
        row = found[way]
        lines.append(
            f"{way}: {100 * row['inputs_with_a_refuted_claim']:.1f} % of the inputs have a refuted claim; "
            f"{row['claims_refuted']:,} of {row['claims']:,} claims refuted "
            f"({100 * row['refuted_share_of_claims']:.1f} %), {row['claims_proven']:,} proven"
        )
    lines.append(
        f"of the refuted ones {found['runs']['refuted_by_a_classifier_with_all_three_scores']:,} by a classifier with "
        "all three measured scores"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
