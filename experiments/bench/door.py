"""What a command costs before its first result: CPU time of `certify` on a small table, against `import jax`.

    python experiments/bench/door.py --out door.json

Every figure is the CPU time of a new process over that of `import jax` in the same round, and the median of the rounds:
wall time would count what else the machine does. Cold, the folder of compiled programs is empty; warm, the same command
has filled it with programs for other rows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SMOOTHING = ("--kernel", "uniform", "--beta", "0.25", "--vocab-size", "32000", "--sigma", "0.5")


def cpu_seconds(*arguments: str, cache: Path) -> float:
    """CPU seconds of this Python with `arguments`, its compiled programs in `cache`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *arguments]
    subprocess.run(command, env=environment | {"XDG_CACHE_HOME": str(cache)}, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_counts(path: Path, rows: int, seed: int) -> str:
    """A table of random counts of 10,000 draws; the command's argument."""
    counts = np.random.default_rng(seed).integers(7_000, 10_001, rows)
    lines = [f"{row},{successes},10000" for row, successes in enumerate(counts)]
    path.write_text("\n".join(["id,successes,n", *lines, ""]))
    return str(path)


def one_round(folder: Path, rows: int) -> dict[str, float]:
    """CPU seconds of `import jax`, and of the commands over it."""
    one, other = (write_counts(folder / f"{seed}.csv", rows, seed) for seed in (1, 2))
    cache, program = folder / "cache", ("-m", "hybrid_rs_jax.cli")
    base = cpu_seconds("-c", "import jax", cache=cache)
    cold = cpu_seconds(*program, "certify", one, *SMOOTHING, cache=cache)
    warm = cpu_seconds(*program, "certify", other, *SMOOTHING, cache=cache)
    shown = cpu_seconds(*program, "--help", cache=cache)
    return {"import_jax_s": base, "cold": cold / base, "warm": warm / base, "help": shown / base}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=120, help="rows of the table")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, of which medians are taken")
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    options = parser.parse_args()
    rounds = []
    for _ in range(options.rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(one_round(Path(folder), options.rows))
    # the first round reads everything from the disk
    figures = {name: float(np.median([each[name] for each in rounds[1:]])) for name in rounds[0]}
    print(f"import jax: {figures['import_jax_s']:.2f} CPU s; over it, certify of {options.rows} rows takes")
    print(f"{figures['cold']:.2f} times that cold and {figures['warm']:.2f} times warm; --help {figures['help']:.2f}")
    if options.out:
        options.out.write_text(json.dumps(figures | {"rows": options.rows, "rounds": options.rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
