"""The law of a score: binned downwards, a sum of draws in any order, and bounded at every edge at once."""

import itertools
import math

import numpy as np
import pytest
from oracle import clopper_pearson_is_sound

from hybrid_rs_jax.confidence.score_law import ScoreLaw, law_band, score_edges, score_ranks

EDGES = np.array([0.0, 0.25, 0.5, 1.0])


def histograms(n, bins):
    for cuts in itertools.combinations(range(n + bins - 1), bins - 1):
        edges = (-1, *cuts, n + bins - 1)
        yield [b - a - 1 for a, b in itertools.pairwise(edges)]


def bound_at_edges(band, law):
    """The lower bound on P(S >= edge) at the inner edges, from the widths: for laws whose widths tell edges apart."""
    below = np.cumsum(law.counts, axis=-1)[..., :-1]
    ranks = score_ranks(int(law.n.flat[0]))
    return band.level[np.searchsorted(ranks, below, side="right")]


def test_a_draw_counts_at_the_lower_edge_of_its_bin_and_an_edge_opens_a_bin():
    values = np.array([[0.0, 0.2499999, 0.25, 0.5, np.nextafter(0.5, 0), 1.0]])
    assert ScoreLaw.of(values, EDGES).counts.tolist() == [[2, 2, 2]]


def test_the_default_bins_never_put_a_value_below_their_edge():
    values = np.random.default_rng(0).random((1, 20_000)) ** 0.01
    law = ScoreLaw.of(values)
    lower = np.sort(np.repeat(law.edges[:-1], law.counts[0]))
    assert np.all(lower <= np.sort(values[0]))


def test_the_order_of_draws_and_split_and_merge_do_not_matter():
    rng = np.random.default_rng(1)
    values = rng.beta(9, 2, (3, 400))
    whole = ScoreLaw.of(values)
    shuffled = ScoreLaw.of(rng.permuted(values, axis=1))
    merged = ScoreLaw.of(values[:, :150]) + ScoreLaw.of(values[:, 150:])
    assert np.array_equal(whole.counts, shuffled.counts)
    assert np.array_equal(whole.counts, merged.counts)
    assert np.array_equal(law_band(whole, 0.01).width, law_band(merged, 0.01).width)


def test_every_level_is_a_binomial_bound_at_the_count_of_its_rank():
    n, alpha = 300, 0.02
    ranks = score_ranks(n)
    band = law_band(ScoreLaw.of(np.full((1, n), 0.7)), alpha)
    for rank, level in zip(ranks, band.level, strict=False):
        assert clopper_pearson_is_sound(n - int(rank) + 1, n, alpha / ranks.size, float(level))
    assert (band.level[-1], band.complement[-1]) == (0.0, 1.0)


@pytest.mark.parametrize("law", [(0.1, 0.2, 0.7), (0.34, 0.33, 0.33), (0.02, 0.0, 0.98)])
@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_the_band_fails_no_more_often_than_alpha_over_all_outcomes_of_twelve_draws(law, alpha):
    tails = np.cumsum(law[::-1])[::-1][1:]  # P(S >= .25), P(S >= .5)
    wrong = 0.0
    for counts in histograms(12, 3):
        chance = math.factorial(12) * math.prod(p**c / math.factorial(c) for p, c in zip(law, counts, strict=True))
        drawn = ScoreLaw(np.array([counts]), EDGES)
        if chance > 0 and np.any(bound_at_edges(law_band(drawn, alpha), drawn)[0] > tails):
            wrong += chance
    assert wrong <= alpha


def test_widths_are_the_edges_with_the_bound_of_their_rank():
    law = ScoreLaw.of(np.random.default_rng(2).beta(5, 2, (4, 50)), score_edges(64))
    band = law_band(law, 0.05)
    at_edges = bound_at_edges(band, law)
    wanted = (np.diff(law.edges)[:-1] * at_edges).sum(axis=1)
    found = band.width @ band.level
    assert np.all(found <= wanted)
    assert np.allclose(found, wanted, rtol=1e-12)


def test_laws_for_each_budget_are_bounded_one_by_one():
    values = np.random.default_rng(3).beta(5, 2, (2, 3, 50))
    together = law_band(ScoreLaw.of(values), 0.05)
    for d in range(3):
        assert np.array_equal(together.width[:, d], law_band(ScoreLaw.of(values[:, d]), 0.05).width)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ScoreLaw.of([[0.5, np.nan]]), r"values must lie in \[0, 1\], got nan"),
        (lambda: ScoreLaw.of([[0.5, 1.1]]), r"values must lie in \[0, 1\], got 1.1"),
        (lambda: ScoreLaw.of([0.5, 0.7]), r"values must have shape \[inputs, draws\]"),
        (lambda: ScoreLaw.of(np.zeros((1, 0))), "at least one draw"),
        (lambda: ScoreLaw(np.array([[1, 2]]), np.array([0.0, 0.5, 0.9])), "grow from 0 to 1"),
        (lambda: ScoreLaw(np.array([[1, 2]]), np.array([0.0, 0.5, 0.5, 1])), "grow from 0 to 1"),
        (lambda: ScoreLaw(np.array([[1, 2, 3]]), np.array([0.0, 0.5, 1.0])), r"counts must be integers \[inputs, 2\]"),
        (lambda: ScoreLaw(np.array([[1, -2]]), np.array([0.0, 0.5, 1.0])), "counts must be"),
        (lambda: ScoreLaw(np.array([[0, 0]]), np.array([0.0, 0.5, 1.0])), "at least one draw"),
        (lambda: ScoreLaw.of([[0.5]]) + ScoreLaw.of([[0.5]], EDGES), "other bins"),
        (lambda: score_edges(0), "bins must be"),
        (lambda: score_ranks(0), "n must be"),
        (lambda: law_band(ScoreLaw(np.array([[1, 2], [1, 3]]), np.array([0, 0.5, 1])), 0.1), "same number of draws"),
        (lambda: law_band(ScoreLaw.of([[0.5]]), 1.5), "alpha must"),
        (lambda: law_band(ScoreLaw.of([[0.5]]), 0.1, np.array([2])), r"ranks must lie in 1\.\.1"),
    ],
)
def test_what_cannot_be_a_law_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
