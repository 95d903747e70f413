"""Certified accuracy on UCI Adult under joint attacks on categorical and numeric features (paper 5.1, Figure 2).

    python experiments/adult.py --data FOLDER --out adult

Without --data the files are fetched from UCI and checked by digest. Two linear SVMs, one trained on the rows and one on
noisy copies of them, vote on the same noisy copies; each is smoothed by uniform replacement on its 8 categorical fields
and Gaussian noise on its 6 standardized numbers.

What is certified: the smoothed classifier predicts an income above 50K where its score g, the share of noisy copies
that the SVM calls so, exceeds 1/2. A row counts as certified at (d, eps) when, with probability at least 1 - alpha over
the draws for this row, NO change of at most d fields to other symbols of their alphabets together with a change of at
most eps (l2, in training standard deviations) of the numbers moves g to the wrong side of 1/2: above for rows whose
true label is >50K (side "above"), below for the others (side "below"). The side is given by the label and not
chosen on the draws, so alpha is spent once per row; one sample serves all d. In use, where labels are unknown, both
sides would have to be asked, at alpha/2 each.

The gap: the exact worst case of the unsmoothed SVM, in closed form, and the majority vote under that very attack,
estimated on some rows from 500 draws each, which bounds from above what any certificate for the smoothed classifier
could claim (as an estimate: rows near a tie may fall on either side).

Counts are saved as each (sigma, beta) is done; a second call with the same settings goes on from there. A finished
result is never overwritten. See `_adult_data.py` for missing values and unseen symbols.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import _common as common
import jax
import numpy as np
from _adult_data import NUMERIC, Adult, Rows, load
from _adult_figures import draw_figures
from _adult_model import (
    LinearModel,
    accuracy_under_attack,
    attack,
    correct,
    joint_classifier,
    train,
    votes_of_each,
)

import hybrid_rs_jax as hrs
from hybrid_rs_jax._files import atomic_file, json_text
from hybrid_rs_jax._text import floor_text
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.kernels.record import describe_noise
from hybrid_rs_jax.report.progress import progress_bar

BUDGETS = (0, 1, 2, 3)
TAU = 0.5
MODELS = ("plain", "noise-trained")
EPSILONS = np.round(np.linspace(0.0, 4.0, 81), 2)
ATTACK_EPSILONS = np.round(np.linspace(0.0, 4.0, 9), 2)
ATTACK_SAMPLES = 500
#: A certificate counts as contradicted where the attacked score is wrong at this risk.
CONTRADICTION_RISK = 1e-6


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return common.start("adult.py", run, parser().parse_args(argv))


def parser() -> argparse.ArgumentParser:
    """Flags."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for result.json, figures and counts"
    )
    made.add_argument("--data", type=Path, metavar="FOLDER", help="folder with adult.data and adult.test, plain or .gz")
    made.add_argument("--seed", type=int, default=0, help="seed of all noise (default: %(default)s)")
    made.add_argument("--rows", type=int, default=5000, help="test rows, from the top (default: %(default)s)")
    made.add_argument("--samples", type=int, default=10_000, help="noisy copies per row (default: %(default)s)")
    made.add_argument(
        "--sigma", type=float, nargs="+", default=[0.5, 1.0], help="noise on the numbers (default: 0.5 1)"
    )
    made.add_argument(
        "--beta", type=float, nargs="+", default=[0.25, 0.5, 0.75], help="replacement probability (default: .25 .5 .75)"
    )
    made.add_argument("--alpha", type=float, default=0.01, help="risk level per row (default: %(default)s)")
    made.add_argument("--balanced", action="store_true", help="weigh both classes equally in training")
    made.add_argument("--attack-rows", type=int, default=200, help="rows that are attacked (default: %(default)s)")
    made.add_argument("--batch-size", type=int, default=50_000, help="noisy copies per step (default: %(default)s)")
    return made


