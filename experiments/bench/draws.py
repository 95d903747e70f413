"""How many draws does a certificate cost? Early stopping against fixed samples and published sequential rules.

    python experiments/bench/draws.py --out experiments/out/bench_draws

For the paper's text kernel (beta 0.25, 32,000 symbols, tau 4.6e-5, alpha 0.01) and each budget (d, eps/sigma) the
question is "is the smoothed score p at least p*?". Every rule gets at most 10,000 draws. Nothing is simulated: a
dynamic programme over draws and failures gives each rule's error at p* and the law of its draws at every p. Rules:

  ours       `SequentialTest`: alpha spending with a binding futility bound
  fixed      10,000 draws; and "minimal": the smallest fixed sample with power 0.95 at that very p, which nobody knows
  robbins    beta-binomial mixture, uniform over (p*, 1]: stop once its likelihood ratio to p* exceeds 1/alpha
  betting    the Krichevsky-Trofimov bettor against p*: its capital is the mixture over Beta(1/2, 1/2)
  sprt       Wald's likelihood ratio of the one alternative 1 - p = (1 - p*)/2 to p*, at level 1/alpha
  union      Clopper-Pearson at geometric looks, alpha shared equally
  wald       log(1/alpha) / KL(p || p*): no test of power one and error alpha needs fewer draws on average

A rule without futility never gives up: it is charged 10,000 draws where it does not stop.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy import optimize, special, stats

import hybrid_rs_jax as hrs
from hybrid_rs_jax.certificate.bounds import required_bound
from hybrid_rs_jax.confidence import SequentialTest, Verdict
from hybrid_rs_jax.confidence._paths import Odds, Outcomes, Walk, ordered

TAU, BETA, VOCAB, ALPHA, MOST = 4.6e-5, 0.25, 32_000, 0.01, 10_000
BUDGETS, RHOS = range(1, 6), (0.5, 1.0, 2.0)
PROPORTIONS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999, 1.0)
POWER, PLOTTED = 0.95, 1.0
Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]  # log evidence against p*, from n and failures


def robbins(p: float, q: float) -> Rule:
    def log_evidence(n: np.ndarray, f: np.ndarray) -> np.ndarray:
        k = n - f
        mixture = special.betaln(k + 1, f + 1) + np.log(special.betainc(f + 1, k + 1, q)) - math.log(q)
        return np.asarray(mixture - k * math.log(p) - f * math.log(q))

    return log_evidence


def betting(p: float, q: float) -> Rule:
    def log_evidence(n: np.ndarray, f: np.ndarray) -> np.ndarray:
        k = n - f
        mixture = special.betaln(k + 0.5, f + 0.5) - special.betaln(0.5, 0.5)
        # only evidence for MORE than p* counts
        return np.where(f < n * q, mixture - k * math.log(p) - f * math.log(q), -np.inf)

    return log_evidence


def sprt(p: float, q: float) -> Rule:
    return lambda n, f: (n - f) * math.log((1 - q / 2) / p) + f * math.log(0.5)


def evidence_boundary(log_evidence: Rule) -> tuple[np.ndarray, np.ndarray]:
    """The looks at which one more failure is forgiven, and how many are."""
    n = np.arange(1, MOST + 1)
    low, high = np.full(n.size, -1), n.copy()
    with np.errstate(divide="ignore"):
        while np.any(high - low > 1):
            middle = (low + high) // 2
            enough = (middle >= 0) & (log_evidence(n, np.maximum(middle, 0)) >= math.log(1 / ALPHA))
            low, high = np.where(enough, middle, low), np.where(enough, high, middle)
    return thinned(n, low)


def union_boundary(p: float, growth: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Clopper-Pearson from the first look at which unanimous draws suffice, with equal shares of alpha."""
    count = 1
    while True:
        # the first look depends on the share, and the share on the number of looks
        first = math.ceil(math.log(ALPHA / count) / math.log(p))
        looks = [first]
        while first <= MOST and looks[-1] < MOST:
            looks.append(min(math.ceil(looks[-1] * growth), MOST))
        if len(looks) <= count:
            break
        count = len(looks)
    n = np.array(looks)
    most = [int(np.sum(stats.binom.cdf(np.arange(m + 1), m, 1 - p) <= ALPHA / count)) - 1 for m in looks]
    return n, np.array(most)


