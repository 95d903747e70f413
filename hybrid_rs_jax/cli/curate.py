"""Keep the inputs that a checkpoint calls unsafe only as a pair of text and picture.

An input is kept when the checkpoint calls its text alone safe, its picture alone safe,
both together unsafe, and noise alone safe. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_rs_jax._files import check_target
from hybrid_rs_jax.cli import _arguments as arguments
from hybrid_rs_jax.cli._vlm_arguments import add_vlm_arguments, is_checkpoint, open_guard, vlm_settings
from hybrid_rs_jax.data import Dataset, Outcome, RawInput, curate, open_data, write_index
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError, library_sentences
from hybrid_rs_jax.kernels import HybridSmoothing, UniformKernel
from hybrid_rs_jax.report.progress import progress_bar
from hybrid_rs_jax.report.tables import say

EXAMPLES = """\
examples:
  hybrid-rs curate --model ./LlavaGuard-0.5B --data hateful_memes/dev.jsonl --out kept.jsonl
  hybrid-rs sample --model ./LlavaGuard-0.5B --data kept.jsonl --sigma 0.5 --out run"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `curate`."""
    parser.add_argument("--model", required=True, metavar="PATH", help="folder or hub id of the checkpoint")
    parser.add_argument("--data", required=True, metavar="DATA", help="folder, .csv or .jsonl of texts and pictures")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="index of the inputs that are kept (.jsonl); what became of every input goes to FILE.journal",
    )
    parser.add_argument("--force", action="store_true", help="overwrite FILE; its journal is gone on with")
    parser.add_argument("--limit", type=arguments.integer(1, 2**31 - 1), metavar="K", help="only the first K inputs")
    parser.add_argument(
        "--batch-size",
        type=arguments.integer(1, 2**20),
        default=16,
        metavar="B",
        help="pairs per step (default: %(default)s)",
    )
    parser.add_argument(
        "--sigma",
        type=arguments.positive,
        default=0.5,
        metavar="S",
        help="pixel noise that must not look unsafe by itself: its standard deviation (default: %(default)s)",
    )
    parser.add_argument(
        "--beta",
        type=arguments.open_unit,
        default=0.25,
        metavar="B",
        help="token noise that must not look unsafe by itself: the share of replaced positions (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=arguments.integer(0, 2**31 - 1), default=0, metavar="S", help="of that noise (default: 0)"
    )
    add_vlm_arguments(parser, without=("threat",))


def run(args: argparse.Namespace) -> None:
    """Ask the checkpoint about every input, write the index of those that are kept, say why others are not."""
    if not is_checkpoint(args.model):
        raise BadInputError(f"--model must be the folder or the hub id of a checkpoint, got {args.model}.")
    check_target(args.out, (".jsonl",), args.force)
    data = open_data(args.data)
    data = data if args.limit is None else data.first(args.limit)
    guard = open_guard(args.model, vlm_settings(args))
    noise = {"sigma": args.sigma, "beta": args.beta, "seed": args.seed}
    settings = {"model": _model(guard), "data": data.digest(), "noise": noise}
    smoothing = HybridSmoothing(UniformKernel(args.beta, guard.vocab_size), args.sigma)
    with progress_bar("curating", len(data), "inputs", log=True) as advance, library_sentences():
        curation = curate(
            _Encodable(data, guard),
            guard.decide,
            noise=NoiseAlone(smoothing, guard.text_length, guard.image_size, args.seed),
            journal=args.out.with_name(args.out.name + ".journal"),
            settings=settings,
            batch_size=args.batch_size,
            progress=advance,
        )
    write_index(args.out, data.select(curation.kept), args.force)
    say(curation.report())
    for name in [name for name, outcome in curation.outcomes.items() if outcome is Outcome.UNREADABLE][:5]:
        say(f"Unreadable {name}: {curation.reasons[name]}")
    say(f"\nWrote {args.out}; what became of every input is in {args.out}.journal.")


@dataclasses.dataclass(frozen=True)
class _Encodable:
    """A data set in which texts that the guard cannot take count as unreadable."""

    data: Dataset
    guard: Any

    @property
    def ids(self) -> Sequence[str]:
        return self.data.ids

    def read(self, index: int) -> RawInput:
        try:
            self.guard.symbols(self.data.texts[index])
        except ValueError as error:
            raise UnreadableInputError(str(error)) from error
        return self.data.read(index)


@dataclasses.dataclass(frozen=True)
class NoiseAlone:
    """The noise of a run on an empty text and a grey picture, tokens and pixels both; one draw per input.

    Attributes:
      smoothing: draws it.
      text_length, image_size: of what is certified.
      seed: of all draws; each input's noise depends on the seed and its id alone.
    """

    smoothing: HybridSmoothing
    text_length: int
    image_size: tuple[int, int]
    seed: int

    def __call__(self, raw: RawInput) -> tuple[np.ndarray, np.ndarray]:
        import jax
        import jax.numpy as jnp

        digest = hashlib.sha256(f"{self.seed}\n{raw.id}".encode()).digest()
        key = jax.random.key(int.from_bytes(digest[:4], "little"), impl="threefry2x32")
        key = jax.random.fold_in(key, int.from_bytes(digest[4:8], "little"))
        empty, grey = jnp.zeros(self.text_length, jnp.int32), jnp.full((*self.image_size, 3), 0.5, jnp.float32)
        tokens, image = self.smoothing.sample(key, empty, grey, jnp.ones(self.text_length, bool))
        return np.asarray(tokens), np.asarray(image)


def _model(guard: Any) -> dict[str, Any]:
    """What the decisions depend on: the threat is not part of it."""
    return {name: value for name, value in guard.describe().items() if name != "threat"}
