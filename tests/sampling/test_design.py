"""Which draws a run takes: families of sets that cover every choice, and shares fixed beforehand."""

import itertools

import numpy as np
import pytest

from hybrid_rs_jax.kernels import AbsorbingKernel, CategoricalKernel, HybridSmoothing, UniformKernel
from hybrid_rs_jax.sampling.design import Design, covering, design_draws, forced_mask
from hybrid_rs_jax.sampling.ledger import SHARED, Stream

SMOOTHING = HybridSmoothing(UniformKernel(0.25, 512), 0.25)


def covers(sets, places, d):
    return all(any(set(choice) <= set(block) for block in sets) for choice in itertools.combinations(range(places), d))


@pytest.mark.parametrize(
    ("places", "d", "size"), [(8, 1, 2), (8, 2, 4), (8, 3, 5), (8, 6, 6), (8, 6, 7), (9, 4, 6), (5, 2, 9), (20, 2, 5)]
)
def test_every_choice_of_the_attacker_lies_in_a_set(places, d, size):
    sets = covering(places, d, size)
    assert covers(sets, places, d)
    assert all(len(block) == min(size, places) for block in sets)


def test_greedy_blocks_are_far_fewer_than_the_choices():
    assert len(covering(64, 2, 4)) <= 400
    assert len(covering(64, 2, 2)) == 2016


@pytest.mark.parametrize("kind", ["conditional", "both"])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_design_spends_what_it_has_and_no_more_and_comes_back_from_a_header(kind, ordered):
    design = design_draws(kind, SMOOTHING, 10_000, 7, 8, 4.6e-5, 0.01, ordered=ordered)
    assert design.copies <= 10_000
    assert sum(sample.share for sample in design.samples) == pytest.approx(1, abs=1e-12)
    assert Design.of(design.describe()) == design
    streams = [stream for group in design.groups() for stream in group.streams]
    assert len(set(streams)) == len(streams)
    assert (SHARED in streams) == (kind == "both")
    for part in design.parts:
        if part.sets is not None:
            d = min(part.sample.covers - 1, 8)
            assert part.sets == (tuple(range(d)),) if ordered else covers(part.sets, 8, d)


@pytest.mark.parametrize(
    "smoothing",
    [
        HybridSmoothing(AbsorbingKernel(0.25), None),
        HybridSmoothing(CategoricalKernel(0.25, (3,) * 8), None),
        HybridSmoothing(UniformKernel(0.5, 32_000), None),
    ],
    ids=["absorbing", "categorical", "text only"],
)
def test_other_kernels_have_designs(smoothing):
    design = design_draws("conditional", smoothing, 20_000, 3, 8, 0.01, 0.01)
    assert design.copies <= 20_000
    assert design.budgets == (0, 1, 2, 3)


def test_who_may_change_every_position_is_covered_at_every_budget():
    design = design_draws("conditional", SMOOTHING, 1_000, 6, 3, 4.6e-5, 0.01)
    assert max(sample.covers for sample in design.samples) == 7


def test_too_few_draws_are_refused():
    with pytest.raises(ValueError, match="certify none of them"):
        design_draws("conditional", SMOOTHING, 5, 8, 8, 4.6e-5, 0.01)


@pytest.mark.parametrize("change", [{"places": "x"}, {"parts": 3}, {"max_budget": None}])
def test_a_header_that_is_no_design_is_refused(change):
    described = design_draws("both", SMOOTHING, 1_000, 3, 8, 4.6e-5, 0.01).describe()
    with pytest.raises(ValueError, match=r"design|int\(\)"):
        Design.of({**described, **change})


def test_places_count_eligible_positions_and_those_that_are_missing_are_left_out():
    eligible = np.array([False, True, False, True, True])
    assert forced_mask(eligible, SHARED) is None
    assert np.flatnonzero(forced_mask(eligible, Stream("forced", (0, 2)))).tolist() == [1, 4]
    assert np.flatnonzero(forced_mask(eligible, Stream("forced", (1, 3)))).tolist() == [3]
