"""Closed forms, limiting cases, monotonicity and round trips of the host API."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from flint import arb
from scipy.special import ndtr, ndtri

import hybrid_rs_jax as hrs
from hybrid_rs_jax.certificate.bounds import worst_case_bounds

TEXT = hrs.UniformKernel(beta=0.25, vocab_size=32_000)
BOTH = hrs.HybridSmoothing(TEXT, sigma=0.5)
IMAGE = hrs.HybridSmoothing(None, sigma=0.5)
TAU = 4.6e-5


def fractional_knapsack(p: np.ndarray, q: np.ndarray, p_a: float) -> float:
    """Sort outcomes by q/p, fill clean mass up to p_a, split the last one."""
    kept = p > 0
    p, q = p[kept], q[kept]
    order = np.argsort(q / p, kind="stable")
    return float(np.interp(p_a, np.cumsum([0.0, *p[order]]), np.cumsum([0.0, *q[order]])))


def paper_table(beta: float, vocab_size: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Clean and adversarial masses of the groups (i, j) of A.13.

    In group (i, j), i positions differ from the clean text and j from the adversarial one.
    """
    b, v = Fraction(beta), Fraction(vocab_size)
    a = b / (v - 1)
    p, q = [], []
    for i in range(d + 1):
        for j in range(d - i, d + 1):
            neither = i + j - d
            count = math.comb(d, i) * math.comb(i, neither) * (v - 2) ** neither
            p.append(count * a**i * (1 - b) ** (d - i))
            q.append(count * a**j * (1 - b) ** (d - j))
    assert sum(p) == sum(q) == 1
    return np.array(p, float), np.array(q, float)


# Gaussian limit


@pytest.mark.parametrize("rho", [1.0, 7.5, 10.66, 14.0])
def test_the_worst_case_near_one_keeps_the_digits_of_the_complement(rho):
    complement = np.logspace(-3, -60, 115)
    lower, upper = worst_case_bounds(1 - complement, 0, rho * 0.5, BOTH, complement=complement)
    expected = ndtr(-ndtri(complement) - rho)
    np.testing.assert_allclose(lower, expected, rtol=1e-11)
    np.testing.assert_allclose(upper, expected, rtol=1e-11)


@pytest.mark.parametrize("tau", [1e-9, TAU, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("p_a", [1e-6, 0.3, 0.5, 0.99, 1 - 1e-9])
def test_radius_without_token_change_is_the_difference_of_quantiles(p_a, tau):
    with mpmath.workdps(40):
        z = [mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(x) - 1) for x in (p_a, tau)]
        expected = float(0.5 * (z[0] - z[1]))
    for smoothing in (BOTH, IMAGE):
        radius = hrs.certified_radius(p_a, 0, smoothing, tau)
        if expected <= 0:
            assert radius == -1
        else:
            assert radius <= expected
            assert radius == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("epsilon", [1e-6, 0.1, 1.0, 5.0])
def test_worst_case_without_token_change_is_the_shifted_gaussian(epsilon):
    p_a = np.array([1e-6, 0.1, 0.5, 0.9, 0.999])
    expected = ndtr(ndtri(p_a) - epsilon / 0.5)
    worst = hrs.worst_case_probability(p_a, 0, epsilon, BOTH)
    np.testing.assert_allclose(worst, expected, rtol=1e-11)


# No pixel change


@pytest.mark.parametrize("d", [1, 2, 3, 5])
@pytest.mark.parametrize(("beta", "vocab_size"), [(0.25, 32_000), (0.8, 50), (0.5, 2), (0.9, 3), (0.3, 2)])
def test_worst_case_without_pixel_change_is_the_fractional_knapsack(beta, vocab_size, d):
    beta = hrs.UniformKernel(beta, vocab_size).beta  # as drawn
    one = np.array([1 - beta, beta * (vocab_size - 2) / (vocab_size - 1), beta / (vocab_size - 1)])
    p = np.ones(1)
    for _ in range(d):
        p = np.convolve(p, one)
    p_a = np.concatenate([np.linspace(0.01, 0.99, 23), 1 - 10.0 ** -np.arange(3, 8)])
    expected = [fractional_knapsack(p, p[::-1], x) for x in p_a]
    worst = hrs.worst_case_probability(p_a, d, 0.0, hrs.HybridSmoothing(hrs.UniformKernel(beta, vocab_size), 0.5))
    np.testing.assert_allclose(worst, expected, rtol=1e-7, atol=1e-15)


@pytest.mark.parametrize("d", [1, 2, 4])
@pytest.mark.parametrize(("beta", "vocab_size"), [(0.25, 32_000), (0.75, 10), (0.5, 2), (0.9, 3)])
def test_the_table_of_the_paper_gives_the_same_numbers(beta, vocab_size, d):
    """O(d^2) groups, thresholds by bisection on log t (A.13), against the 2d + 1 atoms."""
    beta = hrs.UniformKernel(beta, vocab_size).beta  # as drawn
    p, q = paper_table(beta, vocab_size, d)
    kept = (p > 0) & (q > 0)
    log_ratio, p, q = np.log(q[kept] / p[kept]), p[kept], q[kept]
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(beta, vocab_size), 1.0)
    for rho in (0.3, 1.0, 2.5):
        for p_a in (0.2, 0.9, 0.999):
            low, high = -200.0, 200.0
            for _ in range(200):
                c = (low + high) / 2
                clean = p @ ndtr((c - log_ratio) / rho + rho / 2)
                low, high = (c, high) if clean < p_a else (low, c)
            expected = q @ ndtr((low - log_ratio) / rho - rho / 2)
            assert hrs.worst_case_probability(p_a, d, rho, smoothing) == pytest.approx(expected, rel=1e-9)


