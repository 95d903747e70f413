"""Certify inputs from their Monte Carlo counts.

COUNTS is a run folder (which knows its own noise), a CSV file with the columns
id, successes, n (and budget, where each discrete budget has a sample of its own),
or JSON lines with these keys.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import hybrid_rs_jax as hrs
from hybrid_rs_jax._files import atomic_file, check_target, json_text
from hybrid_rs_jax._text import counted, joined, setting_text, span_text
from hybrid_rs_jax.cli import _arguments as arguments
from hybrid_rs_jax.cli._classes import class_record, print_class_record
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.kernels.record import smoothing_text
from hybrid_rs_jax.report.tables import abstentions, certificate_rows, print_table, say, summary_rows
from hybrid_rs_jax.results.certificates import SUFFIXES, both_decisions, certificate_record, write_certificates
from hybrid_rs_jax.results.counts import Counts, read_counts
from hybrid_rs_jax.results.words import deployment_text, legend_text

EXAMPLES = """\
examples:
  hybrid-rs certify counts.csv --kernel uniform --beta 0.25 --vocab-size 32000 --sigma 0.5
  hybrid-rs certify counts.csv --kernel absorbing --beta 0.25 --tau 0.5 --json
  hybrid-rs certify hybrid-rs-demo --tau 0.5 --max-budget 4 --out certificates.parquet"""

_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `certify`."""
    parser.add_argument("counts", metavar="COUNTS", type=Path, help="run folder, CSV file or JSON lines")
    arguments.add_noise_arguments(
        parser, default_kernel=None, note="needed unless COUNTS is a run folder, which says it itself"
    )
    arguments.add_risk_arguments(parser)
    add_budget_argument(parser)
    parser.add_argument(
        "--decision",
        choices=("unsafe", "safe", "both"),
        default="unsafe",
        help="certify that the score stays above tau (unsafe), below it (safe), or either (alpha / 2 each); "
        "default: %(default)s",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write FILE (.json, .csv or .parquet)")
    parser.add_argument("--force", action="store_true", help="let --out overwrite an existing file")


def add_budget_argument(parser: argparse.ArgumentParser) -> None:
    """The largest discrete budget."""
    parser.add_argument(
        "--max-budget",
        type=arguments.integer(0, arguments.MAX_BUDGET),
        metavar="D",
        help="certify the discrete budgets 0..D (default: 8; no more than there are fields; 0 for image-only)",
    )


def run(args: argparse.Namespace) -> None:
    """Read counts, certify, print, write."""
    if args.out is not None:
        check_target(args.out, SUFFIXES, args.force)
        if args.out.exists() and args.counts.is_file() and args.out.samefile(args.counts):
            raise BadInputError(f"--out {args.out} is the file of the counts; choose another name.")
    record = record_from(read_counts(args.counts), args)
    if args.out is not None:
        with atomic_file(args.out, args.force) as path:
            write_certificates(path, record, args.out.suffix.lower())
    if args.json:
        print(json_text(record))
        return
    if "classes" in record["statement"]:
        print_class_record(record, _SHOWN)
    else:
        print_record(record, _SHOWN)
    if args.out is not None:
        say(f"\nWrote {args.out}.")


def record_from(counts: Counts, args: argparse.Namespace) -> dict[str, Any]:
    """Certify `counts` with the flags `kernel, ..., tau, alpha, max_budget`."""
    smoothing = arguments.smoothing_from(args, None if counts.run is None else counts.run["smoothing"])
    # a run that was stopped early was meant for a threshold of its own
    aim = (counts.run or {}).get("aim") or {}
    tau = aim.get("tau", arguments.TAU) if args.tau is None else args.tau
    alpha = aim.get("alpha", arguments.ALPHA) if args.alpha is None else args.alpha
    budgets = budgets_from(args.max_budget, smoothing, counts)
    if counts.votes is not None:
        if args.tau is not None or args.decision != "unsafe":
            raise BadInputError("--tau and --decision have no meaning for votes per class: the largest score wins.")
        if args.out is not None and args.out.suffix.lower() != ".json":
            raise BadInputError(f"--out must end in .json for votes per class, got {args.out}.")
        return class_record(counts, smoothing, alpha, budgets)
    if args.decision != "both":
        side = "above" if args.decision == "unsafe" else "below"
        return certify_counts(counts, smoothing, tau, alpha, budgets, side)
    unsafe, safe = (certify_counts(counts, smoothing, tau, alpha / 2, budgets, side) for side in ("above", "below"))
    return both_decisions(unsafe, safe, alpha)


def certify_counts(
    counts: Counts,
    smoothing: hrs.HybridSmoothing,
    tau: float,
    alpha: float,
    budgets: Sequence[int],
    side: str = "above",
) -> dict[str, Any]:
    """The record of all certificates; the draws that each budget needs are computed beside them."""
    from hybrid_rs_jax.certificate.certify import needed_samples

    if counts.votes is not None:
        raise BadInputError("The counts are votes per class; hrs.certify_classes certifies those.")
    risk = alpha if counts.budgets is None else alpha / len(budgets)
    plan = _stopping_plan(counts)
    with library_sentences(), ThreadPoolExecutor(1) as pool:
        needed = pool.submit(needed_samples, list(budgets), smoothing, tau, risk, side)
        certificate = hrs.certify(counts.successes, counts.n, smoothing, tau, alpha, budgets, side=side, plan=plan)
        record = certificate_record(certificate, counts.ids, needed.result().tolist(), counts.run)
    _explain_abstentions(record, smoothing, risk, side)
    if counts.skipped or counts.unfinished:
        record["statement"] |= {"skipped": dict(counts.skipped), "unfinished": list(counts.unfinished)}
    return record


def _explain_abstentions(record: dict[str, Any], smoothing: hrs.HybridSmoothing, alpha: float, side: str) -> None:
    """Say for each input that abstains how many draws it would have needed at its share of votes, -1: none suffice."""
    from hybrid_rs_jax.certificate.bounds import required_bound
    from hybrid_rs_jax.certificate.certify import mirrored
    from hybrid_rs_jax.confidence import samples_for_share

    statement, first = record["statement"], record["statement"]["budgets"][0]
    tau = statement["tau"] if side == "above" else mirrored(statement["tau"])
    silent = [row for row in record["certificates"] if row["budget"] < 0]
    if not silent:
        return
    need = required_bound(first, 0.0, smoothing, tau)
    p_star = float(need.p) if need.complement > 0 else None
    enough: dict[float, int | None] = {}
    statement["needed_share"], statement["abstaining"] = p_star, {}
    for row in silent:
        k, n = (int(np.ravel(row[name])[0]) for name in ("successes", "n"))
        share = (k if side == "above" else n - k) / n
        if share not in enough:
            enough[share] = None if p_star is None else samples_for_share(share, p_star, alpha)
        statement["abstaining"][row["id"]] = enough[share] or -1


def _stopping_plan(counts: Counts) -> Any:
    """The plan that stopped the draws early, None for a number of draws that was fixed beforehand."""
    if counts.plan is None:
        return None
    from hybrid_rs_jax.confidence import FixedSample, plan_from

    plan = plan_from(counts.plan)
    return None if isinstance(plan, FixedSample) else plan


def budgets_from(max_budget: int | None, smoothing: hrs.HybridSmoothing, counts: Counts) -> tuple[int, ...]:
    """Budgets 0..D; those of the file where it has a sample per budget."""
    fields = getattr(smoothing.discrete, "cardinalities", None)
    if counts.budgets is not None:
        if max_budget not in (None, counts.budgets[-1]):
            raise BadInputError(
                f"--max-budget {max_budget} contradicts the counts, which have one sample for each of the budgets "
                f"{span_text(counts.budgets)}; leave it out."
            )
        budgets = counts.budgets
    else:
        largest = 8 if smoothing.discrete is not None else 0
        if fields is not None:
            largest = min(largest, len(fields))
        budgets = tuple(range((largest if max_budget is None else max_budget) + 1))
    arguments.check_fields(smoothing, budgets[-1])
    return budgets


def print_record(record: dict[str, Any], first: int | None = None) -> None:
    """Per-input table, summary per budget, what is not certified and why, the guarantee in words."""
    statement, rows = record["statement"], record["certificates"]
    draws = {str(row["n"]) for row in rows}
    say(
        f"{counted(len(rows), 'input')}, {smoothing_text(statement)}; "
        f"{'n = ' + draws.pop() + '; ' if len(draws) == 1 and statement['simultaneous'] else ''}"
        f"tau = {setting_text(statement['tau'])}, alpha = {setting_text(statement['alpha'])}\n"
    )
    print_table(*certificate_rows(record, first))
    if first is not None and len(rows) > first:
        say(f"... and {len(rows) - first} more; --json prints and --out FILE writes all of them.")
    if len(rows) > 1:
        say()
        print_table(*summary_rows(record))
        if statement["sigma"] is not None:
            say("Over all inputs; one that is not certified counts as 0 in the mean.")
    say()
    say(legend_text(statement["sigma"] is not None))
    for sentence in abstentions(record):
        say(sentence)
    if earlier := (statement.get("run") or {}).get("extended_from"):
        say(
            f"The run was extended from n = {joined(earlier)}. If that was decided after a look at its certificates, "
            "each n is a statement of its own at risk alpha; use --target or --frontier to stop by the votes."
        )
    say()
    say(statement["guarantee"])
    say(deployment_text(statement["tau"], side=statement["side"]))
    for what in ("skipped", "unfinished"):
        if names := list(statement.get(what, ())):
            more = ", ..." if names[3:] else ""
            say(f"{counted(len(names), 'input')} {what}, not certified: {joined(names[:3])}{more}.")
