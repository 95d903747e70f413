"""Noisy copies per second and share of peak on one card: ours, PyTorch transformers and, where installed, vLLM.

    python experiments/bench/gpu.py --out gpu.json
    python experiments/bench/gpu.py --shapes tiny --repeats 1

Checkpoints of random weights in the sizes of LLaVA-OneVision 0.5B and 7B, in bfloat16; the same pictures and texts, the
same decision, one after the other in the same run. Ours is timed with a picture for each text, and with nine texts on
each picture, as conditional draws ask for them. The batch is what memory holds. Shares of peak count the arithmetic
that the decision needs (`_vlm_flops`) over the rate on the card's data sheet, or where that is not known over that of
a large matrix product, measured here. Without a GPU the default is the tiny shape, and the record says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import _onevision
import vlm  # it also says how memory is shared with PyTorch, before JAX takes any
from _vlm_flops import forward_flops
from make_random_checkpoint import write_checkpoint

from hybrid_rs_jax.classifiers import VlmGuard
from hybrid_rs_jax.classifiers.vlm._ties import largest_change
from hybrid_rs_jax.sampling._batch import batch_for
from hybrid_rs_jax.sampling._drawing import Row, data_mesh

NO_GPU = "No GPU was at hand: this run shows that the command works, and no number of it carries over."
BUDGETS = 9


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pictures of 8 bits, so that all take the same ones, and texts of full length for each of them."""

    tokens: np.ndarray
    images: np.ndarray

    @classmethod
    def draw(cls, guard: VlmGuard, pictures: int, texts: int, seed: int) -> Pairs:
        """Random ones: tokens [pictures, texts, length], images [pictures, height, width, 3]."""
        random = np.random.default_rng(seed)
        tokens = random.integers(1, guard.vocab_size, (pictures, texts, guard.text_length)).astype(np.int32)
        images = random.integers(0, 256, (pictures, *guard.image_size, 3)).astype(np.float32) / np.float32(255)
        return cls(tokens, images)


class VllmGuard:
    """The same decision by vLLM: one token, the likelier one of the two labels."""

    def __init__(self, folder: Path, guard: VlmGuard, dtype: str, batch: int):
        import vllm

        layout = guard.prompt.layout
        labels = [*layout.unsafe, *layout.safe]
        self.layout, self.guard = layout, guard
        self.version = vllm.__version__
        self.ask = vllm.SamplingParams(max_tokens=1, temperature=0.0, allowed_token_ids=labels, detokenize=False)
        self.model = vllm.LLM(
            model=str(folder),
            dtype=dtype,
            max_num_seqs=batch,
            max_model_len=guard.prompt.positions + 1,
            gpu_memory_utilization=0.4,  # the others' weights are on the card, too
            enable_prefix_caching=False,  # every noisy picture is new
            mm_processor_cache_gb=0,
        )

    def prompts(self, pairs: Pairs) -> list[dict[str, Any]]:
        """Token ids with one placeholder, and pictures of 8 bits."""
        from PIL import Image

        layout = self.layout
        front, behind = [*layout.before, layout.tokens.image_token, *layout.between], [*layout.after, *layout.beginning]
        pictures = [Image.fromarray(np.round(255 * image).astype(np.uint8)) for image in pairs.images]
        return [
            {
                "prompt_token_ids": [*front, *self.guard.alphabet.tokens(row), *behind],
                "multi_modal_data": {"image": picture},
            }
            for row, picture in zip(pairs.tokens[:, 0], pictures, strict=True)
        ]

    def unsafe(self, prompts: list[dict[str, Any]]) -> np.ndarray:
        """Decisions."""
        answers = self.model.generate(prompts, self.ask, use_tqdm=False)
        return np.array([answer.outputs[0].token_ids[0] in self.layout.unsafe for answer in answers])


def flops_per_copy(guard: VlmGuard, texts: int) -> float:
    """Arithmetic of one copy where so many texts share a picture."""
    one = vlm.flops_per_copy(guard).total
    layout = guard.prompt.layout
    own = guard.text_length + len(layout.after) + len(layout.beginning)
    more = forward_flops(guard.sizes, 0, 0, own, cached=guard.prompt.positions - own).total
    return (one + (texts - 1) * more) / texts


