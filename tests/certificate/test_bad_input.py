"""Whatever a host function cannot use is refused in one sentence that holds the offending value."""

import inspect
import math

import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.confidence import FixedSample, SequentialTest

SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 1000), 0.5)
GOOD = {
    hrs.worst_case_probability: {"p_a": 0.9, "d": 1, "epsilon": 0.1, "smoothing": SMOOTHING},
    hrs.largest_probability: {"p_b": 0.1, "d": 1, "epsilon": 0.1, "smoothing": SMOOTHING},
    hrs.certified_radius: {"p_a": 0.9, "d": 1, "smoothing": SMOOTHING, "tau": 0.1},
    hrs.certified_budget: {"p_a": 0.9, "smoothing": SMOOTHING, "tau": 0.1, "epsilon": 0.1},
    hrs.required_probability: {"d": 1, "epsilon": 0.1, "smoothing": SMOOTHING, "tau": 0.1},
    hrs.required_samples: {"d": 1, "epsilon": 0.1, "smoothing": SMOOTHING, "tau": 0.1, "alpha": 0.01},
    hrs.certify: {"counts": [9, 10], "n": 10, "smoothing": SMOOTHING, "tau": 0.1, "alpha": 0.01, "budgets": (0, 1)},
    hrs.frontier_table: {"budgets": (0, 1), "smoothing": SMOOTHING, "tau": 0.1, "size": 5},
    hrs.clopper_pearson: {"successes": 9, "n": 10, "alpha": 0.01},
    hrs.detection_threshold: {"samples": 100, "miss_probability": 0.01},
}
PROBABILITY = [(-0.1, "-0.1"), (1.5, "1.5"), (math.nan, "nan"), ([0.5, 2.0], "2.0"), (math.inf, "inf")]
OPEN = [(0.0, "0.0"), (1.0, "1.0"), (-0.5, "-0.5"), (1.25, "1.25"), (math.nan, "nan")]
BUDGET = [
    (-1, "-1"),
    (1.5, "1.5"),
    (math.nan, "nan"),
    (math.inf, "inf"),
    ([0, -2], "-2"),
    (True, "True"),
    ("two", "two"),
]
EPSILON = [(-0.1, "-0.1"), (math.nan, "nan"), (math.inf, "inf"), ([0.1, -2.0], "-2.0")]
COUNTS = [(11, "11"), ([3, 12], "12"), (-1, "-1"), (2.5, "2.5"), (math.nan, "nan"), (math.inf, "inf")]
DRAWS = [(0, "0"), (-5, "-5"), (10.5, "10.5"), (math.nan, "nan")]
#: legal ranges by argument; the annotated scalars (`tau` of `certify`, say) take no lists
BAD = {
    "p_a": PROBABILITY,
    "p_b": PROBABILITY,
    "complement": PROBABILITY,
    "d": BUDGET,
    "max_budget": [(-1, "-1")],
    "epsilon": EPSILON,
    "tau": OPEN,
    "alpha": OPEN,
    "miss_probability": OPEN,
    "side": [("left", "left"), ("", "''")],
    "counts": [*COUNTS, ([[9]], "(1, 1)"), ([[[9, 9]]], "(1, 1, 2)"), ([[9, 9, 9]], "(1, 3)")],
    "successes": COUNTS,
    "n": DRAWS,
    "budgets": [((-1, 0), "-1"), ((1, 0), "[1, 0]"), ((0, 0), "[0, 0]"), ((), "[]")],
    "size": [(1, "1"), (-4, "-4")],
    "flags": [(0, "0"), (101, "101"), (True, "True")],
    "samples": [(0, "0"), (-5, "-5")],
    "ids": [(("a",), "1"), (("a", "a"), "1 different")],
    "total_variation": [(-0.1, "-0.1"), (1.0, "1.0"), (math.nan, "nan")],
    "plan": [(SequentialTest(0.75, 0.01, 100), "9 of 10"), (FixedSample(5), "10")],
}
#: a table does not care about the order of its budgets
ELSEWHERE = {(hrs.frontier_table, "budgets"): [((0, -1), "-1")]}
TABLE = [
    pytest.param(function, name, bad, value, id=f"{function.__name__}-{name}-{bad}")
    for function in GOOD
    for name in inspect.signature(function).parameters
    if name != "smoothing"
    for bad, value in ELSEWHERE.get((function, name), BAD[name])
]


