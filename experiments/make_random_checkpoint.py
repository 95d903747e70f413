"""Write a LLaVA-OneVision checkpoint of a true size with random weights.

    python experiments/make_random_checkpoint.py --shape 0.5b --out random-0.5b

For measuring time and memory at the sizes of LlavaGuard 0.5B and 7B (SigLIP so400m, patch 14, 384 pixels; Qwen2) with
nothing to download. Weights are normal with variance 1 / inputs, in bfloat16; memory holds one file of
them at a time. The tokenizer is a word-level one with LLaVA-OneVision's ids of special tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import _onevision as onevision
import ml_dtypes
import numpy as np
from flax import nnx

from hybrid_rs_jax._files import atomic_folder, check_target_folder
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.models import LlavaOnevision
from hybrid_rs_jax.models._safetensors import SHARD_BYTES, write_tensors
from hybrid_rs_jax.models.save import stored_tensors

BLOCK = 2**24  # numbers drawn at a time
DTYPE = np.dtype(ml_dtypes.bfloat16)


def write_checkpoint(shape: str, folder: Path, seed: int = 0, shard_bytes: int = SHARD_BYTES) -> int:
    """Write the checkpoint; returns the number of weights.

    Args:
      shape: one of `_onevision.SHAPES`.
      folder: exists.
      seed: one seed gives one checkpoint.
      shard_bytes: a file of weights holds at most that many bytes, or one tensor.
    """
    words = onevision.words_of(shape)
    config = onevision.config(shape, words)
    settings = LlavaOnevision.read_config(config)
    network = nnx.eval_shape(lambda: LlavaOnevision(settings, rngs=nnx.Rngs(0)))
    stored = {name: (size, DTYPE) for name, (size, _) in stored_tensors(network).items()}
    numbers = {name: number for number, name in enumerate(stored)}

    def value(name: str) -> np.ndarray:
        return np.concatenate(list(draw(name, stored[name][0], np.random.default_rng([seed, numbers[name]]))))

    write_tensors(folder, stored, value, shard_bytes)
    files = onevision.checkpoint_files(shape, words) | {"config.json": config | {"dtype": str(DTYPE)}}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content) + "\n", encoding="utf-8")
    (folder / "policy.txt").write_text(onevision.POLICY + "\n\n{text}\n", encoding="utf-8")
    return sum(math.prod(size) for size, _ in stored.values())


def draw(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> Iterator[np.ndarray]:
    """A tensor in parts along its first axis: norms are one, biases zero, maps normal with variance 1 / inputs."""
    if len(shape) == 1 and name != "image_newline":
        yield np.full(shape, name.endswith("weight"), DTYPE)
        return
    scale = np.float32(math.prod(shape[1:] or shape) ** -0.5)
    rows = max(1, BLOCK // math.prod(shape[1:]))
    for start in range(0, shape[0], rows):
        part = (min(rows, shape[0] - start), *shape[1:])
        yield (generator.standard_normal(part, np.float32) * scale).astype(DTYPE)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(onevision.SHAPES), default="0.5b", help="sizes (default 0.5b)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the checkpoint, a new one")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default 0)")
    args = parser.parse_args(argv)
    try:
        if not 0 <= args.seed < 2**31:
            raise BadInputError(f"--seed must lie in 0..{2**31 - 1}, got {args.seed}.")
        check_target_folder(args.out)
        started = time.perf_counter()
        with atomic_folder(args.out) as folder:
            count = write_checkpoint(args.shape, folder, args.seed)
        size = sum(path.stat().st_size for path in args.out.iterdir())
    except BadInputError as error:
        print(f"make_random_checkpoint: {error}", file=sys.stderr)
        return 2
    print(f"Wrote {count:,} weights, {size / 1e9:.2f} GB, to {args.out} in {time.perf_counter() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