def measure(shape: str, folder: Path, args: argparse.Namespace, peak: float) -> dict[str, Any]:
    """One shape: copies per second, shares of peak, and how many decisions differ."""
    guard = VlmGuard.from_pretrained(folder, dtype=args.dtype, text_length=vlm.TEXT_LENGTH)
    row = Pairs.draw(guard, 1, 1, 0)
    like = Row(row.tokens[0, 0], row.images[0], np.ones(guard.text_length, bool), 0)
    sizes = {texts: args.batch or batch_for(guard, like, texts, data_mesh(1)) for texts in (1, BUDGETS)}
    plain, shared = (Pairs.draw(guard, sizes[texts], texts, args.seed) for texts in (1, BUDGETS))
    apply, parameters = jax.jit(guard.prompt.forward.of_pictures), guard.prompt.parameters

    def ours(pairs: Pairs) -> Callable[[], np.ndarray]:
        shown = jnp.asarray(pairs.tokens), jnp.asarray(pairs.images)
        return lambda: np.asarray(apply(parameters, *shown)) > 0

    tasks: dict[str, Callable[[], np.ndarray]] = {"ours": ours(plain), "ours, shared picture": ours(shared)}
    copies = {"ours": sizes[1], "ours, shared picture": sizes[BUDGETS] * BUDGETS}
    record: dict[str, Any] = {"shape": shape, "batch": sizes[1], "pictures of nine texts": sizes[BUDGETS]}
    torch_guard = None if args.no_torch else vlm.open_torch(folder, args.dtype)
    if torch_guard is not None:
        inputs = torch_guard.inputs(guard, plain.tokens[:, 0], plain.images)
        tasks["torch"] = lambda: torch_guard.margin(inputs, guard.prompt.layout) > 0
        record["machine"] = vlm.machine(torch_guard)
    if (served := open_vllm(folder, guard, args, sizes[1])) is not None:
        prompts = served.prompts(plain)
        tasks["vllm"] = lambda: served.unsafe(prompts)
        record["vllm"] = served.version
    decided = {name: task().reshape(-1) for name, task in tasks.items() if name != "ours, shared picture"}
    seconds = {name: statistics.median(times) for name, times in vlm.timed(tasks, args.repeats).items()}
    per_second = {name: copies.get(name, sizes[1]) / value for name, value in seconds.items()}
    texts = {"ours, shared picture": BUDGETS}
    record["copies_per_second"] = per_second
    record["share_of_peak"] = {
        name: rate * flops_per_copy(guard, texts.get(name, 1)) / peak for name, rate in per_second.items()
    }
    record["same_decisions"] = {name: float(np.mean(found == decided["ours"])) for name, found in decided.items()}
    record["largest_change_by_rounding"] = largest_change(guard.prompt, guard.vocab_size, guard.text_length)[0]
    record["tie_tolerance"] = guard.tie_tolerance
    return record


def open_vllm(folder: Path, guard: VlmGuard, args: argparse.Namespace, batch: int) -> VllmGuard | None:
    """VLLM where it is installed and there is a GPU."""
    if args.no_vllm or jax.default_backend() != "gpu":
        return None
    try:
        return VllmGuard(folder, guard, args.dtype, batch)
    except ImportError:
        print("vLLM is not installed: it is left out.", file=sys.stderr)
        return None


def main(argv: list[str] | None = None) -> int:
    """Measure and write one JSON."""
    gpu = jax.default_backend() == "gpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--shapes", nargs="+", choices=tuple(_onevision.SHAPES), default=["0.5b", "7b"] if gpu else ["tiny"]
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16" if gpu else "float32")
    parser.add_argument("--batch", type=int, help="copies per step, or pictures (default: what memory holds)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-torch", action="store_true", help="leave PyTorch out")
    parser.add_argument("--no-vllm", action="store_true", help="leave vLLM out")
    args = parser.parse_args(argv)
    if (args.batch is not None and args.batch < 1) or args.repeats < 1:
        parser.error("--batch and --repeats must be at least 1")
    device, measured = jax.devices()[0], vlm.matmul_rate(jnp.dtype(args.dtype))
    sheet = next((value for name, value in vlm.DATA_SHEET.items() if name in device.device_kind), None)
    known = sheet if sheet is not None and args.dtype == "bfloat16" else None
    record: dict[str, Any] = {
        "note": None if gpu else NO_GPU,
        "machine": vlm.machine(None),
        "dtype": args.dtype,
        "peak_flops_per_second": known or measured,
        "peak": "matrix product measured here" if known is None else "data sheet",
        "matmul_flops_per_second": measured,
        "shapes": [],
    }
    for shape in args.shapes:
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(shape, Path(folder), args.seed)
            record["shapes"].append(measure(shape, Path(folder), args, known or measured))
        gc.collect()  # weights of one shape leave the card before the next
        print(json.dumps(record["shapes"][-1]), flush=True)
    if args.out is not None:
        args.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
