"""Early stopping for a certified cosine: at looks fixed beforehand, with the error that is promised."""

import itertools

import numpy as np
import pytest
from oracle import clopper_pearson_is_sound
from scipy import special, stats

import hybrid_rs_jax as hrs
from hybrid_rs_jax.certificate import SimilarityTarget, certify_features
from hybrid_rs_jax.confidence import ScoreLaw, StagedLooks, law_band, score_ranks

SMOOTHING = hrs.HybridSmoothing(None, 1.0)
LOOKS = StagedLooks((40, 120, 360), (0.25, 0.25, 0.5))


def stopped(draws, plan, stops):
    """The law of each row of draws at the first look at which `stops(law)` is true, or at the last one."""
    sizes = np.full(len(draws), plan.sizes[-1])
    for n in plan.sizes[-2::-1]:
        law = ScoreLaw.of(draws[:, :n])
        sizes[stops(ScoreLaw(law.counts, law.edges, plan))] = n
    counts = np.stack([ScoreLaw.of(row[None, :n]).counts[0] for row, n in zip(draws, sizes, strict=True)])
    return ScoreLaw(counts, law.edges, plan)


@pytest.mark.parametrize("look", [0, 1, 2])
def test_the_band_at_a_look_spends_that_looks_share_of_the_risk(look):
    n, share = LOOKS.sizes[look], LOOKS.weights[look]
    ranks = score_ranks(n)
    band = law_band(ScoreLaw(ScoreLaw.of(np.full((1, n), 0.7)).counts, ScoreLaw.of([[0.7]]).edges, LOOKS), 0.05)
    for rank, level in zip(ranks, band.level, strict=False):
        assert clopper_pearson_is_sound(n - int(rank) + 1, n, 0.05 * share / ranks.size, float(level))
    fixed = law_band(ScoreLaw.of(np.full((1, n), 0.7)), 0.05 * share)
    assert np.array_equal(band.level, fixed.level)


def test_each_input_is_certified_at_its_own_look_as_if_it_were_alone():
    draws = np.random.default_rng(0).beta(30, 2, (4, 360))
    sizes = [40, 360, 120, 40]
    counts = np.stack([ScoreLaw.of(row[None, :n]).counts[0] for row, n in zip(draws, sizes, strict=True)])
    law = ScoreLaw(counts, ScoreLaw.of(draws).edges, LOOKS)
    together = certify_features(law, SMOOTHING, 0.05)
    goals = np.linspace(0.1, 0.6, 4)
    radius = together.radius(goals)[:, 0]
    for i, n in enumerate(sizes):
        alone = certify_features(ScoreLaw(counts[i : i + 1], law.edges, LOOKS), SMOOTHING, 0.05)
        fixed = certify_features(ScoreLaw(counts[i : i + 1], law.edges), SMOOTHING, 0.05)
        assert together.similarity(0.3)[i, 0] == alone.similarity(0.3)[0, 0] <= fixed.similarity(0.3)[0, 0]
        assert alone.similarity(radius[i])[0, 0] >= goals[i] > alone.similarity(radius[i] + 2e-3)[0, 0]
        # the mean is bounded at every number of draws at once: looks cost it nothing
        assert together.mean_similarity(0.3)[i, 0] == fixed.mean_similarity(0.3)[0, 0]
        assert together.mean_radius(0.5)[i, 0] == fixed.mean_radius(0.5)[0, 0]
        assert alone.law.n[0] == n
    assert "one of the looks 40, 120, 360, fixed before the draws, after 40 to 360 draws" in together.statement


A, B, LEVEL, REPETITIONS, RHO = 12.0, 1.5, 0.05, 1000, 0.3
LIMIT = LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / REPETITIONS)


def exact_cosine():
    """`2 int Phi(Phi^-1(P(S > t)) - rho) dt - 1` for a Beta law."""
    tails = np.linspace(0, 1, 4001)
    return 2 * np.trapezoid(special.ndtr(special.ndtri(stats.beta.sf(tails, A, B)) - RHO), tails) - 1


@pytest.mark.slow
def test_misses_at_the_stop_are_as_rare_as_promised():
    draws = np.random.default_rng(11).beta(A, B, (REPETITIONS, LOOKS.sizes[-1]))
    target = SimilarityTarget(0.55, RHO, alpha=LEVEL)
    law = stopped(draws, LOOKS, lambda law: target.reached(law, SMOOTHING))
    assert set(law.n.tolist()) == {120, 360}
    certificate = certify_features(law, SMOOTHING, LEVEL)
    assert np.mean(certificate.similarity(RHO)[:, 0] > exact_cosine()) <= LIMIT


