"""Both decisions and several classes: symmetry, closed forms, brute force, coverage."""

import numpy as np
import pytest
from scipy.stats import norm

import hybrid_rs_jax as hrs
from hybrid_rs_jax.confidence import FixedSample, SequentialTest, clopper_pearson_bound, clopper_pearson_upper_bound

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
    assert "below" in safe.statement()["claim"]


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
    assert "union bound" in found.statement()


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
        (([[-5, 5]], IMAGE, 0.1, [0]), "non-negative"),
    ],
)
def test_bad_votes_raise_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        hrs.certify_classes(*arguments)


def test_a_wrong_side_raises_one_sentence():
    with pytest.raises(ValueError, match="side must be 'above' or 'below', got 'left'"):
        hrs.certify([1], 2, IMAGE, 0.5, 0.1, [0], side="left")
