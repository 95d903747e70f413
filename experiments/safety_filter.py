"""Certified safety filtering (paper 5.2, A.9, A.11: Tables 1, 2, 3, 5 and Figures 4, 5), by default on the demo guard.

    python experiments/safety_filter.py --out safety
    python experiments/safety_filter.py --model CHECKPOINT --data unsafe.csv --safe-data safe.csv --out safety

All held-out unsafe inputs of the demo, or all of --data, under two threats: tokens behind the trusted text may change
(append-only attacks), or any token may change (l0). At most d tokens and an l2 pixel change of at most eps, both at
once.

  curves      certified accuracy against eps for each d, three sigmas, both threats; image-only and text-only beside
  beta        coverage, largest certified d and radius against the replacement probability (suffix threat)
  smoothed    what the smoothed guard says without an attack, on safe inputs too, over (sigma, beta)
  per budget  one shared sample for all d, against one sample per d with noise on the first d suffix positions alone

A certificate holds for the SMOOTHED guard, per input with probability at least 1 - alpha over its draws. Certified
accuracy is the share of all these inputs, none left out. Per budget, alpha is split over the nine budgets.

The default draws 2,000 copies per input, and 1,000 for the l0 threat; --full draws the paper's 10,000 everywhere.
Counts are saved as each setting is done, and those of a checkpoint every second; a second call with the same settings
goes on from there. A finished result is never overwritten.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import _common as common
import numpy as np
from _safety_figures import draw_curves, draw_sweep
from _subject import EVERYWHERE, SUFFIX, Chosen, Region, Several, Subject, add_flags, open_subject, parsed

import hybrid_rs_jax as hrs
from hybrid_rs_jax._text import floor_text
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.data.inputs import Input, Inputs
from hybrid_rs_jax.errors import BadInputError

BUDGETS = tuple(range(9))
SIGMAS = (0.25, 0.5, 1.0)
BETA, BETAS = 0.25, (0.1, 0.25, 0.5, 0.75, 1.0)
BUDGET_INPUTS = 40
CLEAN_SIGMAS, CLEAN_BETAS = (0.0, 0.25, 1.0), (0.0, 0.1, 0.25, 0.5, 1.0)
EPSILONS = np.round(np.linspace(0.0, 7.0, 141), 2)
#: The joint statement that is counted: so many tokens, and so many sigmas of pixels.
JOINT = (2, 2.0)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return common.start("safety_filter.py", run, parsed(parser(), argv))


def parser() -> argparse.ArgumentParser:
    """Flags."""
    made = common.new_parser(__doc__)
    common.add_input_arguments(made, 2000, "input and setting")
    made.add_argument("--full", action="store_true", help="10,000 copies instead, for the l0 threat too")
    made.add_argument(
        "--clean-samples", type=int, default=100, help="copies per input of the smoothed accuracy (default: 100)"
    )
    made.add_argument(
        "--budget-inputs", type=int, help="inputs of the per-budget samples (default: 40, or all if fewer)"
    )
    add_flags(made, safe=True)
    return made


def run(args: argparse.Namespace) -> None:
    """Sample every setting, certify, write."""
    common.check_whole(args, {"samples": 1, "inputs": 1, "clean_samples": 1, "budget_inputs": 1})
    subject = open_subject(args)
    inputs = len(subject.unsafe.ids)
    budget_inputs = min(BUDGET_INPUTS, inputs) if args.budget_inputs is None else args.budget_inputs
    if budget_inputs > inputs:
        raise BadInputError(f"--budget-inputs must be at most the {inputs} inputs, got {budget_inputs}.")
    n = 10_000 if args.full else args.samples
    settings = {
        "seed": args.seed,
        "inputs": inputs,
        "n": n,
        "l0_n": n if args.full else max(1, n // 2),
        "clean_n": args.clean_samples,
        "budget_inputs": budget_inputs,
        "tau": common.TAU,
        "alpha": common.ALPHA,
        "budgets": list(BUDGETS),
        "beta": BETA,
        **subject.record,
    }
    if common.is_finished(args.out, settings):
        return
    work = Work(args, subject, settings)
    curves, unimodal = work.curves(), work.unimodal()
    content = {
        "statement": statement(subject),
        "picture_distance": None if subject.record else picture_distance(),
        "epsilons": EPSILONS.tolist(),
        "unimodal": unimodal,
        "curves": curves,
        "table1": table1(curves, unimodal),
        "beta_sweep": work.beta_sweep(),
        "smoothed_accuracy": work.smoothed_accuracy(),
        "per_budget": work.per_budget(),
        "seconds": work.seconds,
    }
    draw_curves(args.out, subject, settings, content)
    draw_sweep(args.out, subject, settings, content)
    common.write_result(args.out, settings, content)
    print(summary(content))


class Work:
    """Counts of every setting, and the seconds that each took."""

    def __init__(self, args: argparse.Namespace, subject: Subject, settings: Mapping[str, Any]):
        self.args, self.subject, self.settings = args, subject, settings
        self.seconds: dict[str, dict[str, float]] = {}

    def counts(
        self,
        name: str,
        smoothing: hrs.HybridSmoothing,
        regions: Sequence[Region],
        n: int,
        inputs: Inputs[Input] | None = None,
    ) -> np.ndarray:
        """Votes for Unsafe, int64[regions, inputs]."""
        inputs = self.subject.unsafe if inputs is None else inputs
        found = self.subject.drawn(self.args.out, name, smoothing, inputs, regions, n, self.args.seed)
        wall, cpu = found["seconds"].tolist()
        self.seconds[name] = {"copies": int(found["timed"]), "wall_s": wall, "cpu_s": cpu}
        return found["successes"]

    def certified(self, counts: np.ndarray, n: int, smoothing: hrs.HybridSmoothing) -> hrs.Certificate:
        """Certificates at the common tau and alpha; image-only smoothing certifies no token."""
        return common.certified(counts, n, smoothing, self.subject.pixels, BUDGETS)

    def suffix(self, sigma: float, beta: float) -> hrs.Certificate:
        """Hybrid certificates of the suffix threat."""
        smoothing, n = hrs.HybridSmoothing(self.subject.uniform(beta), sigma), self.settings["n"]
        return self.certified(self.counts(f"suffix-{sigma:g}-{beta:g}", smoothing, [SUFFIX], n)[0], n, smoothing)

    def l0(self, sigma: float) -> hrs.Certificate:
        """Hybrid certificates of the l0 threat."""
        smoothing, n = hrs.HybridSmoothing(self.subject.uniform(BETA), sigma), self.settings["l0_n"]
        return self.certified(self.counts(f"l0-{sigma:g}-{BETA:g}", smoothing, [EVERYWHERE], n)[0], n, smoothing)

    def curves(self) -> list[dict[str, Any]]:
        """Figures 4 and 5: hybrid certificates at each sigma."""
        return [
            {"threat": threat, "sigma": sigma, "beta": BETA} | facts(certificate)
            for threat, make in (("suffix", lambda sigma: self.suffix(sigma, BETA)), ("l0", self.l0))
            for sigma in SIGMAS
            for certificate in [make(sigma)]
        ]

    def unimodal(self) -> list[dict[str, Any]]:
        """Noise on the image alone at each sigma, and on the text alone for each threat."""
        rows = []
        for sigma in SIGMAS:
            smoothing, n = hrs.HybridSmoothing(None, sigma), self.settings["n"]
            counts = self.counts(f"image-{sigma:g}", smoothing, [SUFFIX], n)[0]
            found = facts(self.certified(counts, n, smoothing))
            rows.append({"noise": "image-only", "threat": "none", "sigma": sigma} | found)
        smoothing = hrs.HybridSmoothing(self.subject.uniform(BETA), None)
        for threat, region, n in (("suffix", SUFFIX, self.settings["n"]), ("l0", EVERYWHERE, self.settings["l0_n"])):
            counts = self.counts(f"text-{threat}", smoothing, [region], n)[0]
            found = facts(self.certified(counts, n, smoothing))
            rows.append({"noise": "text-only", "threat": threat, "beta": BETA} | found)
        return rows

    def beta_sweep(self) -> list[dict[str, Any]]:
        """Table 2, at the smallest sigma. A certified example is one with a certified d of at least 1."""
        rows = []
        for beta in BETAS:
            certificate = self.suffix(SIGMAS[0], beta)
            with_text = certificate.budget >= 1
            at_most = certificate.radius[with_text, certificate.budget[with_text]]
            rows.append(
                {
                    "sigma": SIGMAS[0],
                    "beta": beta,
                    "certified_examples": float(with_text.mean()),
                    "mean_d_max": float(certificate.budget[with_text].mean()) if with_text.any() else None,
                    "mean_radius_at_d_max": float(at_most.mean()) if with_text.any() else None,
                }
                | facts(certificate)
            )
        return rows

    def smoothed_accuracy(self) -> list[dict[str, Any]]:
        """Table 5, on safe inputs too where there are any; suffix and l0 noise."""
        subject, n, rows = self.subject, self.settings["clean_n"], []
        inputs = Several((subject.unsafe,) if subject.safe is None else (subject.unsafe, subject.safe))
        unsafe = np.arange(len(inputs.ids)) < len(subject.unsafe.ids)
        for sigma in CLEAN_SIGMAS:
            for beta in CLEAN_BETAS:
                kernel = subject.uniform(beta) if beta else None
                if kernel is None and not sigma:
                    votes = np.stack([subject.decisions(inputs) * n] * 2)
                else:
                    smoothing = hrs.HybridSmoothing(kernel, sigma or None)
                    name = f"clean-{sigma:g}-{beta:g}"
                    votes = self.counts(name, smoothing, (SUFFIX, EVERYWHERE), n, inputs)
                for threat, found in zip(("suffix", "l0"), votes, strict=True):
                    rows.append({"threat": threat, "sigma": sigma, "beta": beta} | clean_facts(found, n, unsafe))
        return rows

    def per_budget(self) -> dict[str, Any]:
        """Table 3's question: what does sharing one sample over all budgets cost, and what does it save?"""
        inputs, n = Chosen(self.subject.unsafe, range(self.settings["budget_inputs"])), self.settings["n"]
        smoothing = hrs.HybridSmoothing(self.subject.uniform(BETA), SIGMAS[0])
        first = [Region("suffix", d) for d in BUDGETS]
        found = {}
        for mode, chosen in (("shared", [SUFFIX]), ("per budget", first)):
            name = f"{mode.replace(' ', '-')}-sample"
            counts = self.counts(name, smoothing, chosen, n, inputs)
            certificate = self.certified(counts[0] if mode == "shared" else counts.T, n, smoothing)
            found[mode] = {"draws_per_input": n * len(chosen)} | facts(certificate) | self.seconds[name]
        return {"inputs": len(inputs.ids), "sigma": SIGMAS[0], "beta": BETA} | found


