"""Time the sampling engine against a bare compiled loop that draws the same noise and asks the same classifier.

    python experiments/bench/engine.py --out experiments/out/bench_engine.json

The bare loop classifies batch after batch of one input and adds the votes up on the device: no scheduling, no input
boundaries, no stopping, no ledger. Both are repeated in turns, and medians are compared, so what counts are ratios
within one run. `busy` is the share of the places of all batches that held a copy somebody had asked for.

`noise` holds what grid noise costs: drawing it and asking a network, as the engine does, against one compiled step with
float32 normals and JAX's own integers, as version 0.1 did; CPU seconds, on the demo guard and on pictures of
384 x 384 x 3 with a network of 1 GFLOP.
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
from hybrid_rs_jax.kernels._threefry import fold, key_words
from hybrid_rs_jax.kernels.grid import round_to_grid
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


def in_turns(
    repeats: int, clock: Callable[[], float] = time.perf_counter, **tasks: Callable[[], Any]
) -> dict[str, list[float]]:
    """Seconds of each task, run in turns after one warm-up each."""
    for task in tasks.values():
        task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            begin = clock()
            task()
            seconds[name].append(clock() - begin)
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


def normal_noise(smoothing: hrs.HybridSmoothing, key: Any, tokens: Any, image: Any, mask: Any) -> tuple[Any, Any]:
    """The noise of version 0.1, to compare with: float32 normals, and a shift modulo the alphabet."""
    kernel: Any = smoothing.discrete
    key_tokens, key_image = jax.random.split(key)
    key_hit, key_shift = jax.random.split(key_tokens)
    last = jnp.uint32(round(kernel.beta * 2**32) - 1)
    hit = (jax.random.bits(key_hit, tokens.shape, jnp.uint32) <= last) & mask
    shift = jax.random.randint(key_shift, tokens.shape, 1, kernel.vocab_size, dtype=jnp.int32)
    noisy = jnp.where(hit, (tokens + shift) % kernel.vocab_size, tokens)
    return noisy, image + jnp.float32(smoothing.sigma) * jax.random.normal(key_image, image.shape, jnp.float32)


def noise_cost(guard: DemoGuard, smoothing: hrs.HybridSmoothing, args: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds with grid noise over CPU seconds with float32 normals: median over turns, lower is better."""
    inputs = demo.held_out_unsafe(1)
    apply, parameters = guard.functional()
    small = (parameters, inputs.tokens[0], inputs.images[0])
    rng = np.random.default_rng(0)
    large = (convolutions(rng), inputs.tokens[0], (rng.integers(0, 256, (384, 384, 3)) / 255).astype(np.float32))
    return {
        "demo_guard": ratio_of_steps(apply, small, smoothing, args.batch_size, 10, args.repeats),
        "384x384x3, 1 GFLOP": ratio_of_steps(convolve, large, smoothing, 4, 2, args.repeats),
    }


def ratio_of_steps(
    apply: Callable[..., Any],
    content: tuple[Any, ...],
    smoothing: hrs.HybridSmoothing,
    batch: int,
    steps: int,
    repeats: int,
) -> dict[str, Any]:
    """Time the two kinds of noise in turns in front of one network."""
    parameters, tokens, image = content
    noise, mask = smoothing.noise(np.float32), demo.suffix_mask()
    levels, _ = round_to_grid(image, smoothing.grid_step or 1.0)

    @jax.jit
    def keys(first: Any) -> Any:
        words = fold(key_words(jax.random.key(0)), first)
        return jax.vmap(lambda s: fold(words, s))(jnp.arange(batch, dtype=jnp.uint32))

    @jax.jit
    def drawn(noise: Any, keys: Any) -> Any:
        return jax.vmap(lambda own: noise(own, jnp.asarray(tokens), jnp.asarray(levels), mask))(keys)

    @jax.jit
    def asked(parameters: Any, noisy: Any) -> Any:
        return (apply(parameters, *noisy) > 0).sum()

    def grid(first: Any) -> Any:
        return asked(parameters, drawn(noise, keys(first)))

    @jax.jit
    def normal(parameters: Any, first: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(0), first)

        def draw(s: Any) -> Any:
            own = jax.random.fold_in(key, s)
            return normal_noise(smoothing, own, jnp.asarray(tokens), jnp.asarray(image), mask)

        return (apply(parameters, *jax.vmap(draw)(jnp.arange(batch, dtype=jnp.uint32))) > 0).sum()

    def task(step: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: [step(np.uint32(i)) for i in range(steps)][-1].block_until_ready()

    normal_step = functools.partial(normal, parameters)
    seconds = in_turns(repeats, clock=time.process_time, grid=task(grid), normal=task(normal_step))
    pairs = zip(seconds["grid"], seconds["normal"], strict=True)
    return {
        "copies_per_cpu_second": batch * steps / statistics.median(seconds["grid"]),
        "ratio": statistics.median(mine / other for mine, other in pairs),
        "ratio_of_least": min(seconds["grid"]) / min(seconds["normal"]),
    }


#: (kernel, stride, channels in, channels out): 1.0 GFLOP on 384 x 384 pixels.
_LAYERS = ((7, 4, 3, 32), (3, 1, 32, 64), (3, 2, 64, 128), (1, 1, 128, 128), (3, 2, 128, 128))


def convolutions(rng: np.random.Generator) -> list[Any]:
    """Weights of a small network for large pictures."""
    return [
        jnp.asarray(rng.uniform(-1, 1, (size, size, before, after)).astype(np.float32) / (size * before**0.5))
        for size, _, before, after in _LAYERS
    ]


def convolve(weights: list[Any], tokens: Any, images: Any) -> Any:
    """A margin of the pictures."""
    for kernel, (_, stride, _, _) in zip(weights, _LAYERS, strict=True):
        convolved = jax.lax.conv_general_dilated(
            images, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        images = jax.nn.relu(convolved)
    return images.mean(axis=(1, 2, 3)) - tokens.mean(axis=1)


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
        "noise": noise_cost(guard, smoothing, args),
    }
    print(json.dumps(record, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
