"""Try a vision-language checkpoint out: labels, shapes, memory, two noisy copies, speed.

Everything that a long run would stumble over is tried in a minute, and the time that
the run would take is worked out from a timed batch.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import hybrid_rs_jax as hrs
from hybrid_rs_jax.cli import _arguments as arguments
from hybrid_rs_jax.cli._sources import first_readable
from hybrid_rs_jax.cli._vlm_arguments import add_vlm_arguments, is_checkpoint, open_guard, vlm_settings
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report.tables import say

EXAMPLES = """\
examples:
  hybrid-rs doctor --model ./LlavaGuard-0.5B --dtype bfloat16
  hybrid-rs doctor --model ./LlavaGuard-0.5B --data memes.csv --samples 10000 --template policy_first"""

#: A batch is repeated until so many seconds have passed.
_TIMED_SECONDS = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `doctor`."""
    parser.add_argument("--model", required=True, metavar="PATH", help="folder or hub id of the checkpoint")
    parser.add_argument(
        "--data", metavar="DATA", help="texts and pictures: the first one is tried, and all are counted"
    )
    parser.add_argument(
        "--inputs",
        type=arguments.integer(1, 2**31 - 1),
        metavar="N",
        help="inputs of the planned run (default: those of --data, else 100)",
    )
    parser.add_argument(
        "--samples",
        type=arguments.integer(1, 2**31 - 1),
        default=1000,
        metavar="n",
        help="draws per input of the planned run (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=arguments.integer(1, 2**20),
        default=16,
        metavar="B",
        help="noisy copies per step (default: %(default)s)",
    )
    parser.add_argument(
        "--beta", type=arguments.open_unit, default=0.25, metavar="B", help="token noise (default: %(default)s)"
    )
    parser.add_argument(
        "--sigma", type=arguments.positive, default=0.5, metavar="S", help="pixel noise (default: %(default)s)"
    )
    add_vlm_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Load, look, try, time."""
    if not is_checkpoint(args.model):
        raise BadInputError(f"--model must be the folder or the hub id of a checkpoint, got {args.model}.")
    count, samples = args.inputs or 100, None
    if args.data is not None:
        from hybrid_rs_jax.data import open_data

        samples = open_data(args.data)
        count = args.inputs or len(samples)
    begin = time.monotonic()
    guard = open_guard(args.model, vlm_settings(args))
    _say("loaded", f"in {time.monotonic() - begin:,.1f} s, {_size_text(guard)}")
    for name, text in _prompt_lines(guard):
        _say(name, text)
    encoded = _first_input(guard, samples)
    step, inputs = _noisy_step(guard, encoded, hrs.HybridSmoothing(_kernel(args, guard), args.sigma))
    _say("noisy copies", _two_copies(step, inputs))
    compiled, rate = _timed(step, inputs, args.batch_size)
    _say("speed", f"{rate:,.2f} copies/s in batches of {args.batch_size} (compiled in {compiled:,.1f} s)")
    _say("memory", _memory_text())
    total = count * args.samples
    _say("planned run", f"{count:,} inputs x {args.samples:,} draws: about {_duration(total / rate)}")
    say("A plan that stops early (sample --target, --frontier) takes fewer draws.")


def _kernel(args: argparse.Namespace, guard: Any) -> Any:
    return hrs.UniformKernel(args.beta, guard.vocab_size)


def _size_text(guard: Any) -> str:
    import jax

    weights = jax.tree.leaves(guard.functional()[1]["network"])
    number, size = sum(leaf.size for leaf in weights), sum(leaf.nbytes for leaf in weights)
    return f"{number:,} parameters, {size / 1e9:,.2f} GB in {guard.settings.dtype}"


def _prompt_lines(guard: Any) -> Iterator[tuple[str, str]]:
    prompt, layout, tokenizer = guard.prompt, guard.prompt.layout, guard.tokenizer
    picture = prompt.image_tokens
    parts = [len(layout.before), picture, len(layout.between), guard.text_length, len(layout.after)]
    height, width = guard.image_size
    yield (
        "prompt",
        f"{parts[0]} tokens, picture of {height}x{width} pixels as {parts[1]:,}, {parts[2]} tokens, text of up to "
        f"{parts[3]}, {parts[4]} tokens, answer of {len(layout.beginning)}: {prompt.positions:,} positions",
    )
    names = [", ".join(repr(tokenizer.decode([token])) for token in ids) for ids in (layout.unsafe, layout.safe)]
    yield "answer", f"begins with {tokenizer.decode(list(layout.beginning))!r}"
    yield "labels", f"unsafe goes on with {names[0]}, safe with {names[1]}"
    yield "alphabet", f"{guard.vocab_size - 1:,} tokens and PAD, V = {guard.vocab_size:,}"


def _first_input(guard: Any, samples: Any) -> Any:
    """The first input of the data that can be used, or without data a few random tokens and a grey picture."""
    if samples is None:
        encoded = guard.encode("", np.full((*guard.image_size, 3), 0.5, np.float32))
        words = np.random.default_rng(0).integers(1, guard.vocab_size, guard.text_length // 4)
        encoded.tokens[: words.size] = words
        return encoded
    from hybrid_rs_jax.cli._vlm_inputs import GuardInputs

    return first_readable(GuardInputs(samples, guard))


def _noisy_step(guard: Any, encoded: Any, smoothing: hrs.HybridSmoothing) -> tuple[Any, Any]:
    """Noise and margin of so many copies of one input, compiled as in a run."""
    import jax

    apply, parameters = guard.functional()

    @jax.jit
    def step(inputs: Any, keys: Any) -> Any:
        parameters, tokens, image, eligible = inputs
        noisy = jax.vmap(lambda key: smoothing.sample(key, tokens, image, eligible))(keys)
        return apply(parameters, *noisy)

    return step, (parameters, *encoded.arrays)


def _two_copies(step: Any, inputs: Any) -> str:
    import jax

    margins = np.asarray(step(inputs, jax.random.split(jax.random.key(0), 2)))
    if not np.isfinite(margins).all():
        raise BadInputError(
            f"The checkpoint gives a margin of {margins[~np.isfinite(margins)][0]} on a noisy copy: its weights or its "
            "dtype cannot be used."
        )
    return " and ".join(f"{'Unsafe' if margin > 0 else 'Safe'} (margin {margin:+.3f})" for margin in margins)


def _timed(step: Any, inputs: Any, batch_size: int) -> tuple[float, float]:
    """Seconds of the first batch, which compiles, and copies per second of those after it."""
    import jax

    keys = jax.random.split(jax.random.key(1), batch_size)
    begin = time.monotonic()
    step(inputs, keys).block_until_ready()
    compiled, batches, begin = time.monotonic() - begin, 0, time.monotonic()
    while batches == 0 or time.monotonic() - begin < _TIMED_SECONDS:
        step(inputs, keys).block_until_ready()
        batches += 1
    return compiled, batches * batch_size / max(time.monotonic() - begin, 1e-9)


def _memory_text() -> str:
    """The most that this process held, on the host and on the first device where that counts."""
    import jax

    texts = []
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        texts.append(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:,.2f} GB on the host")
    device = jax.local_devices()[0]
    if "peak_bytes_in_use" in (statistics := device.memory_stats() or {}):
        texts.append(f"{statistics['peak_bytes_in_use'] / 1e9:,.2f} GB on {device.device_kind}")
    return f"at most {' and '.join(texts)}" if texts else "not known on this system"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} seconds"


def _say(name: str, text: str) -> None:
    say(f"{name + ':':<14}{text}")
