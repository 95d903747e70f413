"""Certify the features of an encoder: the cosine between clean and attacked smoothed features.

features sample draws noisy copies and keeps the law of each input's score in a ledger;
features certify turns it into certified cosines and radii; features curve draws the
certified cosine against eps, from the law of the score and from its mean alone.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from cyclopts import App, Parameter

from hybrid_rs_jax._checks import LARGEST_SIGMA
from hybrid_rs_jax._files import atomic_file, check_target, json_text, kind_of, write_csv
from hybrid_rs_jax._text import counted, setting_text
from hybrid_rs_jax.cli import _values
from hybrid_rs_jax.cli._denoiser import DenoiserName
from hybrid_rs_jax.cli._features import (
    boosted,
    draw,
    feature_header,
    feature_smoothing,
    measured_copies,
    opened_ledger,
    similarity_target,
)
from hybrid_rs_jax.cli._values import MAX_BUDGET, flag, integer, integer_grid, number_grid
from hybrid_rs_jax.cli.options import ALPHA, SAMPLES, Count, Level, NoiseOptions, ThreatOptions
from hybrid_rs_jax.cli.sample import (
    WorkOptions,
    no_empty_run,
    refuse_all,
    summary,
)
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.report.feature_tables import (
    certificate_cells,
    curve_cells,
    print_certificates,
    print_copies,
    print_curve,
)
from hybrid_rs_jax.report.tables import say

if TYPE_CHECKING:
    from hybrid_rs_jax.results.features import FeatureCurve, FeatureRun

EXAMPLES = """\
examples:
  hybrid-rs features sample --encoder demo --data demo --limit 20 --out features
  hybrid-rs features certify features --similarity 0.5 --epsilon 0,0.1,0.2
  hybrid-rs features curve features --out curve.png
  hybrid-rs features sample --encoder demo --data demo --target cosine=0.5,eps=0.1 --out early
  hybrid-rs features sample --encoder my_encoder:encode --data inputs.npz --sigma 0.5 --out own --resume
  hybrid-rs features sample --encoder my_encoder:encode --data inputs.npz --sigma 0.5 --out boosted \\
    --denoiser DENOISER --mapper mapper.safetensors"""

#: Distances of a curve where none are asked for, in units of sigma.
_CURVE = 21

features = App(name="features", help=__doc__, help_epilogue=EXAMPLES + "\n")

Grid = Annotated[np.ndarray, flag(number_grid(lambda x: 0 <= x <= LARGEST_SIGMA, "at least 0"), "E,E,...")]
Cosine = Annotated[float, flag(_values.cosine, "S")]
Target = Annotated[tuple[float, float, int], flag(_values.similarity_target, "cosine=S,eps=E[,d=D]")]
Budget = Annotated[int, flag(integer(0, MAX_BUDGET), "D")]


@features.command
def sample(
    *,
    encoder: Annotated[str, Parameter(metavar="ENCODER")],
    data: Annotated[str, Parameter(metavar="DATA")],
    out: Annotated[Path, Parameter(metavar="RUN")],
    resume: bool = False,
    samples: Count = SAMPLES,
    target: Target | None = None,
    alpha: Level | None = None,
    reference: Literal["clean", "pairs"] = "clean",
    bins: Annotated[int, flag(integer(2, 2**16), "K")] = 1024,
    pooling: Literal["mean", "class", "grid"] = "mean",
    denoiser: DenoiserName | None = None,
    mapper: Annotated[Path, Parameter(metavar="FILE")] | None = None,
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
        demo (unsafe inputs), demo-safe, a NumPy archive (.npz) with tokens, images, ids, eligible, or texts and
        pictures: .csv, .jsonl or .parquet (id, text, image), or a folder (a.png with a.txt)
    out
        folder of the run
    resume
        go on with RUN where it exists
    samples
        noisy copies of each input, fixed beforehand; with --target: at most (default: 10,000)
    target
        stop an input at the first look that certifies a cosine of S at the l2 distance E (and D tokens), which is a
        radius of E for the cosine S; the looks are fixed beforehand, and share the risk
    alpha
        with --target: risk per input at which it is to be certified (default: 0.01)
    reference
        what features are compared with: that of the clean input, or that of a second noisy copy (default: clean)
    bins
        of the score, equal in angle, fixed beforehand (default: 1024)
    pooling
        of a tower: mean of the patches, class token, or the grid of patches as one vector (default: mean)
    denoiser
        folder or hub id of a denoiser that pictures go through behind the noise, in the layout of diffusers; or
        demo-fashion
    mapper
        file of a smoothness mapper that features go through; the clean feature stays that of the encoder alone
    pixel_range
        of the pixels of an archive: what becomes 0 and 1, e.g. 0,255
    """
    from hybrid_rs_jax.cli._sources import DEMO_DATA, open_encoder
    from hybrid_rs_jax.confidence import FixedSample
    from hybrid_rs_jax.kernels.record import describe_smoothing, smoothing_text
    from hybrid_rs_jax.sampling.ledger import LEDGER_FILE

    work = work or WorkOptions()
    noise, demo = noise or NoiseOptions(), data in DEMO_DATA
    source = open_encoder(encoder, data, ThreatOptions().of_noise(noise), pixel_range, pooling)
    smoothing = feature_smoothing(noise, source, demo)
    source = boosted(source, denoiser, mapper, smoothing)
    aim = similarity_target(target, alpha)
    header = feature_header(source, smoothing, samples, work.seed, {"reference": reference, "bins": bins}, aim)
    indices = work.indices(len(source.inputs.ids))
    draws = f"{counted(samples, 'draw')} per input"
    most = draws if aim is None else f"at most {draws}, for {aim.text}"
    noise_text = smoothing_text(describe_smoothing(smoothing))
    say(f"{counted(len(indices), 'input')}, {noise_text}; {most}")
    new = not resume or kind_of(out / LEDGER_FILE) is None
    with (
        no_empty_run(out) as made,
        library_sentences(),
        opened_ledger(out, header, new) as ledger,
    ):
        made += [new]
        progress = draw(ledger, out, source, indices, smoothing, samples, work, reference, bins, aim)
        counts = ledger.counts()
    if counts.skipped and not counts.ids:
        refuse_all(out, counts.skipped, new)
    summary(progress, FixedSample(samples), counts)
    say(f"\nWrote {out / LEDGER_FILE}. Next: hybrid-rs features certify {out}")


