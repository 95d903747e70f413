"""The sequential test: its error, its power and its bounds against exact integer path counts."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import stopping_law

from hybrid_rs_jax.confidence import (
    SequentialTest,
    Verdict,
    clopper_pearson_bound,
    clopper_pearson_upper_bound,
    plan_from,
)
from hybrid_rs_jax.confidence._design import rounding_margin
from hybrid_rs_jax.confidence._paths import Boundary, Odds, outcomes

SMALL = [(0.5, 0.05, 40), (0.75, 0.01, 17), (0.75, 0.01, 60), (0.9, 0.05, 120), (0.97, 0.1, 150), (0.3, 0.01, 50)]
LARGE = [(0.5, 0.01, 2_000), (0.75, 1e-3, 2_000), (0.95, 0.05, 3_000), (0.99, 0.01, 5_000), (0.999, 0.01, 10_000)]
FRACTIONS = [Fraction(x, 1000) for x in (1, 100, 300, 500, 700, 749, 750, 751, 800, 900, 970, 990, 999)]


def exact_error(plan, counts):
    p = Fraction(plan.p_star)
    return sum(
        count * p**k * (1 - p) ** (n - k) for (n, k), count in counts.items() if plan.verdict(n, k) == Verdict.REACHED
    )


def stops(plan):
    """Every count at which the plan can stop."""
    n, k = np.array(sorted(stopping_law.path_counts(plan))).T
    return n, k


# Error and power


@pytest.mark.parametrize(("p_star", "alpha", "max_samples"), SMALL)
def test_exact_error_is_at_most_alpha_and_is_the_one_stated(p_star, alpha, max_samples):
    plan = SequentialTest(p_star, alpha, max_samples)
    error = exact_error(plan, stopping_law.path_counts(plan))
    assert error <= Fraction(alpha)
    assert plan.error == pytest.approx(float(error), rel=1e-11)


@pytest.mark.parametrize("alpha", [0.1, 0.01, 1e-6])
@pytest.mark.parametrize("p_star", [0.75, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("room", [1.2, 2, 5])
def test_at_least_four_fifths_of_alpha_are_spent(p_star, alpha, room):
    plan = SequentialTest(p_star, alpha, math.ceil(room * math.log(alpha) / math.log(p_star)))
    assert 0.8 * alpha <= plan.error <= alpha


@pytest.mark.parametrize(("p_star", "alpha", "max_samples"), LARGE)
def test_error_of_long_plans_is_that_of_a_draw_by_draw_recursion(p_star, alpha, max_samples):
    plan = SequentialTest(p_star, alpha, max_samples)
    n, k, mass = stopping_law.float_law(plan, p_star)
    error = mass[plan.verdict(n, k) == Verdict.REACHED].sum()
    assert 0.8 * alpha <= error <= alpha
    assert plan.error == pytest.approx(error, rel=1e-10)
    assert mass.sum() == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize(("p_star", "max_samples"), [(0.5, 12), (0.6, 14)])
def test_law_is_that_of_all_sequences(p_star, max_samples):
    plan = SequentialTest(p_star, 0.1, max_samples)
    for p in (Fraction(1, 3), Fraction(7, 10)):
        found = outcomes(plan.boundary, Odds.of(p_star))
        mass = found.probability(Odds.of(float(p)))
        law = stopping_law.enumerated_law(plan, p)
        assert {(int(n), int(n - f)) for n, f in zip(found.n, found.failures, strict=True)} == set(law)
        for n, failures, value in zip(found.n, found.failures, mass, strict=True):
            assert value == pytest.approx(float(law[n, n - failures]), rel=1e-12)


@pytest.mark.parametrize(("p_star", "alpha", "max_samples"), [*SMALL, *LARGE])
@pytest.mark.parametrize("p", [1e-9, 0.01, 0.3, 0.5, 0.75, 0.9, 0.999, 1 - 1e-12])
def test_probabilities_of_all_outcomes_sum_to_one(p_star, alpha, max_samples, p):
    plan = SequentialTest(p_star, alpha, max_samples)
    law = outcomes(plan.boundary, Odds.of(p_star))
    assert law.probability(Odds.of(p)).sum() == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize(("p_star", "alpha", "max_samples"), [(0.75, 0.01, 1_000), (0.99, 0.01, 1_500)])
def test_rounding_of_the_law_is_far_within_its_margin(p_star, alpha, max_samples):
    plan = SequentialTest(p_star, alpha, max_samples)
    law, counts = outcomes(plan.boundary, Odds.of(p_star)), stopping_law.path_counts(plan)
    p = Fraction(p_star)
    worst = 0.0
    for n, failures, log_mass in zip(law.n.tolist(), law.failures.tolist(), law.log_mass, strict=True):
        mass = counts[n, n - failures] * p ** (n - failures) * (1 - p) ** failures
        exact = math.log(mass.numerator) - math.log(mass.denominator)
        # the two large logarithms cost this check a few of its own digits
        worst = max(worst, abs(log_mass - exact) - 4e-16 * math.log(mass.denominator))
    assert worst < 0.01 * rounding_margin(max_samples)


@pytest.mark.parametrize("power", [0.5, 0.8, 0.95, 0.999])
def test_the_alternative_is_certified_with_the_stated_power(power):
    plan = SequentialTest(0.75, 0.05, 200, power=power)
    p = Fraction(plan.alternative)
    law = stopping_law.law(plan, p)
    certified = sum(mass for stop, mass in law.items() if plan.verdict(*stop) == Verdict.REACHED)
    assert power <= certified <= power + 1e-6


@pytest.mark.parametrize("p", [0.2, 0.75, 0.85, 0.95, 1.0])
@pytest.mark.parametrize("side", ["above", "below"])
def test_summary_is_that_of_the_exact_law(p, side):
    plan = SequentialTest(0.75 if side == "above" else 0.25, 0.05, 150, side=side)
    law = stopping_law.law(plan, Fraction(p))
    summary = plan.summary(p)
    reached = sum(mass for stop, mass in law.items() if plan.verdict(*stop) == Verdict.REACHED)
    assert summary.certified == pytest.approx(float(reached), rel=1e-10, abs=1e-300)
    assert summary.mean == pytest.approx(float(sum(n * mass for (n, _), mass in law.items())), rel=1e-10)
    for level, quantile in ((Fraction(1, 2), summary.median), (Fraction(19, 20), summary.quantile_95)):
        below = sum(mass for (n, _), mass in law.items() if n < quantile)
        assert below < level <= below + sum(mass for (n, _), mass in law.items() if n == quantile)
    assert summary.worst == max(n for (n, _), mass in law.items() if mass)


def test_unanimous_draws_stop_nearly_as_early_as_they_can():
    for p_star in (0.5, 0.75, 0.99, 0.999):
        plan = SequentialTest(p_star, 0.01, 10_000)
        earliest = math.ceil(math.log(0.01) / math.log(p_star))
        assert earliest <= plan.summary(1.0).median <= math.ceil(1.2 * earliest)


def test_certification_grows_with_the_proportion():
    plan = SequentialTest(0.9, 0.01, 2_000)
    found = [plan.summary(p).certified for p in np.linspace(0.5, 1, 60)]
    assert np.all(np.diff(found) > 0)


# Bounds after the stop


@pytest.mark.parametrize("risk", [0.2, 0.05, 1e-3])
@pytest.mark.parametrize("side", ["above", "below"])
@pytest.mark.parametrize(("p_star", "alpha", "max_samples"), SMALL)
def test_bounds_miss_with_probability_at_most_their_risk(p_star, alpha, max_samples, side, risk):
    plan = SequentialTest(p_star if side == "above" else 1 - p_star, alpha, max_samples, side=side)
    counts = stopping_law.path_counts(plan)
    n, k = np.array(list(counts)).T
    lower, upper = plan.lower_bound(n, k, risk), plan.upper_bound(n, k, risk)
    for p in FRACTIONS:
        mass = [count * p**successes * (1 - p) ** (draws - successes) for (draws, successes), count in counts.items()]
        assert sum(mass) == 1
        for above, values in ((True, lower.p), (False, upper.p)):
            missed = (m for m, bound in zip(mass, values, strict=True) if (bound > p if above else bound < p))
            assert sum(missed) <= Fraction(risk)
        for above, values in ((True, lower.complement), (False, upper.complement)):
            missed = (m for m, rest in zip(mass, values, strict=True) if (rest < 1 - p if above else rest > 1 - p))
            assert sum(missed) <= Fraction(risk)


@pytest.mark.parametrize(("p_star", "alpha", "max_samples"), SMALL)
@pytest.mark.parametrize("side", ["above", "below"])
def test_reached_at_the_design_risk_proves_the_claim(p_star, alpha, max_samples, side):
    plan = SequentialTest(p_star if side == "above" else 1 - p_star, alpha, max_samples, side=side)
    n, k = stops(plan)
    reached = plan.verdict(n, k) == Verdict.REACHED
    assert reached.any()
    if side == "above":
        bound = plan.lower_bound(n[reached], k[reached], alpha)
        assert np.all(bound.p >= plan.p_star)
        assert np.all(bound.complement <= plan.complement_star)
    else:
        bound = plan.upper_bound(n[reached], k[reached], alpha)
        assert np.all(bound.p <= plan.p_star)
        assert np.all(bound.complement >= plan.complement_star)


def test_a_claim_next_to_one_keeps_its_digits():
    rest = 1.2345678901234e-5
    plan = SequentialTest(1 - rest, 0.01, 600_000, complement_star=rest)
    n = plan.summary(1.0).median
    bound = plan.lower_bound(n, n, 0.01)
    assert plan.verdict(n, n) == Verdict.REACHED
    assert bound.complement <= rest
    assert bound.complement == pytest.approx(-math.expm1(math.log(0.01) / n), rel=1e-9)


@pytest.mark.parametrize(("p_star", "alpha", "max_samples"), [(0.75, 0.01, 60), (0.9, 0.05, 120)])
def test_bounds_are_the_exact_roots_rounded_outwards(p_star, alpha, max_samples):
    plan = SequentialTest(p_star, alpha, max_samples)
    counts = stopping_law.path_counts(plan)
    law = outcomes(plan.boundary, Odds.of(p_star))
    order = [(int(n), int(n - f)) for n, f in zip(law.n, law.failures, strict=True)]

    def probability(stops, p):
        return sum(counts[n, k] * p**k * (1 - p) ** (n - k) for n, k in stops)

    for i in range(0, len(order), 7):
        low = plan.lower_bound(*order[i], 0.02)
        assert probability(order[: i + 1], Fraction(float(low.p))) <= Fraction(0.02) or low.p == 0
        assert probability(order[: i + 1], 1 - Fraction(float(low.complement))) <= Fraction(0.02) or low.complement == 1
        if i + 1 < len(order):
            assert probability(order[: i + 1], Fraction(float(low.p)) + Fraction(1, 10**8)) > Fraction(0.02)
        high = plan.upper_bound(*order[i], 0.02)
        assert probability(order[i:], Fraction(float(high.p))) <= Fraction(0.02) or high.p == 1
        assert probability(order[i:], 1 - Fraction(float(high.complement))) <= Fraction(0.02) or high.complement == 0
        if i > 0:
            assert probability(order[i:], Fraction(float(high.p)) - Fraction(1, 10**8)) > Fraction(0.02)


def test_one_look_gives_clopper_pearson():
    n, alpha = 30, 0.05
    plan = SequentialTest(0.75, alpha, n, boundary=Boundary((n,), (2,), (n + 1,)))
    k = np.arange(n + 1)
    for risk in (0.3, 0.05, 1e-4):
        found, expected = plan.lower_bound(n, k, risk), clopper_pearson_bound(k, n, risk)
        np.testing.assert_allclose(found.p, expected.p, rtol=3e-9)
        np.testing.assert_allclose(found.complement, expected.complement, rtol=3e-9)
        found, expected = plan.upper_bound(n, k, risk), clopper_pearson_upper_bound(k, n, risk)
        np.testing.assert_allclose(found.p, expected.p, rtol=3e-9)
        np.testing.assert_allclose(found.complement, expected.complement, rtol=3e-9)


def test_earlier_and_cleaner_stops_are_stronger():
    plan = SequentialTest(0.75, 0.01, 200)
    law = outcomes(plan.boundary, Odds.of(0.75))
    for bound in (plan.lower_bound, plan.upper_bound):
        assert np.all(np.diff(bound(law.n, law.n - law.failures, 0.05).p) <= 0)


# Verdicts, mirror image and description


def test_verdicts_follow_the_boundary():
    plan = SequentialTest(0.75, 0.01, 300)
    for n, reached, futile in zip(*plan.boundary, strict=True):
        failures = np.arange(n + 1)
        code = plan.verdict(n, n - failures)
        assert code.dtype == np.int8
        otherwise = Verdict.EXHAUSTED if n == 300 else Verdict.CONTINUE
        expected = np.where(
            failures <= reached, Verdict.REACHED, np.where(failures >= futile, Verdict.FUTILE, otherwise)
        )
        np.testing.assert_array_equal(code, expected)


def test_between_the_looks_sampling_goes_on():
    plan = SequentialTest(0.99, 0.01, 2_000)
    between = np.setdiff1d(np.arange(1, 2_000), plan.looks)
    assert between.size
    assert not plan.verdict(between, 0).any()
    assert plan.looks.dtype == np.int64
    assert plan.looks[-1] == plan.max_samples == 2_000
    assert np.all(np.diff(plan.looks) > 0)


def test_below_is_the_mirror_image_of_above():
    above, below = SequentialTest(0.75, 0.01, 100), SequentialTest(0.25, 0.01, 100, side="below")
    n, k = stops(above)
    np.testing.assert_array_equal(above.verdict(n, k), below.verdict(n, n - k))
    np.testing.assert_array_equal(above.lower_bound(n, k, 0.05).p, below.upper_bound(n, n - k, 0.05).complement)
    np.testing.assert_array_equal(above.upper_bound(n, k, 0.05).p, below.lower_bound(n, n - k, 0.05).complement)
    assert below.alternative == pytest.approx(1 - above.alternative, abs=1e-12)
    assert below.summary(1 - below.alternative).certified < 0.95 <= below.summary(below.alternative).certified


@pytest.mark.parametrize("side", ["above", "below"])
def test_description_rebuilds_an_equal_plan(side):
    plan = SequentialTest(0.8, 0.01, 500, power=0.9, side=side)
    again = plan_from(json.loads(json.dumps(plan.describe())))
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.describe() == plan.describe()


def test_a_description_keeps_its_boundary_whatever_the_design_rule():
    described = SequentialTest(0.75, 0.05, 30).describe()
    described["boundary"] = {"looks": [12, 30], "reached": [0, 2], "futile": [13, 31]}
    plan = plan_from(described)
    assert plan.looks.tolist() == [12, 30]
    assert plan.lower_bound(12, 12, 0.05).p >= 0.75


def test_a_boundary_that_spends_too_much_is_refused():
    described = SequentialTest(0.75, 0.01, 100).describe()
    described["boundary"]["reached"][-1] += 3
    with pytest.raises(ValueError, match=r"^boundary must have an error of at most alpha = 0\.01, got [^\n]*\.$"):
        plan_from(described)


@pytest.mark.parametrize(
    ("looks", "reached", "futile"),
    [
        ((50, 40), (0, 0), (51, 41)),
        ((50, 90), (0, 0), (51, 91)),
        ((50, 100), (5, 5), (5, 101)),
        ((100,), (0, 1), (101,)),
    ],
)
def test_a_malformed_boundary_is_refused(looks, reached, futile):
    with pytest.raises(ValueError, match=r"^boundary must hold [^\n]*\.$"):
        SequentialTest(0.75, 0.01, 100, boundary=Boundary(looks, reached, futile))


# Bad input


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ({"p_star": 0.0}, "0.0"),
        ({"p_star": 1.0}, "1.0"),
        ({"p_star": math.nan}, "nan"),
        ({"alpha": 0.0}, "0.0"),
        ({"alpha": 1.5}, "1.5"),
        ({"alpha": 1e-200}, "1e-200"),
        ({"max_samples": 0}, "0"),
        ({"max_samples": 10**8}, "100000000"),
        ({"complement_star": 0.5}, "0.5"),
        ({"complement_star": 0.25001}, "0.25001"),
        ({"power": 1.0}, "1.0"),
        ({"power": 0.005}, "0.005"),
        ({"side": "beside"}, "'beside'"),
        ({"max_samples": 16}, "16"),
    ],
)
def test_bad_settings_raise_one_sentence_with_the_value(change, value):
    settings = {"p_star": 0.75, "alpha": 0.01, "max_samples": 1_000} | change
    with pytest.raises(ValueError, match=rf"^[^\n]*got {value}\.$"):
        SequentialTest(**settings)


def test_too_few_draws_name_the_number_that_is_needed():
    with pytest.raises(ValueError, match=r"^max_samples must be at least 4603 to prove [^\n]*got 1000\.$"):
        SequentialTest(0.999, 0.01, 1_000)
    assert SequentialTest(0.999, 0.01, 4_603).summary(1.0).certified == pytest.approx(1, abs=1e-12)
    with pytest.raises(ValueError, match="4603"):
        SequentialTest(0.999, 0.01, 4_602)


@pytest.mark.parametrize(
    ("n", "k", "value"), [(101, 5, "101"), (50, 51, "51 of 50"), (50, -1, "-1"), (20, 19.5, "19.5")]
)
def test_bad_counts_raise_one_sentence_with_the_value(n, k, value):
    with pytest.raises(ValueError, match=rf"^[^\n]*got {value}\.$"):
        SequentialTest(0.75, 0.01, 100).verdict(n, k)


def test_counts_at_which_the_plan_does_not_stop_have_no_bound():
    plan = SequentialTest(0.75, 0.01, 100)
    for n, k in ((19, 18), (20, 20), (21, 3)):
        with pytest.raises(ValueError, match=rf"^[^\n]*got {k} of {n}\.$"):
            plan.lower_bound(n, k, 0.01)
