"""Conditional draws against ordinary ones: tokens certified and radius for draws per input, copies at run time.

    python experiments/conditional.py --out conditional

The demo guard on held-out unsafe inputs, an attack that appends up to d words and moves pixels. For a number of draws
per input in all, from 10 to 10,000, three ways of spending them on the budgets d = 0..8:

  ordinary     one sample for all budgets (the papers' way)
  conditional  for each budget draws in which the appended positions are always resampled, alpha split over the budgets
  both         most draws ordinary at half of alpha, a fortieth for each budget conditional

An adaptive attack then tries the certificates of `both` from inside, at .99 of the radius of each input and of every
token budget in turns, appending and anywhere in the suffix: each attacked input is scored on fresh draws, and flagged
where the upper confidence limit of its score is below the certified bound (risk of a true one: 1 % over all cases).

Then the copies that a filter "flag at one unsafe copy" needs per request, against d, for beta = .25, .5, .75, from
closed forms; and text alone, the fractional knapsack beside the 0-1 one, which takes each likelihood ratio whole.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import _common as common
import jax
import numpy as np

import hybrid_rs_jax as hrs
from hybrid_rs_jax import attacks
from hybrid_rs_jax.classifiers import DemoGuard
from hybrid_rs_jax.confidence import clopper_pearson_bound, copies_needed
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.results.counts import Counts
from hybrid_rs_jax.sampling.design import Design, design_draws

SIGMA, BETA, MAX_BUDGET = 0.25, 0.25, 8
THREATS = ("append", "suffix")
#: Share of the radius that the attacker is given, fresh draws that judge, risk that a true bound is flagged at all.
BORDER, FRESH, RISK = 0.99, 20_000, 0.01
DRAWS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
WAYS = ("ordinary", "conditional", "both")
COLOURS = dict(zip(WAYS, (common.ORANGE, common.GREEN, common.BLUE), strict=True))
#: The papers' alphabet, and the score that a filter may miss.
VOCABULARY, MISS = 32_000, 0.01
PLACES = int(demo.suffix_mask().sum())


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return common.start("conditional.py", run, parser().parse_args(argv))


def parser() -> argparse.ArgumentParser:
    """Flags."""
    made = common.new_parser(__doc__)
    made.add_argument("--inputs", type=int, default=60, help="unsafe inputs, from the first (default: %(default)s)")
    made.add_argument(
        "--attacked", type=int, default=20, help="inputs attacked under each threat (default: %(default)s)"
    )
    made.add_argument("--samples", type=int, default=DRAWS[-1], help="most draws per input (default: %(default)s)")
    return made


def run(args: argparse.Namespace) -> None:
    """Draw, certify each way at each number of draws, write."""
    common.check_whole(args, {"inputs": 1, "attacked": 1, "samples": DRAWS[0]})
    inputs = common.take_inputs(args.inputs)
    args.attacked = min(args.attacked, len(inputs))
    settings = {
        "seed": args.seed,
        "inputs": len(inputs),
        "samples": args.samples,
        "attacked": args.attacked,
        "sigma": SIGMA,
        "beta": BETA,
        "tau": common.TAU,
        "alpha": common.ALPHA,
        "budgets": list(range(MAX_BUDGET + 1)),
    }
    if common.is_finished(args.out, settings):
        return
    smoothing = hrs.HybridSmoothing(common.uniform(BETA), SIGMA)
    rows = []
    for draws in (n for n in DRAWS if n <= args.samples):
        for way in WAYS:
            found = certified(args, inputs, smoothing, way, draws)
            if found is not None:
                rows.append({"draws": draws, "way": way, **found})
    attacked = [under_attack(args, inputs.take(range(args.attacked)), smoothing, threat) for threat in THREATS]
    content = {"rows": rows, "attacked": attacked, "run_time": run_time(), "text_only": text_only()}
    draw_figure(args, settings, content)
    common.write_result(args.out, settings, content)
    print(summary(rows, attacked))


def certified(
    args: argparse.Namespace, inputs: demo.DemoInputs, smoothing: hrs.HybridSmoothing, way: str, draws: int
) -> dict[str, Any] | None:
    """Mean certified budget and mean radius at each budget; None where so few draws certify nothing by design."""
    delta = smoothing.total_variation(inputs.images[0].size)
    budgets = tuple(range(MAX_BUDGET + 1))
    if way == "ordinary":
        successes = drawn(args, inputs, smoothing, draws, None)
        counts = Counts(tuple(inputs.ids), successes, np.full_like(successes, draws))
    else:
        try:
            limits = (draws, MAX_BUDGET, PLACES, common.TAU, common.ALPHA)
            design = design_draws(way, smoothing, *limits, ordered=True, total_variation=delta)  # type: ignore[arg-type]
        except ValueError:
            return None
        counts = designed(args, inputs, smoothing, design, "append")
    result = common.certified_samples(counts, smoothing, inputs.images[0].size, budgets)
    return {
        "mean_budget": float(np.maximum(result.budget, 0).mean()),
        "certified": common.shares((result.radius >= 0).mean(axis=0)),
        "mean_radius": common.shares(np.maximum(result.radius, 0).mean(axis=0)),
    }


def designed(
    args: argparse.Namespace, inputs: demo.DemoInputs, smoothing: hrs.HybridSmoothing, design: Design, threat: str
) -> Counts:
    """Counts of a design, of each family of sets the least."""
    columns = [
        np.min([drawn(args, inputs, smoothing, part.draws, places) for places in part.sets or (None,)], axis=0)
        for part in design.parts
    ]
    successes = np.stack(columns, axis=1)
    n = np.broadcast_to(np.array([part.draws for part in design.parts]), successes.shape)
    return Counts(tuple(inputs.ids), successes, n, samples=design.samples)


def drawn(
    args: argparse.Namespace,
    inputs: demo.DemoInputs,
    smoothing: hrs.HybridSmoothing,
    n: int,
    places: tuple[int, ...] | None,
) -> np.ndarray:
    """Successes of n draws, with these places of the suffix forced; kept as they finish."""
    suffix = demo.suffix_mask()
    forced = None
    if places is not None:
        forced = np.zeros(suffix.shape, bool)
        forced[np.flatnonzero(suffix)[list(places)]] = True
    name = f"{len(inputs)}-{n}-{'ordinary' if places is None else 'forced-' + '-'.join(map(str, places))}"
    return common.drawn(args.out, name, smoothing, inputs, [suffix], n, args.seed, forced=forced)["successes"][0]


def under_attack(
    args: argparse.Namespace, inputs: demo.DemoInputs, smoothing: hrs.HybridSmoothing, threat: str
) -> dict[str, Any]:
    """Attacks at .99 of the radius, each input at another token budget; flagged, shown to hold, undecided."""
    delta = smoothing.total_variation(inputs.images[0].size)
    limits = (args.samples, MAX_BUDGET, PLACES, common.TAU, common.ALPHA)
    design = design_draws("both", smoothing, *limits, ordered=threat == "append", total_variation=delta)
    counts = designed(args, inputs, smoothing, design, threat)
    certificate = common.certified_samples(counts, smoothing, inputs.images[0].size, range(MAX_BUDGET + 1))
    largest = np.maximum((certificate.radius > 0).sum(axis=1) - 1, 0)
    d = np.array([1 + i % most if most else 0 for i, most in enumerate(largest.tolist())])
    rows = np.arange(len(inputs))
    epsilon = BORDER * np.maximum(certificate.radius[rows, d], 0.0)
    bound = np.array([certificate.worst_case(float(e))[i, d[i]] for i, e in enumerate(epsilon)])
    suffix, guard = demo.suffix_mask(), DemoGuard.load()
    keys = jax.random.split(jax.random.key(args.seed + 1), 2)
    found = attacks.attack(
        attacks.TableGuard(guard),
        inputs.tokens,
        inputs.images,
        smoothing,
        d,
        epsilon,
        keys[0],
        eligible=suffix,
        append_only=threat == "append",
    )
    fresh = hrs.sample_counts(guard, found.tokens, found.images, smoothing, FRESH, keys[1], eligible=suffix)
    judged = attacks.judge(fresh, FRESH, bound, RISK / (len(THREATS) * len(inputs)))
    return {
        "threat": threat,
        "cases": len(inputs),
        "d": d.tolist(),
        "epsilon": epsilon.tolist(),
        "bound": bound.tolist(),
        "clean": (counts.successes[:, 0] / counts.n[:, 0]).tolist(),
        "score": (fresh / FRESH).tolist(),
        "violations": int(np.sum(judged.violated)),
        "held": int(np.sum(judged.held)),
    }


def run_time() -> list[dict[str, Any]]:
    """Copies per request that a filter needs, if 10,000 conditional draws all succeed, at eps = sigma."""
    score = clopper_pearson_bound(10_000, 10_000, common.ALPHA)
    rows = []
    for beta in (0.25, 0.5, 0.75):
        smoothing = hrs.HybridSmoothing(hrs.Conditional(hrs.UniformKernel(beta, VOCABULARY)), SIGMA)
        budgets = list(range(MAX_BUDGET + 1))
        p, rest = (np.full(len(budgets), float(part)) for part in (score.p, score.complement))
        kept = hrs.worst_case_probability(p, budgets, SIGMA, smoothing, complement=rest)
        copies = [copies_needed(float(np.nextafter(score, 0)), MISS) for score in np.asarray(kept)]
        rows.append({"beta": beta, "kept": np.asarray(kept).tolist(), "copies": copies})
    return rows


def text_only() -> list[dict[str, Any]]:
    """Worst case of text alone: the fractional knapsack beside the 0-1 one, which takes each likelihood ratio whole.

    The 0-1 bound leaves out the ratio that fits in part only: it is sound, and below the fractional one.
    """
    kernel = hrs.UniformKernel(BETA, demo.VOCAB_SIZE)
    rows = []
    for p_a in (0.9, 0.99, 0.999):
        for d in (1, 2, 3):
            ratio = kernel.likelihood_ratio(d)
            fractional = float(hrs.worst_case_probability(p_a, d, 0.0, hrs.HybridSmoothing(kernel, None)))
            rows.append({"p_a": p_a, "d": d, "fractional": fractional, "zero_one": zero_one(ratio, p_a)})
    return rows


def zero_one(ratio: Any, p_a: float) -> float:
    """Adversarial mass of the atoms that fit whole into `p_a`, cheapest first."""
    order = np.argsort(ratio.log_ratio)
    clean, attacked = np.exp(ratio.log_p[order]), np.exp(ratio.log_q[order])
    room, value = p_a, 0.0
    for p, q in zip(clean, attacked, strict=True):
        if p > room:
            break
        room, value = room - p, value + q
    return float(value)


def draw_figure(args: argparse.Namespace, settings: dict[str, Any], content: dict[str, Any]) -> None:
    """Tokens certified and radius against draws; copies at run time against d."""
    figure, axes = common.new_figure(1, 3, (12.6, 4.2))
    left, middle, right = axes[0]
    for way in WAYS:
        rows = [row for row in content["rows"] if row["way"] == way]
        x = [row["draws"] for row in rows]
        left.plot(x, [row["mean_budget"] for row in rows], "o-", color=COLOURS[way], label=way)
        middle.plot(x, [row["mean_radius"][4] for row in rows], "o-", color=COLOURS[way], label=way)
    for ax, label in ((left, "mean certified d (eps = 0)"), (middle, "mean certified radius at d = 4")):
        ax.set(xscale="log", xlabel="draws per input in all", ylabel=label, ylim=(0, None))
    left.legend(frameon=False)
    for row, colour in zip(content["run_time"], (common.BLUE, common.GREEN, common.PURPLE), strict=True):
        right.plot(range(MAX_BUDGET + 1), row["copies"], "o-", color=colour, label=f"beta = {row['beta']}")
    right.axhline(100_000, color=common.SOFT, linewidth=1, linestyle=":")
    right.text(0, 115_000, "the papers' filter", fontsize=8.5, color=common.SOFT)
    right.set(yscale="log", xlabel="appended tokens d, eps = sigma", ylabel="copies per request")
    right.legend(frameon=False)
    where = f"{settings['inputs']} inputs, sigma {SIGMA}, beta {BETA}, alpha {common.ALPHA}"
    title = "Conditional draws certify more tokens from fewer draws, and let a filter run with fewer copies"
    common.save_figure(figure, args.out / "conditional.png", title, where)


def summary(rows: list[dict[str, Any]], attacked: list[dict[str, Any]]) -> str:
    """A line per number of draws and way, and per threat."""
    lines = [f"{row['draws']:>6} {row['way']:<12} mean d {row['mean_budget']:.2f}" for row in rows]
    lines += [
        f"{found['threat']}: {found['cases']} attacked, {found['violations']} violations, {found['held']} shown to "
        f"hold; median score {np.median(found['clean']):.3f} -> {np.median(found['score']):.3f}"
        for found in attacked
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
