"""Draw noisy copies of each input, classify them, and keep the counts in a ledger.

Nothing is lost: counts are written as they come, a run that was stopped or killed goes
on with --resume, and certify reads the run for any tau or budget later on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import numpy as np
from cyclopts import Group, Parameter

from hybrid_rs_jax._files import kind_of
from hybrid_rs_jax._text import counted, joined
from hybrid_rs_jax.cli import _values
from hybrid_rs_jax.cli._config import CONFIG_FILE, write_config
from hybrid_rs_jax.cli._denoiser import DenoiserName
from hybrid_rs_jax.cli._doors import ModelOptions
from hybrid_rs_jax.cli._draws import DrawsOptions, design_text
from hybrid_rs_jax.cli._header import as_sentence, run_header
from hybrid_rs_jax.cli._values import flag, integer
from hybrid_rs_jax.cli._workers import Cluster, Opening, WorkOpening, say_shares
from hybrid_rs_jax.cli.options import (
    Batch,
    Count,
    GuardOptions,
    NoiseOptions,
    RiskOptions,
    Seed,
    StoppingOptions,
    ThreatOptions,
)
from hybrid_rs_jax.errors import BadInputError, LedgerError, library_sentences
from hybrid_rs_jax.report.progress import Pace, progress_bar
from hybrid_rs_jax.report.tables import say

if TYPE_CHECKING:
    from hybrid_rs_jax.confidence import SamplingPlan
    from hybrid_rs_jax.sampling.design import Design
    from hybrid_rs_jax.sampling.ledger import Ledger, LedgerCounts
    from hybrid_rs_jax.sampling.run import Progress
    from hybrid_rs_jax.sampling.workers import Work

#: Seconds between two notes of how fast the run goes.
PACE_SECONDS = 5.0

EXAMPLES = """\
examples:
  hybrid-rs sample --model demo --data demo --limit 20 --out run
  hybrid-rs sample --model demo --data demo --draws both --out run-both
  hybrid-rs sample --model demo --data demo --target d=2,eps=0.5 --out run-target
  hybrid-rs sample --model demo --data demo --samples 50000 --frontier --out run-frontier
  hybrid-rs sample --model my_filter:classify --data inputs.npz --vocab-size 32000 --sigma 0.5 --out run --resume
  hybrid-rs sample --model ./LlavaGuard-0.5B --data memes.csv --sigma 0.5 --dtype bfloat16 --out run
  hybrid-rs sample --model ./LlavaGuard-0.5B --data memes.csv --sigma 0.5 --denoiser ./ddpm-256 --out run
  hybrid-rs sample --model my_filter:torch_module --data memes.jsonl --image-size 64x64 --sigma 0.25 --out run
  hybrid-rs sample --model ./LlavaGuard-0.5B --data memes.csv --sigma 0.5 --workers ray:auto --out run
  hybrid-rs sample --model my_tree:pipeline --data adult.csv --label-column income --sigma 0.25 --out run
  hybrid-rs sample --model http://localhost:8000/classify --wire json --data memes.jsonl --sigma 0.25 --out run"""


@Parameter(name="*", group=Group("Which inputs, in which steps"))
@dataclass(frozen=True, kw_only=True)
class WorkOptions:
    """Which inputs are drawn, and how the work is cut."""

    limit: Count | None = None
    """only the first N inputs"""
    shard: Annotated[tuple[int, int], flag(_values.shard, "I/K")] = (0, 1)
    """every K-th input from the I-th on (0/4, 1/4, ...): runs of several machines, joined by `hybrid-rs merge`"""
    batch_size: Batch | None = None
    """noisy copies per step, or pictures where they serve several texts (default: what memory holds, at most 2000)"""
    devices: Annotated[int, flag(integer(1, 4096), "K")] | None = None
    """use the first K devices (default: all)"""
    seed: Seed = 0
    """seed of the noise (default: 0)"""
    workers: Annotated[Cluster, flag(Cluster.parse, "ray[:ADDRESS]", accepts_keys=False)] | None = None
    """draw on the workers of the Ray cluster at ADDRESS (auto: where this machine belongs), or of one started here"""

    def indices(self, total: int) -> range:
        """The inputs of this run, out of `total`."""
        total = total if self.limit is None else min(self.limit, total)
        chosen = range(self.shard[0], total, self.shard[1])
        if not len(chosen):
            raise BadInputError(f"--shard {self.shard[0]}/{self.shard[1]} leaves none of the {total} inputs.")
        return chosen


