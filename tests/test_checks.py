"""Each check refuses what lies outside of its range in one sentence with the value, and every door uses them."""

import inspect
import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax import _checks
from hybrid_rs_jax.attacks import AttackSettings
from hybrid_rs_jax.confidence import FixedSample, SequentialTest, clopper_pearson_upper, samples_for_share, staged_looks
from hybrid_rs_jax.sampling.engine import check_inputs

IMAGE = hrs.HybridSmoothing(None, 0.5)
WRAPPED = np.array(3, np.uint64) - np.array(5, np.uint64)
NOISE = (np.zeros((2, 3), np.int32), np.zeros((2, 2, 2, 1), np.float32))


def refused(call, *values):
    with pytest.raises(ValueError) as info:
        call()
    message = str(info.value)
    assert message.endswith(".")
    assert ". " not in message
    assert "\n" not in message
    for value in values:
        assert value in message
    return message


NOT_NUMBERS = [("much", "'much'"), (None, "None"), (True, "True"), (1j, "1j"), ([[1], [1, 2]], "[[1], [1, 2]]")]


@pytest.mark.parametrize(
    ("check", "bad", "shown"),
    [
        (check, *case)
        for check in (
            lambda x: _checks.check_probability("share", x),
            lambda x: _checks.check_open_unit("share", x),
            lambda x: _checks.check_risk(x, "share"),
            lambda x: _checks.check_epsilon(x, "share"),
            lambda x: _checks.check_sigma(x, "share"),
            lambda x: _checks.check_whole("share", x, 1),
            lambda x: _checks.check_budget_array(x, "share"),
            lambda x: _checks.check_draws("share", x),
        )
        for case in [*NOT_NUMBERS, (math.nan, "nan"), (-1, "-1"), (-math.inf, "-inf")]
    ],
)
def test_what_is_no_number_of_the_range_is_refused_with_the_name_and_the_value(check, bad, shown):
    refused(lambda: check(bad), "share", shown)


@pytest.mark.parametrize(
    ("check", "bad"),
    [
        (lambda x: _checks.check_probability("p", x), [1.0000001, 2]),
        (lambda x: _checks.check_open_unit("p", x), [0, 1]),
        (_checks.check_tau, [0, 1]),
        (_checks.check_risk, [0, 1, 1e-201, 1e-300, 5e-324]),
        (_checks.check_epsilon, [math.inf]),
        (_checks.check_sigma, [0, 1e-13, 1e13, 1e308, math.inf, [0.5, 0.5]]),
        (lambda x: _checks.check_whole("n", x, 2, 9), [1, 10, 2.5, [2, 3], 10**30]),
        (_checks.check_budget, [1.5, _checks.LARGEST_BUDGET + 1, [1, 2]]),
        (
            _checks.check_budgets,
            [(), (1.5,), (0.5, 1.2), (1, 0), (0, 0), (-1, 0), 3, "12", ((0, 1), (2, 3)), (True,)],
        ),
        (lambda x: _checks.check_counts(x, 10), [11, -1, 2.5, WRAPPED, [3, 12]]),
        (lambda x: _checks.check_counts(1, x), [0, 10.5, 2**53 + 2, WRAPPED]),
        (_checks.check_side, ["left", "", "Above"]),
        (_checks.check_tokens, [[0.0, 1.0], [True]]),
        (lambda x: _checks.check_alphabet(x, 4), [[4], [-1], [[0, 9]]]),
        (lambda x: _checks.check_mask("eligible", x, (2, 3)), [[1, 0], [0, math.nan, 1], [0, 2, 1], ["a", "b", "c"]]),
    ],
)
def test_each_check_refuses_what_lies_just_outside(check, bad):
    for value in bad:
        refused(lambda value=value: check(value))


def test_what_lies_just_inside_is_accepted_in_every_form_of_number():
    for one in (1, 1.0, np.float32(1), np.int8(1), Fraction(1), jnp.float32(1), jnp.bfloat16(1)):
        assert _checks.check_probability("p", one) == 1
        assert _checks.check_whole("n", one, 1, 1) == 1
        assert _checks.check_budgets([0, one]) == (0, 1)
    assert _checks.check_risk([1e-200, 0.5]).tolist() == [1e-200, 0.5]
    assert _checks.check_sigma(1e-12) == 1e-12
    assert _checks.check_budgets(range(3)) == _checks.check_budgets(np.arange(3.0)) == (0, 1, 2)
    assert _checks.check_budgets((3, 0), increasing=False) == (3, 0)
    assert _checks.check_draws("n", 2**53) == 2**53
    assert _checks.check_mask("eligible", [1, 0, 1], (2, 3)).tolist() == [[True, False, True]] * 2


def test_a_single_budget_is_refused_with_the_way_to_write_it():
    assert "range(4)" in refused(lambda: _checks.check_budgets(3), "3")


# A complement that contradicts its probability


