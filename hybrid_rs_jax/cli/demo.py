"""Certify a small built-in guard on real images: no download, about a minute.

Twenty held-out inputs, each a prompt and a picture of a handwritten digit, are
classified many times under random noise; the votes are turned into certificates for
joint token and pixel attacks, and compared with smoothing one modality alone.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import numpy as np
from cyclopts import Parameter

from hybrid_rs_jax._files import atomic_folder, check_target_folder, free_folder
from hybrid_rs_jax._text import DASH, counted, floor_text, mean, radius_text
from hybrid_rs_jax.cli._draws import design_text
from hybrid_rs_jax.cli._values import flag, integer
from hybrid_rs_jax.cli.options import ALPHA, Level, Positive, Seed, Unit
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.report.progress import progress_bar
from hybrid_rs_jax.report.tables import certificate_rows, print_table, say

if TYPE_CHECKING:
    from hybrid_rs_jax.results.certificate import Certificate
    from hybrid_rs_jax.results.counts import Counts
    from hybrid_rs_jax.results.runs import Run
    from hybrid_rs_jax.sampling.design import Part

EXAMPLES = """\
examples:
  hybrid-rs demo
  hybrid-rs demo --explain
  hybrid-rs demo --samples 1000 --limit 5 --out quick
  hybrid-rs demo --sigma 0.5 --beta 0.1 --seed 1"""

FOLDER = "hybrid-rs-demo"
MAX_BUDGET = 8
RUNTIME_COPIES, MISS_PROBABILITY = 100_000, 0.01
SIGMA_UNIT = "pixels in [0, 1] at 8x8, added to the picture that the classifier gets, not clipped"
STORY = (
    "Each input is a prompt that asks to dial, enter or press a digit, and a handwritten note. It is Unsafe when the "
    "note shows that very digit: neither half is unsafe alone. The attacker appends up to d words to the prompt and "
    "changes pixels by up to r in l2 norm, to make the guard say Safe."
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the demo draws."""

    samples: Annotated[int, flag(integer(1, 10_000_000), "N")] = 10_000
    """noisy copies per input and kind of noise, ordinary and conditional together (default: 10000)"""
    sigma: Positive = 0.25
    """pixel noise (default: 0.25)"""
    beta: Unit = 0.25
    """probability that a token is replaced (default: 0.25)"""
    limit: Annotated[int, flag(integer(1, 10_000), "K")] = 20
    """inputs (default: 20)"""
    draws: Literal["ordinary", "both"] = "both"
    """ordinary draws alone, or a part of them conditional: with the attacked positions always resampled, they certify
    more tokens (default: both)"""
    seed: Seed = 0
    """seed (default: 0)"""
    tau: Unit | None = None
    """threshold on the smoothed score
    (default: 4.6e-05, which 100,000 copies at run time miss with probability 0.01)"""
    alpha: Level = ALPHA
    """risk level per input, chosen before the counts are seen (default: 0.01)"""

    @property
    def threshold(self) -> float:
        """tau, or what the run-time rule makes of it."""
        from hybrid_rs_jax.confidence import detection_threshold

        return float(detection_threshold(RUNTIME_COPIES, MISS_PROBABILITY)) if self.tau is None else self.tau


def demo(
    *,
    options: DemoOptions | None = None,
    out: Annotated[Path, Parameter(metavar="DIR")] | None = None,
    explain: bool = False,
) -> None:
    """Sample, certify, print, write.

    Parameters
    ----------
    out
        folder to create (default: hybrid-rs-demo, or hybrid-rs-demo-2, ...)
    explain
        print the chain from votes to guarantee for one input, step by step
    """
    from hybrid_rs_jax.cli._explain import explain as print_chain
    from hybrid_rs_jax.report.plots import save_figure
    from hybrid_rs_jax.results.count_files import count_table
    from hybrid_rs_jax.results.files import write
    from hybrid_rs_jax.results.runs import write_run

    folder = free_folder(FOLDER) if out is None else out
    check_target_folder(folder)
    results = certify_demo(options or DemoOptions())
    say()
    _print(results)
    if explain:
        print_chain(results["hybrid"], 0)
    with atomic_folder(folder) as path:
        for name, result in results.items():
            place = path if name == "hybrid" else path / name
            place.mkdir(exist_ok=True)
            assert result.counts.run is not None
            write_run(place, result.counts.run.facts, *count_table(result.counts))
            write(result, place / "certificates.json", ".json")
            write(result, place / "certificates.csv", ".csv")
            save_figure(result, place / "frontier.png", ".png")
    say()
    say(f"Wrote {folder}{os.sep} with run.json, counts.csv, certificates.json, certificates.csv and frontier.png;")
    say("the same five for one kind of noise alone in image-only and text-only.")
    say(f"Next: hybrid-rs report {folder}, or hybrid-rs certify {folder} --tau 1e-3")