def thinned(n: np.ndarray, most: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keep = np.flatnonzero(np.diff(np.maximum.accumulate(most), prepend=-1) > 0)
    return n[keep], most[keep]


def stopping_law(looks: np.ndarray, most: np.ndarray, null: Odds) -> Outcomes:
    """Exact law of the stops of a rule without futility; tails below e^-75 of the paths are left out."""
    walk = Walk(null, negligible=-75.0)
    found = [(MOST, np.empty(0), np.empty(0))]  # a rule may be unable to stop at all
    for n, c in zip(looks.tolist(), most.tolist(), strict=True):
        walk.advance(n)
        stop = walk.failures <= c
        found.append((n, walk.failures[stop], walk.log_mass[stop]))
        walk.stop(c, n + 1)
    return ordered({Verdict.REACHED: [*found[1:], found[0]]}, null)


def cost(law: Outcomes, odds: Odds) -> dict[str, float]:
    """Certified share, mean and median draws; a rule that has not stopped has drawn them all."""
    mass = law.probability(odds)
    certified = float(mass.sum())
    below = np.cumsum(mass)
    median = int(law.n[np.searchsorted(below, 0.5)]) if certified > 0.5 else MOST
    return {"certified": certified, "mean": float(mass @ law.n) + MOST * (1 - certified), "median": median}


def minimal_fixed(p_star: float, p: float) -> int | None:
    """Smallest fixed sample that certifies p with probability 0.95, None above 10,000."""
    n = np.arange(1, MOST + 1)
    allowed = stats.binom.ppf(ALPHA, n, 1 - p_star).astype(int)
    allowed -= stats.binom.cdf(allowed, n, 1 - p_star) > ALPHA
    good = (allowed >= 0) & (stats.binom.cdf(allowed, n, 1 - p) >= POWER)
    return int(n[np.argmax(good)]) if good.any() else None


def wald(p: float, p_star: float, q_star: float) -> float:
    kl = special.xlogy(p, p / p_star) + special.xlogy(1 - p, (1 - p) / q_star)
    return math.log(1 / ALPHA) / kl


def measure(d: int, rho: float) -> dict[str, Any]:
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(BETA, VOCAB), sigma=1.0)
    need = required_bound(d, rho, smoothing, TAU)
    p_star, q_star = float(need.p), float(need.complement)
    least = int(hrs.required_samples(d, rho, smoothing, TAU, ALPHA))
    row: dict[str, Any] = {"d": d, "rho": rho, "p_star": p_star, "complement_star": q_star, "least_draws": least}
    if least > MOST:
        return row | {"skipped": f"needs at least {least} draws"}
    start = time.perf_counter()
    plan = SequentialTest(p_star, ALPHA, MOST, complement_star=q_star)
    row["design_s"] = time.perf_counter() - start
    null = Odds.of(p_star, q_star)
    evidence = {"robbins": robbins, "betting": betting, "sprt": sprt}
    laws = {name: stopping_law(*evidence_boundary(rule(p_star, q_star)), null) for name, rule in evidence.items()}
    laws["union"] = stopping_law(*union_boundary(p_star), null)
    row["error"] = {"ours": plan.error, **{name: float(law.probability(null).sum()) for name, law in laws.items()}}
    row["alternative"] = plan.alternative
    proportions = sorted({*PROPORTIONS, round(p_star + 0.01, 9)} if p_star < 0.99 else PROPORTIONS)
    row["points"] = [point(plan, laws, p) for p in proportions]
    if rho == PLOTTED:
        failures = q_star * np.geomspace(0.97, 1e-3, 45)
        row["curve"] = [point(plan, laws, 1 - q) for q in failures.tolist()]
    return row


def point(plan: SequentialTest, laws: dict[str, Outcomes], p: float) -> dict[str, Any]:
    ours = plan.summary(p)
    found: dict[str, Any] = {"p": p, "ours": {"certified": ours.certified, "mean": ours.mean, "median": ours.median}}
    if p > plan.p_star:
        found |= {name: cost(law, Odds.of(p)) for name, law in laws.items()}
        found["minimal"] = minimal_fixed(plan.p_star, p)
        found["wald"] = wald(p, plan.p_star, float(plan.complement_star or 1 - plan.p_star))
    return found


def show(rows: list[dict[str, Any]]) -> None:
    names = ("ours", "robbins", "betting", "sprt", "union")
    print(f"alpha {ALPHA}, at most {MOST} draws; mean draws (median), exact")
    for row in rows:
        title = f"\nd = {row['d']}, eps/sigma = {row['rho']}: p* = {row['p_star']:.6f}"
        if "skipped" in row:
            print(f"{title}: skipped, {row['skipped']}, so 10,000 can never certify it")
            continue
        spent = ", ".join(f"{name} {row['error'][name] / ALPHA:.2f}" for name in names)
        print(f"{title}, unanimous minimum {row['least_draws']}; error / alpha: {spent}")
        print(
            f"{'p':>9} {'certified':>10}"
            + "".join(f"{name:>16}" for name in (*names, "minimal", "wald"))
            + "  fixed/ours"
        )
        for at in row["points"]:
            cells = [f"{at[name]['mean']:.0f} ({at[name]['median']})" if name in at else "-" for name in names]
            cells += [str(at.get("minimal") or "-"), f"{at['wald']:.0f}" if "wald" in at else "-"]
            ratio = MOST / at["ours"]["mean"]
            line = "".join(f"{cell:>16}" for cell in cells)
            other = f"{at['robbins']['certified']:.4f}" if "robbins" in at else "-"
            print(f"{at['p']:>9.6g} {at['ours']['certified']:>10.4f} {other:>10}{line} {ratio:>11.1f}")


