"""Time the certifier against the paper's nested bisection, in one run on one machine.

    python experiments/bench/certifier.py --out experiments/out/bench_certifier.json

The baseline is appendix A.13 as it stands, plainly in NumPy: the (i, j) table of likelihood ratios, 60 bisections
of the radius, and 80 of the threshold inside each. Every figure of ours is a median over repeats after one warm-up
call; compilation is timed apart. Ratios within one run are what can be compared between machines.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.special import gammaln, ndtr

TAU, BETA, VOCAB = 4.6e-5, 0.25, 32_000


def paper_table(beta: float, vocab: int, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clean masses, adversarial masses and log ratios of the O(d^2) groups (i, j), paper A.13."""
    rows = []
    for i in range(d + 1):
        for j in range(d - i, d + 1):
            both = i + j - d
            log_count = gammaln(d + 1) - gammaln(i + 1) - gammaln(d - i + 1)
            log_count += gammaln(i + 1) - gammaln(both + 1) - gammaln(i - both + 1) + both * math.log(vocab - 2)
            log_alpha, log_keep = math.log(beta / (vocab - 1)), math.log1p(-beta)
            log_p = log_count + i * log_alpha + (d - i) * log_keep
            log_ratio = (j - i) * log_alpha + (i - j) * log_keep
            rows.append((math.exp(log_p), math.exp(log_p + log_ratio), log_ratio))
    p, q, log_ratio = map(np.array, zip(*rows, strict=True))
    return p / p.sum(), q / q.sum(), log_ratio


def paper_radius(p_a: float, table: tuple[np.ndarray, np.ndarray, np.ndarray], tau: float, top: float = 20.0) -> float:
    """Nested bisection of A.7 and A.13: 60 steps in the radius, 80 in the log threshold."""
    p, q, log_ratio = table

    def value(rho: float) -> float:
        low, high = -1000.0, 1000.0
        for _ in range(80):
            c = (low + high) / 2
            if (p * ndtr((c - log_ratio) / rho + rho / 2)).sum() < p_a:
                low = c
            else:
                high = c
        return float((q * ndtr((low - log_ratio) / rho - rho / 2)).sum())

    low, high = 0.0, top
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if value(middle) > tau else (low, middle)
    return low


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def first_seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def bench(repeats: int, seed: int) -> dict[str, object]:
    start = time.perf_counter()
    import hybrid_rs_jax as hrs

    result: dict[str, object] = {"import_s": time.perf_counter() - start}
    rng = np.random.default_rng(seed)
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(BETA, VOCAB), sigma=1.0)

    # baseline: radii that exist, one budget after the other
    tables = {d: paper_table(BETA, VOCAB, d) for d in range(1, 9)}
    cases = [(float(hrs.required_probability(d, 1.0, smoothing, TAU)), d) for d in range(1, 9)]
    baseline = median_seconds(lambda: [paper_radius(p, tables[d], TAU) for p, d in cases], 3) / len(cases)
    ours = [hrs.certified_radius(p, d, smoothing, TAU) for p, d in cases]
    result["baseline_ms_per_radius"] = 1e3 * baseline
    result["baseline_largest_difference"] = max(
        abs(paper_radius(p, tables[d], TAU) - r) for (p, d), r in zip(cases, ours, strict=True)
    )

    # direct solve: 100,000 (p_A, d) pairs, p_A anywhere that certifies d
    d = rng.integers(1, 9, 100_000)
    need = np.asarray(hrs.required_probability(np.arange(9), 0.0, smoothing, TAU))
    p = 1 - (1 - need[d]) * 10 ** rng.uniform(-3, 0, d.size)
    result["direct_first_call_s"] = first_seconds(lambda: hrs.certified_radius(p, d, smoothing, TAU))
    direct = median_seconds(lambda: hrs.certified_radius(p, d, smoothing, TAU), repeats) / d.size
    result["direct_us_per_radius"] = 1e6 * direct
    result["direct_speedup"] = baseline / direct

    start = time.perf_counter()
    table = hrs.frontier_table(range(9), smoothing, TAU)
    result["table_build_s"] = time.perf_counter() - start
    many = 1 - 10 ** rng.uniform(-9, 0, 200_000)
    seconds = median_seconds(lambda: table.certified_radius(many), repeats)
    result["table_certificates_per_s"] = many.size * 9 / seconds

    # worst-case sweep: 200 p_A x 9 d x 50 eps x 10 sigma x 5 beta
    p_grid = np.linspace(0.5, 0.9999, 200)[:, None, None]
    eps_grid, d_grid = np.linspace(0.05, 3, 50)[None, None, :], np.arange(9)[None, :, None]
    sigmas, betas = np.linspace(0.1, 1.0, 10), (0.1, 0.25, 0.4, 0.5, 0.75)

    def sweep() -> float:
        total = 0.0
        for beta in betas:
            for sigma in sigmas:
                noise = hrs.HybridSmoothing(hrs.UniformKernel(beta, VOCAB), float(sigma))
                total += float(np.sum(hrs.worst_case_probability(p_grid, d_grid, eps_grid, noise)))
        return total

    result["sweep_cells"] = p_grid.size * d_grid.size * eps_grid.size * len(sigmas) * len(betas)
    result["sweep_s"] = median_seconds(sweep, 1)

    # cost against the budget, one radius each; p_A from the inverse, so a radius exists. beta at the value that hides
    # the symbol well keeps long budgets certifiable.
    wide = hrs.HybridSmoothing(hrs.UniformKernel(0.499, 2), sigma=1.0)
    scaling = {}
    for budget in (64, 256, 1024, 4096, 10_000):
        p_one = float(hrs.required_probability(budget, 0.5, wide, 0.5))
        scaling[budget] = 1e3 * median_seconds(lambda b=budget, x=p_one: hrs.certified_radius(x, b, wide, 0.5), 5)
    result["one_radius_ms_by_budget"] = scaling
    hrs.kernels.uniform.uniform_likelihood_ratio.cache_clear()
    result["one_radius_d4096_with_kernel_ms"] = 1e3 * first_seconds(lambda: hrs.certified_radius(0.9, 4096, wide, 0.5))

    result["cli_10000_rows_9_budgets_s"] = time_command_line(rng)
    return result