# Absorbing kernel


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 2.0])
@pytest.mark.parametrize(("beta", "d"), [(0.25, 1), (0.9, 3), (0.99, 64)])
def test_absorbing_closed_form(beta, d, epsilon):
    beta = hrs.AbsorbingKernel(beta).beta  # as drawn
    smoothing = hrs.HybridSmoothing(hrs.AbsorbingKernel(beta), 0.5)
    for p_a in (0.1, 0.8, 0.95, 0.999):
        with mpmath.workdps(40):
            kept = mpmath.mpf(beta) ** d
            inside = (p_a - (1 - kept)) / kept
            value = mpmath.mpf(0)
            if inside > 0:
                value = kept * mpmath.ncdf(mpmath.sqrt(2) * mpmath.erfinv(2 * inside - 1) - epsilon / 0.5)
        worst = hrs.worst_case_probability(p_a, d, epsilon, smoothing)
        assert worst <= float(value)
        assert worst == pytest.approx(float(value), rel=1e-11)


@pytest.mark.parametrize("beta", [1e-3, 0.03, 0.1])
def test_tiny_masking_masses_keep_their_digits(beta):
    """1 - q_inf and p_A - p_0 cancel when beta^d is about 1e-15: the bounds must not be built from them."""
    beta = hrs.AbsorbingKernel(beta).beta  # as drawn
    smoothing = hrs.HybridSmoothing(hrs.AbsorbingKernel(beta), 1.0)
    d = round(math.log(1e-15) / math.log(beta))
    lower, upper = worst_case_bounds(1.0, d, 5.0, smoothing)
    exact = Fraction(beta) ** d
    assert Fraction(float(lower)) <= exact <= Fraction(float(upper))
    assert float(lower) == pytest.approx(float(exact), rel=1e-12)
    for steps in range(1, 14):
        p_a = 1 - steps * 2.0**-53
        room = Fraction(p_a) - (1 - exact)
        lower, upper = worst_case_bounds(p_a, d, 5.0, smoothing)
        with mpmath.workdps(40):
            share = mpmath.mpf(room.numerator) / room.denominator * exact.denominator / exact.numerator
            value = 0.0
            if room > 0:
                kept = mpmath.mpf(exact.numerator) / exact.denominator
                value = float(kept * mpmath.ncdf(mpmath.sqrt(2) * mpmath.erfinv(2 * share - 1) - 5))
        assert float(lower) <= value * (1 + 1e-14)
        assert value <= float(upper) * (1 + 1e-14)