def test_whoever_stops_at_the_look_that_claims_most_misses_no_more_often_than_promised():
    draws = np.random.default_rng(12).beta(A, B, (REPETITIONS, LOOKS.sizes[-1]))
    missed = np.zeros(REPETITIONS, bool)
    for n in LOOKS.sizes:
        law = ScoreLaw.of(draws[:, :n])
        certificate = certify_features(ScoreLaw(law.counts, law.edges, LOOKS), SMOOTHING, LEVEL)
        missed |= 2 * certificate._law_bound(RHO)[:, 0] - 1 > exact_cosine()
    assert missed.mean() <= LIMIT


def test_ranks_at_all_looks_together_miss_no_more_than_the_risk_and_without_shares_they_would():
    """One rank per look, uniform scores: the bound at a look is of the r-th smallest draw, whose law is known."""
    alpha, repetitions, looks = 0.2, 4000, (50, 200, 800)
    draws = np.random.default_rng(3).random((repetitions, looks[-1]))
    plan = StagedLooks(looks, (1 / 3, 1 / 3, 1 / 3))
    limit = alpha + 3 * np.sqrt(alpha * (1 - alpha) / repetitions)

    def ever(share):
        missed = np.zeros(repetitions, bool)
        for n in looks:
            rank = n // 2
            bound = stats.beta.ppf(alpha * share, n - rank + 1, rank)
            missed |= 1 - np.partition(draws[:, :n], rank - 1, axis=1)[:, rank - 1] < bound
        return missed.mean()

    assert ever(plan.weights[0]) <= limit < ever(1.0)


def test_a_target_is_reached_where_its_own_certificate_says_so():
    target = SimilarityTarget(0.5, epsilon=0.4, alpha=0.02)
    plan = target.looks(1000)
    assert plan.sizes == (100, 200, 400, 1000)
    draws = np.random.default_rng(1).beta(40, 2.5, (5, 400))
    counts = ScoreLaw.of(np.concatenate([draws, 1 - draws])).counts
    law = ScoreLaw(counts, ScoreLaw.of(draws).edges, plan)
    found = certify_features(law, SMOOTHING, 0.02)
    assert np.array_equal(target.reached(law, SMOOTHING), found.similarity(0.4)[:, 0] >= 0.5)
    assert target.reached(law, SMOOTHING).tolist() == [True] * 5 + [False] * 5
    radius = found.radius(0.5)[:5, 0]
    assert np.all(radius > 0.4 - 1e-3)
    assert SimilarityTarget.of(target.describe()) == target


def test_tokens_count_in_a_target():
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.9, 50), 1.0)
    counts = ScoreLaw.of(np.full((1, 400), 0.99)).counts
    for d, reached in itertools.product((0, 1, 40), (True, False)):
        target = SimilarityTarget(0.5, 0.1 if reached else 1.6, d)
        law = ScoreLaw(counts, ScoreLaw.of([[0.5]]).edges, target.looks(400))
        assert target.reached(law, smoothing)[0] == (reached and d < 40)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SimilarityTarget(1.0, 0.1), r"similarity must lie in \[0, 1\), got 1"),
        (lambda: SimilarityTarget(0.5, -1.0), "epsilon must"),
        (lambda: SimilarityTarget(0.5, 0.1, -1), "budget d must"),
        (lambda: SimilarityTarget(0.5, 0.1, alpha=1.0), "alpha must"),
        (
            lambda: SimilarityTarget.of({"cosine": 0.5, "epsilon": 0.1}),
            "target must hold similarity, epsilon, d and alpha",
        ),
        (lambda: SimilarityTarget(0.5, 3.0).check(100, SMOOTHING, bins=64), "100 draws certify a cosine of 0.5 at eps"),
        (lambda: ScoreLaw(np.array([[10, 31]]), np.array([0, 0.5, 1.0]), LOOKS), r"one of the looks \(40, 120, 360\)"),
        (lambda: ScoreLaw(np.array([[10, 999]]), np.array([0, 0.5, 1.0]), LOOKS), "one of the looks"),
        (lambda: _law() + _law(), "stopped at a look cannot be added"),
    ],
)
def test_what_cannot_be_a_target_or_a_look_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _law():
    return ScoreLaw(np.array([[10, 30]]), np.array([0, 0.5, 1.0]), LOOKS)
