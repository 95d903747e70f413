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
from hybrid_rs_jax.commands import _arguments as arguments
from hybrid_rs_jax.report.certificates import SUFFIXES, certificate_record, write_certificates
from hybrid_rs_jax.report.counts import Counts, read_counts
from hybrid_rs_jax.report.errors import BadInputError, library_sentences
from hybrid_rs_jax.report.files import atomic_file, check_target, json_text
from hybrid_rs_jax.report.formatting import counted, setting_text, span_text
from hybrid_rs_jax.report.noise import smoothing_text
from hybrid_rs_jax.report.tables import abstentions, certificate_rows, print_table, say, summary_rows
from hybrid_rs_jax.report.words import deployment_text, legend_text

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
    print_record(record, _SHOWN)
    if args.out is not None:
        say(f"\nWrote {args.out}.")


def record_from(counts: Counts, args: argparse.Namespace) -> dict[str, Any]:
    """Certify `counts` with the flags `kernel, ..., tau, alpha, max_budget`."""
    smoothing = arguments.smoothing_from(args, None if counts.run is None else counts.run["smoothing"])
    tau = arguments.TAU if args.tau is None else args.tau
    alpha = arguments.ALPHA if args.alpha is None else args.alpha
    budgets = budgets_from(args.max_budget, smoothing, counts)
    return certify_counts(counts, smoothing, tau, alpha, budgets)


def certify_counts(
    counts: Counts, smoothing: hrs.HybridSmoothing, tau: float, alpha: float, budgets: Sequence[int]
) -> dict[str, Any]:
    """The record of all certificates; the draws that each budget needs are computed beside them."""
    risk = alpha if counts.budgets is None else alpha / len(budgets)
    with library_sentences(), ThreadPoolExecutor(1) as pool:
        needed = pool.submit(hrs.required_samples, list(budgets), 0.0, smoothing, tau, risk)
        certificate = hrs.certify(counts.successes, counts.n, smoothing, tau, alpha, budgets)
        return certificate_record(certificate, counts.ids, np.atleast_1d(needed.result()).tolist(), counts.run)


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
    say()
    say(statement["guarantee"])
    say(deployment_text(statement["tau"]))