# Long budgets


@pytest.mark.parametrize("d", [64, 69, pytest.param(500, marks=pytest.mark.slow)])
def test_underflow_makes_no_false_certificate(d):
    """A published code certifies radius 1.64 at d = 64, where the truth is 1e-182, and crashes from d = 69 on."""
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(beta=0.25, vocab_size=30_000), sigma=0.5)
    assert hrs.certified_radius(0.9995, d, smoothing, tau=0.5) == -1
    lower, upper = worst_case_bounds(0.9995, d, np.array([0.0, 0.5, 1.64]), smoothing)
    assert (lower <= upper).all()
    assert (upper < 1e-180).all()


@pytest.mark.slow
def test_ten_thousand_tokens():
    text = hrs.HybridSmoothing(TEXT, 0.5)
    assert hrs.certified_radius(1 - 1e-15, 10_000, text, TAU) == -1
    assert hrs.worst_case_probability(0.999, 10_000, 0.1, text) < 1e-290
    coin = hrs.HybridSmoothing(hrs.UniformKernel(beta=0.4999, vocab_size=2), 0.5)
    d = np.array([100, 10_000])
    radius = hrs.certified_radius(0.999, d, coin, 0.1)
    assert (radius > 0).all()
    assert radius[1] < radius[0]


# Ends of the ranges


def test_certain_clean_score_gives_an_infinite_radius():
    assert hrs.certified_radius(1.0, [0, 1, 30], BOTH, 0.5).tolist() == [math.inf] * 3
    assert hrs.certified_radius(1.0, 1, hrs.HybridSmoothing(hrs.AbsorbingKernel(0.25), 0.5), 0.2) == math.inf
    assert hrs.certified_radius(1.0, 1, hrs.HybridSmoothing(hrs.AbsorbingKernel(0.25), 0.5), 0.3) == -1
    assert hrs.certified_budget(1.0, BOTH, 0.5, epsilon=1.0, max_budget=50) == 50


def test_all_agree_gives_a_finite_radius():
    bound = hrs.clopper_pearson(10_000, 10_000, alpha=0.001)
    assert 0 < hrs.certified_radius(bound, 1, BOTH, TAU) < 10


@pytest.mark.parametrize("p_a", [0.0, 0.3, 0.4375])
def test_nothing_is_certified_up_to_the_singular_mass(p_a):
    smoothing = hrs.HybridSmoothing(hrs.AbsorbingKernel(0.75), 0.5)  # p_0 = 1 - 0.75^2 = 0.4375
    lower, upper = worst_case_bounds(p_a, 2, np.array([0.0, 1.0]), smoothing)
    assert lower.tolist() == [0, 0]
    assert (upper < 1e-14).all()
    assert hrs.certified_radius(p_a, 2, smoothing, 1e-9) == -1


def test_tau_at_the_edge_of_what_is_certified():
    value = hrs.worst_case_probability(0.999, 2, 0.0, BOTH)
    below, above = value * (1 - 1e-11), value * (1 + 1e-11)
    assert 0 <= hrs.certified_radius(0.999, 2, BOTH, below) < 1e-3
    assert hrs.certified_radius(0.999, 2, BOTH, above) == -1
    assert hrs.certified_budget(0.999, BOTH, below) == 2
    assert hrs.certified_budget(0.999, BOTH, above) == 1
    assert hrs.certified_radius(0.5, 0, IMAGE, 0.5) == -1
    assert hrs.certified_radius(np.nextafter(0.5, 1), 0, IMAGE, 0.5) < 1e-15


def test_tiny_and_huge_pixel_budgets():
    at_zero = hrs.worst_case_probability(0.999, 1, 0.0, BOTH)
    tiny = hrs.worst_case_probability(0.999, 1, np.array([1e-300, 1e-20, 1e-9]), BOTH)
    assert (np.diff([at_zero, *tiny]) <= 1e-14).all()
    np.testing.assert_allclose(tiny, at_zero, rtol=1e-6)
    huge = hrs.worst_case_probability(0.999, 1, np.array([20.0, 1e3, 1e300]), BOTH)
    assert (huge >= 0).all()
    assert (np.diff(huge) <= 0).all()
    assert huge[0] < 1e-250
    narrow = hrs.HybridSmoothing(TEXT, sigma=1e-12)
    assert hrs.worst_case_probability(0.999, 1, 1e300, narrow) == 0