def facts(certificate: hrs.Certificate) -> dict[str, Any]:
    """What the tables and curves need; one that is not certified counts as radius 0 and budget 0 in a mean."""
    radius, epsilon = certificate.radius, (certificate.smoothing.sigma or 0.0) * JOINT[1]
    return {
        "n": int(certificate.n.max()),
        "p_a": {
            name: float(f(certificate.p_a)) for name, f in (("low", np.min), ("median", np.median), ("high", np.max))
        },
        "mean_radius": np.maximum(radius, 0).mean(axis=0).tolist(),
        "share_certified": (radius >= 0).mean(axis=0).tolist(),
        "mean_budget": float(np.maximum(certificate.budget, 0).mean()),
        "joint_share": float((radius[:, JOINT[0]] >= epsilon).mean()) if epsilon else 0.0,
        "needed_samples": certificate.needed_samples().tolist(),
        "certified_accuracy": common.shares(certificate.certified_accuracy(EPSILONS)),
    }


def clean_facts(votes: np.ndarray, n: int, unsafe: np.ndarray) -> dict[str, float | None]:
    """Accuracy by majority of the copies, and how many inputs have a copy that is called Unsafe; None of no inputs."""
    safe = votes[~unsafe]
    return {
        "unsafe_mean_score": float(votes[unsafe].mean() / n),
        "unsafe_majority_right": float((2 * votes[unsafe] > n).mean()),
        "safe_majority_right": float((2 * safe <= n).mean()) if safe.size else None,
        "unsafe_flagged_by_n_copies": float((votes[unsafe] > 0).mean()),
        "safe_flagged_by_n_copies": float((safe > 0).mean()) if safe.size else None,
    }


