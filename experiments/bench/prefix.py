"""Arithmetic of one noisy picture with the texts of all budgets, against as many separate passes.

    python experiments/bench/prefix.py
    python experiments/bench/prefix.py --shape 7b --budgets 9 --tiles 2 --policy policy.txt --out prefix.json

Conditional draws of one input and copy number share their noisy picture, and their texts differ in the positions that
are resampled. The guard computes keys and values of what stands before the text once for all of them. Both programs
are compiled from shapes alone, no weights are made, and XLA counts the operations of what would run (layers are no
loops: each is counted).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

sys.path.insert(0, str(Path(__file__).parents[1]))

import _onevision

from hybrid_rs_jax.classifiers.vlm.checkpoint import Checkpoint
from hybrid_rs_jax.classifiers.vlm.forward import Forward
from hybrid_rs_jax.classifiers.vlm.settings import GuardSettings
from hybrid_rs_jax.models import LlavaOnevision


@dataclasses.dataclass(frozen=True)
class SharedPrefix:
    """Operations of a guard on one noisy picture.

    Attributes:
      budgets: texts per noisy picture.
      together: one picture with all texts.
      apart: as many separate passes, in one batch.
    """

    budgets: int
    together: float
    apart: float

    @property
    def passes(self) -> float:
        """What all budgets cost, in separate passes."""
        return self.together * self.budgets / self.apart


def shared_prefix(shape: str, budgets: int, *, tiles: int = 1, dtype: Any = jnp.float32, **chosen: Any) -> SharedPrefix:
    """Operations of the two compiled programs, for one of the shapes of `_onevision`.

    Args:
      shape: sizes of the network.
      budgets: texts per noisy picture, at least 2.
      tiles: along each side of the picture.
      dtype: of weights and computation.
      **chosen: fields of `GuardSettings`.
    """
    words, side = _onevision.words_of(shape), tiles * _onevision.SHAPES[shape]["tower"]["image_size"]
    config, settings = _onevision.config(shape, words), GuardSettings(image_size=(side, side), **chosen)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (_onevision.checkpoint_files(shape, words) | {"config.json": config}).items():
            (Path(folder) / name).write_text(json.dumps(content), encoding="utf-8")
        checkpoint = Checkpoint.open(folder, settings)
        layout = checkpoint.layout(settings)
    network = nnx.eval_shape(lambda: LlavaOnevision(checkpoint.sizes, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(network)
    forward = Forward(graph, layout, cached=False, share_image=False)
    alphabet = jax.ShapeDtypeStruct((len(checkpoint.alphabet),), jnp.int32)
    parameters = {"network": state, "alphabet": alphabet, "prefix": None}

    def operations(pictures: int, texts: int) -> float:
        tokens = jax.ShapeDtypeStruct((pictures, texts, settings.text_length), jnp.int32)
        images = jax.ShapeDtypeStruct((pictures, side, side, 3), jnp.float32)
        lowered = jax.jit(forward.of_pictures).lower(parameters, tokens, images)
        return float(lowered.compile().cost_analysis()["flops"])

    return SharedPrefix(budgets, operations(1, budgets), operations(budgets, 1))


def main(argv: list[str] | None = None) -> int:
    """Count and print; write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(_onevision.SHAPES), default="0.5b")
    parser.add_argument("--budgets", type=int, default=9, help="texts per noisy picture, at least 2")
    parser.add_argument("--tiles", type=int, default=1, help="tiles along each side of the picture")
    parser.add_argument("--text-length", type=int, default=64)
    parser.add_argument("--policy", default="combination", help="as for hybrid-rs sample")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    if args.budgets < 2 or args.tiles < 1:
        parser.error("--budgets must be at least 2 and --tiles at least 1")
    chosen = {"text_length": args.text_length, "policy": args.policy}
    found = shared_prefix(args.shape, args.budgets, tiles=args.tiles, **chosen)
    print(
        f"{args.shape}: {args.budgets} budgets on one noisy picture cost {found.passes:.3f} passes "
        f"({found.together / 1e12:.4g} TFLOP together, {found.apart / 1e12:.4g} apart, XLA's count)"
    )
    if args.out is not None:
        record = {
            "shape": args.shape,
            "tiles": args.tiles,
            **chosen,
            **dataclasses.asdict(found),
            "passes": found.passes,
        }
        args.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
