"""A run of feature laws: the draws of each input go into the ledger's stream "law" as they come."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from hybrid_rs_jax.certificate.similarity_target import SimilarityTarget
from hybrid_rs_jax.confidence.score_law import BINS
from hybrid_rs_jax.data.inputs import Inputs
from hybrid_rs_jax.errors import UnreadableInputError
from hybrid_rs_jax.features.base import Encoder
from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.sampling.engine import Row
from hybrid_rs_jax.sampling.features import FeatureSampler
from hybrid_rs_jax.sampling.ledger import CountRow, Ledger, Stream
from hybrid_rs_jax.sampling.run import COMMIT_SECONDS, InterruptedRun, Progress, checked_input

__all__ = ["sample_features_run"]


def sample_features_run(
    ledger: Ledger,
    encoder: Encoder,
    inputs: Inputs,
    indices: Sequence[int],
    smoothing: HybridSmoothing,
    n: int,
    key: jax.Array,
    reference: str = "clean",
    *,
    bins: int = BINS,
    target: SimilarityTarget | None = None,
    batch_size: int = 2000,
    mesh: Mesh | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Progress:
    """Draw what the ledger lacks of the laws, one input after the other.

    Args:
      ledger: open for writing; what it holds already is not drawn again.
      inputs: the whole data set; the noise of an input is keyed by its index in it.
      indices: which inputs to draw.
      encoder, smoothing, n, key, reference, bins, target, batch_size, mesh: as for `sample_features`.
      report: called after each batch.

    Returns:
      How far the run came; inputs that could not be read are skipped, and the ledger says why.

    Raises:
      LedgerError: if the ledger cannot be written; everything before is kept.
      ValueError: if the encoder gives no direction; everything before is kept.
      InterruptedRun: in the place of a KeyboardInterrupt.
    """
    law = Stream("law", (bins,))
    tallies = ledger.tallies()
    before = {index: tallies[index, law] for index in indices if (index, law) in tallies}
    progress = Progress(len(indices), settled=sum(min(row.end, n) for row in before.values()))
    sampler: FeatureSampler | None = None
    try:
        for index in indices:
            known = before.get(index)
            first = 0 if known is None else known.end
            if first >= n:
                progress.finished += 1
                continue
            try:
                encoded, rounded = checked_input(inputs.read(index), smoothing)
            except UnreadableInputError as error:
                ledger.skip(index, inputs.ids[index], str(error))
                progress.skipped += 1
                progress.settled += n - first
                continue
            progress.rounded = max(progress.rounded, rounded)
            ledger.register([(inputs.ids[index], index, encoded.digest())])
            row = Row(encoded.tokens, encoded.image, encoded.eligible, index, first)
            if sampler is None:
                given = (encoder, smoothing, row, n, reference)
                sampler = FeatureSampler(*given, bins=bins, batch_size=batch_size, mesh=mesh, target=target)
            drawn = _draw(ledger, sampler, row, key, law, progress, report, None if known is None else known.counts)
            progress.finished += 1
            progress.saved += n - drawn
            progress.settled += n - drawn
    except KeyboardInterrupt as interrupt:
        raise InterruptedRun(progress) from interrupt
    return progress


def _draw(
    ledger: Ledger,
    sampler: FeatureSampler,
    row: Row,
    key: jax.Array,
    law: Stream,
    progress: Progress,
    report: Callable[[Progress], None] | None,
    counts: tuple[int, ...] | None,
) -> int:
    """The missing draws of one input, and how many it has then; what was counted is written even if this ends early.

    `counts` are those of the draws before.
    """

    def lost(draws: int) -> None:
        progress.lost = draws

    waiting: list[CountRow] = []
    written = time.monotonic()
    drawn = sampler.draws(row, key, lost=lost, before=None if counts is None else np.array(counts))
    end = row.drawn
    with contextlib.closing(drawn):
        try:
            for first, votes, count in drawn:
                waiting.append(CountRow(row.index, law, first, count, tuple(votes.tolist())))
                end = first + count
                progress.drawn += count
                progress.classified += count
                progress.settled += count
                if time.monotonic() - written >= COMMIT_SECONDS:
                    rows, waiting = waiting, []
                    ledger.append(rows)
                    written = time.monotonic()
                if report is not None:
                    report(progress)
        finally:
            ledger.append(waiting)  # first of all: the engine waits for what the encoder is at
    return end