@pytest.mark.parametrize(("p", "q"), [(1 - 1e-10, 1e-12), (1e-10, 1 - 1e-12), (0.5, 0.5 - 1e-12), (0.5, 0.5 + 1e-12)])
def test_a_complement_that_contradicts_its_probability_makes_both_say_the_weaker_thing(p, q):
    low, high = _checks.check_complement("p", p, q)
    assert low <= min(p, 1 - q)
    assert high >= max(q, 1 - p)
    upper, rest = _checks.check_complement("p", p, q, upper=True)
    assert upper >= max(p, 1 - q)
    assert rest <= min(q, 1 - p)


def test_a_complement_that_only_has_more_digits_is_taken_as_it_is():
    for q in (1e-20, 3.3e-16, 1e-12):
        assert _checks.check_complement("p", 1 - q, q)[1] == q
    assert _checks.check_complement("p", 0.25)[1] == 0.75


def test_a_contradicting_complement_does_not_raise_a_certificate():
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 32_000), 1.0)
    honest = hrs.certified_radius(1 - 1e-10, 1, smoothing, 4.6e-5)
    assert hrs.certified_radius(1 - 1e-10, 1, smoothing, 4.6e-5, complement=1e-12) <= honest
    assert hrs.worst_case_probability(1 - 1e-10, 1, 1.0, smoothing, complement=1e-12) <= hrs.worst_case_probability(
        1 - 1e-10, 1, 1.0, smoothing
    )
    below = hrs.certified_radius(1e-10, 1, smoothing, 0.5, side="below")
    assert hrs.certified_radius(1e-12, 1, smoothing, 0.5, side="below", complement=1 - 1e-10) <= below
    refused(lambda: hrs.certified_radius(0.9, 0, IMAGE, 0.5, complement=0.2), "complement", "1.1")


# Doors: one bad argument each, to see that the check stands there

DOORS = {
    "certify, wrapped counts": lambda: hrs.certify(WRAPPED, 100, IMAGE, 0.1, 0.01, (0,)),
    "certify, an array of them": lambda: hrs.certify(WRAPPED[None], 100, IMAGE, 0.1, 0.01, (0,)),
    "certify, draws": lambda: hrs.certify(1, WRAPPED, IMAGE, 0.1, 0.01, (0,)),
    "certify, budget": lambda: inspect.unwrap(hrs.certify)(1, 2, IMAGE, 0.1, 0.01, (1.5,)),
    "certify, number": lambda: inspect.unwrap(hrs.certify)(1, 2, IMAGE, 0.1, 0.01, 3),
    "certify, risk": lambda: hrs.certify(1, 2, IMAGE, 0.1, 1e-300, (0,)),
    "certify, plan": lambda: hrs.certify(WRAPPED, 100, IMAGE, 0.1, 0.01, (0,), plan=FixedSample(100)),
    "classes, budget": lambda: inspect.unwrap(hrs.certify_classes)([[5, 5]], IMAGE, 0.1, (1.5,)),
    "classes, truncated": lambda: inspect.unwrap(hrs.certify_classes)([[5, 5]], IMAGE, 0.1, (0.5, 1.2)),
    "classes, risk": lambda: hrs.certify_classes([[5, 5]], IMAGE, 1e-300),
    "clopper_pearson, risk": lambda: hrs.clopper_pearson(9990, 10_000, 1e-300),
    "clopper_pearson, counts": lambda: hrs.clopper_pearson(WRAPPED, 10_000, 0.01),
    "upper bound": lambda: clopper_pearson_upper(WRAPPED, 10_000, 0.01),
    "required_samples": lambda: hrs.required_samples(0, 0.0, IMAGE, 0.1, 1e-300),
    "frontier_table": lambda: inspect.unwrap(hrs.frontier_table)((0, 1.5), IMAGE, 0.1, 5),
    "sequential test": lambda: SequentialTest(0.5, 1e-101, 1000),
    "sequential counts": lambda: SequentialTest(0.5, 0.01, 1000).lower_bound(100, WRAPPED, 0.01),
    "staged looks": lambda: staged_looks(10, 100).lower_bound(10, 5, 1e-300),
    "samples_for_share": lambda: samples_for_share(0.9, 0.5, 1e-300),
    "threshold": lambda: hrs.detection_threshold(100, 1.0),
    "sigma": lambda: hrs.HybridSmoothing(None, 1e308),
    "beta": lambda: hrs.UniformKernel(1.5, 100),
    "alphabet": lambda: hrs.UniformKernel(0.5, 1),
    "fields": lambda: hrs.CategoricalKernel(0.5, (3, 1)),
    "mask": lambda: hrs.AbsorbingKernel(-0.5),
    "attack": lambda: AttackSettings(steps=-1),
    "attack, temperature": lambda: AttackSettings(temperature=math.inf),
    "copies": lambda: hrs.SmoothedClassifier(lambda t, x: x, IMAGE).detection_probability(0, 0.5),
    "score": lambda: hrs.SmoothedClassifier(lambda t, x: x, IMAGE).detection_probability(10, 1.5),
    "eligible": lambda: check_inputs(*NOISE, IMAGE, [0, math.nan, 1]),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_in_one_sentence(door):
    refused(DOORS[door])
