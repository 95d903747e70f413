"""Several parts under one attack: held against 60-digit sums over all joint outcomes."""

import itertools
import math

import mpmath
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.certificate.parts import joint_radius, joint_worst_case, l2_of_linf
from hybrid_rs_jax.kernels import AbsorbingKernel, CategoricalKernel, HybridSmoothing, UniformKernel

TITLE, BODY = UniformKernel(0.3, 3), UniformKernel(0.6, 4)


def outcomes(kernel, d):
    """Clean and attacked mass of each text of d positions, all of them changed."""
    move = kernel.beta / (kernel.vocab_size - 1)

    def mass(text, symbol):
        return math.prod(1 - kernel.beta if shown == symbol else move for shown in text)

    texts = itertools.product(range(kernel.vocab_size), repeat=d)
    return [(mass(text, 0), mass(text, 1)) for text in texts]


def least_score(parts, p_a, rho):
    """The Neyman-Pearson value over joint outcomes, by bisection on the level at 60 digits."""
    joint = [
        (math.prod(p for p, _ in choice), math.prod(q for _, q in choice))
        for choice in itertools.product(*(outcomes(kernel, d) for kernel, d in parts))
    ]
    with mpmath.workdps(60):
        atoms = [(mpmath.log(mpmath.mpf(q) / p), mpmath.mpf(p), mpmath.mpf(q)) for p, q in joint]
        low, high = mpmath.mpf(-80), mpmath.mpf(80)
        for _ in range(200):
            level = (low + high) / 2
            clean = sum(p * mpmath.ncdf((level - log) / rho + rho / 2) for log, p, _ in atoms)
            low, high = (level, high) if clean < p_a else (low, level)
        return float(sum(q * mpmath.ncdf((low - log) / rho - rho / 2) for log, _, q in atoms))


@pytest.mark.parametrize("p_a", [0.7, 0.99, 0.99999])
@pytest.mark.parametrize(("d", "e"), [(1, 1), (2, 1), (1, 2)])
def test_the_bound_is_below_the_enumerated_one_and_close(p_a, d, e):
    parts, pixels = [(TITLE, d), (BODY, e)], [(0.5, 0.2), (2.0, 1.0)]
    bound = joint_worst_case(p_a, parts, pixels)
    truth = least_score(parts, p_a, math.hypot(0.4, 0.5))
    assert bound <= truth * (1 + 1e-12)
    assert bound == pytest.approx(truth, rel=1e-6)


def test_one_part_of_each_is_the_hybrid_certificate():
    smoothing = HybridSmoothing(TITLE, 0.5)
    one = joint_worst_case(0.99, [(TITLE, 2)], [(0.5, 0.25)])
    assert one == pytest.approx(hrs.worst_case_probability(0.99, 2, 0.25, smoothing), rel=1e-12)
    radius = hrs.certified_radius(0.9999, 2, smoothing, 1e-3)
    assert joint_radius(0.9999, [(TITLE, 2)], 1e-3) * 0.5 == pytest.approx(radius, rel=1e-9)


def test_at_the_radius_every_split_of_the_distance_keeps_the_score():
    parts = [(BODY, 1), (AbsorbingKernel(0.8), 1), (CategoricalKernel(0.4, (2, 5)), 1)]
    rho = joint_radius(0.9999, parts, 0.05)
    assert rho > 0
    for share in np.linspace(0, 1, 5):
        pixels = [(0.25, 0.25 * rho * math.sqrt(share)), (3.0, 3.0 * rho * math.sqrt(1 - share))]
        assert joint_worst_case(0.9999, parts, [(s, e * (1 - 1e-12)) for s, e in pixels]) > 0.05
        assert joint_worst_case(0.9999, parts, [(s, e * 1.01) for s, e in pixels]) < 0.05


def test_no_part_at_all_keeps_the_score():
    assert joint_worst_case(0.9, [], []) == pytest.approx(0.9, abs=1e-12)
    assert joint_radius(0.1, [], 0.5) == -1


def test_a_cube_lies_in_its_ball():
    assert l2_of_linf(0.1, 100) >= 1.0
    assert l2_of_linf(0.1, 100) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: joint_worst_case(1.5, [], []),
        lambda: joint_worst_case(0.5, [], [(0.0, 1.0)]),
        lambda: joint_worst_case(0.5, [], [(1.0, -1.0)]),
        lambda: joint_radius(0.5, [(TITLE, 1)], 1.0),
        lambda: l2_of_linf(0.1, 0),
    ],
)
def test_what_is_out_of_range_is_refused(call):
    with pytest.raises(ValueError, match="must"):
        call()
