"""Keep the inputs that a checkpoint calls unsafe only as a pair of text and picture.

An input is kept when the checkpoint calls its text alone safe, its picture alone safe,
both together unsafe, and noise alone safe. Where a column clean_image names a picture
from which the written text was removed, that one is asked about alone. A run that was
stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

from hybrid_rs_jax._files import check_target
from hybrid_rs_jax.cli._denoiser import DenoiserName, before_guard, open_denoiser
from hybrid_rs_jax.cli._sources import is_checkpoint, open_guard
from hybrid_rs_jax.cli.options import Batch, Count, GuardOptions, Positive, Seed, Unit
from hybrid_rs_jax.data import Dataset, Outcome, RawInput, open_data, write_index
from hybrid_rs_jax.data import curate as curated
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError, library_sentences
from hybrid_rs_jax.kernels import HybridSmoothing, UniformKernel
from hybrid_rs_jax.report.progress import progress_bar
from hybrid_rs_jax.report.tables import say

EXAMPLES = """\
examples:
  hybrid-rs curate --model ./LlavaGuard-0.5B --data hateful_memes/dev.jsonl --out kept.jsonl
  hybrid-rs sample --model ./LlavaGuard-0.5B --data kept.jsonl --sigma 0.5 --out run"""


def curate(
    *,
    model: Annotated[str, Parameter(metavar="PATH")],
    data: Annotated[str, Parameter(metavar="DATA")],
    out: Annotated[Path, Parameter(metavar="FILE")],
    force: bool = False,
    limit: Count | None = None,
    batch_size: Batch = 16,
    sigma: Positive = 0.5,
    beta: Unit = 0.25,
    seed: Seed = 0,
    denoiser: DenoiserName | None = None,
    options: GuardOptions | None = None,
) -> None:
    """Ask the checkpoint about every input, write the index of those that are kept, say why others are not.

    Parameters
    ----------
    model
        folder or hub id of the checkpoint
    data
        folder, .csv or .jsonl of texts and pictures; a column clean_image names pictures without their text
    out
        index of the inputs that are kept (.jsonl); what became of every input goes to FILE.journal
    force
        overwrite FILE; its journal is gone on with
    limit
        only the first N inputs
    batch_size
        pairs per step (default: 16)
    sigma
        pixel noise that must not look unsafe by itself: its standard deviation (default: 0.5)
    beta
        token noise that must not look unsafe by itself: the share of replaced positions (default: 0.25)
    seed
        of that noise (default: 0)
    denoiser
        cleans every picture before the checkpoint sees it, as in a run with --sigma: a folder in the layout of
        diffusers, or demo-fashion
    """
    if not is_checkpoint(model):
        raise BadInputError(f"--model must be the folder or the hub id of a checkpoint, got {model}.")
    options = options or GuardOptions()
    check_target(out, (".jsonl",), force)
    clean = open_denoiser(denoiser, sigma)
    texts = open_data(data)
    texts = texts if limit is None else texts.first(limit)
    guard = open_guard(model, options)
    asked = guard if clean is None else before_guard(clean, guard, sigma)
    settings = {
        "model": _model(asked),
        "data": texts.digest(),
        "noise": {"sigma": sigma, "beta": beta, "seed": seed},
    }
    smoothing = HybridSmoothing(UniformKernel(beta, guard.vocab_size), sigma)
    with progress_bar("curating", len(texts), "inputs", log=True) as advance, library_sentences():
        curation = curated(
            _Encodable(texts, guard),
            asked.decide,
            noise=NoiseAlone(smoothing, guard.text_length, guard.image_size, seed),
            journal=out.with_name(out.name + ".journal"),
            clean_image=texts.clean_image,
            settings=settings,
            batch_size=batch_size,
            progress=advance,
        )
    write_index(out, texts.select(curation.kept), force)
    say(curation.report())
    if cleaned := sum(map(bool, texts.clean_images)):
        say(f"Of {cleaned:,} of them the picture alone was the one without its text (column clean_image).")
    for name in [name for name, outcome in curation.outcomes.items() if outcome is Outcome.UNREADABLE][:5]:
        say(f"Unreadable {name}: {curation.reasons[name]}")
    say(f"\nWrote {out}; what became of every input is in {out}.journal.")


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


def _model(guard: Any) -> dict[str, object]:
    """What the decisions depend on: the threat is not part of it."""
    described = {name: value for name, value in guard.describe().items() if name != "threat"}
    return described | ({"classifier": _model(guard.classifier)} if "classifier" in described else {})
