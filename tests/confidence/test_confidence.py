"""Clopper-Pearson bounds against the exact binomial tail, and the threshold of a deployed filter."""

import math

import numpy as np
import oracle
import pytest
from flint import arb, fmpq

import hybrid_rs_jax as hrs
from hybrid_rs_jax.confidence import clopper_pearson_bound

ALPHAS = (0.05, 0.01, 1e-3, 1e-9)
COUNTS = [
    (k, n)
    for n in (1, 2, 10, 1_000, 10_000, 1_000_000)
    for k in sorted({0, 1, 2, n // 10, n // 2, n - n // 10, n - 2, n - 1, n})
    if 0 <= k <= n
]


def standard_error(p, n):
    return math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("k", "n"), COUNTS)
def test_bound_never_exceeds_the_exact_one(k, n, alpha):
    assert oracle.clopper_pearson_is_sound(k, n, alpha, hrs.clopper_pearson(k, n, alpha))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("k", "n"), [(k, n) for k, n in COUNTS if k])
def test_bound_is_tight_to_a_ten_millionth_of_a_standard_error(k, n, alpha):
    bound = clopper_pearson_bound(k, n, alpha)
    p, rest = float(bound.p), oracle.exact(float(bound.complement))
    step = 1e-7 * math.sqrt(p * float(rest) / n)
    # where the bound is within rounding of one, its complement has the digits
    assert not oracle.clopper_pearson_is_sound(k, n, alpha, p + step + 1e-14 * p)
    assert not oracle.clopper_pearson_is_sound(k, n, alpha, 1 - rest + oracle.exact(step) + rest * oracle.exact(1e-14))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("k", "n"), [*COUNTS, (10**9, 10**9), (10**9 - 1, 10**9)])
def test_complement_is_rounded_up_and_consistent(k, n, alpha):
    bound = clopper_pearson_bound(k, n, alpha)
    p, complement = float(bound.p), float(bound.complement)
    assert oracle.clopper_pearson_is_sound(k, n, alpha, 1 - oracle.exact(complement))
    assert p + complement == pytest.approx(1, abs=1e-9 * standard_error(p, n) + 1e-14)
    assert complement >= 1 - p - 1e-9 * standard_error(p, n) - 1e-14


def test_complement_keeps_its_digits_next_to_one():
    n, alpha = 10**9, 0.01
    complement = float(clopper_pearson_bound(n, n, alpha).complement)
    with oracle.precision(256):
        exact = 1 - (arb(oracle.exact(alpha)).log() / n).exp()
        assert 0 <= float(complement / exact - 1) < 1e-14


def test_no_success_bounds_nothing():
    bound = clopper_pearson_bound(0, [1, 10, 10**6], 0.01)
    np.testing.assert_array_equal(bound.p, 0)
    np.testing.assert_array_equal(bound.complement, 1)


@pytest.mark.parametrize("n", [1, 10, 10_000, 10**6])
def test_unanimous_draws_give_the_root_of_alpha(n):
    assert hrs.clopper_pearson(n, n, 0.01) == pytest.approx(0.01 ** (1 / n), rel=1e-14)


@pytest.mark.parametrize("alpha", [1e-12, 1.3e-29, 1e-100, 1e-200])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 200])
def test_unanimous_draws_are_sound_at_tiny_risks(n, alpha):
    """The logarithm of such a risk is large, and exp turns its rounding into a relative error of many units."""
    bound = clopper_pearson_bound(n, n, alpha)
    assert oracle.clopper_pearson_is_sound(n, n, alpha, float(bound.p))
    assert bound.complement == 1 or oracle.clopper_pearson_is_sound(
        n, n, alpha, 1 - oracle.exact(float(bound.complement))
    )
    assert float(bound.p) == pytest.approx(math.exp(math.log(alpha) / n), rel=1e-11)


def test_bound_grows_with_the_successes():
    bound = clopper_pearson_bound(np.arange(2001), 2000, 0.01)
    assert np.all(np.diff(bound.p) > 0)
    assert np.all(np.diff(bound.complement) < 0)


def test_bound_falls_with_the_draws_and_grows_with_the_share_kept():
    n = np.arange(50, 3000)
    assert np.all(np.diff(hrs.clopper_pearson(50, n, 0.01)) < 0)
    assert np.all(np.diff(hrs.clopper_pearson(n, n, 0.01)) > 0)


def test_bound_grows_with_the_risk():
    assert np.all(np.diff(hrs.clopper_pearson(90, 100, np.logspace(-12, -0.01, 200))) > 0)


