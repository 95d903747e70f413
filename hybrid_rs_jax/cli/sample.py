"""Draw noisy copies of each input, classify them, and keep the counts in a ledger.

Nothing is lost: counts are written as they come, a run that was stopped or killed goes
on with --resume, and certify reads the run for any tau, alpha or budget later on.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

import hybrid_rs_jax as hrs
from hybrid_rs_jax._files import kind_of
from hybrid_rs_jax._text import counted
from hybrid_rs_jax.classifiers.base import Abilities
from hybrid_rs_jax.cli import _arguments as arguments
from hybrid_rs_jax.cli import _plans as plans
from hybrid_rs_jax.cli._sources import Source, first_readable, open_source
from hybrid_rs_jax.cli._vlm_arguments import add_vlm_arguments
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.kernels import run_key
from hybrid_rs_jax.kernels.record import build_smoothing, describe_noise, rounding_text, smoothing_text
from hybrid_rs_jax.report.progress import progress_bar
from hybrid_rs_jax.report.tables import say
from hybrid_rs_jax.results.runs import run_record
from hybrid_rs_jax.sampling.ledger import LEDGER_FILE, LOCK_FILE, Ledger, LedgerCounts

if TYPE_CHECKING:
    from hybrid_rs_jax.sampling.run import Progress

EXAMPLES = """\
examples:
  hybrid-rs sample --model demo --data demo --limit 20 --out run
  hybrid-rs sample --model demo --data demo --target d=2,eps=0.5 --out run-target
  hybrid-rs sample --model demo --data demo --samples 50000 --frontier --out run-frontier
  hybrid-rs sample --model my_filter:classify --data inputs.npz --vocab-size 32000 --sigma 0.5 --out run --resume
  hybrid-rs sample --model ./LlavaGuard-0.5B --data memes.csv --sigma 0.5 --dtype bfloat16 --out run"""

DEMO_SIGMA = 0.25
BETA = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sample`."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="demo, package.module:name of a classifier (Python), or the folder of a vision-language checkpoint",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="DATA",
        help="demo, a NumPy archive (.npz) with tokens, images, ids, eligible, or for a checkpoint a folder, .csv or "
        ".jsonl of texts and pictures",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on with RUN where it exists")
    plans.add_plan_arguments(parser)
    parser.add_argument("--limit", type=arguments.integer(1, 2**31 - 1), metavar="K", help="only the first K inputs")
    parser.add_argument(
        "--shard",
        type=_shard,
        default=(0, 1),
        metavar="I/K",
        help="every K-th input from the I-th on (0/4, 1/4, ...): runs of several machines, joined by `hybrid-rs merge`",
    )
    parser.add_argument(
        "--batch-size",
        type=arguments.integer(1, 2**24),
        metavar="B",
        help="noisy copies per step (default: 2000, or 16 for a vision-language checkpoint)",
    )
    parser.add_argument(
        "--devices", type=arguments.integer(1, 4096), metavar="K", help="use the first K devices (default: all)"
    )
    parser.add_argument(
        "--seed", type=arguments.integer(0, 2**31 - 1), default=0, metavar="S", help="seed (default: %(default)s)"
    )
    arguments.add_noise_arguments(parser, default_kernel="uniform")
    arguments.add_risk_arguments(parser)
    add_vlm_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Open model, data and ledger; draw; say what was done."""
    source = open_source(args)
    smoothing = _smoothing(args, source)
    tau = arguments.TAU if args.tau is None else args.tau
    alpha = arguments.ALPHA if args.alpha is None else args.alpha
    plan, aim = plans.build_plan(args, smoothing, tau, alpha)
    header = _header(args, source, smoothing, plan, aim)
    total = len(source.inputs.ids) if args.limit is None else min(args.limit, len(source.inputs.ids))
    indices = range(args.shard[0], total, args.shard[1])
    if not len(indices):
        raise BadInputError(f"--shard {args.shard[0]}/{args.shard[1]} leaves none of the {total} inputs.")
    say(f"{counted(len(indices), 'input')}, {smoothing_text(header['smoothing'])}; {plans.plan_text(plan, aim)}")
    new = not args.resume or kind_of(args.out / LEDGER_FILE) is None
    with _terminated_as_interrupted(), library_sentences(), _as_sentence(), _ledger(args, header, new) as ledger:
        progress = _draw(args, ledger, source, indices, smoothing, plan)
        counts = ledger.counts()
    if counts.skipped and not counts.ids:
        _refuse_all(args.out, counts.skipped, new)
    _summary(progress, plan, counts)
    say(f"\nWrote {args.out / 'ledger.sqlite'}. Next: hybrid-rs certify {args.out}")


def _draw(
    args: argparse.Namespace,
    ledger: Ledger,
    source: Source,
    indices: range,
    smoothing: hrs.HybridSmoothing,
    plan: Any,
) -> Progress:
    """Run the engine into the ledger, with progress; an interrupt says what is kept."""
    from hybrid_rs_jax.sampling.run import InterruptedRun, sample_run

    with progress_bar("sampling", len(indices) * plan.max_samples, "draws", log=True) as advance:

        def report(progress: Progress) -> None:
            note = f"{progress.finished + progress.skipped:,} of {counted(progress.inputs, 'input')}"
            advance(progress.settled, note, progress.classified)

        try:
            return sample_run(
                ledger,
                source.classifier,
                source.inputs,
                indices,
                smoothing,
                plan,
                run_key(args.seed),
                classes=Abilities.of(source.classifier).classes,
                batch_size=args.batch_size or source.batch_size,
                mesh=getattr(source.classifier, "mesh", None) or hrs.data_mesh(args.devices),
                report=report,
            )
        except InterruptedRun as interrupt:
            kept, lost = ledger.counts().draws, interrupt.progress.lost
            say(
                f"Interrupted: {args.out} keeps {counted(kept, 'draw')}, {lost:,} under way were lost; "
                "--resume goes on from there.",
                stderr=True,
            )
            raise