def test_complements_far_below_one_ulp_of_p_a():
    """Ratios above e^80 and clean masses of 1e-40: exact at eps = 0 by the knapsack over Fractions."""
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 10**6), 1.0)
    for d in (6, 8):
        p, q = (list(map(Fraction, column)) for column in trinomial(Fraction(1, 4), 10**6, d))
        for complement in (1e-20, 1e-40, 1e-60):
            rejected, lost = Fraction(complement), Fraction(0)
            for clean, adversarial in sorted(zip(p, q, strict=True), key=lambda pair: -pair[1] / pair[0]):
                share = min(rejected / clean, Fraction(1))
                rejected, lost = rejected - share * clean, lost + share * adversarial
            exact = float(1 - lost)
            lower, upper = worst_case_bounds(1.0, d, 0.0, smoothing, complement=complement)
            assert float(lower) <= exact <= float(upper)
            assert float(lower) == pytest.approx(exact, rel=1e-12)
            below, above = worst_case_bounds(1.0, d, 0.5, smoothing, complement=complement)
            assert 0 < float(below) <= float(above) <= exact
            assert float(above) - float(below) < 1e-6


def trinomial(beta: Fraction, vocab_size: int, d: int) -> tuple[list[Fraction], list[Fraction]]:
    one = (1 - beta, beta * Fraction(vocab_size - 2, vocab_size - 1), beta / (vocab_size - 1))
    p = [Fraction(1)]
    for _ in range(d):
        grown = [Fraction(0)] * (len(p) + 2)
        for i, mass in enumerate(p):
            for j, factor in enumerate(one):
                grown[i + j] += mass * factor
        p = grown
    return p, p[::-1]


# One modality only


def test_without_sigma_only_token_changes_are_certified():
    text = hrs.HybridSmoothing(TEXT, sigma=None)
    assert hrs.certified_radius([0.5, 0.999, 0.999, 1.0], [0, 1, 9, 3], text, TAU).tolist() == [0, 0, -1, 0]
    assert hrs.worst_case_probability(0.999, 1, 0.1, text) == 0
    assert hrs.worst_case_probability(0.999, 1, 0.0, text) == hrs.worst_case_probability(0.999, 1, 0.0, BOTH)
    assert hrs.certified_budget(0.999, text, TAU) == hrs.certified_budget(0.999, BOTH, TAU) == 4
    assert hrs.certified_budget(0.999, text, TAU, epsilon=0.1) == -1
    assert hrs.required_probability(0, 0.1, text, TAU) == math.inf


def test_without_a_discrete_kernel_only_pixel_changes_are_certified():
    assert hrs.certified_radius(1.0, 1, IMAGE, TAU) == -1
    assert hrs.worst_case_probability(1.0, 1, 0.0, IMAGE) == 0
    assert hrs.certified_budget([0.3, 0.7, 1.0], IMAGE, 0.5).tolist() == [-1, 0, 0]
    assert hrs.required_probability(1, 0.0, IMAGE, TAU) == math.inf
    assert hrs.certified_radius(0.99, 0, IMAGE, 0.5) == hrs.certified_radius(0.99, 0, BOTH, 0.5)


# The other side


@pytest.mark.parametrize("p_b", [1e-6, 0.01, 0.3])
def test_upper_side_mirrors_the_lower_side(p_b):
    d, epsilon = np.array([0, 1, 2]), 0.2
    upper = hrs.largest_probability(p_b, d, epsilon, BOTH)
    lower = hrs.worst_case_probability(1 - p_b, d, epsilon, BOTH, complement=p_b)
    np.testing.assert_allclose(upper, 1 - lower, rtol=1e-9)
    assert (upper >= 1 - lower).all()
    radius = hrs.certified_radius(p_b, d, BOTH, 0.5, side="below")
    assert (radius <= hrs.certified_radius(1 - p_b, d, BOTH, 0.5, complement=p_b)).all()
    inside = radius > 0
    reached = hrs.largest_probability(p_b, d[inside], radius[inside], BOTH)
    assert (reached < 0.5).all()
    np.testing.assert_allclose(reached, 0.5, rtol=1e-9)