def sample(
    *,
    model: Annotated[str, Parameter(metavar="MODEL")],
    data: Annotated[str, Parameter(metavar="DATA")],
    out: Annotated[Path, Parameter(metavar="RUN")],
    resume: bool = False,
    pixel_range: Annotated[tuple[float, float], flag(_values.pixel_range, "LOW,HIGH")] | None = None,
    denoiser: DenoiserName | None = None,
    stopping: StoppingOptions | None = None,
    noise: NoiseOptions | None = None,
    risk: RiskOptions | None = None,
    threat: ThreatOptions | None = None,
    draws: DrawsOptions | None = None,
    work: WorkOptions | None = None,
    own: ModelOptions | None = None,
    guard: GuardOptions | None = None,
) -> None:
    """Open model, data and ledger; draw; say what was done.

    Parameters
    ----------
    model
        demo, package.module:name (a function of JAX, NumPy or texts, a torch module, an estimator with predict), an
        ONNX file, an address http://..., or the folder of a vision-language checkpoint
    data
        demo (unsafe inputs), demo-safe, a NumPy archive (.npz) with tokens, images, ids, eligible, or texts and
        pictures: .csv, .jsonl or .parquet (id, text, image; label, group), or a folder (a.png with a.txt)
    out
        folder of the run
    resume
        go on with RUN where it exists
    pixel_range
        of the pixels of an archive: what becomes 0 and 1, e.g. 0,255
    denoiser
        cleans each noisy picture before the model sees it: a folder in the layout of diffusers, or demo-fashion (grey
        pictures of clothes, 28x28)
    """
    from hybrid_rs_jax.cli._sources import first_readable
    from hybrid_rs_jax.kernels.record import describe_smoothing, smoothing_text
    from hybrid_rs_jax.results.columns import write_columns
    from hybrid_rs_jax.sampling.design import StreamGroup
    from hybrid_rs_jax.sampling.ledger import LEDGER_FILE

    stopping, noise = stopping or StoppingOptions(), noise or NoiseOptions()
    risk, work = risk or RiskOptions(), work or WorkOptions()
    threat, draws = (threat or ThreatOptions()).of_noise(noise), draws or DrawsOptions()
    own, guard = own or ModelOptions(), guard or GuardOptions()
    opening = Opening(model, data, pixel_range, denoiser, noise, threat, own, guard)
    source, smoothing = opening.open()
    with library_sentences():
        delta = smoothing.total_variation(first_readable(source.inputs).image.size)
    design = draws.design(source, smoothing, threat, stopping, risk, delta)
    conditional = design is not None and stopping.target is not None
    plan = stopping.plan(smoothing.forcing() if conditional else smoothing, risk.threshold, risk.level, delta)
    header = run_header(source, smoothing, plan, stopping.aim(risk.threshold, risk.level), work.seed, threat, design)
    indices = work.indices(len(source.inputs.ids))
    say(f"{counted(len(indices), 'input')}, {smoothing_text(describe_smoothing(smoothing))}; {stopping.text(risk)}")
    if design is not None:
        say(design_text(design))
    new = not resume or kind_of(out / LEDGER_FILE) is None
    with (
        no_empty_run(out) as made,
        library_sentences(),
        as_sentence(),
        _ledger(out, header, new) as ledger,
    ):
        made += [new]
        extended = _say_extended(ledger, out)
        groups = (StreamGroup(plan),) if design is None else design.groups(plan if conditional else None)
        write_columns(out, source.inputs.ids, indices, source.columns)
        write_config(out)
        task = WorkOpening(opening, groups, work.seed, work.batch_size)
        progress = _draw(ledger, out, task, task.of(source, smoothing), indices, work)
        counts = ledger.counts()
    if counts.skipped and not counts.ids:
        refuse_all(out, counts.skipped, new)
    summary(progress, plan, counts, design, table=source.cardinalities is not None)
    say(f"\nWrote {out / 'ledger.sqlite'}. Next: hybrid-rs certify {out}{' --partial' if extended else ''}")


def _draw(
    ledger: Ledger, out: Path, opening: WorkOpening, task: Work, indices: range, options: WorkOptions
) -> Progress:
    """Run the engine into the ledger, here or on workers, with progress."""
    from hybrid_rs_jax.kernels import run_key
    from hybrid_rs_jax.sampling.engine import data_mesh
    from hybrid_rs_jax.sampling.run import sample_run
    from hybrid_rs_jax.sampling.workers import sample_with_ray

    groups = task.groups
    total = len(indices) * sum(group.plan.max_samples * len(group.streams) for group in groups)
    unit = "input" if len(groups) == 1 and groups[0].sets is None else "sample"
    with reported(ledger, out, total, unit, task.classifier) as report:
        if options.workers is not None:
            address = options.workers.address
            progress, shares = sample_with_ray(ledger, opening, task, indices, address=address, report=report)
            say_shares(shares)
            return progress
        return sample_run(
            ledger,
            task.classifier,
            task.inputs,
            indices,
            task.smoothing,
            groups,
            run_key(task.seed),
            classes=task.classes,
            batch_size=task.batch_size,
            mesh=getattr(task.classifier, "mesh", None) or data_mesh(options.devices),
            report=report,
        )


