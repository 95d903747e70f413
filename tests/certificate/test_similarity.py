"""Certified similarity: never above the integral of the worst cases, covered, the same in any order of draws."""

import numpy as np
import oracle
import pytest
from flint import fmpq
from mpmath import mp, mpf
from scipy import special, stats

from hybrid_rs_jax.certificate.similarity import certify_features
from hybrid_rs_jax.confidence.score_law import ScoreLaw, score_edges
from hybrid_rs_jax.kernels import AbsorbingKernel, Conditional, HybridSmoothing, UniformKernel

IMAGE_ONLY = HybridSmoothing(None, 1.0)


def beta_shape(mean, deviation):
    k = mean * (1 - mean) / deviation**2 - 1
    return mean * k, (1 - mean) * k


def integral(a, b, rho):
    """int_0^1 Phi(Phi^-1(P(S > t)) - rho) dt for a Beta law, by quadrature over double-precision tails."""
    mp.dps = 30

    def worst(t):
        tail = stats.beta.sf(float(t), a, b)
        return mpf(special.ndtr(special.ndtri(tail) - rho)) if 0 < tail < 1 else mpf(float(tail >= 1))

    cuts = [0, *(float(q) for q in stats.beta.ppf([1e-9, 1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-6], a, b)), 1]
    return float(mp.quad(worst, sorted(set(cuts))))


def test_the_law_reaches_what_the_mean_cannot():
    scores = np.random.default_rng(0).beta(*beta_shape(0.9786, 0.01), (1, 10_000))
    certificate = certify_features(scores, IMAGE_ONLY, 0.01)
    assert certificate.radius(0.5)[0, 0] >= 2.2
    assert 1.3 < certificate.mean_radius(0.5)[0, 0] < 1.35
    assert certificate.similarity(1.5)[0, 0] >= 0.78
    assert certificate.mean_similarity(1.5)[0, 0] < 0.4


@pytest.mark.parametrize(("mean", "deviation"), [(0.9786, 0.01), (0.9, 0.05), (0.75, 0.2)])
@pytest.mark.parametrize("rho", [0.0, 0.5, 1.5])
def test_draws_without_sampling_error_never_exceed_the_integral_and_come_close(mean, deviation, rho):
    a, b = beta_shape(mean, deviation)
    quantiles = stats.beta.ppf((np.arange(40_000) + 0.5) / 40_000, a, b)
    certificate = certify_features(ScoreLaw.of(quantiles[None], score_edges(4096)), IMAGE_ONLY, 0.01)
    found, exact = certificate.similarity(rho)[0, 0], 2 * integral(a, b, rho) - 1
    assert (found == -1 and exact < 0.05) or exact - 0.13 < found <= exact


@pytest.mark.slow
def test_misses_are_as_rare_as_promised():
    a, b = beta_shape(0.9, 0.06)
    level, repetitions, n, rho = 0.05, 1000, 100, 0.4
    certificate = certify_features(np.random.default_rng(5).beta(a, b, (repetitions, n)), IMAGE_ONLY, level)
    law, mean = (certificate._law_bound(rho)[:, 0], certificate._mean_bound(rho)[:, 0])
    limit = level + 3 * np.sqrt(level * (1 - level) / repetitions)
    assert np.mean(law > integral(a, b, rho)) <= limit
    assert np.mean(mean > special.ndtr(special.ndtri(0.9) - rho)) <= limit
    assert np.mean(certificate.similarity(rho)[:, 0] > 2 * integral(a, b, rho) - 1) <= limit


def test_the_adversary_who_moves_every_level_set_is_bounded():
    """S(z) = Phi(c - z_1): its level sets are half spaces, so the shift along z_1 attains every worst case."""
    rng, n, rho = np.random.default_rng(7), 20_000, 0.75
    scores = special.ndtr(2.5 - rng.standard_normal((20, n)))
    certificate = certify_features(scores, IMAGE_ONLY, 0.05)
    truth = special.ndtr((2.5 - rho) / np.sqrt(2))  # E Phi(c - rho - z)
    bound = (1 + certificate.similarity(rho)[:, 0]) / 2
    assert np.all(bound <= truth)
    assert bound.max() > truth - 0.02


@pytest.mark.parametrize("kernel", [UniformKernel(0.9, 50), AbsorbingKernel(0.9), Conditional(UniformKernel(0.9, 50))])
def test_the_hybrid_bound_stands_inside_the_integral_and_is_never_above_ball_arithmetic(kernel):
    smoothing = HybridSmoothing(kernel, 0.5)
    draws = np.random.default_rng(3).beta(60, 1, (1, 2, 4000))
    law = ScoreLaw.of(draws if smoothing.conditional else draws[:, 0], score_edges(128))
    certificate = certify_features(law, smoothing, 0.01, (0, 1))
    for column, d in enumerate((0, 1)):
        if smoothing.conditional:
            channel = oracle.forced_uniform(0.9, 50, d)
        else:
            channel = oracle.uniform(0.9, 50, d) if isinstance(kernel, UniformKernel) else oracle.absorbing(0.9, d)
        own = law.counts[0, column] if smoothing.conditional else law.counts[0]
        band = certificate.band
        total = fmpq(0)
        widths = band.width[0, column] if smoothing.conditional else band.width[0]
        for level, width in zip(band.level, widths, strict=True):
            if level > 0 and width > 0:
                upper = oracle.worst_case_probability(channel, float(level), oracle.quotient(0.1, 0.5))[1]
                total += oracle.exact(float(width)) * _rational(upper)
        found = float(certificate._worst_cases(np.array([0.1]))[:, column, 0] @ widths) * (1 - 2.0**-40)
        assert oracle.exact(found) <= total
        assert found > float(total.p) / float(total.q) - 1e-3
        assert own.sum() == 4000
    similarity = certificate.similarity(0.1)
    assert similarity[0, 0] >= similarity[0, 1] > 0