def test_masses_that_the_clean_input_never_produces_count_on_the_upper_side():
    smoothing = hrs.HybridSmoothing(hrs.AbsorbingKernel(0.25), 0.5)
    assert hrs.largest_probability(0.0, 1, 0.0, smoothing) == pytest.approx(0.75, rel=1e-12)
    assert hrs.largest_probability(0.0, 1, 0.0, smoothing) >= 0.75


# Monotonicity


KERNELS = {
    "uniform": TEXT,
    "dense": hrs.UniformKernel(0.9, 20),
    "turned": hrs.UniformKernel(0.8, 3),
    "absorbing": hrs.AbsorbingKernel(0.8),
    "categorical": hrs.CategoricalKernel(0.5, (2, 3, 3, 10, 40)),
}


@pytest.mark.parametrize("name", KERNELS)
def test_worst_case_is_monotone(name):
    smoothing = hrs.HybridSmoothing(KERNELS[name], 0.5)
    p_a = np.concatenate([np.linspace(0.02, 0.98, 13), 1 - 10.0 ** -np.arange(2, 13)])[:, None, None]
    d, epsilon = np.arange(5)[:, None], np.array([0.0, 1e-6, 0.01, 0.1, 0.5, 2.0])
    worst = hrs.worst_case_probability(p_a, d, epsilon, smoothing)
    slack = 1e-10 * worst + 1e-280
    assert (np.diff(worst, axis=0) >= -slack[1:]).all()
    assert (np.diff(worst, axis=1) <= slack[:, :-1]).all()
    assert (np.diff(worst, axis=2) <= slack[:, :, :-1]).all()


@pytest.mark.parametrize("name", KERNELS)
def test_radius_is_monotone(name):
    smoothing = hrs.HybridSmoothing(KERNELS[name], 0.5)
    p_a = np.concatenate([np.linspace(0.02, 0.98, 13), 1 - 10.0 ** -np.arange(2, 13)])[:, None, None]
    d, tau = np.arange(5)[:, None], np.array([1e-8, TAU, 1e-3, 0.1, 0.5, 0.9])
    radius = hrs.certified_radius(p_a, d, smoothing, tau)
    slack = 1e-7 * np.abs(radius) + 1e-9
    assert (np.diff(radius, axis=0) >= -slack[1:]).all()
    assert (np.diff(radius, axis=1) <= slack[:, :-1]).all()
    assert (np.diff(radius, axis=2) <= slack[:, :, :-1]).all()


@pytest.mark.parametrize("name", KERNELS)
def test_radius_worst_case_budget_and_requirement_agree(name):
    smoothing = hrs.HybridSmoothing(KERNELS[name], 0.5)
    p_a, d = np.array([0.6, 0.9, 0.999, 1 - 1e-9])[:, None], np.arange(5)
    for tau in (TAU, 0.3):
        radius = hrs.certified_radius(p_a, d, smoothing, tau)
        inside = radius > 1e-6
        at, budget = np.broadcast_to(p_a, radius.shape)[inside], np.broadcast_to(d, radius.shape)[inside]
        assert (hrs.worst_case_probability(at, budget, radius[inside], smoothing) >= tau * (1 - 1e-12)).all()
        assert (hrs.worst_case_probability(at, budget, radius[inside] * (1 + 1e-6), smoothing) < tau).all()
        assert (hrs.certified_budget(at, smoothing, tau, epsilon=radius[inside] * (1 - 1e-9)) >= budget).all()
        most = hrs.certified_budget(p_a[:, 0], smoothing, tau, max_budget=4)
        np.testing.assert_array_equal(most, (radius >= 0).sum(axis=1) - 1)


