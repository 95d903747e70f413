"""From counts to certificates: what the fields hold, how risk is split, and that every view agrees."""

import math

import numpy as np
import pytest
from scipy.special import ndtri

import hybrid_rs_jax as hrs
from hybrid_rs_jax.confidence import clopper_pearson_bound

SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 1000), 0.5)
N, TAU, ALPHA = 2000, 1e-3, 0.01
BUDGETS = (0, 1, 2, 3)
COUNTS = [2000, 1990, 1500, 300, 5, 0]


@pytest.fixture(scope="module")
def shared():
    """One sample per input."""
    return hrs.certify(COUNTS, N, SMOOTHING, TAU, ALPHA, BUDGETS)


@pytest.fixture(scope="module")
def split():
    """One sample per input and budget."""
    return hrs.certify([[k, k, max(k - 5, 0), k] for k in COUNTS], N, SMOOTHING, TAU, ALPHA, BUDGETS)


def test_fields_have_the_promised_shapes_and_types(shared, split):
    for certificate, shape in ((shared, (6,)), (split, (6, 4))):
        for counts in (certificate.successes, certificate.n):
            assert counts.shape == shape
            assert counts.dtype == np.int64
        for bound in (certificate.p_a, certificate.complement):
            assert bound.shape == shape
            assert bound.dtype == np.float64
        assert certificate.radius.shape == (6, 4)
        assert certificate.radius.dtype == np.float64
        assert certificate.budget.shape == (6,)
        assert certificate.budget.dtype == np.int64
        assert (certificate.budgets, certificate.tau, certificate.alpha) == (BUDGETS, TAU, ALPHA)
    assert shared.simultaneous
    assert not split.simultaneous


def test_one_shared_sample_spends_alpha_once(shared):
    assert shared.risk_per_statement == ALPHA
    np.testing.assert_array_equal(shared.p_a, hrs.clopper_pearson(COUNTS, N, ALPHA))
    p_a, complement = (x[:, None] for x in clopper_pearson_bound(COUNTS, N, ALPHA))
    by_hand = hrs.certified_radius(p_a, np.arange(4), SMOOTHING, TAU, complement=complement)
    np.testing.assert_array_equal(shared.radius, by_hand)


def test_one_sample_per_budget_splits_alpha_evenly(split):
    assert split.risk_per_statement == ALPHA / 4
    bound = clopper_pearson_bound(split.successes, N, ALPHA / 4)
    np.testing.assert_array_equal(split.p_a, bound.p)
    by_hand = hrs.certified_radius(bound.p, np.arange(4), SMOOTHING, TAU, complement=bound.complement)
    np.testing.assert_array_equal(split.radius, by_hand)


def test_splitting_the_risk_costs_radius(shared, split):
    certified = shared.radius > 0
    assert np.all(split.radius[certified] < shared.radius[certified])


def test_radius_is_non_increasing_in_the_budget_and_in_the_failures(shared):
    assert np.all(np.diff(shared.radius, axis=1) <= 0)
    assert np.all(np.diff(shared.radius, axis=0) <= 0)


def test_radius_is_minus_one_exactly_where_not_even_zero_is_certified(shared, split):
    for certificate in (shared, split):
        assert np.all((certificate.radius >= 0) | (certificate.radius == -1))
        np.testing.assert_array_equal(certificate.radius >= 0, certificate.worst_case(0.0) > TAU)
    assert shared.radius[-1].tolist() == [-1] * 4


def test_budget_is_the_last_of_the_certified_ones(shared, split):
    for certificate in (shared, split):
        for budget, radius in zip(certificate.budget, certificate.radius, strict=True):
            certified = [d for d, r in zip(BUDGETS, radius, strict=True) if r >= 0]
            assert budget == (max(certified) if certified else -1)
    assert shared.budget[0] >= 2
    assert shared.budget[-1] == -1


def test_budget_agrees_with_certified_budget(shared):
    direct = hrs.certified_budget(shared.p_a, SMOOTHING, TAU, complement=shared.complement, max_budget=3)
    np.testing.assert_array_equal(shared.budget, direct)


def test_budget_is_minus_one_where_the_least_listed_budget_fails():
    certificate = hrs.certify([N, 5], N, SMOOTHING, TAU, ALPHA, budgets=(2, 40))
    assert certificate.budget.tolist() == [2, -1]
    assert certificate.radius[:, 1].tolist() == [-1, -1]


def test_a_sample_that_fails_at_a_smaller_budget_ends_the_certified_ones():
    certificate = hrs.certify([[N, 0, N]], N, SMOOTHING, TAU, ALPHA, budgets=(0, 1, 2))
    assert certificate.radius[0, 2] > 0
    assert certificate.budget.tolist() == [0]


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5, 1.5])
def test_worst_case_exceeds_tau_exactly_within_the_radius(shared, split, epsilon):
    for certificate in (shared, split):
        worst = certificate.worst_case(epsilon)
        assert worst.shape == (6, 4)
        clear = abs(certificate.radius - epsilon) > 1e-6
        np.testing.assert_array_equal((worst > TAU)[clear], (certificate.radius >= epsilon)[clear])


