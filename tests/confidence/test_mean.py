"""The betting bound on a mean: never above the truth more often than alpha, at any number of draws; and close."""

import itertools
import math

import numpy as np
import pytest
from flint import arb, ctx

import hybrid_rs_jax as hrs
from hybrid_rs_jax.confidence import mean_lower_bound_from_histogram
from hybrid_rs_jax.confidence._mean import _STAKES

HOEFFDING = math.sqrt(math.log(100) / 20_000)  # alpha = .01, n = 10,000


def log_capital(values, counts, mean):
    """Log of the mixture's capital in 200-bit balls, from its definition."""
    ctx.prec = 200
    total = arb(0)
    for u in _STAKES:
        weight = arb(1) / 2 if u == 1 else arb(1) / 128
        product = weight
        for x, c in zip(values, counts, strict=True):
            product *= (1 + arb(float(u)) * (arb(float(x)) / arb(mean) - 1)) ** int(c)
        total += product
    return total.log()


def histograms(n, bins):
    for cuts in itertools.combinations(range(n + bins - 1), bins - 1):
        edges = (-1, *cuts, n + bins - 1)
        yield [b - a - 1 for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("alpha", [1e-150, 0.01, 0.3])
def test_the_capital_at_the_bound_has_reached_one_over_alpha_and_just_above_it_has_not(alpha):
    rng = np.random.default_rng(0)
    for n in (1, 7, 300, 100_000):
        values = np.sort(rng.random(6))
        counts = rng.multinomial(n, rng.dirichlet(np.ones(6)))
        bound = mean_lower_bound_from_histogram(counts, values, alpha)
        if bound == 0:  # values so few that no capital is reached above 1e-300
            continue
        goal = -arb(alpha).log()
        assert log_capital(values, counts, bound) >= goal
        assert log_capital(values, counts, bound * (1 + 1e-9)) < goal


@pytest.mark.parametrize("law", [(0.1, 0.2, 0.7), (0.9, 0.05, 0.05), (0.02, 0.0, 0.98)])
@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_coverage_over_all_outcomes_of_twelve_draws(law, alpha):
    values, mean = np.array([0.0, 0.5, 1.0]), law[1] / 2 + law[2]
    wrong = 0.0
    for counts in histograms(12, 3):
        chance = math.factorial(12) * math.prod(p**c / math.factorial(c) for p, c in zip(law, counts, strict=True))
        if chance > 0 and mean_lower_bound_from_histogram(counts, values, alpha) > mean:
            wrong += chance
    assert wrong <= alpha


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_bound_may_be_looked_at_after_every_draw(p):
    """Exact: the chance that any of the first 24 bounds is wrong, over the lattice of counts."""
    values, alpha, mean = np.array([0.2, 1.0]), 0.2, 0.2 + 0.8 * p
    alive, wrong = {0: 1.0}, 0.0
    for n in range(1, 25):
        moved: dict[int, float] = {}
        for k, mass in alive.items():
            for step, chance in ((0, 1 - p), (1, p)):
                moved[k + step] = moved.get(k + step, 0.0) + mass * chance
        alive = {}
        for k, mass in moved.items():
            if mean_lower_bound_from_histogram([n - k, k], values, alpha) > mean:
                wrong += mass
            else:
                alive[k] = mass
    assert 0 < wrong <= alpha


def test_coverage_by_simulation_on_continuous_draws():
    rng = np.random.default_rng(1)
    draws = rng.beta(2, 5, (200, 50))
    wrong = int((hrs.mean_lower_bound(draws, 0.2) > 2 / 7).sum())
    assert wrong <= 58  # 40 expected at most; P[Bin(200, .2) > 58] is .001


def test_seven_times_closer_than_hoeffding_where_draws_vary_little():
    m, s = 0.95, 0.05
    k = m * (1 - m) / s**2 - 1
    draws = np.random.default_rng(2).beta(m * k, (1 - m) * k, (3, 10_000))
    short = (draws.mean(axis=1) - hrs.mean_lower_bound(draws, 0.01)).mean()
    assert short < HOEFFDING / 7


def test_looser_than_hoeffding_on_fair_coins_by_the_stated_factor():
    short = 0.5 - mean_lower_bound_from_histogram([5_000, 5_000], [0.0, 1.0], 0.01)
    assert HOEFFDING / short == pytest.approx(0.74, abs=0.01)


def test_draws_and_their_histogram_give_the_same_bound_and_binning_only_lowers_it():
    draws = np.random.default_rng(3).random((2, 500))
    bins = np.floor(draws * 64).astype(int)
    edges = np.arange(64) / 64
    counts = np.stack([np.bincount(row, minlength=64) for row in bins])
    binned = mean_lower_bound_from_histogram(counts, edges, 0.01)
    np.testing.assert_allclose(binned, hrs.mean_lower_bound(edges[bins], 0.01), rtol=1e-12)
    assert np.all(binned <= hrs.mean_lower_bound(draws, 0.01))
    assert np.all(binned > hrs.mean_lower_bound(draws, 0.01) - 1 / 64)


def test_limits():
    assert hrs.mean_lower_bound([0.0] * 10, 0.01) == 0
    assert hrs.mean_lower_bound([1.0] * 100, 0.01) == pytest.approx(0.005 ** (1 / 100), rel=0.01)
    assert isinstance(hrs.mean_lower_bound([1.0], 0.5), float)
    assert hrs.mean_lower_bound(np.full((2, 3, 4), 0.5), 0.5).shape == (2, 3)


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda: hrs.mean_lower_bound([0.5, 1.5], 0.01), "1.5"),
        (lambda: hrs.mean_lower_bound([0.5, math.nan], 0.01), "nan"),
        (lambda: hrs.mean_lower_bound([], 0.01), r"\(0,\)"),
        (lambda: hrs.mean_lower_bound(0.5, 0.01), r"\(\)"),
        (lambda: hrs.mean_lower_bound([0.5], 0.0), "0.0"),
        (lambda: mean_lower_bound_from_histogram([1, 2], [0.5], 0.01), r"\(2,\) for \(1,\)"),
        (lambda: mean_lower_bound_from_histogram([1, -2], [0.5, 1.0], 0.01), "-2"),
        (lambda: mean_lower_bound_from_histogram([[1, 0], [0, 0]], [0.5, 1.0], 0.01), "input 1"),
    ],
)
def test_bad_draws_raise_one_sentence_with_the_value(call, value):
    with pytest.raises(ValueError, match=rf"^[^\n]*got [^\n]*{value}[^\n]*\.$"):
        call()