@pytest.mark.parametrize("name", KERNELS)
def test_required_probability_round_trip(name):
    smoothing = hrs.HybridSmoothing(KERNELS[name], 0.5)
    d, epsilon = np.arange(4)[:, None], np.array([0.0, 1e-3, 0.05, 0.3, 1.0])
    for tau in (TAU, 0.3):
        needed = hrs.required_probability(d, epsilon, smoothing, tau)
        inside = needed < 1 - 1e-12
        p, budget = needed[inside], np.broadcast_to(d, needed.shape)[inside]
        asked = np.broadcast_to(epsilon, needed.shape)[inside]
        radius = hrs.certified_radius(p, budget, smoothing, tau)
        # p moves in steps of 2^-53, coarse against 1 - p
        np.testing.assert_allclose(radius, asked, rtol=1e-3, atol=1e-4)
        assert (radius >= asked * (1 - 1e-7) - 1e-9).all()
        less = np.minimum(p * (1 - 1e-9), 1 - (1 - p) * (1 + 1e-9) - 2.0**-52)
        assert (hrs.worst_case_probability(less, budget, asked, smoothing) < tau).all()


def test_required_probability_is_rounded_up_near_one():
    """The returned float64 itself certifies: not only the complement that it stands for."""
    d, epsilon = np.arange(1, 7)[:, None], np.linspace(0.0, 2.0, 9)
    needed = hrs.required_probability(d, epsilon, BOTH, TAU)
    certain = needed <= 1
    worst = hrs.worst_case_probability(np.minimum(needed, 1.0), d, epsilon, BOTH)
    assert certain.sum() > 30
    assert (worst[certain] >= TAU * (1 - 1e-12)).all()


def test_required_samples_are_enough_and_one_less_is_not():
    d = np.array([0, 1, 2, 3, 4])
    n = hrs.required_samples(d, 0.1, BOTH, TAU, 0.01)
    enough = hrs.certified_radius(hrs.clopper_pearson(n, n, 0.01), d, BOTH, TAU)
    short = hrs.certified_radius(hrs.clopper_pearson(n - 1, np.maximum(n - 1, 1), 0.01), d, BOTH, TAU)
    assert (enough >= 0.1 * (1 - 1e-9)).all()
    assert (short[1:] < 0.1).all()
    assert hrs.required_samples([1, 2, 3], 0.0, BOTH, TAU, 0.01).tolist() == [17, 72, 294]
    assert hrs.required_samples(1, 0.0, hrs.HybridSmoothing(hrs.AbsorbingKernel(0.25), 0.5), 0.3, 0.01) == -1


# The table


@pytest.mark.parametrize("name", KERNELS)
def test_table_is_at_most_one_step_below_the_direct_radius(name):
    smoothing = hrs.HybridSmoothing(KERNELS[name], 0.5)
    table = hrs.frontier_table(range(4), smoothing, TAU, size=65)
    p_a = np.concatenate([np.linspace(0.0, 0.99, 40), 1 - 10.0 ** -np.linspace(2, 15, 40)])
    looked_up = table.certified_radius(p_a)
    direct = hrs.certified_radius(p_a[:, None], np.arange(4), smoothing, TAU)
    step = table.radius[1]
    assert looked_up.shape == (80, 4)
    assert (looked_up <= direct).all()
    # a float64 p_A near one is itself coarser than the grid: only there the table may be further off
    resolved = np.broadcast_to(p_a[:, None], direct.shape) < 1 - 1e-12
    assert (direct[resolved] - looked_up[resolved] <= step * (1 + 1e-9)).all() or (looked_up[resolved] == -1).any()
    above_zero = resolved & (looked_up >= 0)
    assert (direct[above_zero] - looked_up[above_zero] <= step * (1 + 1e-9)).all()
    nothing = resolved & (looked_up == -1)
    assert (direct[nothing] <= 1e-6).all()


def test_exact_masses_of_half_and_half():
    """With beta = 1/2 and V = 2 the noise hides the token completely, whatever d."""
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.5, 2), 0.5)
    radius = hrs.certified_radius(0.9, [0, 1, 7, 100], smoothing, 0.2)
    np.testing.assert_allclose(radius, radius[0], rtol=1e-11)
    assert float(arb(float(radius[0]))) == pytest.approx(0.5 * (ndtri(0.9) - ndtri(0.2)), rel=1e-11)
