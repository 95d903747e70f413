"""Both decisions and several classes: symmetry, closed forms, brute force, coverage."""

import inspect

import numpy as np
import pytest
from scipy.stats import norm

import hybrid_rs_jax as hrs
from hybrid_rs_jax.certificate.certify import certified_counts, needed_samples, worst_case_scores
from hybrid_rs_jax.certificate.frontier import frontier_plan
from hybrid_rs_jax.confidence import FixedSample, SequentialTest, clopper_pearson_bound, clopper_pearson_upper_bound
from hybrid_rs_jax.results.classes import certify_class_counts
from hybrid_rs_jax.results.counts import Counts
from hybrid_rs_jax.results.sentences import claim

IMAGE = hrs.HybridSmoothing(None, 0.5)
BOTH = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 200), 0.5)
MASK = hrs.HybridSmoothing(hrs.AbsorbingKernel(0.3), 0.5)


@pytest.mark.parametrize("smoothing", [BOTH, IMAGE])
@pytest.mark.parametrize("tau", [0.2, 0.5, 0.9])
def test_certifying_safe_is_certifying_the_other_decision_at_the_other_threshold(smoothing, tau):
    counts, n, budgets = np.array([0, 3, 60, 400, 999]), 1000, range(3) if smoothing is BOTH else range(1)
    safe = hrs.certify(counts, n, smoothing, tau, 0.01, budgets, side="below")
    mirrored = hrs.certify(n - counts, n, smoothing, 1 - tau, 0.01, budgets)
    np.testing.assert_allclose(safe.radius, mirrored.radius, rtol=1e-9)
    np.testing.assert_array_equal(safe.budget, mirrored.budget)
    np.testing.assert_array_equal(safe.needed_samples(), mirrored.needed_samples())
    assert "below" in claim(safe.statement)


def test_no_input_is_certified_for_both_decisions():
    counts = np.arange(0, 201)
    for tau in (0.05, 0.5):
        above = hrs.certify(counts, 200, BOTH, tau, 0.01, range(2))
        below = hrs.certify(counts, 200, BOTH, tau, 0.01, range(2), side="below")
        assert not np.any((above.budget >= 0) & (below.budget >= 0))
        assert (above.budget >= 0).any()
        assert (below.budget >= 0).any()


def test_the_worst_case_of_a_safe_input_is_an_upper_bound_that_reaches_tau_at_the_radius():
    certificate = hrs.certify([3], 1000, BOTH, 0.9, 0.01, range(2), side="below")
    for d in range(2):
        inside = certificate.worst_case(certificate.radius[0, d] * (1 - 1e-6))[0, d]
        outside = certificate.worst_case(certificate.radius[0, d] * (1 + 1e-6))[0, d]
        assert inside < 0.9 < outside


def test_counts_that_were_stopped_early_are_bounded_by_their_plan():
    plan = SequentialTest(0.75, 0.01, 1000)
    n = int(plan.looks[20])
    k = next(k for k in range(n, 0, -1) if plan.verdict(np.array([n]), np.array([k - 1]))[0] == 0)
    stopped = hrs.certify([k], [n], BOTH, 0.5, 0.01, range(2), plan=plan)
    assert stopped.p_a[0] == plan.lower_bound(np.array([n]), np.array([k]), 0.01).p[0]
    assert 0.75 <= stopped.p_a[0] < clopper_pearson_bound(k, n, 0.01).p
    fixed = hrs.certify([k], [n], BOTH, 0.5, 0.01, range(2), plan=FixedSample(n))
    np.testing.assert_array_equal(fixed.p_a, hrs.certify([k], [n], BOTH, 0.5, 0.01, range(2)).p_a)


# several classes


def test_top_1_radius_of_a_gaussian_is_the_mean_of_two_quantiles():
    votes = np.array([[950, 30, 20], [400, 350, 250], [10, 15, 975]])
    found = hrs.certify_classes(votes, IMAGE, 0.01, [0])
    np.testing.assert_array_equal(found.label, [0, 0, 2])
    expected = 0.25 * (norm.ppf(found.p_a) - norm.ppf(found.p_b))
    np.testing.assert_allclose(found.radius[:, 0], np.where(expected > 0, expected, -1), rtol=1e-8)
    assert np.all(found.radius[:, 0] <= np.where(expected > 0, expected, -1) + 1e-12)