@contextlib.contextmanager
def reported(
    ledger: Ledger, out: Path, total: int, unit: str, classifier: object
) -> Iterator[Callable[[Progress], None]]:
    """A bar over so many draws, as the callback of a run; `status` reads the same from a file in the run.

    An interrupt goes on after a sentence that says what is kept.
    """
    from hybrid_rs_jax.results.pace import RunPace
    from hybrid_rs_jax.sampling.run import InterruptedRun

    pace, last = Pace(total, "draws"), -PACE_SECONDS

    def write() -> None:
        nonlocal last
        last = time.monotonic()
        retries = getattr(getattr(classifier, "statistics", None), "retries", None)
        speed = (pace.per_second, pace.seconds_left)
        RunPace(pace.done, total, pace.worked, *speed, retries, RunPace.now()).write(out)

    with progress_bar("sampling", total, "draws", log=True) as advance:

        def report(progress: Progress) -> None:
            note = f"{progress.finished + progress.skipped:,} of {counted(progress.inputs, unit)}"
            for each in (advance, pace.advance):
                each(progress.settled, note, progress.classified)
            if time.monotonic() - last >= PACE_SECONDS:
                write()

        try:
            yield report
        except InterruptedRun as interrupt:
            kept, lost = ledger.counts().draws, interrupt.progress.lost
            say(
                f"Interrupted: {out} keeps {kept:,} draws, {lost:,} under way were lost; --resume goes on from there.",
                stderr=True,
            )
            raise
        finally:
            if pace.worked:
                write()


def _ledger(out: Path, header: dict[str, object], new: bool) -> Ledger:
    """A new ledger, or with --resume the one that is there."""
    from hybrid_rs_jax.sampling.ledger import Ledger

    return Ledger.create(out, header) if new else Ledger.resume(out, header, may_change=_may_change)


def _say_extended(ledger: Ledger, out: Path) -> bool:
    """Whether a fixed number of draws has grown since the run began, and what that costs, before it is paid for."""
    from hybrid_rs_jax.results.runs import earlier_samples

    if earlier := earlier_samples(ledger):
        say(
            f"{out} is extended from n = {joined(earlier)}: certify it with --partial, which says so. An extension "
            "that was decided after a look at the votes has more risk than alpha; --target or --frontier stop by the "
            "votes at risk alpha in all."
        )
    return bool(earlier)


def _may_change(field: str, before: Any, after: Any) -> bool:
    """A fixed sample may be extended: its first draws stay the same. Nothing else may change."""
    return field in ("plan.n", "samples") and isinstance(before, int) and isinstance(after, int) and after >= before


def summary(
    progress: Progress, plan: SamplingPlan, counts: LedgerCounts, design: Design | None = None, table: bool = False
) -> None:
    """What the session did and what the run holds now."""
    from hybrid_rs_jax.kernels.record import rounding_text

    drawn = np.sort(np.concatenate([table.draws for table in counts.streams.values()] or [np.zeros(0, np.int64)]))
    if design is not None:
        say(f"{progress.finished:,} of {progress.inputs:,} samples done ({counted(len(counts.ids), 'input')}).")
    elif drawn.size:
        say(
            f"{progress.finished} of {counted(progress.inputs, 'input')} done; draws: "
            f"{int(drawn[0]):,} to {int(drawn[-1]):,}, median {int(drawn[(drawn.size - 1) // 2]):,}, "
            f"mean {float(drawn.mean()):,.1f}, of at most {plan.max_samples:,}."
        )
    kept = "it counts" if progress.classified == progress.drawn == 1 else f"{progress.drawn:,} of them count"
    say(f"This session classified {counted(progress.classified, 'noisy copy')}; {kept}.")
    if counts.ties:
        say(
            f"{counts.ties:,} of all draws were ties: their margin is at rounding level, another batch size may flip "
            "them."
        )
    if progress.rounded:
        say(rounding_text(progress.rounded, table))
    for name, reason in counts.skipped[:5]:
        say(f"Skipped {name}: {reason}")
    if len(counts.skipped) > 5:
        say(f"... and {len(counts.skipped) - 5} more; the ledger holds all reasons.")


def refuse_all(folder: Path, skipped: Sequence[tuple[str, str]], new: bool) -> NoReturn:
    """Not one input could be used: one cause, and no new run is left that the mended command would stumble over."""
    if new:
        _remove_run(folder)
    raise BadInputError(f"None of the {counted(len(skipped), 'input')} can be used; the first one: {skipped[0][1]}")


@contextlib.contextmanager
def no_empty_run(folder: Path) -> Iterator[list[bool]]:
    """A new run that failed before its first draw leaves nothing that the mended command would stumble over.

    Gives a list, to which is added whether this session has made the run.
    """
    from hybrid_rs_jax.sampling.ledger import Ledger

    made: list[bool] = []
    try:
        yield made
    except LedgerError:
        raise  # says itself what is kept
    except Exception:  # the user's own model raises whatever it likes
        if any(made):
            with Ledger.open(folder) as ledger:
                empty = not ledger.counts().draws
            if empty:
                _remove_run(folder)
        raise


def _remove_run(folder: Path) -> None:
    from hybrid_rs_jax.results.columns import COLUMNS_FILE
    from hybrid_rs_jax.results.pace import PACE_FILE
    from hybrid_rs_jax.sampling.ledger import LEDGER_FILE, LOCK_FILE

    for name in (LEDGER_FILE, LOCK_FILE, COLUMNS_FILE, CONFIG_FILE, PACE_FILE):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else is in it
        folder.rmdir()