@features.command
def certify(
    run: Annotated[Path, Parameter(metavar="RUN")],
    /,
    *,
    similarity: Cosine = 0.5,
    epsilon: Grid | None = None,
    alpha: Level | None = None,
    max_budget: Budget | None = None,
    format: Literal["table", "json", "csv", "latex"] = "table",
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
        risk per input, chosen before the draws (default: that of the run's target, else 0.01)
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
    from hybrid_rs_jax.results.latex import latex_tabular

    if json and format not in ("table", "json"):
        raise BadInputError(f"--json contradicts --format {format}; leave one of them out.")
    if out is not None:
        check_target(out, (".json", ".csv"), force)
    source = read_feature_run(run)
    certificate = source.certify(_risk(source, alpha), _budgets(source, max_budget))
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
    elif format == "latex":
        said = f"{source.statement(certificate)} Radius: cosine at least {setting_text(similarity)}."
        print(latex_tabular(*certificate_cells(certificate, columns, rows), said), end="")
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
    alpha: Level | None = None,
    budget: Budget = 0,
    copies: Annotated[np.ndarray, flag(integer_grid(1, 100_000), "M,M,...")] | None = None,
    encoder: Annotated[str | None, Parameter(metavar="ENCODER")] = None,
    data: Annotated[str | None, Parameter(metavar="DATA")] = None,
    format: Literal["table", "json", "csv", "latex"] = "table",
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
        risk per input, chosen before the draws (default: that of the run's target, else 0.01)
    budget
        discrete budget (default: 0)
    copies
        instead of the curve, what means of so many noisy copies give on the run's clean inputs, and their time,
        e.g. 1,4,8,64; needs --encoder and --data of the run
    encoder
        with --copies: the encoder of the run
    data
        with --copies: the data of the run
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
    from hybrid_rs_jax.results.latex import latex_tabular

    if json and format not in ("table", "json"):
        raise BadInputError(f"--json contradicts --format {format}; leave one of them out.")
    if out is not None:
        check_target(out, (".json", ".csv", *SUFFIXES), force)
    source = read_feature_run(run)
    if copies is not None:
        _print_copies(source, copies, encoder, data, format="json" if json else format, out=out)
        return
    if (encoder, data) != (None, None):
        raise BadInputError("--encoder and --data belong to --copies.")
    risk = _risk(source, alpha)
    certificate = source.certify(risk, _budgets(source, budget)[-1:] if budget else (0,))
    sigma = source.run.smoothing.sigma
    # in decimals, as sigma was written: 0.015 and not 0.015000000000000003
    steps = [0.0] if sigma is None else [float(Decimal(repr(sigma)) * 3 * i / (_CURVE - 1)) for i in range(_CURVE)]
    found = feature_curve(certificate, steps if epsilon is None else epsilon.tolist(), budget)
    record = _curve_record(found, source.statement(certificate), budget, len(source.ids))
    names, rows = list(found.columns()), list(found.rows())
    if out is not None:
        suffix = out.suffix.lower()
        with atomic_file(out, force) as path:
            if suffix == ".csv":
                write_csv(path, names, rows)
            elif suffix == ".json":
                path.write_text(json_text(record) + "\n", "utf-8")
            else:
                save_feature_curve(found, path, suffix, _setting(source, risk, budget))
    if json or format == "json":
        print(json_text(record))
    elif format == "csv":
        _print_csv(names, rows)
    elif format == "latex":
        cells = curve_cells(found, len(source.ids))
        print(latex_tabular(*cells, f"At d = {budget}. {source.statement(certificate)}"), end="")
    else:
        print_curve(found, budget, len(source.ids), source.statement(certificate))
        if out is not None:
            say(f"\nWrote {out}.")


def _print_copies(
    source: FeatureRun, copies: np.ndarray, encoder: str | None, data: str | None, *, format: str, out: Path | None
) -> None:
    if encoder is None or data is None:
        raise BadInputError("--copies needs --encoder and --data of the run: the means are drawn anew.")
    if out is not None:
        raise BadInputError("--copies prints a table; --out belongs to the curve.")
    rows = measured_copies(source, copies.tolist(), encoder, data)
    names = [field.name for field in dataclasses.fields(rows[0])]
    if format == "json":
        print(json_text({"certified": False, "rows": [dataclasses.asdict(row) for row in rows]}))
    elif format == "csv":
        _print_csv(names, [dataclasses.astuple(row) for row in rows])
    else:
        print_copies(rows, len(source.ids), latex=format == "latex")


def _risk(source: FeatureRun, alpha: float | None) -> float:
    """The level that was asked for, or that of the run's target."""
    if alpha is not None:
        return alpha
    return ALPHA if source.target is None else source.target.alpha


def _budgets(source: FeatureRun, max_budget: int | None) -> tuple[int, ...]:
    if source.run.smoothing.discrete is None:
        return tuple(range((max_budget or 0) + 1))
    return tuple(range((1 if max_budget is None else max_budget) + 1))


def _print_csv(names: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)


def _curve_record(found: FeatureCurve, statement: str, budget: int, inputs: int) -> dict[str, object]:
    return {"statement": {"text": statement, "budget": budget, "inputs": inputs}, "columns": found.columns()}


def _setting(source: FeatureRun, alpha: float, budget: int) -> str:
    from hybrid_rs_jax.kernels.record import describe_smoothing, smoothing_text

    noise = smoothing_text(describe_smoothing(source.run.smoothing))
    most = "" if source.target is None else "at most "
    draws = f"{most}{source.run.samples:,} draws, alpha = {setting_text(alpha)}"
    return f"{counted(len(source.ids), 'input')}; {noise}; d = {budget}; {draws}"
