"""Time the vision-language guard against PyTorch transformers: same checkpoint, shapes, decision and device.

    python experiments/bench/vlm.py --out experiments/out/bench_vlm.json
    python experiments/bench/vlm.py --shape 7b --batch-sizes 16,32,64 --out bench_vlm_7b.json

A checkpoint of random weights is written first (or given with --checkpoint). Every copy is a prompt of full length
with a picture of its own; the decision compares two rows of the output layer at the last position. Ours resizes and
normalises the pixels within the timed call, and encodes a view once that is base view and tile at the same time;
PyTorch is given the views that its processor makes. Both are repeated in turns, and medians are compared.
Utilisation is the arithmetic of `_vlm_flops` per second over the rate of a large matrix product, measured here, and
over the rate on the device's data sheet where that is known.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory of the same device
# PyTorch's threads would spin for each other and lose several times their speed where cores are shared
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import _onevision
from _vlm_flops import forward_flops
from make_random_checkpoint import write_checkpoint

from hybrid_rs_jax.classifiers import VlmGuard

#: Dense bfloat16 operations per second, from the data sheets.
DATA_SHEET = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}
TEXT_LENGTH = 64
TEMPLATES = ("checkpoint", "policy_first")
NO_GPU = "No GPU was at hand: sizes are small and the CPU did the work; ratios do not carry over to an accelerator."


class TorchGuard:
    """The same decision in PyTorch: one forward pass, logits of the last position alone."""

    def __init__(self, folder: Path, dtype: str):
        import torch
        from transformers import LlavaOnevisionForConditionalGeneration

        self.torch = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = getattr(torch, dtype)
        model = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=self.dtype)
        self.model = model.to(self.device).eval()
        self.attention = self.model.config._attn_implementation

    def inputs(self, guard: VlmGuard, tokens: np.ndarray, images: np.ndarray) -> dict[str, Any]:
        """Token ids and pixels of the same prompts, on the device."""
        prompt, layout = guard.prompt, guard.prompt.layout
        front = [*layout.before, *[layout.tokens.image_token] * prompt.image_tokens, *layout.between]
        behind = [*layout.after, *layout.beginning]
        ids = [[*front, *guard.alphabet.tokens(row), *behind] for row in tokens]
        pixels = np.moveaxis(np.asarray(layout.pixels(jnp.asarray(images))), -1, -3)
        torch = self.torch
        return {
            "input_ids": torch.tensor(ids, device=self.device),
            "pixel_values": torch.tensor(np.ascontiguousarray(pixels)).to(self.device, self.dtype),
            "image_sizes": torch.tensor([guard.image_size] * len(tokens)),
        }

    def margin(self, inputs: dict[str, Any], answer: Any) -> np.ndarray:
        """Margins; they are brought to the host, so that the work is over."""
        with self.torch.inference_mode():
            logits = self.model(**inputs, logits_to_keep=1).logits[:, -1].float()
            unsafe, safe = (logits[:, list(ids)].logsumexp(dim=1) for ids in (answer.unsafe, answer.safe))
            return (unsafe - safe).cpu().numpy()


def matmul_rate(dtype: Any) -> float:
    """Operations per second of a large matrix product on the first device."""
    side = 8192 if jax.default_backend() == "gpu" else 1024
    left = jnp.full((side, side), 0.5, dtype)
    multiply = jax.jit(lambda a, b: a @ b)
    seconds = timed({"matmul": lambda: jax.block_until_ready(multiply(left, left))}, 20)["matmul"]
    return 2 * side**3 / min(seconds)


def timed(tasks: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
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


def open_guards(folder: Path, tiles: int, args: argparse.Namespace) -> dict[str, VlmGuard]:
    """One guard per template, for pictures of `tiles` x `tiles` tiles."""
    side = tiles * _onevision.SHAPES[args.shape]["tower"]["image_size"]
    options: dict[str, Any] = {"text_length": TEXT_LENGTH, "image_size": (side, side), "dtype": args.dtype}
    return {name: VlmGuard.from_pretrained(folder, template=name, **options) for name in TEMPLATES}


def flops_per_copy(guard: VlmGuard) -> Any:
    """Arithmetic of one copy; what the prefix cache holds is not counted."""
    prompt, layout = guard.prompt, guard.prompt.layout
    before = len(layout.before)
    cached = before if guard.settings.template == "policy_first" else 0
    text = prompt.positions - prompt.image_tokens - cached
    views = 1 if layout.pixels.views_are_identical else layout.pixels.views
    return forward_flops(guard.sizes, views, prompt.image_tokens, text, cached=cached)


def measure(guards: dict[str, VlmGuard], torch_guard: TorchGuard | None, batch: int, args: argparse.Namespace) -> Any:
    """One batch size: seconds, samples per second, utilisation, and whether both give the same margins."""
    rng = np.random.default_rng(args.seed)
    plain = guards["checkpoint"]
    tokens = rng.integers(1, plain.vocab_size, (batch, TEXT_LENGTH)).astype(np.int32)
    images = rng.uniform(size=(batch, *plain.image_size, 3)).astype(np.float32)
    shown = jnp.asarray(tokens), jnp.asarray(images)

    def ours(guard: VlmGuard) -> Callable[[], np.ndarray]:
        return lambda: np.asarray(guard.prompt.margin(*shown))

    tasks: dict[str, Callable[[], Any]] = {name: ours(guard) for name, guard in guards.items()}
    record: dict[str, Any] = {"batch": batch}
    if torch_guard is not None:
        inputs = torch_guard.inputs(plain, tokens, images)
        tasks["torch"] = lambda: torch_guard.margin(inputs, plain.prompt.layout)
        mine, theirs = tasks["checkpoint"](), tasks["torch"]()
        record["largest_margin_difference"] = float(np.abs(mine - theirs).max())
        record["same_decisions"] = float(np.mean((mine > 0) == (theirs > 0)))
    seconds = {name: statistics.median(times) for name, times in timed(tasks, args.repeats).items()}
    record["seconds"] = seconds
    record["samples_per_second"] = {name: batch / value for name, value in seconds.items()}
    record["flops_per_second"] = {
        name: flops_per_copy(guards.get(name, plain)).total * batch / value for name, value in seconds.items()
    }
    record["shared_policy_gain"] = seconds["checkpoint"] / seconds["policy_first"]
    if torch_guard is not None:
        record["gain_over_torch"] = seconds["torch"] / seconds["checkpoint"]
    return record


def run(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All cases on one checkpoint."""
    rate = matmul_rate(jnp.dtype(args.dtype))
    device = jax.devices()[0]
    sheet = next((value for name, value in DATA_SHEET.items() if name in device.device_kind), None)
    torch_guard = None if args.no_torch else open_torch(folder, args.dtype)
    cases = []
    for tiles in args.tiles:
        guards = open_guards(folder, tiles, args)
        prompt = guards["checkpoint"].prompt
        for batch in args.batch_sizes:
            record = {"tiles": f"{tiles} x {tiles}", "image_tokens": prompt.image_tokens, "positions": prompt.positions}
            record |= measure(guards, torch_guard, batch, args)
            record["utilisation_of_matmul"] = {k: v / rate for k, v in record["flops_per_second"].items()}
            if sheet is not None and args.dtype == "bfloat16":
                record["utilisation_of_data_sheet"] = {k: v / sheet for k, v in record["flops_per_second"].items()}
            cases.append(record)
            print(json.dumps(record), flush=True)
    return {
        "machine": machine(torch_guard),
        "note": None if device.platform == "gpu" else NO_GPU,
        "shape": args.shape,
        "dtype": args.dtype,
        "text_length": TEXT_LENGTH,
        "policy_positions": len(guards["policy_first"].prompt.layout.before),
        "matmul_flops_per_second": rate,
        "data_sheet_flops_per_second": sheet,
        "repeats": args.repeats,
        "cases": cases,
    }