def run(args: argparse.Namespace) -> None:
    """Train, sample, certify, attack, write."""
    check(args)
    adult = load(args.data)
    if not 1 <= args.attack_rows <= args.rows <= len(adult.test):
        raise BadInputError(
            f"--attack-rows and --rows must satisfy 1 <= attack-rows <= rows <= {len(adult.test)}, "
            f"the usable test rows, got {args.attack_rows} and {args.rows}."
        )
    settings = settings_of(args, adult)
    args.out.mkdir(parents=True, exist_ok=True)
    target = args.out / "result.json"
    if target.exists():
        if json.loads(target.read_text(encoding="utf-8"))["settings"] != settings:
            raise BadInputError(f"{target} is a result of other settings; choose another folder.")
        print(f"{target} is finished and left as it is.")
        return
    rows = adult.test.first(args.rows)
    results = []
    for sigma, beta in itertools.product(args.sigma, args.beta):
        results += measure(args, adult, rows, sigma, beta)
        for result in results[-len(MODELS) :]:
            print(summary(result), flush=True)
    record = {
        "settings": settings,
        "statement": statement(args.alpha),
        "versions": versions(),
        "data": data_facts(adult, rows),
        "epsilons": EPSILONS.tolist(),
        "attack_epsilons": ATTACK_EPSILONS.tolist(),
        "results": results,
    }
    draw_figures(record, args.out)
    with atomic_file(target) as temporary:
        temporary.write_text(json_text(record) + "\n", encoding="utf-8")
    print(f"Wrote {target} and the figures beside it.")


def check(args: argparse.Namespace) -> None:
    """Raise one sentence for a flag out of range."""
    for name, least in (("samples", 1), ("rows", 1), ("attack_rows", 1), ("batch_size", 1), ("seed", 0)):
        if not least <= getattr(args, name) < 2**31:
            flag = name.replace("_", "-")
            raise BadInputError(f"--{flag} must be an integer in {least}..{2**31 - 1}, got {getattr(args, name)}.")
    for beta in args.beta:
        if not 0 < beta < 1:
            raise BadInputError(f"--beta must lie in (0, 1), got {beta}.")
    for sigma in args.sigma:
        if not 0 < sigma < 1e6:
            raise BadInputError(f"--sigma must lie in (0, 1e6), got {sigma}.")
    if not 0 < args.alpha < 1:
        raise BadInputError(f"--alpha must lie in (0, 1), got {args.alpha}.")


def settings_of(args: argparse.Namespace, adult: Adult) -> dict[str, Any]:
    """Everything that result.json depends on."""
    names = ("seed", "rows", "samples", "sigma", "beta", "alpha", "balanced", "attack_rows")
    fixed = {"budgets": list(BUDGETS), "tau": TAU, "attack_samples": ATTACK_SAMPLES, "data_sha256": adult.digests}
    return {name: getattr(args, name) for name in names} | fixed


def measure(args: argparse.Namespace, adult: Adult, rows: Rows, sigma: float, beta: float) -> list[dict[str, Any]]:
    """All results at one (sigma, beta), one per model; what was sampled before is read back."""
    smoothing = hrs.HybridSmoothing(hrs.CategoricalKernel(beta, adult.cardinalities), sigma, step=sigma / 1024)
    keys = dict(zip(("train", "sample", "attack"), jax.random.split(jax.random.key(args.seed), 3), strict=True))
    models = [
        train(adult.train, adult.cardinalities, noise, keys["train"], balanced=args.balanced)
        for noise in (None, smoothing)
    ]
    # draws are votes of these very weights: another version of scikit-learn may train others
    weights = [hashlib.sha256(np.r_[m.symbols, m.numeric, m.bias].tobytes()).hexdigest() for m in models]
    same = {
        "sigma": sigma,
        "beta": beta,
        "noise": describe_noise(smoothing, adult.train.numeric.shape[1]),
        "seed": args.seed,
        "weights_sha256": weights,
        "data_sha256": adult.digests,
    }
    drawn = saved(
        args.out / f"counts-sigma{sigma:g}-beta{beta:g}.npz",
        same | {"rows": len(rows), "samples": args.samples},
        lambda: sampled(models, rows, smoothing, args.samples, keys["sample"], args.batch_size),
    )
    some = rows.first(args.attack_rows)
    attacked = saved(
        args.out / f"attack-sigma{sigma:g}-beta{beta:g}.npz",
        same | {"rows": len(some), "samples": ATTACK_SAMPLES, "budgets": BUDGETS, "eps": ATTACK_EPSILONS.tolist()},
        lambda: sampled_under_attack(models, some, smoothing, keys["attack"], args.batch_size),
    )
    return [
        {"model": name, "sigma": sigma, "beta": beta}
        | result_of(models[m], rows, smoothing, drawn["votes"][:, m], attacked["votes"][m], args)
        | {"seconds": {part: timing(found) for part, found in (("sample", drawn), ("attack", attacked))}}
        for m, name in enumerate(MODELS)
    ]


