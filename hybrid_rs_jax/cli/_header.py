"""The noise of the flags, and the header of a run: everything that defines the draws."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid_rs_jax._text import joined
from hybrid_rs_jax.cli.options import BETA, P_DELETE, NoiseOptions, ThreatOptions
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.report.tables import say

if TYPE_CHECKING:
    from hybrid_rs_jax.cli._sources import Source
    from hybrid_rs_jax.confidence import SamplingPlan
    from hybrid_rs_jax.data.inputs import Input
    from hybrid_rs_jax.kernels import HybridSmoothing
    from hybrid_rs_jax.results.statement import ThreatName
    from hybrid_rs_jax.sampling.design import Design

__all__ = ["DEMO_SIGMA", "as_sentence", "run_header", "smoothing_of"]

DEMO_SIGMA = 0.25
#: Numbers of a table lie on no grid of their own; theirs is so many times finer than sigma.
STEPS = 1024


def smoothing_of(noise: NoiseOptions, source: Source, threat: ThreatOptions, demo: bool) -> HybridSmoothing:
    """The noise of the flags; beta, and for the demo sigma, have defaults, and the data know their alphabet."""
    from hybrid_rs_jax.cli._sources import first_readable

    fields, first = source.cardinalities, first_readable(source.inputs)
    if fields is not None:
        noise = noise.or_default(kernel="categorical" if fields else "none")
    elif not first.tokens.size:  # a guard of pictures alone
        noise = noise.or_default(kernel="none")
    if fields and noise.kernel == "categorical":
        noise = noise.or_default(cardinalities=fields)
        if noise.cardinalities != fields:
            raise BadInputError(f"--cardinalities contradicts the table, whose fields have {joined(fields)} symbols.")
    noise = noise.or_default(kernel="deletion" if threat.name == "insert" else "uniform")
    if (noise.kernel == "deletion") != (threat.name == "insert"):
        raise BadInputError(
            f"--threat {threat.name} contradicts --kernel {noise.kernel}: insertions, and they alone, are certified by "
            "deletion noise."
        )
    if noise.kernel == "deletion":
        noise = noise.or_default(p_delete=P_DELETE)
    elif noise.kernel != "none":
        noise = noise.or_default(beta=BETA)
    if noise.kernel == "uniform":
        noise = noise.or_default(vocab_size=source.vocab_size)
        if source.vocab_size not in (None, noise.vocab_size):
            raise BadInputError(
                f"--vocab-size {noise.vocab_size} contradicts the data, whose alphabet has {source.vocab_size} symbols."
            )
    if not first.image.size:
        if noise.sigma is not None:
            raise BadInputError("--sigma means nothing to inputs without pictures: tokens alone carry noise.")
        if not noise.no_pixel_noise:
            say("The inputs have no pictures: tokens alone carry noise (--no-pixel-noise).")
        noise = dataclasses.replace(noise, no_pixel_noise=True)
    if demo and not noise.no_pixel_noise:
        noise = noise.or_default(sigma=DEMO_SIGMA)
    if fields is not None and noise.sigma is not None:
        noise = noise.or_default(step=noise.sigma / STEPS)
    return source.padded(noise.smoothing())


def run_header(
    source: Source,
    smoothing: HybridSmoothing,
    plan: SamplingPlan,
    aim: dict[str, object] | None,
    seed: int,
    threat: ThreatOptions,
    design: Design | None,
) -> dict[str, object]:
    """Everything that defines the draws."""
    from hybrid_rs_jax.classifiers.base import Abilities
    from hybrid_rs_jax.cli._sources import first_readable
    from hybrid_rs_jax.kernels.record import describe_noise
    from hybrid_rs_jax.results.runs import run_record

    first = first_readable(source.inputs)
    shared = getattr(source.inputs, "eligible", first.eligible)
    with library_sentences():
        noise = describe_noise(smoothing, first.image.size)
    record = run_record(
        smoothing,
        samples=plan.max_samples,
        seed=seed,
        eligible=np.flatnonzero(shared).tolist() if np.ndim(shared) == 1 else [],
        sigma_unit=source.sigma_unit,
        dtype=str(first.image.dtype),
        classifier={**source.model, **_served_model(source.classifier, first)},
        data=source.data,
        noise=noise,
        threat=_threat_name(smoothing, threat, source),
        design=design,
    )
    if np.ndim(shared) == 2:
        record["eligible_positions"] = "an own set for each input, part of its digest"
    classes = Abilities.of(source.classifier).classes
    return {**record, "plan": plan.describe(), "aim": aim, "classes": classes}


def _served_model(classifier: Any, encoded: Input) -> dict[str, str]:
    """The model that a server really runs: known after one question, and part of what a resumed run must find again."""
    if not hasattr(classifier, "served_model"):
        return {}
    with as_sentence():
        classifier(encoded.tokens[None], encoded.image[None])
    return {"served_model": classifier.served_model}


@contextlib.contextmanager
def as_sentence() -> Iterator[None]:
    """What a chat endpoint refuses is said in its own sentences, without a traceback."""
    from hybrid_rs_jax.classifiers import ChatError

    try:
        yield
    except ChatError as error:
        raise BadInputError(str(error)) from error


def _threat_name(smoothing: HybridSmoothing, threat: ThreatOptions, source: Source) -> ThreatName:
    """What the header calls the threat: arrays of the user say by `eligible` which positions there are."""
    from hybrid_rs_jax.kernels import CategoricalKernel

    if source.cardinalities is not None or isinstance(smoothing.discrete, CategoricalKernel):
        return "fields"
    if smoothing.discrete is None:
        return "image"
    own = source.data.get("name") == "npz" and threat.name in ("suffix", "anywhere")
    return "positions" if own else threat.name
