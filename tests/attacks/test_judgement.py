"""When attacked scores contradict a certificate."""

import numpy as np
import pytest
from scipy.stats import binom

from hybrid_rs_jax.attacks import judge


@pytest.mark.parametrize("bound", [1e-4, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("risk", [1e-5, 0.01])
def test_a_true_bound_is_flagged_with_at_most_the_stated_risk(bound, risk):
    """Exact: the probability of all counts that are flagged, at the score where it is largest, the bound itself."""
    n = 3000
    counts = np.arange(n + 1)
    found = judge(counts, n, bound, risk)
    assert binom.pmf(counts[found.violated], n, bound).sum() <= risk
    assert binom.pmf(counts[found.held], n, bound).sum() <= risk
    assert not (found.violated & found.held).any()


def test_a_planted_bound_that_is_too_high_is_detected():
    """Score 0.45 against a claim of 0.5: nearly all samples of 10,000 draws show it, at a risk of 1e-6."""
    n = 10_000
    counts = np.arange(n + 1)
    seen = judge(counts, n, 0.5, 1e-6).violated
    assert binom.pmf(counts[seen], n, 0.45).sum() > 0.99


def test_decisive_means_that_a_score_of_zero_would_be_flagged():
    n = np.array([100, 250_000])
    found = judge(np.zeros(2, np.int64), n, 4.6e-5, 1e-4)
    assert found.decisive.tolist() == [False, True]
    np.testing.assert_array_equal(found.decisive, found.violated)


def test_shapes_broadcast_and_limits_bracket_the_score():
    found = judge(np.array([[1], [50]]), 100, np.array([0.2, 0.3, 0.4]), 0.01)
    assert found.violated.shape == (2, 3)
    assert np.all((found.lower < found.score) & (found.score < found.upper))


@pytest.mark.parametrize("bound", [-0.1, 1.1, np.nan])
def test_a_bound_that_is_no_probability_is_refused(bound):
    with pytest.raises(ValueError, match=r"bound must lie in \[0, 1\]"):
        judge(1, 10, bound, 0.01)