def sampled(
    models: list[LinearModel], rows: Rows, smoothing: hrs.HybridSmoothing, n: int, key: jax.Array, batch_size: int
) -> dict[str, Any]:
    """Votes for >50K of each model among n noisy copies of each row, int64[B, M]; wall and CPU seconds."""
    numbers = rows.numeric.astype(np.float32)[:, None, None, :]
    wall, cpu = time.perf_counter(), time.process_time()
    with progress_bar(f"sigma {smoothing.sigma:g}", n * len(rows), "copies", log=True) as progress:
        counts = hrs.sample_counts(
            joint_classifier(models),
            rows.tokens,
            numbers,
            smoothing,
            n,
            key,
            classes=2 ** len(models),
            batch_size=batch_size,
            progress=progress,
        )
    return {
        "votes": votes_of_each(counts, len(models)),
        "seconds": np.array([time.perf_counter() - wall, time.process_time() - cpu]),
        "copies": np.array(n * len(rows)),
    }


def sampled_under_attack(
    models: list[LinearModel], rows: Rows, smoothing: hrs.HybridSmoothing, key: jax.Array, batch_size: int
) -> dict[str, Any]:
    """Votes of each model on copies of the rows attacked against it, int64[M, B, D, E]."""
    hit = [attack(m, rows, d, float(eps)) for m in models for d in BUDGETS for eps in ATTACK_EPSILONS]
    stacked = Rows(
        np.concatenate([part.tokens for part in hit]),
        np.concatenate([part.numeric for part in hit]),
        np.concatenate([part.positive for part in hit]),
    )
    drawn = sampled(models, stacked, smoothing, ATTACK_SAMPLES, key, batch_size)
    shape = (len(models), len(BUDGETS), len(ATTACK_EPSILONS), len(rows), len(models))
    votes = drawn["votes"].reshape(shape)
    return drawn | {"votes": np.stack([np.moveaxis(votes[m, ..., m], 2, 0) for m in range(len(models))])}


def result_of(
    model: LinearModel,
    rows: Rows,
    smoothing: hrs.HybridSmoothing,
    votes: np.ndarray,
    attacked: np.ndarray,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Accuracies, certified curves and attack of one model at one (sigma, beta)."""
    begin = time.perf_counter()
    radius, curves = certified(votes, args.samples, rows.positive, smoothing, args.alpha)
    certify_seconds = time.perf_counter() - begin
    some = rows.first(len(attacked))
    right = correct(attacked, ATTACK_SAMPLES, some.positive[:, None, None])
    wrong = np.where(some.positive[:, None, None], ATTACK_SAMPLES - attacked, attacked)
    refuted = np.asarray(hrs.clopper_pearson(wrong, ATTACK_SAMPLES, CONTRADICTION_RISK)) > TAU
    claimed = radius[: len(some), :, None] >= ATTACK_EPSILONS
    all_agree = np.array([args.samples])
    best = common.certified(all_agree, args.samples, smoothing, len(NUMERIC), BUDGETS, tau=TAU, alpha=args.alpha)
    return {
        "base_accuracy": model.accuracy(rows),
        "smoothed_accuracy": float(correct(votes, args.samples, rows.positive).mean()),
        "smoothed_accuracy_by_label": by_label(correct(votes, args.samples, rows.positive), rows.positive),
        "certified_accuracy": curves,
        "largest_possible_radius": best.radius[0].tolist(),
        "needed_samples": best.needed_samples().tolist(),
        "certify_s": certify_seconds,
        "attack": {
            "base_accuracy": accuracy_under_attack(model, rows, BUDGETS, EPSILONS).tolist(),
            "smoothed_accuracy_some_rows": right.mean(axis=0).tolist(),
            "certified_accuracy_some_rows": claimed.mean(axis=0).tolist(),
            "rows": len(some),
            "certificates_tried": int(claimed.sum()),
            "certificates_contradicted": int((claimed & refuted).sum()),
        },
    }


def certified(
    votes: np.ndarray, n: int, positive: np.ndarray, smoothing: hrs.HybridSmoothing, alpha: float
) -> tuple[np.ndarray, dict[str, list[list[float]]]]:
    """Radii float64[B, D] (-1: not even eps = 0) and certified accuracy [D, E] of all rows and of each label."""
    radius, total, curves = np.empty((len(votes), len(BUDGETS))), 0.0, {}
    for label, side, chosen in ((">50K", "above", positive), ("<=50K", "below", ~positive)):
        if chosen.any():
            certificate = common.certified(
                votes[chosen], n, smoothing, len(NUMERIC), BUDGETS, tau=TAU, alpha=alpha, side=side
            )
            radius[chosen] = certificate.radius
            share = certificate.certified_accuracy(EPSILONS)
            total, curves[label] = total + share * chosen.mean(), share.tolist()
    return radius, {"all": np.asarray(total).tolist()} | curves


def by_label(right: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    """Share of right rows for each label that occurs."""
    groups = {">50K": positive, "<=50K": ~positive}
    return {label: float(right[chosen].mean()) for label, chosen in groups.items() if chosen.any()}


def saved(path: Path, settings: Mapping[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `compute` gives, from `path` where an earlier call with the same settings left it.

    Raises:
      BadInputError: if the file belongs to other settings: it is never overwritten.
    """
    text = json.dumps(settings, sort_keys=True)
    if path.exists():
        with np.load(path) as file:
            if str(file["settings"]) != text:
                raise BadInputError(f"{path} holds draws of other settings; choose another folder.")
            return {name: file[name] for name in file.files if name != "settings"}
    arrays = compute()
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, settings=np.array(text), **arrays)
    return arrays


