"""What `features sample` does: open the encoder, its noise and the ledger, draw."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hybrid_rs_jax._files import json_text
from hybrid_rs_jax._json import parse_json
from hybrid_rs_jax.cli._denoiser import open_denoiser
from hybrid_rs_jax.cli.options import ALPHA, NoiseOptions, ThreatOptions
from hybrid_rs_jax.cli.sample import WorkOptions, reported
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.results.facts import Facts, thawed

if TYPE_CHECKING:
    from hybrid_rs_jax.certificate import SimilarityTarget
    from hybrid_rs_jax.cli._sources import Source
    from hybrid_rs_jax.kernels import HybridSmoothing
    from hybrid_rs_jax.results.features import FeatureRun
    from hybrid_rs_jax.sampling.ledger import Ledger
    from hybrid_rs_jax.sampling.run import Progress
    from hybrid_rs_jax.smoothed_encoder import CopiesRow

__all__ = [
    "boosted",
    "draw",
    "feature_header",
    "feature_smoothing",
    "measured_copies",
    "opened_ledger",
    "similarity_target",
]

DEMO_SIGMA, DEMO_BETA = 0.25, 0.9


def draw(
    ledger: Ledger,
    out: Path,
    source: Source,
    indices: Sequence[int],
    smoothing: HybridSmoothing,
    samples: int,
    work: WorkOptions,
    reference: str,
    bins: int,
    target: SimilarityTarget | None,
) -> Progress:
    from hybrid_rs_jax.kernels import run_key
    from hybrid_rs_jax.sampling.engine import data_mesh
    from hybrid_rs_jax.sampling.features_run import sample_features_run

    with reported(ledger, out, len(indices) * samples, "input", source.classifier) as report:
        return sample_features_run(
            ledger,
            source.classifier,
            source.inputs,
            indices,
            smoothing,
            samples,
            run_key(work.seed),
            reference,
            bins=bins,
            target=target,
            batch_size=work.batch_size or 2000,
            mesh=data_mesh(work.devices),
            report=report,
        )


def opened_ledger(out: Path, header: dict[str, object], new: bool) -> Ledger:
    """A new ledger, or with --resume the one that is there; nothing may change, for ranks are those of n."""
    from hybrid_rs_jax.sampling.ledger import Ledger

    return Ledger.create(out, header) if new else Ledger.resume(out, header)


def feature_header(
    source: Source,
    smoothing: HybridSmoothing,
    samples: int,
    seed: int,
    settings: dict[str, object],
    target: SimilarityTarget | None,
) -> dict[str, object]:
    """Everything that defines the draws; with a target the looks and their shares of the risk."""
    from hybrid_rs_jax.cli._sources import first_readable
    from hybrid_rs_jax.confidence import FixedSample
    from hybrid_rs_jax.kernels.record import describe_noise
    from hybrid_rs_jax.results.runs import run_record

    first = first_readable(source.inputs)
    with library_sentences():
        noise = describe_noise(smoothing, first.image.size)
    shared = getattr(source.inputs, "eligible", first.eligible)
    record = run_record(
        smoothing,
        samples=samples,
        seed=seed,
        eligible=np.flatnonzero(shared).tolist() if np.ndim(shared) == 1 else [],
        sigma_unit=source.sigma_unit,
        dtype=str(first.image.dtype),
        classifier=source.model,
        data=source.data,
        noise=noise,
    )
    if np.ndim(shared) == 2:
        record["eligible_positions"] = "an own set for each input, part of its digest"
    plan = FixedSample(samples).describe() if target is None else target.looks(samples).describe()
    aim = {} if target is None else {"target": target.describe()}
    return {**record, "plan": plan, "features": settings | aim}


def similarity_target(given: tuple[float, float, int] | None, alpha: float | None) -> SimilarityTarget | None:
    """What the draws are for; None: their number is fixed.

    Raises:
      BadInputError: if there is a level and no target.
    """
    from hybrid_rs_jax.certificate import SimilarityTarget

    if given is None:
        if alpha is not None:
            raise BadInputError("--alpha belongs to --target here; a fixed number of draws is certified at any level.")
        return None
    return SimilarityTarget(*given, alpha=ALPHA if alpha is None else alpha)


def boosted(source: Source, denoiser: str | None, mapper: Path | None, smoothing: HybridSmoothing) -> Source:
    """The source with its encoder behind the denoiser and before the mapper that were asked for."""
    if denoiser is None and mapper is None:
        return source
    if smoothing.sigma is None:
        raise BadInputError("--denoiser and --mapper need pixel noise: give --sigma.")
    from hybrid_rs_jax.cli._sources import first_readable
    from hybrid_rs_jax.features import Boosted
    from hybrid_rs_jax.models.booster import load_mapper

    first, before = first_readable(source.inputs).image.shape, open_denoiser(denoiser, smoothing.sigma)
    with library_sentences():
        size = None if before is None or before.size == first[:2] else before.size
        after = None if mapper is None else load_mapper(mapper)
        made = Boosted(source.classifier, float(smoothing.sigma), denoiser=before, mapper=after, size=size)
    return dataclasses.replace(source, classifier=made, model=made.describe() | {"encoder": source.model})


def feature_smoothing(noise: NoiseOptions, source: Source, demo: bool) -> HybridSmoothing:
    """The noise of the flags. A budget of d tokens needs beta^d above (1 + cosine)/2, so the demo's beta is large."""
    noise = noise.or_default(kernel="uniform" if demo else "none")
    if demo and noise.kernel == "uniform":
        noise = noise.or_default(beta=DEMO_BETA)
    if noise.kernel == "uniform":
        noise = noise.or_default(vocab_size=source.vocab_size)
    if demo and not noise.no_pixel_noise:
        noise = noise.or_default(sigma=DEMO_SIGMA)
    return source.padded(noise.smoothing())


def measured_copies(run: FeatureRun, copies: Sequence[int], encoder: str, data: str) -> list[CopiesRow]:
    """What means of a few copies give on the clean inputs of a run, with the run's own noise.

    Raises:
      BadInputError: if the encoder or the data are not those of the run.
    """
    import jax

    from hybrid_rs_jax.cli._sources import open_encoder
    from hybrid_rs_jax.sampling.features import clean_features
    from hybrid_rs_jax.smoothed_encoder import copies_table

    settings, smoothing = run.run.facts.get("classifier"), run.run.smoothing
    pooling = settings.get("pooling") if isinstance(settings, Facts) else None
    source = open_encoder(encoder, data, ThreatOptions(), None, str(pooling or "mean"))
    for name, found in (("classifier", source.model), ("data", source.data)):
        if thawed(run.run.facts[name]) != parse_json(json_text(found), "the header"):
            flag = "--encoder" if name == "classifier" else "--data"
            raise BadInputError(f"{flag} is not that of the run, whose header names {thawed(run.run.facts[name])}.")
    places = {name: index for index, name in enumerate(source.inputs.ids)}
    rows = [source.inputs.read(places[name]) for name in run.ids]
    tokens, images = np.stack([row.tokens for row in rows]), np.stack([row.image for row in rows])
    with library_sentences():
        reference = clean_features(source.classifier, tokens, images, smoothing)
        given = (source.classifier, tokens, images, smoothing, reference, copies, jax.random.key(0))
        return copies_table(*given, eligible=np.stack([row.eligible for row in rows]))
