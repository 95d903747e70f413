"""Certify the features of an encoder: the cosine between clean and attacked smoothed features.

features sample draws noisy copies and keeps the law of each input's score in a ledger;
features certify turns it into certified cosines and radii; features curve draws the
certified cosine against eps, from the law of the score and from its mean alone.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from cyclopts import App, Parameter

from hybrid_rs_jax._checks import LARGEST_SIGMA
from hybrid_rs_jax._files import atomic_file, check_target, json_text, kind_of, write_csv
from hybrid_rs_jax._text import counted, setting_text
from hybrid_rs_jax.cli import _values
from hybrid_rs_jax.cli._values import MAX_BUDGET, flag, integer, number_grid
from hybrid_rs_jax.cli.options import ALPHA, SAMPLES, Count, Level, NoiseOptions, ThreatOptions
from hybrid_rs_jax.cli.sample import WorkOptions, reported, summary, terminated_as_interrupted
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.report.feature_tables import print_certificates, print_curve
from hybrid_rs_jax.report.tables import say

if TYPE_CHECKING:
    from hybrid_rs_jax.cli._sources import Source
    from hybrid_rs_jax.kernels import HybridSmoothing
    from hybrid_rs_jax.results.features import FeatureCurve, FeatureRun
    from hybrid_rs_jax.sampling.ledger import Ledger
    from hybrid_rs_jax.sampling.run import Progress

EXAMPLES = """\
examples:
  hybrid-rs features sample --encoder demo --data demo --limit 20 --out features
  hybrid-rs features certify features --similarity 0.5 --epsilon 0,0.1,0.2
  hybrid-rs features curve features --out curve.png
  hybrid-rs features sample --encoder my_encoder:encode --data inputs.npz --sigma 0.5 --out own --resume"""

DEMO_SIGMA, DEMO_BETA = 0.25, 0.9
#: Distances of a curve where none are asked for, in units of sigma.
_CURVE = 21

features = App(name="features", help=__doc__, help_epilogue=EXAMPLES + "\n")

Grid = Annotated[np.ndarray, flag(number_grid(lambda x: 0 <= x <= LARGEST_SIGMA, "at least 0"), "E,E,...")]
Cosine = Annotated[float, flag(_values.cosine, "S")]
Budget = Annotated[int, flag(integer(0, MAX_BUDGET), "D")]


@features.command
def sample(
    *,
    encoder: Annotated[str, Parameter(metavar="ENCODER")],
    data: Annotated[str, Parameter(metavar="DATA")],
    out: Annotated[Path, Parameter(metavar="RUN")],
    resume: bool = False,
    samples: Count = SAMPLES,
    reference: Literal["clean", "pairs"] = "clean",
    bins: Annotated[int, flag(integer(2, 2**16), "K")] = 1024,
    pooling: Literal["mean", "class", "grid"] = "mean",
    pixel_range: Annotated[tuple[float, float], flag(_values.pixel_range, "LOW,HIGH")] | None = None,
    noise: NoiseOptions | None = None,
    work: WorkOptions | None = None,
) -> None:
    """Draw noisy copies of each input and count the cosines of their features in bins.

    Parameters
    ----------
    encoder
        demo (text and picture together), package.module:name of an encoder (Python), or the folder of a CLIP, SigLIP
        or LLaVA checkpoint, whose vision tower is taken
    data
        demo, or a NumPy archive (.npz) with tokens, images, ids, eligible
    out
        folder of the run
    resume
        go on with RUN where it exists
    samples
        noisy copies of each input, fixed beforehand (default: 10,000)
    reference
        what features are compared with: that of the clean input, or that of a second noisy copy (default: clean)
    bins
        of the score, equal in angle, fixed beforehand (default: 1024)
    pooling
        of a tower: mean of the patches, class token, or the grid of patches as one vector (default: mean)
    pixel_range
        of the pixels of an archive: what becomes 0 and 1, e.g. 0,255
    """
    from hybrid_rs_jax.cli._sources import DEMO_DATA, open_encoder
    from hybrid_rs_jax.confidence import FixedSample
    from hybrid_rs_jax.kernels.record import smoothing_text
    from hybrid_rs_jax.sampling.ledger import LEDGER_FILE

    work = work or WorkOptions()
    noise, demo = noise or NoiseOptions(), data in DEMO_DATA
    source = open_encoder(encoder, data, ThreatOptions().of_noise(noise), pixel_range, pooling)
    smoothing = _smoothing(noise, source, demo)
    header = _header(source, smoothing, samples, work.seed, {"reference": reference, "bins": bins})
    indices = work.indices(len(source.inputs.ids))
    say(f"{counted(len(indices), 'input')}, {smoothing_text(header['smoothing'])}; {samples:,} draws per input")
    new = not resume or kind_of(out / LEDGER_FILE) is None
    with terminated_as_interrupted(), library_sentences(), _ledger(out, header, new) as ledger:
        progress = _draw(ledger, out, source, indices, smoothing, samples, work, reference, bins)
        counts = ledger.counts()
    if counts.skipped and not counts.ids:
        raise BadInputError(f"None of the inputs can be used; the first one: {counts.skipped[0][1]}")
    summary(progress, FixedSample(samples), counts)
    say(f"\nWrote {out / LEDGER_FILE}. Next: hybrid-rs features certify {out}")


@features.command
def certify(
    run: Annotated[Path, Parameter(metavar="RUN")],
    /,
    *,
    similarity: Cosine = 0.5,
    epsilon: Grid | None = None,
    alpha: Level = ALPHA,
    max_budget: Budget | None = None,
    format: Literal["table", "json", "csv"] = "table",
    json: bool = False,
    out: Annotated[Path, Parameter(metavar="FILE")] | None = None,
    force: bool = False,
) -> None:
    """Certify the cosines of a run: a radius for each input and budget, and the cosine at chosen distances.

    Parameters
    ----------
    run
        folder that features sample wrote
    similarity
        cosine that is to be kept, in [0, 1) (default: 0.5)
    epsilon
        l2 distances at which the certified cosine is given, e.g. 0,0.25,0.5
    alpha
        risk per input, chosen before the draws (default: 0.01)
    max_budget
        certify the discrete budgets 0..D (default: 1; 0 for image-only)
    format
        what is printed (default: table)
    json
        short for --format json
    out
        also write FILE (.json or .csv)
    force
        let --out overwrite an existing file
    """
    from hybrid_rs_jax.results.features import feature_columns, feature_record, read_feature_run

    if json and format not in ("table", "json"):
        raise BadInputError(f"--json contradicts --format {format}; leave one of them out.")
    if out is not None:
        check_target(out, (".json", ".csv"), force)
    source = read_feature_run(run)
    certificate = source.certify(alpha, _budgets(source, max_budget))
    epsilons = [] if epsilon is None else epsilon.tolist()
    columns = feature_columns(source.ids, certificate, epsilons, similarity)
    rows = list(zip(*(x if isinstance(x, tuple) else x.tolist() for x in columns.values()), strict=True))
    if out is not None:
        with atomic_file(out, force) as path:
            if out.suffix.lower() == ".csv":
                write_csv(path, list(columns), rows)
            else:
                path.write_text(json_text(feature_record(source, certificate, epsilons, similarity)) + "\n", "utf-8")
    if json or format == "json":
        print(json_text(feature_record(source, certificate, epsilons, similarity)))
    elif format == "csv":
        _print_csv(list(columns), rows)
    else:
        print_certificates(source, certificate, columns, rows, similarity)
        if out is not None:
            say(f"\nWrote {out}.")


@features.command
def curve(
    run: Annotated[Path, Parameter(metavar="RUN")],
    /,
    *,
    epsilon: Grid | None = None,
    alpha: Level = ALPHA,
    budget: Budget = 0,
    format: Literal["table", "json", "csv"] = "table",
    json: bool = False,
    out: Annotated[Path, Parameter(metavar="FILE")] | None = None,
    force: bool = False,
) -> None:
    """The certified cosine against the l2 distance, from the law of the score and from its mean alone.

    Parameters
    ----------
    run
        folder that features sample wrote
    epsilon
        l2 distances (default: 0 to 3 sigma in 21 steps)
    alpha
        risk per input, chosen before the draws (default: 0.01)
    budget
        discrete budget (default: 0)
    format
        what is printed (default: table)
    json
        short for --format json
    out
        also write FILE (.json, .csv, .png, .pdf or .svg)
    force
        let --out overwrite an existing file
    """
    from hybrid_rs_jax.report.feature_plots import SUFFIXES, save_feature_curve
    from hybrid_rs_jax.results.features import feature_curve, read_feature_run

    if json and format not in ("table", "json"):
        raise BadInputError(f"--json contradicts --format {format}; leave one of them out.")
    if out is not None:
        check_target(out, (".json", ".csv", *SUFFIXES), force)
    source = read_feature_run(run)
    certificate = source.certify(alpha, _budgets(source, budget)[-1:] if budget else (0,))
    sigma = source.run.smoothing.sigma
    default = np.zeros(1) if sigma is None else np.linspace(0, 3 * sigma, _CURVE)
    found = feature_curve(certificate, (default if epsilon is None else epsilon).tolist(), budget)
    record = _curve_record(found, source.statement(certificate), budget, len(source.ids))
    names, rows = list(record["columns"]), list(found.rows())
    if out is not None:
        suffix = out.suffix.lower()
        with atomic_file(out, force) as path:
            if suffix == ".csv":
                write_csv(path, names, rows)
            elif suffix == ".json":
                path.write_text(json_text(record) + "\n", "utf-8")
            else:
                save_feature_curve(found, path, suffix, _setting(source, alpha, budget))
    if json or format == "json":
        print(json_text(record))
    elif format == "csv":
        _print_csv(names, rows)
    else:
        print_curve(found, len(source.ids), source.statement(certificate))
        if out is not None:
            say(f"\nWrote {out}.")


def _draw(
    ledger: Ledger,
    out: Path,
    source: Source,
    indices: Sequence[int],
    smoothing: HybridSmoothing,
    samples: int,
    work: WorkOptions,
    reference: str,
    bins: int,
) -> Progress:
    from hybrid_rs_jax.kernels import run_key
    from hybrid_rs_jax.sampling.engine import data_mesh
    from hybrid_rs_jax.sampling.features_run import sample_features_run
    from hybrid_rs_jax.sampling.run import InterruptedRun

    with reported(len(indices) * samples) as report:
        try:
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
                batch_size=work.batch_size or 2000,
                mesh=data_mesh(work.devices),
                report=report,
            )
        except InterruptedRun:
            kept = ledger.counts().draws
            say(f"Interrupted: {out} keeps {counted(kept, 'draw')}; --resume goes on from there.", stderr=True)
            raise


def _ledger(out: Path, header: dict[str, Any], new: bool) -> Ledger:
    """A new ledger, or with --resume the one that is there; nothing may change, for ranks are those of n."""
    from hybrid_rs_jax.sampling.ledger import Ledger

    return Ledger.create(out, header) if new else Ledger.resume(out, header)


def _header(
    source: Source, smoothing: HybridSmoothing, samples: int, seed: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """Everything that defines the draws."""
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
    return {**record, "plan": FixedSample(samples).describe(), "features": settings}


def _smoothing(noise: NoiseOptions, source: Source, demo: bool) -> HybridSmoothing:
    """The noise of the flags. A budget of d tokens needs beta^d above (1 + cosine)/2, so the demo's beta is large."""
    noise = noise.or_default(kernel="uniform" if demo else "none")
    if demo and noise.kernel == "uniform":
        noise = noise.or_default(beta=DEMO_BETA)
    if noise.kernel == "uniform":
        noise = noise.or_default(vocab_size=source.vocab_size)
    if demo and not noise.no_pixel_noise:
        noise = noise.or_default(sigma=DEMO_SIGMA)
    smoothing = noise.smoothing()
    if noise.kernel == "deletion":
        kernel = dataclasses.replace(smoothing.discrete, pad_token=source.pad_token)  # type: ignore[type-var]
        smoothing = dataclasses.replace(smoothing, discrete=kernel)
    return smoothing


def _budgets(source: FeatureRun, max_budget: int | None) -> tuple[int, ...]:
    if source.run.smoothing.discrete is None:
        return tuple(range((max_budget or 0) + 1))
    return tuple(range((1 if max_budget is None else max_budget) + 1))


def _print_csv(names: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)


def _curve_record(found: FeatureCurve, statement: str, budget: int, inputs: int) -> dict[str, Any]:
    names = ("epsilon", "law", "mean", "law_share", "mean_share")
    columns = {name: getattr(found, name).tolist() for name in names}
    return {"statement": {"text": statement, "budget": budget, "inputs": inputs}, "columns": columns}


def _setting(source: FeatureRun, alpha: float, budget: int) -> str:
    from hybrid_rs_jax.kernels.record import describe_smoothing, smoothing_text

    noise = smoothing_text(describe_smoothing(source.run.smoothing))
    draws = f"{source.run.samples:,} draws, alpha = {setting_text(alpha)}"
    return f"{counted(len(source.ids), 'input')}; {noise}; d = {budget}; {draws}"
