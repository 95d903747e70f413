"""A filter in use: the estimate of false alarms is unbiased, its bound holds, and detection is what is certified."""

import numpy as np
import pytest
from scipy.stats import binom, hypergeom

import hybrid_rs_jax as hrs
from hybrid_rs_jax.confidence import FixedSample, detection_threshold
from hybrid_rs_jax.kernels import Conditional, HybridSmoothing, UniformKernel
from hybrid_rs_jax.results.counts import Counts
from hybrid_rs_jax.results.operation import operating_points, ordinary_draws

SMOOTHING = HybridSmoothing(Conditional(UniformKernel(0.5, 32_000)), 0.25)
CERTIFICATE = hrs.certify([[500, 500], [480, 420], [0, 0]], 500, SMOOTHING, 0.5, 0.01, [1, 2])
N = 400


def safe(successes):
    successes = np.asarray(successes)
    return Counts(tuple(map(str, range(len(successes)))), successes, np.full(successes.shape, N))


def operation(counts=None, **changes):
    settings = {"budget": 2, "epsilon": 0.1, "miss_probability": 0.01, "alpha": 0.01, "most_copies": 2000} | changes
    return operating_points(CERTIFICATE, safe([0] * 50 + [4] * 5) if counts is None else counts, **settings)


def test_detection_is_the_share_certified_at_the_threshold_of_the_rule():
    kept = CERTIFICATE.worst_case(0.1)[:, 1]
    for point in operation().points:
        assert point.tau == detection_threshold(point.copies, 0.01, point.flags)
        assert point.detection == (kept > point.tau).mean() > 0
        again = hrs.certify([[500, 500], [480, 420], [0, 0]], 500, SMOOTHING, point.tau, 0.01, [1, 2])
        assert point.detection == (again.radius[:, 1] >= 0.1).mean()


def test_no_point_is_beaten_in_copies_detection_and_alarms():
    points = operation().points
    for one in points:
        assert not any(
            other is not one
            and other.copies <= one.copies
            and other.detection >= one.detection
            and other.alarms_bound < one.alarms_bound
            for other in points
        )


def test_false_alarms_are_estimated_without_bias_where_draws_suffice_and_only_bounded_beyond():
    scores, m, k = np.array([0.001, 0.01, 0.2]), 100, 2
    c = np.arange(N + 1)
    truth = binom.sf(k - 1, m, scores)
    for score, expected in zip(scores, truth, strict=True):
        assert binom.pmf(c, N, score) @ hypergeom.sf(k - 1, N, c, m) == pytest.approx(expected, rel=1e-9)
    assert all((point.alarms is None) == (point.copies > N) for point in operation().points)


def test_the_bound_on_false_alarms_is_above_the_truth_as_often_as_promised():
    rng, score = np.random.default_rng(0), 0.003
    for _ in range(5):
        counts = safe(rng.binomial(N, score, 60))
        for point in operation(counts, alpha=0.1).points:
            assert point.alarms_bound >= binom.sf(point.flags - 1, point.copies, score) - 1e-12


def test_expected_copies_are_those_of_stopping_at_the_last_flag():
    rng = np.random.default_rng(1)
    point = next(p for p in operation(safe([40] * 10)).points if p.flags > 1)
    draws = rng.random((20_000, point.copies)) < 0.1
    reached = np.cumsum(draws, axis=1) >= point.flags
    stops = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, point.copies)
    assert point.expected_copies == pytest.approx(stops.mean(), rel=0.02)


def test_the_best_rule_keeps_to_the_alarms_that_are_allowed():
    found = operation()
    best = found.best(0.5)
    assert best is not None
    assert best.detection == max(point.detection for point in found.points if point.alarms_bound <= 0.5)
    assert found.best(0.0) is None


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (Counts(("a",), np.array([1]), np.array([9]), plan=FixedSample(9)), "fixed number"),
        (Counts(("a",), np.array([[1, 1]]), np.array([[9, 9]]), budgets=(0, 1)), "one ordinary sample"),
        (
            Counts(("a",), np.array([[1, 1]]), np.array([[9, 9]]), samples=CERTIFICATE.counts.samples),
            "conditional ones",
        ),
    ],
)
def test_draws_that_say_nothing_about_false_alarms_are_refused(counts, words):
    with pytest.raises(ValueError, match=words):
        ordinary_draws(counts)


def test_a_budget_that_is_not_certified_is_refused():
    with pytest.raises(ValueError, match=r"one of the certified budgets \[1, 2\], got 5"):
        operation(budget=5)