def _rational(bound):
    if isinstance(bound, fmpq):
        return bound
    return oracle.exact(float(bound.upper())) + fmpq(1, 2**60)


def test_the_radius_is_certified_and_a_step_more_is_not():
    scores = np.random.default_rng(0).beta(150, 4, (3, 3000))
    smoothing = HybridSmoothing(UniformKernel(0.95, 64), 0.5)
    certificate = certify_features(scores, smoothing, 0.01, (0, 1))
    for similarity in (0.0, 0.5, 0.8):
        radius = certificate.radius(similarity)
        for i, j in np.argwhere(radius > 0):
            assert certificate.similarity(radius[i, j])[i, j] >= similarity
            assert certificate.similarity(radius[i, j] + 1e-3 * 0.5)[i, j] < similarity
    own = certificate.radius(np.array([0.0, 0.5, 0.8]))
    assert [own[i, 0] for i in range(3)] == [certificate.radius(s)[i, 0] for i, s in enumerate((0.0, 0.5, 0.8))]


def test_nothing_is_certified_where_the_bound_is_negative():
    certificate = certify_features(np.full((1, 500), 0.5), IMAGE_ONLY, 0.01)
    assert certificate.similarity(0.0)[0, 0] == -1
    assert certificate.similarity(3.0)[0, 0] == -1
    assert certificate.radius(0.5)[0, 0] == -1


def test_the_order_of_draws_and_split_and_merge_do_not_change_the_certificate():
    values = np.random.default_rng(1).beta(90, 3, (2, 600))
    merged = ScoreLaw.of(values[:, ::2]) + ScoreLaw.of(values[:, 1::2])
    one, other = (certify_features(law, IMAGE_ONLY, 0.01) for law in (values, merged))
    assert np.array_equal(one.similarity(0.7), other.similarity(0.7))
    assert np.array_equal(one.radius(0.5), other.radius(0.5))


def test_the_distance_between_drawn_and_ideal_noise_is_subtracted_on_both_sides():
    values = np.random.default_rng(1).beta(90, 3, (1, 600))
    delta = 1e-3
    ideal, drawn = (certify_features(values, IMAGE_ONLY, 0.01, total_variation=t) for t in (0.0, delta))
    lost = (ideal.similarity(0.0) - drawn.similarity(0.0))[0, 0] / 2
    assert 2 * delta <= lost * (1 + 1e-9) < 3 * delta
    assert drawn.radius(0.5)[0, 0] < ideal.radius(0.5)[0, 0]
    assert np.all(certify_features(values, IMAGE_ONLY, 0.01, total_variation=0.9).similarity(0.0) == -1)


def test_conditional_draws_have_a_law_for_each_budget_share_the_risk_and_stay_nested():
    smoothing = HybridSmoothing(Conditional(UniformKernel(0.9, 50)), 0.5)
    good, poor = np.full(4000, 0.99), np.full(4000, 0.7)
    certificate = certify_features(np.array([[poor, good]]), smoothing, 0.02, (0, 1))
    alone = certify_features(np.array([[good]]), smoothing, 0.01, (1,))
    # what holds for one token holds for none
    assert certificate.similarity(0.0)[0, 0] == certificate.similarity(0.0)[0, 1] == alone.similarity(0.0)[0, 0]
    assert np.all(np.diff(certificate.radius(0.1), axis=1) <= 0)
    assert "2 budgets" in certificate.statement


def test_without_pixel_noise_only_unchanged_pictures_are_certified():
    certificate = certify_features(
        np.full((1, 4000), 0.99), HybridSmoothing(UniformKernel(0.95, 50), None), 0.01, (0, 1)
    )
    assert certificate.radius(0.5).tolist() == [[0.0, 0.0]]
    assert certificate.similarity(0.1).tolist() == [[-1.0, -1.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0.0}, "alpha must"),
        ({"reference": "noisy"}, "reference must be 'clean', 'pairs' or 'fixed'"),
        ({"budgets": (1, 0)}, "budgets must"),
        ({"budgets": ()}, "budgets must"),
        ({"total_variation": 1.0}, "total_variation must"),
        ({"law_or_scores": np.full((1, 3, 9), 0.5)}, "a law for each of the 1 budgets, got 3"),
        ({"law_or_scores": [[0.5, 1.5]]}, r"values must lie in \[0, 1\]"),
        ({"smoothing": HybridSmoothing(Conditional(AbsorbingKernel(0.5)), 1.0), "budgets": (0, 1)}, "one budget"),
    ],
)
def test_arguments_out_of_range_are_refused_in_one_sentence(change, message):
    arguments = {"law_or_scores": [[0.5, 0.9]], "smoothing": IMAGE_ONLY, "alpha": 0.01} | change
    with pytest.raises(ValueError, match=message):
        certify_features(**arguments)


@pytest.mark.parametrize(
    ("similarity", "message"), [(1.0, "similarity must"), (-0.1, "similarity must"), ([0.1, 0.2], "one for each")]
)
def test_a_cosine_that_cannot_be_asked_for_is_refused(similarity, message):
    with pytest.raises(ValueError, match=message):
        certify_features([[0.5, 0.9]], IMAGE_ONLY, 0.01).radius(similarity)
