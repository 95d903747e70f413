"""Certificates from several samples: each budget gets the best of the bounds about it, within one alpha."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import binom

import hybrid_rs_jax as hrs
from hybrid_rs_jax.certificate.samples import Sample, certified_samples, samples_for, worst_case_of_samples
from hybrid_rs_jax.confidence import clopper_pearson
from hybrid_rs_jax.kernels import Conditional, HybridSmoothing, UniformKernel

KERNEL = UniformKernel(0.25, 32_000)
DEPLOYED, DRAWN = HybridSmoothing(KERNEL, 0.5), HybridSmoothing(Conditional(KERNEL), 0.5)
TAU, ALPHA = 4.6e-5, 0.01


def worst_by_programming(beta, symbols, length, forced, score):
    """The least score under any attack inside of the forced positions, over all classifiers with this forced score."""
    texts = list(itertools.product(range(symbols), repeat=length))

    def law(clean, always):
        move = np.full((symbols, symbols), beta / (symbols - 1))
        np.fill_diagonal(move, 1 - beta)
        parts = [np.full(symbols, 1 / symbols) if i in always else move[c] for i, c in enumerate(clean)]
        return np.array([np.prod([part[s] for part, s in zip(parts, text, strict=True)]) for text in texts])

    clean = (0,) * length
    least = 1.0
    for change in itertools.product(range(symbols), repeat=len(forced)):
        attacked = list(clean)
        for place, symbol in zip(forced, change, strict=True):
            attacked[place] = symbol
        found = linprog(law(attacked, ()), A_ub=-law(clean, forced)[None], b_ub=[-score], bounds=(0, 1))
        least = min(least, found.fun)
    return least


@pytest.mark.parametrize(("beta", "symbols", "length", "forced"), [(0.3, 3, 3, (0, 2)), (0.6, 2, 4, (1, 2, 3))])
@pytest.mark.parametrize("score", [0.5, 0.9, 0.999])
def test_no_classifier_of_any_kind_falls_below_and_one_attains_the_bound(beta, symbols, length, forced, score):
    kernel = UniformKernel(beta, symbols)
    smoothing = HybridSmoothing(Conditional(kernel), None)
    bound = hrs.worst_case_probability(score, len(forced), 0.0, smoothing)
    truth = worst_by_programming(kernel.beta, symbols, length, forced, score)
    assert bound <= truth + 1e-9
    assert truth - bound < 1e-6


def test_a_budget_gets_the_best_bound_about_it_and_the_frontier_does_not_grow():
    certificate = hrs.certify([[40, 200, 200, 0]], 200, DRAWN, TAU, ALPHA, range(1, 5))
    alone = hrs.certified_radius(clopper_pearson(200, 200, ALPHA / 4 * (1 - 1e-15)), 3, DRAWN, TAU)
    assert certificate.radius[0, 2] == pytest.approx(alone, rel=1e-12)
    assert (np.diff(certificate.radius[0]) <= 0).all()
    assert certificate.radius[0, 0] == certificate.radius[0, 1] > certificate.radius[0, 2]
    assert certificate.radius[0, 3] == -1
    assert certificate.budget.tolist() == [3]


def test_ordinary_and_conditional_draws_hold_together_each_within_its_share():
    samples = (Sample(5, 0.5), Sample(5, 0.5, 4))
    successes, n = np.array([[8000, 300]]), np.array([[8000, 300]])
    found = certified_samples(successes, n, samples, DEPLOYED, TAU, ALPHA, range(5))
    one = hrs.certify(8000, 8000, DEPLOYED, TAU, ALPHA / 2, range(5)).radius[0]
    other = hrs.certify([[300]], 300, DRAWN, TAU, ALPHA / 2, [4]).radius[0]
    np.testing.assert_array_equal(found.radius[0], np.maximum(one, other))
    scores = worst_case_of_samples(found.bound, found.complement, samples, range(5), 0.25, DEPLOYED)
    assert (scores[0, found.radius[0] >= 0.25] > TAU).all()
    assert (np.diff(scores[0]) <= 0).all()


def test_the_other_side_takes_the_smallest_upper_bound():
    certificate = hrs.certify([[0, 1]], 300, DRAWN, 0.5, ALPHA, [1, 2], side="below")
    assert certificate.worst_case(0.1).shape == (1, 2)
    assert (certificate.worst_case(0.1)[certificate.radius >= 0.1] < 0.5).all()
    assert certificate.radius[0, 0] >= certificate.radius[0, 1]


def test_the_risk_of_all_samples_together_is_alpha_by_enumeration():
    """Two budgets, the truth at its worst for each: how often is one of the two bounds above its truth?"""
    n, shares = 30, samples_for((1, 2))
    truth = np.array([0.93, 0.8])
    k = np.arange(n + 1)
    misses = [
        binom.pmf(k, n, p)[clopper_pearson(k, n, s.risk(0.2)) > p].sum() for p, s in zip(truth, shares, strict=True)
    ]
    assert 1 - (1 - misses[0]) * (1 - misses[1]) <= sum(misses) <= 0.2


@pytest.mark.parametrize(
    ("counts", "budgets", "words"),
    [([5, 6], range(2), "never taken for several budgets"), ([[5, 6]], range(3), r"shape \[B\] or \[B, 3\]")],
)
def test_counts_that_do_not_belong_to_their_budgets_are_refused(counts, budgets, words):
    with pytest.raises(ValueError, match=words):
        hrs.certify(counts, 10, DRAWN, TAU, ALPHA, budgets)


def test_draws_needed_are_those_of_the_method():
    needed = [hrs.required_samples(d, 0.5, DRAWN, TAU, ALPHA) for d in range(1, 9)]
    assert needed == [1, 2, 2, 3, 4, 8, 98, 28_441]
