"""Fixed samples, upper bounds, staged looks, and what every plan owes its caller."""

import json
import math
from fractions import Fraction

import numpy as np
import oracle
import pytest
import stopping_law
from scipy import stats

from hybrid_rs_jax._checks import check_whole
from hybrid_rs_jax.confidence import (
    FixedSample,
    SamplingPlan,
    SequentialTest,
    StagedLooks,
    Verdict,
    clopper_pearson,
    clopper_pearson_bound,
    clopper_pearson_upper,
    clopper_pearson_upper_bound,
    plan_from,
    samples_for_share,
    staged_looks,
)

STAGED = staged_looks(10, 80).stopping([np.arange(n + 1) >= 0.9 * n for n in (10, 20, 40, 80)])
PLANS = [FixedSample(60), SequentialTest(0.75, 0.05, 90), SequentialTest(0.3, 0.05, 90, side="below"), STAGED]
FRACTIONS = [Fraction(x, 100) for x in (1, 10, 30, 50, 70, 75, 80, 90, 95, 99)]


UPPER_COUNTS = [(0, 1), (0, 50), (1, 50), (25, 50), (49, 50), (50, 50), (10, 10_000), (9_990, 10_000)]


# The upper side of Clopper-Pearson


@pytest.mark.parametrize("alpha", [0.05, 1e-3, 1e-9])
@pytest.mark.parametrize(
    ("k", "n"), [(0, 1), (0, 50), (1, 50), (25, 50), (49, 50), (50, 50), (10, 10_000), (9_990, 10_000)]
)
def test_upper_bound_is_never_below_the_exact_one(k, n, alpha):
    bound = clopper_pearson_upper_bound(k, n, alpha)
    # at most k successes is at least n - k failures: the oracle's tail, of the complement
    assert oracle.clopper_pearson_is_sound(n - k, n, alpha, 1 - oracle.exact(float(bound.p)))
    assert oracle.clopper_pearson_is_sound(n - k, n, alpha, float(bound.complement))
    if k < n:
        tighter = oracle.exact(float(bound.p)) - oracle.exact(1e-7 * float(bound.p))
        assert not oracle.clopper_pearson_is_sound(n - k, n, alpha, 1 - tighter)


def test_upper_bound_of_the_extremes():
    assert clopper_pearson_upper(50, 50, 0.01) == 1
    assert clopper_pearson_upper(0, 50, 0.01) == pytest.approx(1 - 0.01 ** (1 / 50), rel=1e-13)
    assert type(clopper_pearson_upper(3, 50, 0.01)) is float


def test_upper_bound_lies_above_the_lower_one():
    k = np.arange(201)
    assert np.all(clopper_pearson(k, 200, 0.3) < clopper_pearson_upper(k, 200, 0.3))


@pytest.mark.parametrize(
    ("k", "n", "alpha", "value"),
    [(11, 10, 0.01, "11 of 10"), (2.5, 10, 0.01, "2.5"), (3, 0, 0.01, "0"), (3, 10, 1.0, "1.0")],
)
def test_bad_counts_of_the_upper_bound_raise_one_sentence(k, n, alpha, value):
    with pytest.raises(ValueError, match=rf"^[^\n]*got [^\n]*{value}[^\n]*\.$"):
        clopper_pearson_upper(k, n, alpha)


# What every plan owes


@pytest.mark.parametrize("plan", PLANS, ids=repr)
def test_a_plan_meets_the_protocol(plan):
    assert isinstance(plan, SamplingPlan)
    assert plan.looks.dtype == np.int64
    assert plan.looks[-1] == plan.max_samples
    assert np.all(plan.verdict(plan.max_samples, np.arange(plan.max_samples + 1)) != Verdict.CONTINUE)
    assert plan.verdict([plan.max_samples, 1], [[0], [1]]).shape == (2, 2)


@pytest.mark.parametrize("plan", PLANS, ids=repr)
def test_a_description_survives_json(plan):
    again = plan_from(json.loads(json.dumps(plan.describe())))
    assert again == plan
    assert hash(again) == hash(plan)


@pytest.mark.parametrize("risk", [0.2, 0.01])
@pytest.mark.parametrize("plan", PLANS, ids=repr)
def test_bounds_of_every_plan_miss_with_probability_at_most_their_risk(plan, risk):
    counts = stopping_law.path_counts(plan)
    n, k = np.array(list(counts)).T
    lower, upper = plan.lower_bound(n, k, risk), plan.upper_bound(n, k, risk)
    for p in FRACTIONS:
        law = [count * p**s * (1 - p) ** (m - s) for (m, s), count in counts.items()]
        assert sum(mass for mass, bound in zip(law, lower.p, strict=True) if bound > p) <= Fraction(risk)
        assert sum(mass for mass, rest in zip(law, lower.complement, strict=True) if rest < 1 - p) <= Fraction(risk)
        assert sum(mass for mass, bound in zip(law, upper.p, strict=True) if bound < p) <= Fraction(risk)
        assert sum(mass for mass, rest in zip(law, upper.complement, strict=True) if rest > 1 - p) <= Fraction(risk)