def _ledger(args: argparse.Namespace, header: dict[str, Any], new: bool) -> Ledger:
    """A new ledger, or with --resume the one that is there."""
    return Ledger.create(args.out, header) if new else Ledger.resume(args.out, header, may_change=_may_change)


def _may_change(field: str, before: Any, after: Any) -> bool:
    """A fixed sample may be extended: its first draws stay the same. Nothing else may change."""
    return field in ("plan.n", "samples") and isinstance(before, int) and isinstance(after, int) and after >= before


def _header(
    args: argparse.Namespace, source: Source, smoothing: hrs.HybridSmoothing, plan: Any, aim: dict[str, Any] | None
) -> dict[str, Any]:
    """Everything that defines the draws."""
    first = first_readable(source.inputs)
    shared = getattr(source.inputs, "eligible", first.eligible)
    with library_sentences():
        noise = describe_noise(smoothing, first.image.size)
    record = run_record(
        smoothing,
        samples=plan.max_samples,
        seed=args.seed,
        eligible=np.flatnonzero(shared).tolist() if np.ndim(shared) == 1 else [],
        sigma_unit=source.sigma_unit,
        dtype=str(first.image.dtype),
        classifier=source.model | _served_model(source.classifier, first),
        data=source.data,
        noise=noise,
    )
    if np.ndim(shared) == 2:
        record["eligible_positions"] = "an own set for each input, part of its digest"
    classes = Abilities.of(source.classifier).classes
    return {**record, "plan": plan.describe(), "aim": aim, "classes": classes}


def _served_model(classifier: Any, encoded: Any) -> dict[str, str]:
    """The model that a server really runs: known after one question, and part of what a resumed run must find again."""
    if not hasattr(classifier, "served_model"):
        return {}
    with _as_sentence():
        classifier(encoded.tokens[None], encoded.image[None])
    return {"served_model": classifier.served_model}


@contextlib.contextmanager
def _as_sentence() -> Iterator[None]:
    """What a chat endpoint refuses is said in its own sentences, without a traceback."""
    from hybrid_rs_jax.classifiers import ChatError

    try:
        yield
    except ChatError as error:
        raise BadInputError(str(error)) from error


def _smoothing(args: argparse.Namespace, source: Source) -> hrs.HybridSmoothing:
    """The noise of the flags; beta, and for the demo sigma, have defaults."""
    if args.no_pixel_noise and args.sigma is not None:
        raise BadInputError("--no-pixel-noise contradicts --sigma; leave one of them out.")
    given = {name: getattr(args, name) for name in ("kernel", "beta", "vocab_size", "cardinalities", "sigma")}
    if given["beta"] is None and args.kernel != "none":
        given["beta"] = BETA
    if given["vocab_size"] is None and args.kernel == "uniform":
        given["vocab_size"] = source.vocab_size
    elif args.kernel == "uniform" and source.vocab_size not in (None, given["vocab_size"]):
        raise BadInputError(
            f"--vocab-size {given['vocab_size']} contradicts the data, whose alphabet has {source.vocab_size} symbols."
        )
    if given["sigma"] is None and not args.no_pixel_noise:
        if args.data != "demo":
            raise BadInputError("--sigma is needed (or --no-pixel-noise): the pixel noise is part of the certificate.")
        given["sigma"] = DEMO_SIGMA
    arguments.check_noise_flags(args.kernel, given)
    return build_smoothing(given)


def _summary(progress: Progress, plan: Any, counts: LedgerCounts) -> None:
    """What the session did and what the run holds now."""
    drawn = np.sort(np.concatenate([table.draws for table in counts.streams.values()] or [np.zeros(0, np.int64)]))
    if drawn.size:
        say(
            f"{progress.finished} of {counted(progress.inputs, 'input')} done; draws: "
            f"{int(drawn[0]):,} to {int(drawn[-1]):,}, median {int(drawn[(drawn.size - 1) // 2]):,}, "
            f"mean {float(drawn.mean()):,.1f}, of at most {plan.max_samples:,}."
        )
    say(f"This session classified {progress.classified:,} noisy copies; {progress.drawn:,} of them count.")
    if counts.ties:
        say(
            f"{counts.ties:,} of all draws were ties: their margin is at rounding level, another batch size may flip "
            "them."
        )
    if progress.rounded:
        say(rounding_text(progress.rounded))
    for name, reason in counts.skipped[:5]:
        say(f"Skipped {name}: {reason}")
    if len(counts.skipped) > 5:
        say(f"... and {len(counts.skipped) - 5} more; the ledger holds all reasons.")


def _refuse_all(folder: Path, skipped: Sequence[tuple[str, str]], new: bool) -> NoReturn:
    """Not one input could be used: one cause, and no new run is left that the mended command would stumble over."""
    if new:
        for name in (LEDGER_FILE, LOCK_FILE):
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something else is in it
            folder.rmdir()
    raise BadInputError(f"None of the {counted(len(skipped), 'input')} can be used; the first one: {skipped[0][1]}")


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a run in good order, as Ctrl-C does."""

    def stop(signum: int, frame: types.FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's business
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _shard(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    parse: Callable[[str], int] = arguments.integer(0, 2**20)
    if not slash:
        raise argparse.ArgumentTypeError(f"must look like 0/4, got {text}")
    index, number = parse(part), parse(parts)
    if not 0 <= index < number:
        raise argparse.ArgumentTypeError(f"must be I/K with 0 <= I < K, got {text}")
    return index, number
