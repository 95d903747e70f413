"""Plan a run: the p_A and the draws that a budget needs, before anything is spent.

For each discrete budget d at the l2 budget epsilon: the smallest lower bound p_A on
the clean score that certifies it, the draws that reach it if all of them succeed, and
the failures that --samples N draws can afford. Beside them conditional draws, in which
the attacked positions are always resampled, and the copies that a filter then needs at
run time. With --target: what early stopping for
one (d, epsilon) costs, exactly, for inputs of different clean scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

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
from hybrid_rs_jax._version import __version__
from hybrid_rs_jax.cli._bill import Bill, BillOptions
from hybrid_rs_jax.cli._values import MAX_BUDGET, flag, integer, integer_grid, number_grid
from hybrid_rs_jax.cli.options import (
    SAMPLES,
    AtLeastZero,
    NoiseOptions,
    Positive,
    RiskOptions,
    Target,
    Unit,
    check_fields,
    target_test,
)
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.kernels.record import describe_smoothing, smoothing_text
from hybrid_rs_jax.report.tables import print_table, say
from hybrid_rs_jax.results.sentences import run_time_text, too_few_draws

if TYPE_CHECKING:
    from hybrid_rs_jax.confidence import SequentialTest
    from hybrid_rs_jax.kernels import HybridSmoothing

EXAMPLES = """\
examples:
  hybrid-rs plan --budget 6 --epsilon 0.25 --beta 0.25 --vocab-size 32000 --sigma 0.5
  hybrid-rs plan --budget 3 --epsilon 0 --kernel absorbing --beta 0.5 --samples 10000
  hybrid-rs plan --target d=2,eps=0.5 --beta 0.25 --vocab-size 32000 --sigma 0.5 --probability 0.99,0.999
  hybrid-rs plan --budgets 1,2,4 --epsilon 0.5 --beta 0.25 --vocab-size 32000 --sigma 0.5 \\
      --runtime-samples 1000 --miss-probability 0.01
  hybrid-rs plan --budget 2 --epsilon 0.5 --beta 0.25 --vocab-size 32000 --sigma 0.5 \\
      --inputs 200 --copies-per-second 40 --price 0.0002"""

MOST_DRAWS = 2**53
#: Stopping rules are designed up to here.
MOST_STOPPED = 10**7
#: What the filter at run time may miss, where nothing else is said.
MISS = 0.01

Budgets = Annotated[np.ndarray, flag(integer_grid(0, MAX_BUDGET), "GRID")]
Draws = Annotated[int, flag(integer(1, MOST_DRAWS), "N")]
Probabilities = Annotated[
    tuple[float, ...],
    flag(lambda text: tuple(number_grid(lambda x: 0 <= x <= 1, "in [0, 1]")(text).tolist()), "P,P,..."),
]


def plan(
    *,
    budget: Annotated[int, flag(integer(0, MAX_BUDGET), "D")] | None = None,
    budgets: Budgets | None = None,
    target: Target | None = None,
    epsilon: AtLeastZero | None = None,
    probability: Probabilities | None = None,
    noise: NoiseOptions | None = None,
    risk: RiskOptions | None = None,
    runtime_samples: Draws | None = None,
    miss_probability: Unit | None = None,
    samples: Draws | None = None,
    bill: BillOptions | None = None,
    copies_per_second: Positive | None = None,
    json: bool = False,
) -> None:
    """Solve for each budget, refuse what nothing certifies, print.

    Parameters
    ----------
    budget
        discrete budget; the table runs over 0..D
    budgets
        only these discrete budgets
    target
        plan early stopping for this one target, as `sample --target` does
    epsilon
        l2 budget in the unit of the inputs, that of sigma; needed with --budget and --budgets
    probability
        with --target: clean scores to assume (default: from below the score that is needed up to 1)
    runtime_samples
        instead of --tau: noisy copies that the filter runs per input, flagging if any is positive
    miss_probability
        probability that this filter may miss a certified input (default: 0.01)
    samples
        draws that are planned: how many of them may fail; with --target: at most (default: 10000)
    copies_per_second
        with --inputs: how fast the model is (`hybrid-rs doctor` says it), for the time of the run
    json
        print one JSON object instead of a table
    """
    if sum(given is not None for given in (budget, budgets, target)) != 1:
        raise BadInputError("One of --budget, --budgets and --target is needed, and only one.")
    smoothing = (noise or NoiseOptions()).or_default(kernel="uniform").smoothing()
    risk = risk or RiskOptions()
    tau = _threshold(risk, runtime_samples, miss_probability)
    about = {
        **describe_smoothing(smoothing),
        "tau": tau,
        "alpha": risk.level,
        "miss_probability": MISS if miss_probability is None else miss_probability,
        "package": f"hybrid_rs_jax {__version__}",
    }
    cost = _bill(bill or BillOptions(), copies_per_second, samples, tau, about["miss_probability"])
    if target is not None:
        if epsilon is not None:
            raise BadInputError("--epsilon contradicts --target, which names its own eps.")
        test = target_test(*target, smoothing, tau, risk.level, min(samples or SAMPLES, MOST_STOPPED))
        record = target_record(test, target, about, probability)
        _finish(record, json, _print_target, cost)
        return
    if epsilon is None:
        raise BadInputError("--epsilon is needed with --budget and --budgets.")
    if probability is not None:
        raise BadInputError("--probability has a meaning with --target only.")
    chosen = list(range(budget + 1)) if budget is not None else sorted(set(np.asarray(budgets).tolist()))
    if smoothing.sigma is None and epsilon > 0:
        raise BadInputError("--epsilon above 0 needs --sigma: without pixel noise no pixel change is certified.")
    if smoothing.discrete is None and chosen[-1] > 0:
        raise BadInputError("--kernel none has only the budget 0: without token noise no token change is certified.")
    rows = plan_rows(chosen, epsilon, smoothing, tau, risk.level, samples, about["miss_probability"])
    _refuse_impossible(rows, epsilon, tau)
    meaning = (
        "required_samples: ordinary draws that certify if all succeed, -1 where none do; required_conditional: "
        "conditional draws of this budget and of one set of positions; runtime_copies: copies m of a filter that flags "
        "at one unsafe copy, of an input whose conditional draws (`samples`, or 10000) all succeed; "
        "affordable_failures: of `samples` ordinary draws, -1 where even no failure does not certify"
    )
    record = {"statement": {**about, "epsilon": epsilon, "samples": samples, "meaning": meaning}, "budgets": rows}
    _finish(record, json, _print, cost)


def _finish(record: dict[str, Any], json: bool, show: Callable[[dict[str, Any]], None], cost: Bill | None) -> None:
    """Print the plan and, where a run was named, its bill."""
    if json:
        print(json_text(record if cost is None else {**record, "bill": cost.record()}))
        return
    show(record)
    for line in () if cost is None else cost.lines():
        say(f"{line[:1].upper()}{line[1:]}.")


def _bill(options: BillOptions, rate: float | None, samples: int | None, tau: float, miss: float) -> Bill | None:
    """The run that the flags name; None: they name none."""
    from hybrid_rs_jax.confidence import copies_needed

    if options.inputs is None:
        if rate is not None or options.price is not None:
            raise BadInputError("--copies-per-second and --price need --inputs, the size of the planned run.")
        return None
    deployed = copies_needed(tau, miss)
    return Bill(options.inputs, samples or SAMPLES, rate, options.price, deployed=deployed if deployed > 0 else None)


def target_record(
    test: SequentialTest, target: tuple[int, float], about: dict[str, Any], scores: tuple[float, ...] | None
) -> dict[str, Any]:
    """What early stopping for one target costs, for inputs of different clean scores."""
    meaning = (
        "certified: probability that an input of clean score p is certified; mean, median, quantile_95, worst: "
        "draws until it is decided; all exact, from the law of the stopping rule"
    )
    statement = {
        **about,
        "target": {"d": target[0], "epsilon": target[1]},
        "samples": test.max_samples,
        "p_a": test.p_star,
        "complement": test.complement_star,
        "error": test.error,
        "alternative": test.alternative,
        "power": test.power,
        "meaning": meaning,
    }
    return {"statement": statement, "scores": [test.summary(p)._asdict() for p in scores or _scores(test.p_star)]}


def _threshold(risk: RiskOptions, copies: int | None, miss: float | None) -> float:
    """`--tau`, or what `--runtime-samples` and `--miss-probability` make of it."""
    from hybrid_rs_jax.confidence import detection_threshold

    if copies is None and miss is None:
        return risk.threshold
    if risk.tau is not None:
        raise BadInputError("--tau and --runtime-samples both define the threshold; give one of them.")
    if copies is None:
        raise BadInputError("--miss-probability needs --runtime-samples, the noisy copies that a filter runs.")
    return float(detection_threshold(copies, MISS if miss is None else miss))


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


def plan_rows(
    budgets: list[int],
    epsilon: float,
    smoothing: HybridSmoothing,
    tau: float,
    alpha: float,
    samples: int | None,
    miss_probability: float = MISS,
) -> list[dict[str, Any]]:
    """One row per budget; `required_samples` is -1 where no number of draws certifies."""
    from hybrid_rs_jax.certificate.bounds import required_bound, required_samples

    check_fields(smoothing, budgets[-1])
    with library_sentences():
        need = required_bound(budgets, epsilon, smoothing, tau)
        draws = np.atleast_1d(required_samples(budgets, epsilon, smoothing, tau, alpha))
    known = _conditional(budgets, epsilon, smoothing, tau, alpha, samples or SAMPLES, miss_probability)
    rows = []
    for place, (d, p, complement, n) in enumerate(zip(budgets, need.p, need.complement, draws.tolist(), strict=True)):
        possible = complement >= 0
        row: dict[str, Any] = {
            "d": d,
            "p_a": float(p) if possible else None,
            "complement": float(complement) if possible else None,
            "required_samples": n,
            **({} if known is None else {name: column[place] for name, column in known.items()}),
        }
        if samples is not None:
            row["affordable_failures"] = -1 if n < 0 else affordable_failures(samples, p, complement, alpha)
        rows.append(row)
    return rows


def _conditional(
    budgets: list[int],
    epsilon: float,
    smoothing: HybridSmoothing,
    tau: float,
    alpha: float,
    samples: int,
    miss_probability: float,
) -> dict[str, list[int]] | None:
    """Conditional draws that each budget needs, and the copies of a filter at run time; None: there are no such draws.

    Deletion noise needs none: nothing of the text disappears by an insertion.
    """
    from hybrid_rs_jax.certificate.bounds import required_samples, worst_case_bounds
    from hybrid_rs_jax.confidence import clopper_pearson_bound, copies_needed
    from hybrid_rs_jax.kernels import DeletionKernel

    if smoothing.discrete is None or isinstance(smoothing.discrete, DeletionKernel):
        return None
    drawn = smoothing.forcing()
    with library_sentences():
        draws = np.atleast_1d(required_samples(budgets, epsilon, drawn, tau, alpha))
        score = clopper_pearson_bound(samples, samples, alpha)
        own = (np.full(len(budgets), float(part)) for part in (score.p, score.complement))
        kept, _ = worst_case_bounds(next(own), budgets, epsilon, drawn, complement=next(own))
    return {
        "required_conditional": draws.tolist(),
        # the score that is kept must exceed the threshold
        "runtime_copies": [copies_needed(float(np.nextafter(score, 0)), miss_probability) for score in kept],
    }


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
    impossible = [row["d"] for row in rows if max(row["required_samples"], row.get("required_conditional", -1)) < 0]
    if not impossible:
        return
    possible = [row["d"] for row in rows if row["d"] not in impossible]
    best = f"; the largest of these budgets that can be certified is d = {possible[-1]}" if possible else ""
    raise BadInputError(
        f"No number of draws (up to 2^53) certifies d = {span_text(impossible)} at epsilon = {setting_text(epsilon)} "
        f"and tau = {setting_text(tau)} with this noise{best}."
    )


def _number(count: int) -> str:
    return DASH if count < 0 else str(count)


def _print(record: dict[str, Any]) -> None:
    statement, rows = record["statement"], record["budgets"]
    samples = statement["samples"]
    settings = (f"{name} = {setting_text(statement[name])}" for name in ("epsilon", "tau", "alpha"))
    say(f"{smoothing_text(statement)}; {', '.join(settings)}\n")
    conditional = "required_conditional" in rows[0]
    header = ["d", "p_A needed", "draws needed", *([] if samples is None else [f"failures allowed in {samples}"])]
    header += ["conditional draws", "copies at run time"] if conditional else []
    body = []
    for row in rows:
        possible = row["p_a"] is not None
        need = ceil_probability_text(row["p_a"], row["complement"]) if possible else DASH
        cells = [str(row["d"]), need, _number(row["required_samples"])]
        cells += [] if samples is None else [_number(row["affordable_failures"])]
        cells += [_number(row["required_conditional"]), _number(row["runtime_copies"])] if conditional else []
        body.append(cells)
    print_table(header, body, left=0)
    say()
    say("p_A needed is rounded up. Draws needed: if every draw succeeds; each failure costs more.")
    if conditional:
        say(
            "Conditional draws (sample --draws conditional): all succeed, for this one budget and one set of positions."
            f" Copies at run time: for a filter that flags at one unsafe copy, if {samples or SAMPLES:,} conditional "
            f"draws all succeed; it misses with probability at most {setting_text(statement['miss_probability'])}."
        )
    for row in rows:
        if samples is not None and row["affordable_failures"] < 0 < row["required_samples"]:
            say(too_few_draws(samples, row["d"], row["required_samples"]))
    say(run_time_text(statement["tau"], statement["miss_probability"], statement["alpha"]))