def simulated_stops(plan, p, rng):
    """One stop (n, successes) for each p, drawn look by look."""
    n, k = np.zeros(p.size, np.int64), np.zeros(p.size, np.int64)
    active = np.ones(p.size, bool)
    for look in plan.looks:
        k[active] += rng.binomial(look - n[active], p[active])
        n[active] = look
        active[active] = plan.verdict(n[active], k[active]) == Verdict.CONTINUE
    return n, k


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize(
    "plan",
    [FixedSample(200), SequentialTest(0.75, 0.01, 300), SequentialTest(0.25, 0.01, 300, side="below"), STAGED],
    ids=repr,
)
def test_violations_on_2000_inputs_stay_within_the_binomial_band(plan, alpha):
    rng = np.random.default_rng(20)
    p = rng.beta(2, 1, 2_000) if getattr(plan, "side", "above") == "above" else rng.beta(1, 2, 2_000)
    n, k = simulated_stops(plan, p, rng)
    most = stats.binom.ppf(0.999, p.size, alpha)
    assert np.sum(plan.lower_bound(n, k, alpha).p > p) <= most
    assert np.sum(plan.upper_bound(n, k, alpha).p < p) <= most


@pytest.mark.parametrize("side", ["above", "below"])
def test_wrong_verdicts_at_the_claim_itself_stay_within_the_binomial_band(side):
    plan = SequentialTest(0.75 if side == "above" else 0.25, 0.05, 300, side=side)
    rng = np.random.default_rng(21)
    wrong = np.sum(plan.verdict(*simulated_stops(plan, np.full(2_000, plan.p_star), rng)) == Verdict.REACHED)
    # two-sided: the error is spent, not only bounded
    assert stats.binom.ppf(0.0005, 2_000, 0.04) <= wrong <= stats.binom.ppf(0.999, 2_000, 0.05)


@pytest.mark.parametrize(
    ("description", "value"),
    [
        ({"plan": "guess"}, "'guess'"),
        ({}, "None"),
        ({"plan": "fixed"}, "'n'"),
        ({"plan": "fixed", "n": 5, "m": 6}, "'m'"),
    ],
)
def test_a_description_that_describes_no_plan_raises_one_sentence(description, value):
    with pytest.raises(ValueError, match=rf"^plan [^\n]*got [^\n]*{value}\.$"):
        plan_from(description)


# Fixed samples


def test_a_fixed_sample_is_done_at_its_size_and_gives_clopper_pearson():
    plan, k = FixedSample(50), np.arange(51)
    assert plan.verdict([1, 49, 50], 1).tolist() == [Verdict.CONTINUE, Verdict.CONTINUE, Verdict.EXHAUSTED]
    np.testing.assert_array_equal(plan.lower_bound(50, k, 0.01).p, clopper_pearson(k, 50, 0.01))
    np.testing.assert_array_equal(plan.upper_bound(50, k, 0.01).p, clopper_pearson_upper(k, 50, 0.01))


@pytest.mark.parametrize(("n", "value"), [(0, "0"), (-3, "-3"), (True, "True")])
def test_a_bad_sample_size_raises_one_sentence(n, value):
    with pytest.raises(ValueError, match=rf"^n must be an integer of at least 1, got {value}\.$"):
        FixedSample(n)


@pytest.mark.parametrize("value", [2.5, math.nan, "ten", [3], None])
def test_a_setting_that_is_no_integer_raises_one_sentence(value):
    with pytest.raises(ValueError, match=r"^max_samples must be an integer in 1\.\.50, got [^\n]*\.$"):
        check_whole("max_samples", value, 1, 50)


def test_a_fixed_sample_has_no_bound_before_its_end():
    with pytest.raises(ValueError, match=r"^n must be 50, where this plan stops, got 49\.$"):
        FixedSample(50).lower_bound(49, 49, 0.01)


@pytest.mark.parametrize(("share", "p_star"), [(1.0, 0.75), (0.95, 0.75), (0.8, 0.75), (0.99, 0.97), (0.3, 0.2)])
def test_samples_for_a_share_are_the_fewest_that_prove_it(share, p_star):
    n = samples_for_share(share, p_star, 0.01)
    sizes = np.arange(1, n + 1)
    enough = clopper_pearson([math.floor(Fraction(str(share)) * int(m)) for m in sizes], sizes, 0.01) >= p_star
    assert enough[-1]
    assert not enough[:-1].any()


def test_a_share_that_is_not_above_the_claim_never_proves_it():
    assert samples_for_share(0.75, 0.75, 0.01) is None
    assert samples_for_share(0.5, 0.75, 0.01) is None