def timing(found: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Wall and CPU seconds of one sampling, both models together, and the copies drawn."""
    wall, cpu = found["seconds"].tolist()
    return {
        "copies": int(found["copies"]),
        "wall_s": wall,
        "cpu_s": cpu,
        "copies_per_wall_s": int(found["copies"]) / wall,
    }


def summary(result: Mapping[str, Any]) -> str:
    """One line for the terminal; shares floored."""
    at = [int(np.argmin(abs(EPSILONS - eps))) for eps in (0.0, 0.5, 1.0, 1.5)]
    cells = [
        f"d={d}: " + "/".join(floor_text(100 * result["certified_accuracy"]["all"][i][e], 1) for e in at)
        for i, d in enumerate(BUDGETS)
    ]
    return (
        f"sigma={result['sigma']:g} beta={result['beta']:g} {result['model']:13s} base "
        f"{floor_text(100 * result['base_accuracy'], 1)} smoothed {floor_text(100 * result['smoothed_accuracy'], 1)}; "
        f"certified % at eps 0/0.5/1/1.5: {'; '.join(cells)}; contradicted "
        f"{result['attack']['certificates_contradicted']} of {result['attack']['certificates_tried']}"
    )


def statement(alpha: float) -> dict[str, str]:
    """The guarantee in words."""
    return {
        "classifier": "the smoothed one: >50K where more than half of the noisy copies are called >50K",
        "claim": "no change of at most d fields and eps in l2 of the standardized numbers moves the score across 1/2",
        "risk": f"holds per row with probability at least {1 - alpha:g} over the draws, all d and eps at once",
        "unit": "eps and sigma in standard deviations of the training rows, per numeric feature",
    }


def data_facts(adult: Adult, rows: Rows) -> dict[str, Any]:
    """What is needed to read an accuracy: sizes, alphabets, and what a constant answer would reach."""
    return {
        "original_files": adult.is_original,
        "training_rows": len(adult.train),
        "test_rows": len(rows),
        "test_rows_left_out": adult.test.left_out,
        "cardinalities": list(adult.cardinalities),
        "accuracy_of_always_<=50K": float(np.mean(~rows.positive)),
    }


def versions() -> dict[str, str | int | None]:
    """Machine and packages."""
    packages = {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy", "scipy", "scikit-learn")}
    here = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    return packages | here | {"hybrid_rs_jax": hrs.__version__, "device": jax.devices()[0].platform}


if __name__ == "__main__":
    sys.exit(main())