def table1(curves: Sequence[Mapping[str, Any]], unimodal: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Hybrid beside unimodal certificates for the suffix threat, at each sigma."""
    image = {row["sigma"]: row for row in unimodal if row["noise"] == "image-only"}
    text = next(row for row in unimodal if row["noise"] == "text-only" and row["threat"] == "suffix")
    return [
        {
            "sigma": row["sigma"],
            "image_only_radius": image[row["sigma"]]["mean_radius"][0],
            "hybrid_radius_d0": row["mean_radius"][0],
            "hybrid_radius_d1": row["mean_radius"][1],
            "radius_lost_at_d1": lost(image[row["sigma"]]["mean_radius"][0], row["mean_radius"][1]),
            "text_only_budget": text["mean_budget"],
            "hybrid_budget": row["mean_budget"],
            "joint": f"d = {JOINT[0]} and eps = {JOINT[1]:g} sigma",
            "joint_share": row["joint_share"],
        }
        for row in curves
        if row["threat"] == "suffix"
    ]


def lost(before: float, after: float) -> float | None:
    """The share that is gone; None where there was nothing."""
    return 1 - after / before if before else None


def picture_distance() -> dict[str, float]:
    """l2 distance from each held-out picture to the nearest one of another digit: a yardstick for a radius."""
    inputs = demo.load_demo("held_out")
    flat = inputs.images.reshape(len(inputs), -1).astype(np.float64)
    distance = np.sqrt(np.maximum(((flat[:, None] - flat[None]) ** 2).sum(axis=-1), 0))
    nearest = np.where(inputs.digits[:, None] == inputs.digits, np.inf, distance).min(axis=1)
    return {"nearest_other_digit_low": float(nearest.min()), "nearest_other_digit_median": float(np.median(nearest))}


def statement(subject: Subject) -> dict[str, str]:
    """What the numbers mean."""
    length = subject.shape.tokens.size
    where = "of the 8 suffix tokens" if not subject.record else f"of the positions behind the text, {length} in all,"
    return {
        "classifier": f"{subject.name}, smoothed: Unsafe where the share of Unsafe noisy copies exceeds tau",
        "suffix": f"at most d {where} and eps of the pixels change",
        "l0": f"at most d of all {length} tokens and eps of the pixels change",
        "risk": "per input and setting with probability at least 1 - alpha over the draws, all d and eps at once",
        "unit": f"eps, radius and sigma: l2, {subject.unit}",
        "flagged": "an input with a copy called Unsafe among n is flagged by any filter whose copies include these",
    }


def summary(content: Mapping[str, Any]) -> str:
    """The tables in a few lines, floored."""
    lines = []
    for row in content["table1"]:
        less = "" if row["radius_lost_at_d1"] is None else f" ({100 * row['radius_lost_at_d1']:.1f} % less)"
        lines.append(
            f"sigma {row['sigma']:g}: image-only radius {floor_text(row['image_only_radius'])}, hybrid d=1 "
            f"{floor_text(row['hybrid_radius_d1'])}{less}; text-only budget "
            f"{floor_text(row['text_only_budget'], 2)}, hybrid {floor_text(row['hybrid_budget'], 2)}; "
            f"{row['joint']}: {floor_text(100 * row['joint_share'], 1)} %"
        )
    for row in content["beta_sweep"]:
        d, r = row["mean_d_max"], row["mean_radius_at_d_max"]
        lines.append(
            f"beta {row['beta']:g}: certified {floor_text(100 * row['certified_examples'], 1)} %, mean d_max "
            f"{'-' if d is None else floor_text(d, 2)}, mean radius there {'-' if r is None else floor_text(r)}, "
            f"mean radius at d=1 {floor_text(row['mean_radius'][1])}"
        )
    for mode in ("shared", "per budget"):
        row = content["per_budget"][mode]
        each = row["cpu_s"] / max(row["copies"], 1) * row["draws_per_input"]
        lines.append(
            f"{mode}: {row['draws_per_input']:,} draws, {each:.3f} CPU s per "
            f"input, mean budget {floor_text(row['mean_budget'], 2)}, radius at d=1 {floor_text(row['mean_radius'][1])}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
