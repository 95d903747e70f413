"""Plan a run: the p_A and the draws that a budget needs, before anything is spent.

For each discrete budget d at the l2 budget epsilon: the smallest lower bound p_A on
the clean score that certifies it, the draws that reach it if all of them succeed, and
the failures that --samples N draws can afford. Beside them conditional draws, in which
the attacked positions are always resampled, and the copies that a filter then needs at
run time. With --target: what early stopping for
one (d, epsilon) costs, exactly, for inputs of different clean scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np

from hybrid_rs_jax._files import json_text
from hybrid_rs_jax._text import (
    DASH,
    ceil_probability_text,
    ceil_text,
    counted,
    down_text,
    floor_text,
    setting_text,
    span_text,
    up_text,
)
from hybrid_rs_jax.cli._bill import Bill, BillOptions
from hybrid_rs_jax.cli._plan import BudgetRow, Setting, budgets_record, plan_rows, target_record
from hybrid_rs_jax.cli._values import MAX_BUDGET, flag, integer, integer_grid, number_grid
from hybrid_rs_jax.cli.options import (
    SAMPLES,
    AtLeastZero,
    NoiseOptions,
    Positive,
    RiskOptions,
    Target,
    Unit,
    target_test,
)
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report.tables import print_table, say
from hybrid_rs_jax.results.sentences import run_time_text, too_few_draws

if TYPE_CHECKING:
    from hybrid_rs_jax.confidence import PlanSummary, SequentialTest

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
    about = Setting(smoothing, tau, risk.level, MISS if miss_probability is None else miss_probability)
    cost = _bill(bill or BillOptions(), copies_per_second, samples, tau, about.miss_probability)
    if target is not None:
        if epsilon is not None:
            raise BadInputError("--epsilon contradicts --target, which names its own eps.")
        test = target_test(*target, smoothing, tau, risk.level, min(samples or SAMPLES, MOST_STOPPED))
        inputs = [test.summary(p) for p in probability or _scores(test.p_star)]
        if json:
            _print_json(target_record(test, target, about, inputs), cost)
        else:
            _print_target(test, target, about, inputs)
            _print_bill(cost)
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
    rows = plan_rows(chosen, epsilon, about, samples)
    _refuse_impossible(rows, epsilon, tau)
    if json:
        _print_json(budgets_record(rows, epsilon, about, samples), cost)
    else:
        _print(rows, epsilon, about, samples)
        _print_bill(cost)


def _print_json(record: dict[str, object], cost: Bill | None) -> None:
    print(json_text(record if cost is None else {**record, "bill": cost.record()}))


def _print_bill(cost: Bill | None) -> None:
    """The bill, where a run was named."""
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
    below = [max(p_star - gap, p_star / 2)] if gap < p_star else []
    return [*(float(down_text(p)) for p in (*below, p_star, *between)), 1.0]


def _print_target(
    test: SequentialTest, target: tuple[int, float], about: Setting, inputs: Sequence[PlanSummary]
) -> None:
    assert test.complement_star is not None  # filled in where it is made
    say(f"{about.noise}; tau = {setting_text(about.tau)}, alpha = {setting_text(about.alpha)}")
    say(
        f"Target d = {target[0]}, eps = {setting_text(target[1])}: needs p_A of "
        f"{ceil_probability_text(test.p_star, test.complement_star)}; at most {test.max_samples:,} draws.\n"
    )
    body = [
        [
            setting_text(row.p),
            f"{floor_text(100 * row.certified, 1)} %",
            ceil_text(row.mean, 1),
            *(f"{draws:,}" for draws in (row.median, row.quantile_95, row.worst)),
        ]
        for row in inputs
    ]
    print_table(["clean score", "certified", "mean draws", "median", "95 %", "worst"], body, left=0)
    say()
    alternative = ceil_probability_text(test.alternative, 1 - test.alternative)
    say(
        f"An input whose clean score does not reach p_A is certified with probability at most "
        f"{up_text(test.error)} (alpha = {setting_text(about.alpha)}); one of at least {alternative} "
        f"with probability at least {setting_text(test.power)}. The figures come from the law of the stopping "
        "rule, not from a simulation; shares certified are rounded down, draws up."
    )
    _say_ideal(about)
    say(run_time_text(about.tau, about.miss_probability, about.alpha))


def _refuse_impossible(rows: Sequence[BudgetRow], epsilon: float, tau: float) -> None:
    impossible = [row.d for row in rows if not row.possible]
    if not impossible:
        return
    possible = [row.d for row in rows if row.possible]
    best = f"; the largest of these budgets that can be certified is d = {possible[-1]}" if possible else ""
    raise BadInputError(
        f"No number of draws (up to 2^53) certifies d = {span_text(impossible)} at epsilon = {setting_text(epsilon)} "
        f"and tau = {setting_text(tau)} with this noise{best}."
    )


def _say_ideal(about: Setting) -> None:
    """What a run subtracts besides: pixel noise on a grid is not quite the Gaussian noise of a plan."""
    if about.smoothing.sigma is not None:
        say(
            "All of this is about ideal Gaussian noise; a run also subtracts the total variation of its noise on a "
            "grid from it, which depends on the number of pixels and matters where p_A needed is very close to 1."
        )


def _number(count: int) -> str:
    return DASH if count < 0 else str(count)


def _print(rows: Sequence[BudgetRow], epsilon: float, about: Setting, samples: int | None) -> None:
    settings = (("epsilon", epsilon), ("tau", about.tau), ("alpha", about.alpha))
    say(f"{about.noise}; {', '.join(f'{name} = {setting_text(value)}' for name, value in settings)}\n")
    conditional = rows[0].required_conditional is not None
    header = ["d", "p_A needed", "draws needed", *([] if samples is None else [f"failures allowed in {samples}"])]
    header += ["conditional draws", "copies at run time"] if conditional else []
    body = []
    for row in rows:
        need = DASH
        if row.p_a is not None and row.complement is not None:
            need = ceil_probability_text(row.p_a, row.complement)
        numbers = (row.required_samples, row.affordable_failures, row.required_conditional, row.runtime_copies)
        body.append([str(row.d), need, *(_number(each) for each in numbers if each is not None)])
    print_table(header, body, left=0)
    say()
    say("p_A needed is rounded up. Draws needed: if every draw succeeds; each failure costs more.")
    if conditional:
        drawn = counted(samples or SAMPLES, "conditional draw")
        say(
            "Conditional draws (sample --draws conditional): all succeed, for this one budget and one set of positions."
            f" Copies at run time: for a filter that flags at one unsafe copy, if all of {drawn} succeed; given that "
            f"the certificate is right, it misses with probability at most {setting_text(about.miss_probability)}."
        )
    _say_ideal(about)
    for row in rows:
        if samples is not None and row.affordable_failures == -1 and row.required_samples > 0:
            say(too_few_draws(samples, row.d, row.required_samples))
    say(run_time_text(about.tau, about.miss_probability, about.alpha))