def test_coverage_is_at_least_nominal():
    n, alpha = 60, 0.05
    bounds = [oracle.exact(float(p)) for p in hrs.clopper_pearson(np.arange(n + 1), n, alpha)]
    for truth in (fmpq(i, 50) for i in range(1, 50)):
        covered = (math.comb(n, k) * truth**k * (1 - truth) ** (n - k) for k in range(n + 1) if bounds[k] <= truth)
        assert sum(covered, fmpq(0)) >= 1 - oracle.exact(alpha)


def test_arguments_broadcast():
    k, n, alpha = np.arange(4)[:, None, None], np.array([5, 50])[:, None], np.array([0.1, 0.01, 0.001])
    bounds = hrs.clopper_pearson(k, n, alpha)
    assert bounds.shape == (4, 2, 3)
    for i, j, m in np.ndindex(bounds.shape):
        assert bounds[i, j, m] == hrs.clopper_pearson(i, int(n[j, 0]), float(alpha[m]))


def test_scalars_give_a_float_and_empty_counts_an_empty_array():
    assert type(hrs.clopper_pearson(9, 10, 0.01)) is float
    assert hrs.clopper_pearson(np.zeros(0, int), 10, 0.01).shape == (0,)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float32, np.float64])
def test_integer_values_are_taken_in_every_dtype(dtype):
    counts = np.array([0, 3, 9, 10], dtype)
    np.testing.assert_array_equal(hrs.clopper_pearson(counts, 10, 0.01), hrs.clopper_pearson([0, 3, 9, 10], 10, 0.01))


@pytest.mark.parametrize(
    ("k", "n", "alpha", "value"),
    [
        (11, 10, 0.01, "11 of 10"),
        ([3, 12], [10, 10], 0.01, "12 of 10"),
        (-1, 10, 0.01, "-1"),
        (2.5, 10, 0.01, "2.5"),
        (math.nan, 10, 0.01, "nan"),
        (math.inf, 10, 0.01, "inf"),
        (True, 10, 0.01, "True"),
        ("many", 10, 0.01, "many"),
        (3, 10.5, 0.01, "10.5"),
        (0, 0, 0.01, "0"),
        (3, -10, 0.01, "-10"),
        (3, 10, 0.0, "0.0"),
        (3, 10, 1.0, "1.0"),
        (3, 10, [0.01, -0.5], "-0.5"),
        (3, 10, math.nan, "nan"),
    ],
)
def test_bad_counts_and_risks_raise_one_sentence_with_the_value(k, n, alpha, value):
    with pytest.raises(ValueError, match=rf"^[^\n]*got [^\n]*{value}[^\n]*\.$"):
        hrs.clopper_pearson(k, n, alpha)


# The threshold of a deployed filter


def test_threshold_of_the_papers():
    assert f"{hrs.detection_threshold(100_000, 0.01):.1e}" == "4.6e-05"


@pytest.mark.parametrize("samples", [1, 2, 1_000, 100_000, 10**9])
@pytest.mark.parametrize("miss", [1e-12, 0.01, 0.5, 0.999])
def test_a_score_above_the_threshold_is_missed_with_at_most_the_stated_probability(samples, miss):
    tau = hrs.detection_threshold(samples, miss)
    with oracle.precision(256):
        log_miss = samples * (1 - arb(oracle.exact(tau))).log()
        assert log_miss <= arb(oracle.exact(miss)).log()
        assert float(log_miss) == pytest.approx(math.log(miss), rel=1e-13, abs=samples * tau / (1 - tau) * 2.0**-49)


def test_threshold_is_at_most_one():
    assert hrs.detection_threshold(1, 1e-300) == 1


def test_threshold_falls_with_the_samples_and_with_the_risk_of_a_miss():
    assert hrs.detection_threshold(10, 0.01) > hrs.detection_threshold(11, 0.01) > hrs.detection_threshold(11, 0.02)


@pytest.mark.parametrize(
    ("samples", "miss", "value"),
    [
        (0, 0.01, "0"),
        (-5, 0.01, "-5"),
        (True, 0.01, "True"),
        (100, 0.0, "0.0"),
        (100, 1.0, "1.0"),
        (100, -0.5, "-0.5"),
        (100, math.nan, "nan"),
    ],
)
def test_bad_filters_raise_one_sentence_with_the_value(samples, miss, value):
    with pytest.raises(ValueError, match=rf"^[^\n]*got {value}\.$"):
        hrs.detection_threshold(samples, miss)
