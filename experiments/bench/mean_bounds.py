"""How close do lower confidence bounds for the mean of a score in [0, 1] come to it? Six laws, five bounds.

    python experiments/bench/mean_bounds.py --out mean_bounds.json

  betting     `mean_lower_bound`: a mixture of gamblers, valid after every number of draws at once
  binned      the same from a histogram of 1,024 bins, as a ledger holds the draws
  band        the integral of the band for the law of the score, which certificates of features use
  bernstein   mean - sqrt(2 V log(2/alpha) / n) - 7 log(2/alpha) / (3 (n - 1)) (Maurer and Pontil, 2009), fixed n
  hoeffding   mean - sqrt(log(1/alpha) / (2 n)), fixed n

Said for each: how far below the true mean it lies on average, and how often it lies above it (that share is to be at
most alpha, up to chance). Beside them stands how far `mean_lower_bound` is from a second implementation on the first
sample: the capital from its definition, draw by draw, on grids of means that close in on the last one that reaches
1/alpha. On fair coins Hoeffding is the closest of all that hold for every law.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import hybrid_rs_jax as hrs
from hybrid_rs_jax._checks import check_risk, check_whole
from hybrid_rs_jax._files import atomic_file, json_text
from hybrid_rs_jax.confidence import mean_lower_bound_from_histogram
from hybrid_rs_jax.confidence.score_law import ScoreLaw, law_band
from hybrid_rs_jax.errors import library_sentences

Bound = Callable[[np.ndarray, float], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Law:
    """A law on [0, 1]: its mean, and draws of it."""

    mean: float
    draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def coins(p: float) -> Law:
    """0 or 1."""
    return Law(p, lambda random, shape: (random.random(shape) < p).astype(np.float64))


def beta(mean: float, deviation: float) -> Law:
    """The Beta law of this mean and standard deviation."""
    k = mean * (1 - mean) / deviation**2 - 1
    return Law(mean, lambda random, shape: random.beta(mean * k, (1 - mean) * k, shape))


LAWS = {
    "Bernoulli(.5)": coins(0.5),
    "Bernoulli(.95)": coins(0.95),
    "Beta, .9786, sd .01": beta(0.9786, 0.01),
    "Beta, .95, sd .05": beta(0.95, 0.05),
    "uniform": Law(0.5, lambda random, shape: random.random(shape)),
    "point at .9": Law(0.9, lambda random, shape: np.full(shape, 0.9)),
}


def betting(draws: np.ndarray, alpha: float) -> np.ndarray:
    """The package's bound."""
    return np.asarray(hrs.mean_lower_bound(draws, alpha))


def binned(draws: np.ndarray, alpha: float) -> np.ndarray:
    """The package's bound from 1,024 bins."""
    law = ScoreLaw.of(draws)
    return np.asarray(mean_lower_bound_from_histogram(law.counts, law.edges[:-1], alpha))


def band(draws: np.ndarray, alpha: float) -> np.ndarray:
    """`int P(S > t) dt`, by the band."""
    found = law_band(ScoreLaw.of(draws), alpha)
    return np.asarray(found.width @ found.level)


def bernstein(draws: np.ndarray, alpha: float) -> np.ndarray:
    """Empirical Bernstein."""
    n, log = draws.shape[1], math.log(2 / alpha)
    spread = np.sqrt(2 * draws.var(axis=1, ddof=1) * log / n)
    return np.asarray(np.maximum(draws.mean(axis=1) - spread - 7 * log / (3 * (n - 1)), 0))


def hoeffding(draws: np.ndarray, alpha: float) -> np.ndarray:
    """Hoeffding."""
    return np.maximum(draws.mean(axis=1) - math.sqrt(math.log(1 / alpha) / (2 * draws.shape[1])), 0)


BOUNDS: dict[str, Bound] = {
    "betting": betting,
    "binned": binned,
    "band": band,
    "bernstein": bernstein,
    "hoeffding": hoeffding,
}


def by_definition(draws: np.ndarray, alpha: float, points: int = 33) -> float:
    """The betting bound of one row of draws: nodes, weights and capital anew, the root between points of a grid."""
    stakes = [math.sin(math.pi * (2 * j + 1) / 256) ** 2 for j in range(64)]
    weighed = [(1.0, 0.5), *((u, 1 / 128) for u in stakes)]

    def capital(mean: float) -> float:
        with np.errstate(divide="ignore"):
            logs = [math.log(w) + float(np.log1p(u * (draws / mean - 1)).sum()) for u, w in weighed]
        return float(np.logaddexp.reduce(logs))

    low, high = 0.0, float(draws.mean())
    while high - low > 1e-11 * high:
        grid = np.linspace(low, high, points)[1:-1]
        reached = [mean for mean in grid if capital(mean) >= -math.log(alpha)]
        width = (high - low) / (points - 1)
        low = reached[-1] if reached else low
        high = low + width
    return low


def measure(name: str, n: int, repetitions: int, alpha: float, seed: int) -> dict[str, float | str]:
    """One law under all bounds."""
    law, random = LAWS[name], np.random.default_rng(seed)
    draws = law.draw(random, (repetitions, n))
    row: dict[str, float | str] = {"law": name}
    for key, bound in BOUNDS.items():
        start = time.process_time()
        found = bound(draws, alpha)
        row[f"{key}_ms"] = (time.process_time() - start) / repetitions * 1e3
        row[f"{key}_short"] = float((law.mean - found).mean())
        row[f"{key}_wrong"] = float((found > law.mean).mean())
    for key in ("hoeffding", "bernstein"):
        row[f"{key}_over_betting"] = float(row[f"{key}_short"]) / float(row["betting_short"])
    row["second_implementation_difference"] = abs(by_definition(draws[0], alpha) - float(betting(draws[:1], alpha)[0]))
    return row


def show(rows: Sequence[dict[str, float | str]]) -> None:
    """How far below the mean, and how often above it, as a table."""
    names = list(BOUNDS)
    print(f"{'below the mean by':20}" + "".join(f"{name:>11}" for name in names) + f"{'second':>11}")
    for row in rows:
        short = "".join(f"{row[f'{name}_short']:11.5f}" for name in names)
        print(f"{row['law']:20}{short}{row['second_implementation_difference']:11.1e}")
    print(f"{'above the mean':20}" + "".join(f"{name:>11}" for name in names))
    for row in rows:
        print(f"{row['law']:20}" + "".join(f"{row[f'{name}_wrong']:11.3f}" for name in names))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--n", type=int, default=10_000, help="draws (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=200, help="samples of each law (default: %(default)s)")
    parser.add_argument("--alpha", type=float, default=0.01, help="risk (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    args = parser.parse_args(argv)
    with library_sentences():
        n, repetitions = check_whole("n", args.n, 2), check_whole("repetitions", args.repetitions, 1)
        alpha, seed = float(check_risk(args.alpha)), check_whole("seed", args.seed, 0)
    rows = [measure(name, n, repetitions, alpha, seed) for name in LAWS]
    show(rows)
    if args.out is not None:
        settings = {"n": n, "repetitions": repetitions, "alpha": alpha, "seed": seed}
        with atomic_file(args.out, force=True) as temporary:
            temporary.write_text(json_text({"settings": settings, "rows": rows}) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
