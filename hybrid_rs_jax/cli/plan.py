"""Plan a run: the p_A and the draws that a budget needs, before anything is spent.

For each discrete budget d at the l2 budget epsilon: the smallest lower bound p_A on
the clean score that certifies it, the draws that reach it if all of them succeed, and
the failures that --samples N draws can afford. With --target: what early stopping for
one (d, epsilon) costs, exactly, for inputs of different clean scores.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import hybrid_rs_jax as hrs
from hybrid_rs_jax._files import json_text
from hybrid_rs_jax._text import (
    DASH,
    ceil_probability_text,
    ceil_text,
    down_text,
    floor_text,
    setting_text,
    span_text,
    up_text,
)
from hybrid_rs_jax.cli import _arguments as arguments
from hybrid_rs_jax.cli._plans import SAMPLES, parse_target, target_test
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.kernels.record import describe_smoothing, smoothing_text
from hybrid_rs_jax.report.tables import print_table, say
from hybrid_rs_jax.results.sentences import run_time_text, too_few_draws

EXAMPLES = """\
examples:
  hybrid-rs plan --budget 6 --epsilon 0.25 --beta 0.25 --vocab-size 32000 --sigma 0.5
  hybrid-rs plan --budget 3 --epsilon 0 --kernel absorbing --beta 0.5 --samples 10000
  hybrid-rs plan --target d=2,eps=0.5 --beta 0.25 --vocab-size 32000 --sigma 0.5 --probability 0.99,0.999
  hybrid-rs plan --budgets 1,2,4 --epsilon 0.5 --beta 0.25 --vocab-size 32000 --sigma 0.5 \\
      --runtime-samples 1000 --miss-probability 0.01"""

MOST_DRAWS = 2**53
#: Stopping rules are designed up to here.
MOST_STOPPED = 10**7
#: What the filter at run time may miss, where nothing else is said.
MISS = 0.01


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `plan`."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--budget",
        type=arguments.integer(0, arguments.MAX_BUDGET),
        metavar="D",
        help="discrete budget; the table runs over 0..D",
    )
    which.add_argument("--budgets", type=arguments.budget_list, metavar="D,D,...", help="only these discrete budgets")
    which.add_argument(
        "--target",
        type=parse_target,
        metavar="d=D,eps=E",
        help="plan early stopping for this one target, as `sample --target` does",
    )
    parser.add_argument(
        "--epsilon",
        type=arguments.at_least_zero,
        metavar="E",
        help="l2 budget in the unit of the inputs, that of sigma; needed with --budget and --budgets",
    )
    parser.add_argument(
        "--probability",
        type=_probabilities,
        metavar="P,P,...",
        help="with --target: clean scores to assume (default: from below the score that is needed up to 1)",
    )
    arguments.add_noise_arguments(parser, default_kernel="uniform")
    arguments.add_risk_arguments(parser)
    parser.add_argument(
        "--runtime-samples",
        type=arguments.integer(1, MOST_DRAWS),
        metavar="M",
        help="instead of --tau: noisy copies that the filter runs per input, flagging if any is positive",
    )
    parser.add_argument(
        "--miss-probability",
        type=arguments.open_unit,
        metavar="A",
        help="probability that this filter may miss a certified input (default: 0.01)",
    )
    parser.add_argument(
        "--samples",
        type=arguments.integer(1, MOST_DRAWS),
        metavar="N",
        help=f"draws that are planned: how many of them may fail; with --target: at most (default: {SAMPLES})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> None:
    """Solve for each budget, refuse what nothing certifies, print."""
    smoothing = arguments.smoothing_from(args)
    tau = arguments.threshold_from(args)
    alpha = arguments.ALPHA if args.alpha is None else args.alpha
    if args.target is not None:
        _run_target(args, smoothing, tau, alpha)
        return
    if args.epsilon is None:
        raise BadInputError("--epsilon is needed with --budget and --budgets.")
    if args.probability is not None:
        raise BadInputError("--probability has a meaning with --target only.")
    budgets = list(range(args.budget + 1)) if args.budgets is None else list(args.budgets)
    if smoothing.sigma is None and args.epsilon > 0:
        raise BadInputError("--epsilon above 0 needs --sigma: without pixel noise no pixel change is certified.")
    if smoothing.discrete is None and budgets[-1] > 0:
        raise BadInputError("--kernel none has only the budget 0: without token noise no token change is certified.")
    rows = plan(budgets, args.epsilon, smoothing, tau, alpha, args.samples)
    _refuse_impossible(rows, args.epsilon, tau)
    record = {
        "statement": {
            **describe_smoothing(smoothing),
            "epsilon": args.epsilon,
            "tau": tau,
            "alpha": alpha,
            "samples": args.samples,
            "miss_probability": _miss(args),
            "meaning": (
                "required_samples: draws that certify if all succeed; affordable_failures: of `samples` draws, "
                "-1 where even no failure does not certify"
            ),
            "package": f"hybrid_rs_jax {hrs.__version__}",
        },
        "budgets": rows,
    }
    print(json_text(record)) if args.json else _print(record)


def _run_target(args: argparse.Namespace, smoothing: hrs.HybridSmoothing, tau: float, alpha: float) -> None:
    """What early stopping for one target costs."""
    if args.epsilon is not None:
        raise BadInputError("--epsilon contradicts --target, which names its own eps.")
    d, epsilon = args.target
    samples = min(SAMPLES if args.samples is None else args.samples, MOST_STOPPED)
    test = target_test(d, epsilon, smoothing, tau, alpha, samples)
    scores = args.probability or _scores(test.p_star)
    rows = [test.summary(p)._asdict() for p in scores]
    record = {
        "statement": {
            **describe_smoothing(smoothing),
            "target": {"d": d, "epsilon": epsilon},
            "tau": tau,
            "alpha": alpha,
            "samples": samples,
            "miss_probability": _miss(args),
            "p_a": test.p_star,
            "complement": test.complement_star,
            "error": test.error,
            "alternative": test.alternative,
            "power": test.power,
            "meaning": (
                "certified: probability that an input of clean score p is certified; mean, median, quantile_95, worst: "
                "draws until it is decided; all exact, from the law of the stopping rule"
            ),
            "package": f"hybrid_rs_jax {hrs.__version__}",
        },
        "scores": rows,
    }
    print(json_text(record)) if args.json else _print_target(record)


def _miss(args: argparse.Namespace) -> float:
    return MISS if args.miss_probability is None else float(args.miss_probability)


def _scores(p_star: float) -> list[float]:
    """Clean scores worth a row, short numbers: some below the one that is needed, some between it and 1."""
    gap = 1 - p_star
    between = [1 - gap / part for part in (2, 5, 20, 100)] if gap < p_star else []
    below = [p_star - gap] if gap < p_star else []
    return [*(float(down_text(p)) for p in (*below, p_star, *between)), 1.0]


def _print_target(record: dict[str, Any]) -> None:
    statement, rows = record["statement"], record["scores"]
    target = statement["target"]
    settings = (f"{name} = {setting_text(statement[name])}" for name in ("tau", "alpha"))
    say(f"{smoothing_text(statement)}; {', '.join(settings)}")
    say(
        f"Target d = {target['d']}, eps = {setting_text(target['epsilon'])}: needs p_A of "
        f"{ceil_probability_text(statement['p_a'], statement['complement'])}; at most {statement['samples']:,} draws.\n"
    )
    body = [
        [
            setting_text(row["p"]),
            f"{floor_text(100 * row['certified'], 1)} %",
            ceil_text(row["mean"], 1),
            *(f"{row[name]:,}" for name in ("median", "quantile_95", "worst")),
        ]
        for row in rows
    ]
    print_table(["clean score", "certified", "mean draws", "median", "95 %", "worst"], body, left=0)
    say()
    alternative = ceil_probability_text(statement["alternative"], 1 - statement["alternative"])
    say(
        f"An input whose clean score does not reach p_A is certified with probability at most "
        f"{up_text(statement['error'])} (alpha = {setting_text(statement['alpha'])}); one of at least {alternative} "
        f"with probability at least {setting_text(statement['power'])}. The figures come from the law of the stopping "
        "rule, not from a simulation; shares certified are rounded down, draws up."
    )
    say(run_time_text(statement["tau"], statement["miss_probability"], statement["alpha"]))


def _probabilities(text: str) -> tuple[float, ...]:
    values = tuple(arguments.at_least_zero(part) for part in text.split(","))
    if any(value > 1 for value in values):
        raise argparse.ArgumentTypeError(f"must lie in [0, 1], got {text}")
    return values


def plan(
    budgets: list[int], epsilon: float, smoothing: hrs.HybridSmoothing, tau: float, alpha: float, samples: int | None
) -> list[dict[str, Any]]:
    """One row per budget; `required_samples` is -1 where no number of draws certifies."""
    from hybrid_rs_jax.certificate.bounds import required_bound

    arguments.check_fields(smoothing, budgets[-1])
    with library_sentences():
        need = required_bound(budgets, epsilon, smoothing, tau)
        draws = np.atleast_1d(hrs.required_samples(budgets, epsilon, smoothing, tau, alpha))
    rows = []
    for d, p, complement, n in zip(budgets, need.p, need.complement, draws.tolist(), strict=True):
        possible = complement >= 0
        row: dict[str, Any] = {
            "d": d,
            "p_a": float(p) if possible else None,
            "complement": float(complement) if possible else None,
            "required_samples": n,
        }
        if samples is not None:
            row["affordable_failures"] = -1 if n < 0 else affordable_failures(samples, p, complement, alpha)
        rows.append(row)
    return rows


def affordable_failures(samples: int, p: float, complement: float, alpha: float) -> int:
    """Most failures among `samples` draws with which the lower bound still reaches `p`; -1: not even none."""
    from hybrid_rs_jax.confidence import clopper_pearson_bound

    low, high = -1, samples
    while high - low > 1:  # `low` failures can be afforded, `high` cannot: with no success the bound is 0
        failures = (low + high) // 2
        bound = clopper_pearson_bound(samples - failures, samples, alpha)
        enough = bound.complement <= complement if p > 0.5 else bound.p >= p
        low, high = (failures, high) if enough else (low, failures)
    return low


def _refuse_impossible(rows: list[dict[str, Any]], epsilon: float, tau: float) -> None:
    impossible = [row["d"] for row in rows if row["required_samples"] < 0]
    if not impossible:
        return
    possible = [row["d"] for row in rows if row["required_samples"] >= 0]
    best = f"; the largest of these budgets that can be certified is d = {possible[-1]}" if possible else ""
    raise BadInputError(
        f"No number of draws (up to 2^53) certifies d = {span_text(impossible)} at epsilon = {setting_text(epsilon)} "
        f"and tau = {setting_text(tau)} with this noise{best}."
    )


def _print(record: dict[str, Any]) -> None:
    statement, rows = record["statement"], record["budgets"]
    samples = statement["samples"]
    settings = (f"{name} = {setting_text(statement[name])}" for name in ("epsilon", "tau", "alpha"))
    say(f"{smoothing_text(statement)}; {', '.join(settings)}\n")
    header = ["d", "p_A needed", "draws needed", *([] if samples is None else [f"failures allowed in {samples}"])]
    body = []
    for row in rows:
        cells = [str(row["d"]), ceil_probability_text(row["p_a"], row["complement"]), str(row["required_samples"])]
        if samples is not None:
            failures = row["affordable_failures"]
            cells.append(DASH if failures < 0 else str(failures))
        body.append(cells)
    print_table(header, body, left=0)
    say()
    say("p_A needed is rounded up. Draws needed: if every draw succeeds; each failure costs more.")
    for row in rows:
        if samples is not None and row["affordable_failures"] < 0:
            say(too_few_draws(samples, row["d"], row["required_samples"]))
    say(run_time_text(statement["tau"], statement["miss_probability"], statement["alpha"]))