def test_two_classes_are_the_binary_certificate_at_one_half():
    votes = np.array([[970, 30], [100, 900], [520, 480]])
    found = hrs.certify_classes(votes, BOTH, 0.02, range(3))
    binary = hrs.certify(votes.max(axis=1), 1000, BOTH, 0.5, 0.01, range(3))
    np.testing.assert_allclose(found.radius, binary.radius, rtol=1e-9)
    np.testing.assert_array_equal(found.budget, binary.budget)


@pytest.mark.parametrize("smoothing", [BOTH, MASK])
def test_the_separating_level_is_the_best_one(smoothing):
    """Brute force: the largest eps at which the worst top score still exceeds the best other score."""
    votes = np.array([[980, 15, 5, 0]])
    found = hrs.certify_classes(votes, smoothing, 0.01, range(3))
    eps = np.linspace(0, 2, 2001)
    for d in range(3):
        top = hrs.worst_case_probability(found.p_a[0], d, eps, smoothing)
        other = hrs.certificate.largest_probability(found.p_b[0], d, eps, smoothing)
        held = eps[top > other]
        expected = held.max() if held.size else -1.0
        assert found.radius[0, d] == pytest.approx(expected, abs=1.1e-3)
        assert found.radius[0, d] <= expected + 1e-3


def test_classes_spend_alpha_on_all_their_bounds():
    found = hrs.certify_classes([[900, 60, 40]], IMAGE, 0.06, [0])
    assert found.p_a[0] == clopper_pearson_bound(900, 1000, 0.01).p
    assert found.p_b[0] == clopper_pearson_upper_bound(60, 1000, 0.01).p
    assert found.statement.risk.per_statement == 0.01


def test_wrong_top_classes_are_certified_no_more_often_than_alpha():
    """Two classes with equal scores: whichever leads, a certificate at eps = 0 would be wrong."""
    rng = np.random.default_rng(1)
    votes = rng.multinomial(300, [0.45, 0.45, 0.1], size=2000)
    found = hrs.certify_classes(votes, IMAGE, 0.1, [0])
    assert (found.radius[:, 0] >= 0).mean() <= 0.1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([[5]], IMAGE, 0.1, [0]), "at least 2 classes"),
        (([[0.5, 1.0]], IMAGE, 0.1, [0]), "integers"),
        (([[5, 5]], IMAGE, 1.5, [0]), r"alpha must lie in \[1e-200, 1\), got 1.5"),
        (([[5, 5]], IMAGE, 0.1, [1, 0]), "budgets must be"),
        (([[-5, 5]], IMAGE, 0.1, [0]), r"votes must be an integer in 0\.\..*, got -5"),
        (([[5, 5]], IMAGE, 0.1, [1.5]), r"budgets must .*got 1\.5"),
        (([[5, 5]], IMAGE, 0.1, [0.5, 1.2]), "budgets must"),
        (([[0, 0]], IMAGE, 0.1, [0]), "n, the draws of an input, must be at least 1"),
        (([[5, 5]], IMAGE, 0.1, [0], 9), "votes must add up to at most n, got 10 of 9"),
        (([[5, 5]], IMAGE, 0.1, [0], [10, 10]), r"n must have shape \[1\]"),
        ((np.array([[3, 9]], np.uint64) - np.array([[5, 0]], np.uint64), IMAGE, 0.1, [0]), "votes must be an integer"),
        (([[2**52, 2**52, 1]], IMAGE, 0.1, [0]), "at most|must be"),
    ],
)
def test_bad_votes_raise_one_sentence(arguments, sentence):
    certify_classes = inspect.unwrap(hrs.certify_classes)  # the tests' type check would speak first
    with pytest.raises(ValueError, match=sentence):
        certify_classes(*arguments)


def test_draws_without_a_vote_count_for_no_class():
    found = hrs.certify_classes([[60, 0]], BOTH, 0.01, range(2), n=1000)
    assert found.p_a[0] == clopper_pearson_bound(60, 1000, 0.005).p
    assert found.budget.tolist() == [-1]
    assert hrs.certify_classes([[60, 0]], BOTH, 0.01, range(2)).budget[0] >= 0  # they say that every draw voted