def certify_demo(options: DemoOptions) -> dict[str, Certificate]:
    """Certificates for hybrid, image-only and text-only smoothing."""
    from hybrid_rs_jax.classifiers import DemoGuard
    from hybrid_rs_jax.data import demo
    from hybrid_rs_jax.kernels import HybridSmoothing, UniformKernel, run_key
    from hybrid_rs_jax.kernels.record import describe_noise, rounding_text
    from hybrid_rs_jax.results.certificate import certify_decisions
    from hybrid_rs_jax.results.runs import RUN_FILE, Run, run_record
    from hybrid_rs_jax.sampling.design import design_draws
    from hybrid_rs_jax.sampling.engine import check_pixels, sample_counts

    samples, limit = options.samples, options.limit
    inputs = demo.held_out_unsafe(limit)
    if len(inputs) < limit:
        raise BadInputError(f"--limit must be at most {len(inputs)}, the unsafe held-out inputs, got {limit}.")
    guard = DemoGuard.load()
    kernel = UniformKernel(options.beta, demo.VOCAB_SIZE)
    smoothings = {
        "hybrid": HybridSmoothing(kernel, options.sigma),
        "image-only": HybridSmoothing(None, options.sigma),
        "text-only": HybridSmoothing(kernel, None),
    }
    drawn = f"{counted(samples, 'noisy copy')} of each under each of three kinds of noise"
    say(f"{counted(len(inputs), 'held-out unsafe input')}, {drawn}. {STORY}")
    say(f'For example {inputs.ids[0]}: "{inputs.prompts[0]}", with a picture of a {inputs.digits[0]}.')
    say(rounding_text(check_pixels(inputs.images, smoothings["hybrid"])))
    total, pixels = len(inputs) * samples, inputs.images[0].size
    with library_sentences():
        noises = {name: describe_noise(smoothing, pixels) for name, smoothing in smoothings.items()}
    places = int(demo.suffix_mask().sum())
    results: dict[str, Certificate] = {}
    with progress_bar("noisy copies", total * len(smoothings), "copies") as progress:
        for index, (name, smoothing) in enumerate(smoothings.items()):
            design = None
            if options.draws == "both" and name == "hybrid":
                settings = (samples, MAX_BUDGET, places, options.threshold, options.alpha)
                delta = smoothing.total_variation(pixels)
                with library_sentences():
                    design = design_draws("both", smoothing, *settings, ordered=True, total_variation=delta)
            columns, before = [], index * total
            for part in (None,) if design is None else design.parts:
                n = samples if part is None else part.draws
                columns.append(
                    sample_counts(
                        guard,
                        inputs.tokens,
                        inputs.images,
                        smoothing,
                        n,
                        run_key(options.seed),
                        eligible=demo.suffix_mask(),
                        forced=None if part is None else _forced(part),
                        progress=functools.partial(_advance, progress, before),
                    )
                )
                before += n * len(inputs)
            header = run_record(
                smoothing,
                samples=samples,
                seed=options.seed,
                eligible=np.flatnonzero(demo.suffix_mask()).tolist(),
                sigma_unit=SIGMA_UNIT,
                dtype=str(inputs.images.dtype),
                classifier=guard.describe(),
                data={"name": "hybrid_rs_jax.data.demo.held_out_unsafe", "inputs": len(inputs)},
                noise=noises[name],
                threat="image" if smoothing.discrete is None else "append",
                design=design,
            )
            run = Run.of(Path(RUN_FILE), header)
            counts = _counts(tuple(inputs.ids), columns, samples, run)
            budgets = range(MAX_BUDGET + 1) if smoothing.discrete is not None else range(1)
            with library_sentences():
                result = certify_decisions(counts, smoothing, options.threshold, options.alpha, budgets)
            results[name] = cast("Certificate", result)
    return results


def _forced(part: Part) -> np.ndarray | None:
    """Positions that are resampled in the draws of a part: it has one set, for an attack that appends."""
    from hybrid_rs_jax.data import demo

    if part.sets is None:
        return None
    (places,) = part.sets
    mask = np.zeros(demo.suffix_mask().shape, bool)
    mask[np.flatnonzero(demo.suffix_mask())[list(places)]] = True
    return mask


def _counts(ids: tuple[str, ...], columns: Sequence[np.ndarray], samples: int, run: Run) -> Counts:
    from hybrid_rs_jax.results.counts import Counts

    if run.design is None:
        return Counts(ids, columns[0], np.full_like(columns[0], samples), run=run)
    successes = np.stack(columns, axis=1)
    n = np.broadcast_to(np.array([part.draws for part in run.design.parts]), successes.shape)
    return Counts(ids, successes, n, run=run, samples=run.design.samples)


def _print(results: Mapping[str, Certificate]) -> None:
    from hybrid_rs_jax.kernels.record import describe_smoothing, smoothing_text
    from hybrid_rs_jax.results.explanations import explanations
    from hybrid_rs_jax.results.sentences import deployment, guarantee, legend, provisos, threat_model

    hybrid = results["hybrid"]
    statement = hybrid.statement
    run = hybrid.counts.run
    draws = f"n = {hybrid.n[0]}" if run is None or run.design is None else design_text(run.design)
    say(f"Hybrid smoothing ({smoothing_text(describe_smoothing(hybrid.smoothing))}). {draws}\n")
    print_table(*certificate_rows(hybrid))
    say("\nCompared with smoothing one modality alone (mean over all inputs; not certified counts as 0):\n")
    print_table(*comparison_rows(results))
    say()
    say(legend(statement))
    for sentence in explanations(hybrid):
        say(sentence)
    say()
    say(guarantee(hybrid.statements))
    say(f"The attacker: {threat_model(statement)}.")
    for sentence in provisos(statement):
        say(sentence)
    say(deployment(hybrid.statements))


def comparison_rows(results: Mapping[str, Certificate]) -> tuple[list[str], list[list[str]]]:
    """Mean certified radius per budget and mean certified budget, as in Table 1 of the paper."""
    budgets = results["hybrid"].budgets
    body = []
    for name, title in (("image-only", "Image-only"), ("text-only", "Text-only"), ("hybrid", "Hybrid")):
        radius = results[name].radius
        cells = []
        for index in range(len(budgets)):
            certified = index < radius.shape[1] and bool((radius[:, index] >= 0).any())
            cells.append(radius_text(mean(radius[:, index].tolist())) if certified else DASH)
        body.append([title, floor_text(mean(results[name].budget.astype(float).tolist()), 2), *cells])
    return ["smoothing", "mean d", *(f"r_{d}" for d in budgets)], body


def _advance(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)