def test_worst_case_at_the_radius_is_just_above_tau(shared):
    for b, d in zip(*np.nonzero(shared.radius > 0), strict=True):
        at, beyond = (shared.worst_case(float(shared.radius[b, d] * scale))[b, d] for scale in (1.0, 1 + 1e-6))
        assert at >= TAU * (1 - 1e-9)
        assert beyond < TAU


def test_certified_accuracy_is_a_hand_count(shared):
    epsilons = [0.0, 0.25, 1.0, 100.0]
    accuracy = shared.certified_accuracy(epsilons)
    assert accuracy.shape == (4, 4)
    for i in range(4):
        for j, epsilon in enumerate(epsilons):
            assert accuracy[i, j] == sum(float(radius[i]) >= epsilon for radius in shared.radius) / 6
    assert accuracy[0, 0] > 0
    np.testing.assert_array_equal(shared.certified_accuracy(0.25), accuracy[:, 1])
    assert shared.certified_accuracy(np.zeros((2, 3))).shape == (4, 2, 3)


def test_needed_samples_are_the_required_samples(shared, split):
    for certificate, alpha in ((shared, ALPHA), (split, ALPHA / 4)):
        needed = certificate.needed_samples()
        np.testing.assert_array_equal(needed, hrs.required_samples(np.arange(4), 0.0, SMOOTHING, TAU, alpha))
        assert needed.shape == (4,)


def test_needed_samples_are_enough_and_one_less_is_not(shared):
    for d, needed in zip(BUDGETS, shared.needed_samples(), strict=True):
        for n, enough in ((int(needed), True), (int(needed) - 1, False)):
            if n >= 1:
                radius = hrs.certify(n, n, SMOOTHING, TAU, ALPHA, budgets=(d,)).radius
                assert (radius.item() >= 0) is enough


def test_a_scalar_count_is_a_batch_of_one(shared):
    one = hrs.certify(1990, N, SMOOTHING, TAU, ALPHA, BUDGETS)
    assert (one.successes.shape, one.p_a.shape, one.radius.shape, one.budget.shape) == ((1,), (1,), (1, 4), (1,))
    np.testing.assert_array_equal(one.radius[0], shared.radius[1])


def test_equal_counts_are_certified_like_one_by_one(shared):
    order = [0, 1, 0, 5, 2, 1, 1, 3]
    together = hrs.certify([COUNTS[i] for i in order], N, SMOOTHING, TAU, ALPHA, BUDGETS)
    np.testing.assert_array_equal(together.radius, shared.radius[order])
    np.testing.assert_array_equal(together.budget, shared.budget[order])
    alone = [hrs.certify(COUNTS[i], N, SMOOTHING, TAU, ALPHA, BUDGETS).radius[0] for i in order]
    np.testing.assert_allclose(together.radius, alone, rtol=1e-12)


def test_every_input_may_have_its_own_number_of_draws():
    certificate = hrs.certify([1000, 2000], [1000, 2000], SMOOTHING, TAU, ALPHA, BUDGETS)
    assert certificate.n.tolist() == [1000, 2000]
    assert np.all(certificate.radius[1] > certificate.radius[0])


def test_no_inputs_give_an_empty_certificate():
    certificate = hrs.certify(np.zeros(0, int), N, SMOOTHING, TAU, ALPHA, BUDGETS)
    assert certificate.radius.shape == (0, 4)
    assert certificate.budget.shape == (0,)


def test_text_only_certifies_tokens_and_no_pixel():
    certificate = hrs.certify([N, 0], N, hrs.HybridSmoothing(hrs.UniformKernel(0.25, 1000), None), TAU, ALPHA, BUDGETS)
    hybrid = hrs.certify([N, 0], N, SMOOTHING, TAU, ALPHA, BUDGETS)
    np.testing.assert_array_equal(certificate.radius, np.where(hybrid.radius >= 0, 0.0, -1.0))
    np.testing.assert_array_equal(certificate.budget, hybrid.budget)
    np.testing.assert_array_equal(certificate.worst_case(0.0), hybrid.worst_case(0.0))
    np.testing.assert_array_equal(certificate.worst_case(1e-9), 0.0)
    assert not certificate.statement.noise.pixels


def test_image_only_certifies_pixels_and_no_token():
    certificate = hrs.certify([N, 0], N, hrs.HybridSmoothing(None, 0.5), TAU, ALPHA, BUDGETS)
    hybrid = hrs.certify([N, 0], N, SMOOTHING, TAU, ALPHA, BUDGETS)
    np.testing.assert_array_equal(certificate.radius[:, 0], hybrid.radius[:, 0])
    np.testing.assert_array_equal(certificate.radius[:, 1:], -1.0)
    assert certificate.budget.tolist() == [0, -1]
    assert not certificate.statement.noise.tokens


def test_image_only_radius_is_the_gaussian_one():

    certificate = hrs.certify(N, N, hrs.HybridSmoothing(None, 0.5), TAU, ALPHA, budgets=(0,))
    exact = 0.5 * (ndtri(ALPHA ** (1 / N)) - ndtri(TAU))
    assert certificate.radius.item() <= exact
    assert certificate.radius.item() == pytest.approx(exact, rel=1e-9)
    assert math.isfinite(exact)
