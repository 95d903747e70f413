"""Every certified number against ball arithmetic: never on the wrong side, and hardly short of the truth.

The default run takes 500 cases. The slow one takes HRS_SOUNDNESS_CASES (20,000) from the seed HRS_SOUNDNESS_SEED,
prints a summary, and writes it as JSON to HRS_SOUNDNESS_OUT.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import oracle
import oracle_cases
import pytest
from flint import fmpq
from oracle_cases import Case

import hybrid_rs_jax as hrs
from hybrid_rs_jax.certificate.bounds import worst_case_bounds

#: Goals for how far a radius falls short of the true one, and how far the two bounds are apart, relatively.
SHORTFALL_GOAL, GAP_GOAL = 1e-7, 1e-9
#: Where the truth itself moves further than a goal when p_A (or 1 - p_A) and tau move by this much, relatively,
#: float64 inputs do not determine it any better, and a certificate may fall short by as much.
BLUR = fmpq(1, 10**12)
#: Thresholds are rounded to about 1e-15 standard deviations, so a smaller rho has no seven digits. Tightness only.
SMALLEST_RHO = 1e-8
#: `certified_budget` is asked for no more than this beyond the case's own budget: long exact channels are slow.
MORE_TOKENS = 8
GRID = 16


@dataclasses.dataclass
class Report:
    """What one case showed."""

    case: Case
    violations: list[str] = dataclasses.field(default_factory=list)
    shortfall: float | None = None  # 1 - radius / true radius, where the true one is positive and finite
    gap: float | None = None  # (upper - lower) / V*, where V* > 1e-12
    blurred: set[str] = dataclasses.field(default_factory=set)  # which of the two the inputs do not determine

    def claim(self, holds: bool, promise: str) -> None:
        if not holds:
            self.violations.append(promise)


def smoothing_of(case: Case) -> hrs.HybridSmoothing:
    """The smoothing distribution that a case is about."""
    if case.kernel == "uniform":
        return hrs.HybridSmoothing(hrs.UniformKernel(case.beta, case.vocab_size), case.sigma)
    if case.kernel == "absorbing":
        return hrs.HybridSmoothing(hrs.AbsorbingKernel(case.beta), case.sigma)
    if case.kernel == "categorical":
        return hrs.HybridSmoothing(hrs.CategoricalKernel(case.beta, case.cardinalities), case.sigma)
    return hrs.HybridSmoothing(None, case.sigma)


def check(case: Case) -> Report:
    """Hold every host function against the oracle on one case."""
    report, smoothing = Report(case), smoothing_of(case)
    check_worst_case(report, smoothing)
    check_radius(report, smoothing)
    check_required_probability(report, smoothing)
    check_budget(report, smoothing)
    check_largest_probability(report, smoothing)
    check_table(report, smoothing)
    return report


def check_worst_case(report: Report, smoothing: hrs.HybridSmoothing) -> None:
    case = report.case
    lower, upper = (float(bound) for bound in worst_case_bounds(case.p_a, case.d, case.epsilon, smoothing))
    single = hrs.worst_case_probability(case.p_a, case.d, case.epsilon, smoothing)
    report.claim(single == lower, "worst_case_probability is the lower bound")
    report.claim(oracle.lower_bound_is_sound(case.channels, case.p_a, case.rho, lower), f"V* >= lower = {lower!r}")
    report.claim(oracle.upper_bound_is_sound(case.channels, case.p_a, case.rho, upper), f"V* <= upper = {upper!r}")
    truth = float(oracle.worst_case_probability(case.channels, case.p_a, case.rho, relative=1e-15)[1])
    if truth > 1e-12:
        report.gap = (upper - lower) / truth
        if report.gap > GAP_GOAL:
            ends = (
                oracle.worst_case_probability(case.channels, blurred(case.p_a, sign), case.rho, relative=1e-15)
                for sign in (-1, 1)
            )
            least, most = (float(end[0]) for end in ends)
            report.claim(
                upper - lower <= most - least + 1e-11 * truth,
                f"upper - lower = {upper - lower!r}, but the inputs give V* up to {most - least!r}",
            )
            report.blurred.add("gap")


def check_radius(report: Report, smoothing: hrs.HybridSmoothing) -> None:
    case = report.case
    radius = float(hrs.certified_radius(case.p_a, case.d, smoothing, case.tau))
    true_rho = float(oracle.certified_radius(case.channels, case.p_a, case.tau)[0])
    report.claim(radius == -1 or radius >= 0, f"the radius is -1 or at least 0, got {radius!r}")
    if radius == math.inf:
        report.claim(true_rho == math.inf, f"an infinite radius is true, but the true rho is {true_rho!r}")
    elif radius >= 0:
        rho = oracle.quotient(radius, case.sigma)
        sound = oracle.radius_is_sound(case.channels, case.p_a, case.tau, rho)
        report.claim(sound, f"V* >= tau at radius = {radius!r}")
    if 0 < true_rho < math.inf:
        report.shortfall = 1.0 - max(radius, 0.0) / case.sigma / true_rho
    if radius == -1 or radius / case.sigma < true_rho * (1 - SHORTFALL_GOAL):
        harder = blurred(case.p_a, -1), harder_tau(case)
        due = float(oracle.certified_radius(case.channels, *harder, relative=1e-10)[0])
        missed = due > SMALLEST_RHO and radius < due * case.sigma * (1 - SHORTFALL_GOAL)
        report.claim(not missed, f"rho = {due!r} is certified with a margin, but the radius is {radius!r}")
        report.blurred.add("shortfall")


def blurred(p_a: float, sign: int) -> fmpq:
    """p_A moved by the relative rounding of itself or of its complement, whichever is the smaller one."""
    p = oracle.exact(p_a)
    return p + sign * BLUR * min(p, 1 - p)


def harder_tau(case: Case) -> fmpq:
    return oracle.exact(case.tau) * (1 + BLUR)


def check_required_probability(report: Report, smoothing: hrs.HybridSmoothing) -> None:
    case = report.case
    needed = float(hrs.required_probability(case.d, case.epsilon, smoothing, case.tau))
    if needed <= 1:
        sound = oracle.lower_bound_is_sound(case.channels, needed, case.rho, case.tau)
        report.claim(sound, f"required_probability = {needed!r} certifies")
    else:
        question = 1 - fmpq(1, 2**53), case.rho, harder_tau(case)
        certified = oracle.lower_bound_is_sound(case.channels, *question)
        report.claim(not certified, f"p_A = 1 - 2^-53 certifies, but required_probability = {needed!r}")


def check_budget(report: Report, smoothing: hrs.HybridSmoothing) -> None:
    case = report.case
    most = len(case.cardinalities) if case.kernel == "categorical" else case.d + MORE_TOKENS
    most = 0 if case.kernel == "gaussian" else most
    budget = int(hrs.certified_budget(case.p_a, smoothing, case.tau, case.epsilon, max_budget=most))
    report.claim(-1 <= budget <= most, f"the budget is at most {most}, got {budget}")
    if budget >= 0:
        at = dataclasses.replace(case, d=budget).channels
        sound = oracle.lower_bound_is_sound(at, case.p_a, case.rho, case.tau)
        report.claim(sound, f"d = {budget} is certified")
    if budget < most:
        beyond = dataclasses.replace(case, d=budget + 1).channels
        harder = blurred(case.p_a, -1), case.rho, harder_tau(case)
        report.claim(
            not oracle.lower_bound_is_sound(beyond, *harder),
            f"d = {budget + 1} is certified with a margin, but the budget is {budget}",
        )


def check_largest_probability(report: Report, smoothing: hrs.HybridSmoothing) -> None:
    case = report.case
    largest = float(hrs.largest_probability(case.p_a, case.d, case.epsilon, smoothing))
    sound = oracle.lower_bound_is_sound(case.channels, 1 - oracle.exact(case.p_a), case.rho, 1 - oracle.exact(largest))
    report.claim(sound, f"no attack exceeds largest_probability = {largest!r}")


def check_table(report: Report, smoothing: hrs.HybridSmoothing) -> None:
    case = report.case
    table = hrs.frontier_table([case.d], smoothing, case.tau, size=GRID)
    radius = float(table.certified_radius(case.p_a)[0, 0])
    if radius >= 0:
        rho = oracle.quotient(radius, case.sigma)
        sound = oracle.radius_is_sound(case.channels, case.p_a, case.tau, rho)
        report.claim(sound, f"V* >= tau at the table's radius = {radius!r}")


def reports(cases: Iterable[Case]) -> Iterator[Report]:
    for case in cases:
        try:
            report = check(case)
        except oracle.Undecided as error:  # a run of hours goes on; the case fails it at the end
            report = Report(case, violations=[f"the oracle did not decide: {error}"])
        if report.violations:
            print(report.case, report.violations, flush=True)
        yield report


def summary(found: list[Report], seconds: float) -> dict[str, object]:
    """Counts, extremes, and the worst cases with everything needed to repeat them."""

    def spread(name: str) -> dict[str, object]:
        pairs = [(getattr(r, name), r.case) for r in found if getattr(r, name) is not None]
        clear = [(getattr(r, name), r.case) for r in found if getattr(r, name) is not None and name not in r.blurred]
        values = np.array([value for value, _ in pairs])
        worst = sorted(clear, key=lambda pair: -pair[0])[:10]
        return {
            "cases": len(pairs),
            "median": float(np.median(values)),
            "quantiles": {str(q): float(np.quantile(values, q)) for q in (0.5, 0.9, 0.99, 0.999)},
            "not determined by the inputs": len(pairs) - len(clear),
            "max of the others": worst[0][0],
            "worst of the others": [{"value": value, **dataclasses.asdict(case)} for value, case in worst],
        }

    return {
        "cases": len(found),
        "violations": sum(bool(r.violations) for r in found),
        "violated": [{"promises": r.violations, **dataclasses.asdict(r.case)} for r in found if r.violations],
        "radius_shortfall": spread("shortfall"),
        "worst_case_gap": spread("gap"),
        "seconds": seconds,
    }


def run(cases: Iterable[Case]) -> dict[str, object]:
    start = time.perf_counter()
    found = list(reports(cases))
    return summary(found, time.perf_counter() - start)


def short_cases(count: int, seed: int) -> list[Case]:
    """Cases of at most 32 atoms: every further power of two would be compiled once more."""
    short = (case for case in oracle_cases.cases(2 * count, seed) if max_atoms(case) <= 32)
    return list(itertools.islice(short, count))


def max_atoms(case: Case) -> int:
    return max(len(channel.ratio) for channel in case.channels)


def test_a_hundred_cases_are_sound() -> None:
    result = run(short_cases(100, seed=2024))
    assert result["violated"] == []
    assert result["radius_shortfall"]["cases"] > 40


#: Cases in which an earlier solver ran in a cycle, stuck on a plateau, gave up a radius too early, or lost the digits.
ONCE_HARD = [
    Case("uniform", 0.25, 45, (), 2, 0.9356173857012132, 1.9567573117804373, 0.05334, 0.009134383410399268),
    Case("uniform", 0.8843499683578393, 2, (), 7, 0.8381302827691608, 0.5, 1.3e-06, 7.738412933438027e-05),
    Case("uniform", 0.9970845481049564, 343, (), 63, 0.1423761551385698, 1.0, 3.5, 0.001693611412600853),
    Case("uniform", 0.7550231326755965, 5, (), 1, 0.2449768673244035, 0.25, 0.0003, 4.6e-05),
    Case("uniform", 0.49999999999999994, 2, (), 5, 0.18750000000000006, 0.1386, 0.164, 0.18749999999999992),
    Case("uniform", 0.031180032589209074, 2, (), 1, 0.9999880293438419, 0.5, 0.0, 7.241646424170954e-07),
    Case("categorical", 0.0052414, 0, (2, 490, 12, 30, 4), 5, 0.9999999998120876, 1.0, 2.5e-08, 4.02899e-07),
    Case("categorical", 0.5, 0, (2,) * 16, 15, 5.494477594174287e-06, 0.05748593741886949, 0.0, 1.2338894e-07),
    Case("absorbing", 0.5, 0, (), 1, 0.5000000029124214, 1.0, 0.12117039912947485, 1.4197543737654407e-09),
    Case("absorbing", 0.001, 0, (), 5, 1.0, 1.0, 1.0, 1e-16),
    Case("gaussian", 0.5, 0, (), 0, 0.9999999998357106, 0.5, 5.334855498443169, 0.0012041069943437975),
    Case("gaussian", 0.5, 0, (), 0, 0.703340101578077, 0.04125829991290552, 0.08708540779569483, 0.7033401015780769),
]


@pytest.mark.parametrize("case", ONCE_HARD, ids=lambda case: f"{case.kernel}-{case.d}")
def test_cases_that_were_hard_once_are_sound_and_tight(case: Case) -> None:
    assert check(case).violations == []


@pytest.mark.slow
def test_twenty_thousand_cases_are_sound() -> None:
    count = int(os.environ.get("HRS_SOUNDNESS_CASES", "20000"))
    first = int(os.environ.get("HRS_SOUNDNESS_FIRST", "0"))  # go on where a run was ended
    cases = oracle_cases.cases(count, int(os.environ.get("HRS_SOUNDNESS_SEED", "77001")))
    result = run(itertools.islice(cases, first, None))
    text = json.dumps(result, indent=2)
    print(text)
    if out := os.environ.get("HRS_SOUNDNESS_OUT"):
        Path(out).write_text(text + "\n")
    assert result["violated"] == []