def test_a_share_hardly_above_the_claim_needs_many():
    n = samples_for_share(0.7501, 0.75, 0.01)
    assert 1e8 < n < 1.1e8
    assert clopper_pearson(math.floor(Fraction("0.7501") * n), n, 0.01) >= 0.75


@pytest.mark.parametrize(
    ("share", "p_star", "alpha", "value"),
    [(1.5, 0.5, 0.01, "1.5"), (math.nan, 0.5, 0.01, "nan"), (0.9, 1.0, 0.01, "1.0"), (0.9, 0.5, 0.0, "0.0")],
)
def test_a_bad_share_raises_one_sentence(share, p_star, alpha, value):
    with pytest.raises(ValueError, match=rf"^[^\n]*got {value}\.$"):
        samples_for_share(share, p_star, alpha)


# Staged looks


def test_staged_bounds_hold_at_all_looks_together():
    """The exact probability that a bound fails at ANY look: what a stop chosen from the data can use."""
    plan, p, risk = staged_looks(10, 80), 0.8, 0.05
    alive, failed, before = np.ones(1), 0.0, 0
    for n in plan.looks.tolist():
        alive, before = np.convolve(alive, stats.binom.pmf(np.arange(n - before + 1), n - before, p)), n
        wrong = plan.lower_bound(n, np.arange(n + 1), risk).p > p
        failed += alive[wrong].sum()
        alive = np.where(wrong, 0.0, alive)
    assert 0 < failed <= risk


def test_staged_bounds_are_clopper_pearson_at_the_risk_of_the_look():
    plan = StagedLooks((20, 100), (0.25, 0.75))
    k = np.array([15, 90])
    expected = clopper_pearson_bound(k, [20, 100], [0.0025, 0.0075])
    np.testing.assert_array_equal(plan.lower_bound([20, 100], k, 0.01).p, expected.p)
    upper = clopper_pearson_upper_bound(k, [20, 100], [0.0025, 0.0075])
    np.testing.assert_array_equal(plan.upper_bound([20, 100], k, 0.01).complement, upper.complement)


def test_stop_tables_come_back_as_verdicts():
    rng = np.random.default_rng(3)
    plan = staged_looks(7, 60)
    tables = [rng.random(n + 1) < 0.4 for n in plan.sizes]
    stopping = plan.stopping(tables)
    for n, table in zip(plan.sizes, tables, strict=True):
        otherwise = Verdict.EXHAUSTED if n == 60 else Verdict.CONTINUE
        expected = np.where(table, Verdict.REACHED, otherwise)
        np.testing.assert_array_equal(stopping.verdict(n, np.arange(n + 1)), expected)
    assert not stopping.verdict([8, 59], [8, 59]).any()


@pytest.mark.parametrize(("first", "most", "growth"), [(1, 1, 2.0), (50, 10_000, 2.0), (1, 40, 1.1), (30, 31, 3.0)])
def test_staged_looks_grow_to_the_last_and_share_one(first, most, growth):
    plan = staged_looks(first, most, growth)
    assert plan.sizes[0] == first
    assert plan.sizes[-1] == most
    assert np.all(np.diff(plan.looks) > 0)
    assert 1 - 1e-12 <= math.fsum(plan.weights) <= 1


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (((), ()), "sizes"),
        (((20, 10), (0.5, 0.5)), "sizes"),
        (((0, 10), (0.5, 0.5)), "sizes"),
        (((10, 20), (0.5, 0.6)), "weights"),
        (((10, 20), (0.0, 0.6)), "weights"),
        (((10, 20), (1.0,)), "weights"),
        (((10,), (1.0,), ((), ())), "stops"),
        (((10,), (1.0,), (((3, 11),),)), "stops"),
        (((10,), (1.0,), (((3, 5), (4, 6)),)), "stops"),
    ],
)
def test_bad_stages_raise_one_sentence_with_their_name(settings, name):
    with pytest.raises(ValueError, match=rf"^{name} must [^\n]*\.$"):
        StagedLooks(*settings)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [((0, 10), "0"), ((11, 10), "11"), ((5, 10, 1.0), "1.0"), ((5, 10, math.nan), "nan"), ((5, 10, 2.0, 1.0), "1.0")],
)
def test_bad_stage_settings_raise_one_sentence_with_the_value(arguments, value):
    with pytest.raises(ValueError, match=rf"^[^\n]*got {value}\.$"):
        staged_looks(*arguments)


def test_bad_stop_tables_and_counts_raise_one_sentence():
    plan = staged_looks(10, 20)
    with pytest.raises(ValueError, match=r"^tables must hold one table for each of 2 looks, got 1\.$"):
        plan.stopping([np.ones(11, bool)])
    with pytest.raises(ValueError, match=r"^tables must be boolean with 11 entries [^\n]*\.$"):
        plan.stopping([np.ones(10, bool), np.ones(21, bool)])
    with pytest.raises(ValueError, match=r"^n must be one of the looks [^\n]*got 15\.$"):
        plan.lower_bound(15, 10, 0.01)