def time_command_line(rng: np.random.Generator) -> float:
    """`hybrid-rs certify` on 10,000 rows, from process start."""
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder, "counts.csv")
        rows = "".join(f"row-{i},{k},10000\n" for i, k in enumerate(rng.integers(7_000, 10_001, 10_000)))
        counts.write_text("id,successes,n\n" + rows)
        program = [sys.executable, "-m", "hybrid_rs_jax.cli", "certify", str(counts)]
        flags = ["--kernel", "uniform", "--beta", "0.25", "--vocab-size", "32000", "--sigma", "0.5"]
        flags += [
            "--tau",
            "4.6e-5",
            "--alpha",
            "0.01",
            "--max-budget",
            "8",
            "--out",
            str(Path(folder, "out.json")),
        ]
        return first_seconds(lambda: subprocess.run(program + flags, check=True, capture_output=True))


def core_on(platform: str, repeats: int, rng: np.random.Generator) -> dict[str, object]:
    """The pure core on one device: radii of 100,000 inputs at d = 8, compiled, arguments already there.

    Raises:
      SystemExit: where the platform has no device.
    """
    import jax

    import hybrid_rs_jax as hrs

    try:
        device = jax.devices(platform)[0]
    except RuntimeError:
        raise SystemExit(f"certifier: --device must name a platform that JAX finds here, got {platform}.") from None
    with jax.enable_x64(True), jax.default_device(device):
        ratio = hrs.UniformKernel(BETA, VOCAB).likelihood_ratio(8)
        p = jax.device_put(1 - 10 ** rng.uniform(-9, 0, 100_000), device)
        radius = jax.jit(hrs.core.certified_radius)
        first = first_seconds(lambda: radius(p, ratio, TAU).block_until_ready())
        seconds = median_seconds(lambda: radius(p, ratio, TAU).block_until_ready(), repeats)
    emulated = device.platform == "tpu"  # whose units have no float64
    facts = {"device": device.device_kind, "float64": "emulated" if emulated else "of the device"}
    return {**facts, "core_first_call_s": first, "core_us_per_radius": 1e6 * seconds / p.size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write (its folder must exist)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", metavar="PLATFORM", help="time only the pure core there: cpu, gpu, tpu")
    args = parser.parse_args()
    import jax

    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"jax {jax.__version__}, {jax.devices()[0].platform}",
        **(
            bench(args.repeats, args.seed)
            if args.device is None
            else core_on(args.device, args.repeats, np.random.default_rng(args.seed))
        ),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
