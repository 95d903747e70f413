"""Frontier mode: it stops only where no radius could rise by more than the tolerance, and stays sound."""

import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.certificate.frontier import frontier_plan
from hybrid_rs_jax.confidence import Verdict, plan_from

BOTH = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 512), 0.25)
TEXT = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 512), None)
TAU, ALPHA, MOST = 4.6e-5, 0.01, 3000


def radii(plan, n, k, smoothing):
    bound = plan.lower_bound(np.array([n]), np.array([k]), ALPHA)
    return hrs.certified_radius(
        bound.p[:, None], np.arange(6)[None], smoothing, TAU, complement=bound.complement[:, None]
    )


@pytest.mark.parametrize("tolerance", [0.05, 0.3])
@pytest.mark.slow
def test_where_it_stops_more_draws_at_the_same_share_gain_no_more_than_the_tolerance(tolerance):
    plan = frontier_plan(BOTH, TAU, ALPHA, MOST, tolerance=tolerance, budgets=range(6))
    stopped = 0
    for n in plan.looks[:-1].tolist():
        for k in range(0, n + 1, max(1, n // 40)):
            if plan.verdict(np.array([n]), np.array([k]))[0] == Verdict.CONTINUE:
                continue
            stopped += 1
            now = np.maximum(radii(plan, n, k, BOTH), 0)
            then = np.maximum(radii(plan, MOST, k * MOST // n, BOTH), 0)
            assert np.all(then - now <= tolerance * 0.25 + 0.01), "0.01: the table of radii has steps"
    assert stopped > 10


def test_an_input_that_always_succeeds_goes_on_to_the_end():
    plan = frontier_plan(BOTH, TAU, ALPHA, MOST)
    looks = plan.looks
    assert np.all(plan.verdict(looks[:-1], looks[:-1]) == Verdict.CONTINUE)
    assert plan.verdict(looks[-1:], looks[-1:])[0] != Verdict.CONTINUE


def test_without_pixel_noise_it_stops_when_no_further_budget_could_be_certified():
    plan = frontier_plan(TEXT, TAU, ALPHA, MOST)
    n = int(plan.looks[2])
    low = plan.verdict(np.array([n]), np.array([n // 2]))[0]
    high = plan.verdict(np.array([n]), np.array([n]))[0]
    assert low != Verdict.CONTINUE
    assert high == Verdict.CONTINUE


def test_the_plan_survives_its_description():
    plan = frontier_plan(BOTH, TAU, ALPHA, 500)
    assert plan_from(plan.describe()) == plan


def test_the_risk_of_all_looks_together_is_at_most_alpha():
    assert sum(frontier_plan(BOTH, TAU, ALPHA, MOST).weights) <= 1


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match=r"tolerance must be finite and at least 0, got -1.0\.$"):
        frontier_plan(BOTH, TAU, ALPHA, MOST, tolerance=-1.0)