def target(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The aim at d <= 2: 50 times fewer draws at p >= p* + 0.01 or for unanimous draws, 0.8 of alpha spent."""
    small = [row for row in rows if row["d"] <= 2 and "points" in row]
    above = [(row, at) for row in small for at in row["points"] if at["p"] >= row["p_star"] + 0.01 - 1e-9]
    reached = [(row, at) for row, at in above if MOST / at["ours"]["mean"] >= 50]
    missed = [(row, at) for row, at in above if MOST / at["wald"] >= 50 > MOST / at["ours"]["mean"]]
    impossible = [(row, at) for row, at in above if MOST / at["wald"] < 50]
    return {
        "points": len(above),
        "at_least_50x": len(reached),
        "ruled_out_by_wald": len(impossible),
        "possible_but_missed": [
            {"d": row["d"], "rho": row["rho"], "p": at["p"], "ours": MOST / at["ours"]["mean"]} for row, at in missed
        ],
        "unanimous": {
            f"d={row['d']}, eps/sigma={row['rho']}": MOST / at["ours"]["mean"] for row, at in above if at["p"] == 1
        },
        "fifty_times_from_p": {f"d={row['d']}, eps/sigma={row['rho']}": fifty_times(row) for row in small},
        "least_spent": min(row["error"]["ours"] for row in rows if "error" in row) / ALPHA,
    }


def fifty_times(row: dict[str, Any]) -> dict[str, float | None]:
    """The p from which on the mean is at most a fiftieth of 10,000: ours, and Wald's bound."""
    plan = SequentialTest(row["p_star"], ALPHA, MOST, complement_star=row["complement_star"])

    def crossing(draws: Callable[[float], float]) -> float | None:
        gap = lambda p: draws(p) - MOST / 50
        low, high = row["p_star"] + 1e-6, 1 - 1e-12
        return float(optimize.brentq(gap, low, high)) if gap(high) < 0 < gap(low) else None

    # beyond the alternative the mean falls with p
    return {
        "ours": crossing(lambda p: plan.summary(p).mean if p > row["alternative"] else float(MOST)),
        "wald": crossing(lambda p: wald(p, row["p_star"], row["complement_star"])),
    }


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    shown = [row for row in rows if "curve" in row][:4]
    figure, axes = plt.subplots(2, 2, figsize=(10.5, 7.8), constrained_layout=True, sharey=True)
    styles = {
        "ours": ("this package", "C3", 2.6),
        "robbins": ("mixture (Robbins)", "C0", 1.2),
        "betting": ("betting (KT)", "C1", 1.2),
        "sprt": ("SPRT, one alternative", "C2", 1.2),
        "union": ("Clopper-Pearson, union bound", "C4", 1.2),
    }
    for axis, row in zip(axes.flat, shown, strict=False):
        failures = [1 - at["p"] for at in row["curve"]]
        for name, (label, colour, width) in styles.items():
            axis.plot(failures, [at[name]["mean"] for at in row["curve"]], color=colour, lw=width, label=label)
        minimal = [at["minimal"] or math.nan for at in row["curve"]]
        axis.plot(failures, minimal, "k:", lw=1.2, label=f"smallest fixed n of power {POWER}, if p were known")
        axis.plot(failures, [at["wald"] for at in row["curve"]], "--", color="grey", lw=1.2, label="Wald's lower bound")
        axis.axhline(MOST, color="k", lw=0.8, label=f"fixed n = {MOST:,}")
        axis.axvline(row["complement_star"], color="grey", lw=0.8)
        axis.set(xscale="log", yscale="log", ylim=(10, 2 * MOST), xlabel="1 - p, share of failing noisy copies")
        axis.set(
            ylabel="mean number of draws", title=f"d = {row['d']}, eps/sigma = {PLOTTED:g}: p* = {row['p_star']:.5f}"
        )
        axis.invert_xaxis()
        axis.grid(alpha=0.25, which="both", lw=0.4)
    axes.flat[0].legend(fontsize=7.5)
    title = f"Draws until p >= p* is proved: alpha = {ALPHA}, at most {MOST:,} draws, exact. Vertical line: p = p*."
    figure.suptitle(title, fontsize=11)
    figure.savefig(file, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for result.json and draws.png")
    parser.add_argument("--seed", type=int, default=0, help="recorded only: nothing here is random")
    args = parser.parse_args()
    start = time.perf_counter()
    rows = [measure(d, rho) for d in BUDGETS for rho in RHOS]
    show(rows)
    aim = target(rows)
    print("\nAim at d <= 2:\n" + json.dumps(aim, indent=2))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        settings = {
            "tau": TAU,
            "beta": BETA,
            "vocab_size": VOCAB,
            "alpha": ALPHA,
            "max_samples": MOST,
            "seed": args.seed,
        }
        result = {"settings": settings, "wall_s": time.perf_counter() - start, "aim": aim, "rows": rows}
        (args.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        plot(rows, args.out / "draws.png")


if __name__ == "__main__":
    main()