def test_unsigned_votes_are_votes():
    for dtype in (np.uint8, np.uint32, np.uint64):
        found = hrs.certify_classes(np.array([[200, 15, 5]], dtype), IMAGE, 0.01, [0])
        np.testing.assert_array_equal(found.radius, hrs.certify_classes([[200, 15, 5]], IMAGE, 0.01, [0]).radius)


def test_ties_count_against_every_class():
    votes, n, tie = np.array([[900, 60, 20]]), np.array([1000]), np.array([10])
    counts = Counts(("a",), np.zeros(1, int), n, ties=tie, votes=votes)
    found = certify_class_counts(counts, IMAGE, 0.06, [0])
    assert found.p_a[0] == clopper_pearson_bound(890, 1000, 0.01).p
    assert found.p_b[0] == clopper_pearson_upper_bound(70, 1000, 0.01).p


# the noise that was drawn is delta away from the ideal one


@pytest.mark.parametrize("side", ["above", "below"])
@pytest.mark.parametrize("delta", [1e-12, 1e-3])
def test_total_variation_is_subtracted_on_both_sides_of_the_inequality(side, delta):
    k, n, tau, budgets = np.array([995, 900, 40, 3]), np.full(4, 1000), 0.4, (0, 1, 2)
    found = certified_counts(k, n, BOTH, tau, 0.01, budgets, side=side, total_variation=delta)
    p = found.bound[:, None]
    sign = -1 if side == "above" else 1
    by_hand = hrs.certified_radius(
        np.clip(p + sign * delta, 0, 1), np.array(budgets), BOTH, tau - sign * delta, side=side
    )
    np.testing.assert_allclose(found.radius, by_hand, atol=1e-9)
    ideal = certified_counts(k, n, BOTH, tau, 0.01, budgets, side=side)
    assert np.all(found.radius <= ideal.radius)
    assert np.all(found.radius[ideal.radius > 0] < ideal.radius[ideal.radius > 0])
    np.testing.assert_array_equal(found.bound, ideal.bound)
    worst = worst_case_scores(found.bound, found.complement, budgets, 0.05, BOTH, side, delta)
    exact = worst_case_scores(found.bound, found.complement, budgets, 0.05, BOTH, side)
    assert np.all(sign * (worst - exact) >= 0)
    np.testing.assert_array_equal(found.radius >= 0.05, worst > tau if side == "above" else worst < tau)


@pytest.mark.parametrize("side", ["above", "below"])
@pytest.mark.parametrize("delta", [0.0, 1e-4])
def test_needed_draws_are_the_fewest_that_certify(side, delta):
    needed = needed_samples(range(4), BOTH, 0.1, 0.01, side, total_variation=delta)
    for d, n in enumerate(needed.tolist()):
        for draws, enough in ((n, True), (n - 1, False)):
            if draws >= 1:
                k = draws if side == "above" else 0
                counts = np.array([k]), np.array([draws])
                found = certified_counts(*counts, BOTH, 0.1, 0.01, [d], side=side, total_variation=delta)
                assert bool(found.budget[0] >= 0) is enough


def test_needed_draws_under_a_plan_are_those_of_its_looks():
    plan = frontier_plan(BOTH, 4.6e-5, 0.01, 2000)
    needed = needed_samples(range(7), BOTH, 4.6e-5, 0.01, plan=plan)
    for d, n in enumerate(needed.tolist()):
        certified = []
        for look in plan.looks.tolist():
            stops = np.flatnonzero(plan.verdict(look, np.arange(look + 1)) != 0)
            found = certified_counts(stops, np.full(stops.size, look), BOTH, 4.6e-5, 0.01, [d], plan=plan)
            certified += [look] * bool((found.budget >= 0).any())
        assert n < 0 or n in certified
        assert not certified or n >= certified[0]
        fixed = int(needed_samples([d], BOTH, 4.6e-5, 0.01)[0])
        assert n == -1 or n >= fixed


def test_a_wrong_side_raises_one_sentence():
    with pytest.raises(ValueError, match="side must be 'above' or 'below', got 'left'"):
        hrs.certify([1], 2, IMAGE, 0.5, 0.1, [0], side="left")