def assert_one_sentence(message, value):
    assert value in message
    assert message.endswith(".")
    assert "\n" not in message
    assert ". " not in message


@pytest.mark.parametrize("function", GOOD, ids=lambda function: function.__name__)
def test_good_input_is_accepted(function):
    function(**GOOD[function])


@pytest.mark.parametrize(("function", "name", "bad", "value"), TABLE)
def test_bad_input_raises_one_sentence_with_the_value(function, name, bad, value):
    with pytest.raises(ValueError) as info:
        function(**GOOD[function] | {name: bad})
    assert_one_sentence(str(info.value), value)


def test_risk_outside_of_the_unit_interval_is_refused_before_it_is_split_over_budgets():
    with pytest.raises(ValueError) as info:
        hrs.certify([[9, 9]], 10, SMOOTHING, 0.1, 1.5, budgets=(0, 1))
    assert_one_sentence(str(info.value), "1.5")


def test_budgets_that_are_not_integers_are_refused():
    certify = inspect.unwrap(hrs.certify)  # the tests' type check would speak first
    with pytest.raises(ValueError) as info:
        certify([9], 10, SMOOTHING, 0.1, 0.01, budgets=(0, 1.5))
    assert_one_sentence(str(info.value), "1.5")


@pytest.mark.parametrize("name", ["tau", "alpha", "total_variation"])
def test_what_holds_for_all_inputs_is_one_number(name):
    certify = inspect.unwrap(hrs.certify)
    with pytest.raises(ValueError) as info:
        certify(**GOOD[hrs.certify] | {name: [0.1, 0.2]})
    assert_one_sentence(str(info.value), "[0.1, 0.2]")


@pytest.mark.parametrize(("bad", "value"), PROBABILITY)
def test_a_table_is_not_asked_for_what_is_no_probability(bad, value):
    table = hrs.frontier_table(**GOOD[hrs.frontier_table])
    with pytest.raises(ValueError) as info:
        table.certified_radius(bad)
    assert_one_sentence(str(info.value), value)


@pytest.mark.parametrize(
    ("method", "bad", "value"),
    [(method, *case) for method in ("worst_case", "certified_accuracy") for case in EPSILON[:3]]
    + [("certified_accuracy", *EPSILON[3])],
)
def test_a_certificate_is_not_asked_for_what_is_no_radius(method, bad, value):
    certificate = hrs.certify(**GOOD[hrs.certify])
    with pytest.raises(ValueError) as info:
        getattr(certificate, method)(bad)
    assert_one_sentence(str(info.value), value)


@pytest.mark.parametrize(
    ("function", "change"),
    [
        (hrs.worst_case_probability, {"p_a": np.full(2, 0.5), "d": np.arange(3)}),
        (hrs.largest_probability, {"p_b": np.full(2, 0.5), "epsilon": np.ones(3)}),
        (hrs.certified_radius, {"p_a": np.full(2, 0.5), "tau": np.full(3, 0.1)}),
        (hrs.certified_budget, {"p_a": np.full(2, 0.5), "epsilon": np.ones(3)}),
        (hrs.required_probability, {"d": np.arange(2), "epsilon": np.ones(3)}),
        (hrs.required_samples, {"d": np.arange(2), "alpha": np.full(3, 0.1)}),
        (hrs.clopper_pearson, {"successes": np.arange(2), "n": np.full(3, 10)}),
        (hrs.certify, {"counts": np.arange(2), "n": np.full(3, 10)}),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_shapes_that_do_not_broadcast_are_refused_with_the_shapes(function, change):
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        function(**GOOD[function] | change)
