"""Conditional and deletion certificates against exact rationals and balls: never above the truth, never loose."""

import numpy as np
import oracle
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.certificate.bounds import worst_case_bounds


def cases(count, seed):
    """Kernel as certified, the same channel of the oracle, and a budget."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        beta = float(rng.choice([0.01, 0.25, 0.5, 0.9, rng.random()]))
        if rng.random() < 0.6:
            vocab_size, d = int(rng.choice([2, 3, 50, 1000, 151_936])), int(rng.integers(1, 9))
            kernel = hrs.Conditional(hrs.UniformKernel(beta, vocab_size))
            yield kernel, oracle.forced_uniform(beta, vocab_size, d), d
        elif rng.random() < 0.5:
            d = int(rng.integers(1, 9))
            yield hrs.Conditional(hrs.AbsorbingKernel(beta)), oracle.edited(beta, 0, d), d
        else:
            edits = hrs.Edits(*(int(x) for x in rng.integers(0, 3, 3)))
            yield hrs.DeletionKernel(beta), oracle.edited(beta, edits.removed, edits.added), edits


def score(rng):
    """Anything from tiny to a hair below one."""
    tiny = float(10 ** rng.uniform(-12, -0.3))
    return tiny if rng.random() < 0.3 else 1 - tiny


def test_bounds_enclose_the_worst_case_and_radii_stay_below_the_true_ones():
    rng, loosest = np.random.default_rng(1), 0.0
    for kernel, channel, d in cases(60, seed=0):
        smoothing = hrs.HybridSmoothing(kernel, 1.0)
        p_a, rho = score(rng), float(rng.choice([0.0, rng.uniform(0.01, 4)]))
        tau = float(10 ** rng.uniform(-6, -0.05))
        lower, upper = (float(x) for x in worst_case_bounds(p_a, d, rho, smoothing))
        question = (channel,), p_a, rho
        assert oracle.lower_bound_is_sound(*question, lower), (kernel, d, p_a, rho)
        assert oracle.upper_bound_is_sound(*question, upper), (kernel, d, p_a, rho)
        if upper > 1e-12:
            loosest = max(loosest, (upper - lower) / upper)
        radius = hrs.certified_radius(p_a, d, smoothing, tau)
        if 0 <= radius < np.inf:
            assert oracle.radius_is_sound((channel,), p_a, tau, oracle.exact(radius)), (kernel, d, p_a, tau)
    assert loosest < 1e-6


@pytest.mark.slow
def test_many_more_bounds_enclose_the_worst_case():
    rng = np.random.default_rng(2)
    for kernel, channel, d in cases(1500, seed=3):
        smoothing = hrs.HybridSmoothing(kernel, 1.0)
        p_a, rho = score(rng), float(rng.uniform(0, 6))
        lower, upper = (float(x) for x in worst_case_bounds(p_a, d, rho, smoothing))
        assert oracle.lower_bound_is_sound((channel,), p_a, rho, lower), (kernel, d, p_a, rho)
        assert oracle.upper_bound_is_sound((channel,), p_a, rho, upper), (kernel, d, p_a, rho)
