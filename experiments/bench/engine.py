"""Time the sampling engine against a bare compiled loop that draws the same noise and asks the same classifier.

    python experiments/bench/engine.py --out experiments/out/bench_engine.json

The bare loop classifies batch after batch of one input and adds the votes up on the device: no scheduling, no input
boundaries, no stopping, no ledger. Both are repeated in turns, and medians are compared, so what counts are ratios
within one run. `busy` is the share of the places of all batches that held a copy somebody had asked for.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hybrid_rs_jax as hrs
from hybrid_rs_jax.certificate.bounds import required_bound
from hybrid_rs_jax.classifiers import DemoGuard
from hybrid_rs_jax.confidence import FixedSample, SequentialTest
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.data.inputs import ArrayInputs
from hybrid_rs_jax.sampling import Ledger, sample_run
from hybrid_rs_jax.sampling.engine import Row, stream


@functools.partial(jax.jit, static_argnums=(0, 1))
def bare_step(
    apply: Callable[..., Any],
    smoothing: hrs.HybridSmoothing,
    parameters: Any,
    tokens: Any,
    image: Any,
    mask: Any,
    key: Any,
) -> Any:
    """Votes of one batch of noisy copies; `key` holds one key per copy."""
    noisy = jax.vmap(lambda own: smoothing.sample(own, tokens, image, mask))(key)
    return (apply(parameters, *noisy) > 0).sum()


def bare_loop(guard: DemoGuard, smoothing: hrs.HybridSmoothing, inputs: Any, batch: int, steps: int) -> int:
    """Classify `steps` batches; the keys are folded as the engine folds them."""
    apply, parameters = guard.functional()
    tokens, image, mask = jnp.asarray(inputs.tokens[0]), jnp.asarray(inputs.images[0]), jnp.asarray(demo.suffix_mask())
    fold = jax.jit(lambda key, first: jax.vmap(lambda s: jax.random.fold_in(key, s))(first + jnp.arange(batch)))
    key, total = jax.random.key(0), jnp.zeros((), jnp.int32)
    for step in range(steps):
        total = total + bare_step(apply, smoothing, parameters, tokens, image, mask, fold(key, step * batch))
    return int(total)


def in_turns(repeats: int, **tasks: Callable[[], Any]) -> dict[str, list[float]]:
    """Seconds of each task, run in turns after one warm-up each."""
    for task in tasks.values():
        task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            begin = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def overhead(guard: DemoGuard, smoothing: hrs.HybridSmoothing, args: argparse.Namespace) -> dict[str, Any]:
    """Engine and bare loop on the same number of copies, with and without a ledger."""
    batch, inputs = args.batch_size, demo.held_out_unsafe(10)
    steps = max(10, args.copies // batch)
    n = steps * batch // len(inputs)
    steps = -(-n * len(inputs) // batch)
    arrays = ArrayInputs(inputs.ids, inputs.tokens, inputs.images, demo.suffix_mask())

    def engine() -> np.ndarray:
        return hrs.sample_counts(
            guard,
            inputs.tokens,
            inputs.images,
            smoothing,
            n,
            jax.random.key(0),
            eligible=demo.suffix_mask(),
            batch_size=batch,
        )

    def with_ledger() -> None:
        with tempfile.TemporaryDirectory() as folder, Ledger.create(Path(folder) / "run", {"seed": 0}) as ledger:
            positions = range(len(inputs))
            sample_run(ledger, guard, arrays, positions, smoothing, FixedSample(n), jax.random.key(0), batch_size=batch)

    def bare() -> int:
        return bare_loop(guard, smoothing, inputs, batch, steps)

    times = in_turns(args.repeats, bare=bare, engine=engine, engine_with_ledger=with_ledger)
    copies = {"bare": steps * batch, "engine": n * len(inputs), "engine_with_ledger": n * len(inputs)}
    rate = {name: copies[name] / statistics.median(seconds) for name, seconds in times.items()}
    # machines drift: the ratio of neighbours in time is steadier than the ratio of medians
    share = {
        name: statistics.median(
            copies[name] / mine / (copies["bare"] / other)
            for mine, other in zip(times[name], times["bare"], strict=True)
        )
        for name in ("engine", "engine_with_ledger")
    }
    return {"batch_size": batch, "copies": copies["engine"], "copies_per_second": rate, "share_of_bare": share}


def mixed(guard: DemoGuard, smoothing: hrs.HybridSmoothing, args: argparse.Namespace) -> dict[str, Any]:
    """Early stopping at d = 4, eps = 0.05: inputs end after a thousand copies or several; how full are the batches?"""
    inputs = demo.held_out_unsafe(args.inputs)
    need = required_bound(4, 0.05, smoothing, 4.6e-5)
    plan = SequentialTest(float(need.p), 0.01, 10_000, complement_star=float(need.complement))
    rows = [Row(t, x, demo.suffix_mask(), i) for i, (t, x) in enumerate(zip(inputs.tokens, inputs.images, strict=True))]
    asked = counted = batches = 0
    begin = time.perf_counter()
    for resolved in stream(guard, rows, len(rows), smoothing, plan, jax.random.key(1), batch_size=args.batch_size):
        asked, counted, batches = asked + resolved.classified, counted + int(resolved.count.sum()), batches + 1
    seconds = time.perf_counter() - begin
    return {
        "inputs": len(rows),
        "looks_at_first": int(plan.looks[0]),
        "batches": batches,
        "busy": asked / (batches * args.batch_size),
        "counted_share": counted / asked,
        "draws_per_input": counted / len(rows),
        "copies_per_second_with_compilation": asked / seconds,
    }


def main() -> None:
    """Run both and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--batch-size", type=int, default=2000)
    parser.add_argument("--copies", type=int, default=200_000, help="copies per repeat")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--inputs", type=int, default=100, help="inputs of the mixed-length work")
    args = parser.parse_args()
    guard = DemoGuard.load()
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, demo.VOCAB_SIZE), 0.25)
    record = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "devices": [str(device) for device in jax.devices()],
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
        "overhead": overhead(guard, smoothing, args),
        "mixed": mixed(guard, smoothing, args),
    }
    print(json.dumps(record, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