def open_torch(folder: Path, dtype: str) -> TorchGuard | None:
    """The PyTorch guard where PyTorch runs on the same kind of device."""
    try:
        guard = TorchGuard(folder, dtype)
    except ImportError:
        print("PyTorch and transformers are not installed: ours is timed alone.", file=sys.stderr)
        return None
    if (guard.device == "cuda") != (jax.default_backend() == "gpu"):
        found = f"PyTorch would run on {guard.device}, JAX on {jax.default_backend()}"
        print(f"{found}: ours is timed alone.", file=sys.stderr)
        return None
    return guard


def machine(torch_guard: TorchGuard | None) -> dict[str, Any]:
    """Where and with what it was measured."""
    found = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    if torch_guard is not None:
        import transformers

        versions = {"torch": torch_guard.torch.__version__, "transformers": transformers.__version__}
        found |= versions | {"torch_attention": torch_guard.attention}
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure and write one JSON."""
    gpu = jax.default_backend() == "gpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--shape", choices=tuple(_onevision.SHAPES), default="0.5b" if gpu else "small")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint of that shape; default: one of random weights")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16" if gpu else "float32")
    parser.add_argument("--batch-sizes", type=whole_numbers, default=[8, 16, 32, 64] if gpu else [1, 4])
    parser.add_argument("--tiles", type=whole_numbers, default=[1, 2], help="tiles along each side of the picture")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-torch", action="store_true", help="do not time PyTorch")
    args = parser.parse_args(argv)
    with checkpoint(args) as folder:
        record = run(folder, args)
    if args.out is not None:
        args.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


@contextlib.contextmanager
def checkpoint(args: argparse.Namespace) -> Iterator[Path]:
    """The checkpoint that was given, or a random one for the time of the run."""
    if args.checkpoint is not None:
        yield args.checkpoint
        return
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(args.shape, Path(folder), args.seed)
        yield Path(folder)


def whole_numbers(text: str) -> list[int]:
    """Numbers separated by commas."""
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"must be numbers of at least 1, separated by commas, got {text}")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
