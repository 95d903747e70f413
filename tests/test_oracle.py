"""The ball-arithmetic oracle against enumeration, closed forms and a grid: it must itself be beyond doubt."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import oracle
import oracle_cases
import pytest
from flint import arb, fmpq
from scipy.special import ndtr
from scipy.stats import beta as beta_law

from hybrid_rs_jax.kernels.base import drawn_probability

TINY = [(2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3)]
BETAS = [0.25, 0.5, 0.75, 0.3, 2 / 3, math.nextafter(2 / 3, 1), 0.999]
LEVELS = [1e-6, 0.1, 0.25, 0.5, 0.7, 0.75, 0.999, 1 - 1e-12]


def fraction(x: fmpq) -> Fraction:
    return Fraction(int(x.p), int(x.q))


def enumerate_outcomes(beta: float, sizes: tuple[int, ...]) -> list[tuple[Fraction, Fraction]]:
    """Joint masses (clean, adversarial) of every z: clean input all 0, adversarial input all 1."""
    b = Fraction(drawn_probability("beta", beta))  # as kernels have it

    def mass(z: tuple[int, ...], x: int) -> Fraction:
        parts = (1 - b if s == x else b / (size - 1) for s, size in zip(z, sizes, strict=True))
        return math.prod(parts, start=Fraction(1))

    return [(mass(z, 0), mass(z, 1)) for z in itertools.product(*map(range, sizes))]


def enumerate_absorbing(beta: float, d: int) -> list[tuple[Fraction, Fraction]]:
    """Symbols 0 (clean), 1 (adversarial) and 2 (mask)."""
    b = Fraction(drawn_probability("beta", beta))  # as kernels have it

    def mass(z: tuple[int, ...], x: int) -> Fraction:
        return math.prod(((1 - b) * (s == x) + b * (s == 2) for s in z), start=Fraction(1))

    return [(mass(z, 0), mass(z, 1)) for z in itertools.product(range(3), repeat=d)]


def fill(outcomes: list[tuple[Fraction, Fraction]], p_a: float) -> Fraction:
    """Fractional knapsack over single outcomes."""
    room, value = Fraction(p_a), Fraction(0)
    for p, q in sorted((o for o in outcomes if o[0] > 0), key=lambda o: o[1] / o[0]):
        share = min(room / p, Fraction(1))
        value += share * q
        room -= share * p
    return value


def real(x: Fraction) -> mpmath.mpf:
    return mpmath.mpf(x.numerator) / x.denominator


def bisect_worst_case(outcomes: list[tuple[Fraction, Fraction]], p_a: float, rho: float) -> mpmath.mpf:
    """Textbook Neyman-Pearson value over single outcomes: bisection on log t at 60 digits."""
    with mpmath.workdps(60):
        r = mpmath.mpf(rho)
        atoms = [(mpmath.log(real(q / p)), real(p), real(q)) for p, q in outcomes if p > 0 and q > 0]
        free = real(sum((p for p, q in outcomes if q == 0), Fraction(0)))
        if p_a <= free:
            return mpmath.mpf(0)
        low, high = mpmath.mpf(-300), mpmath.mpf(300)
        for _ in range(190):
            c = (low + high) / 2
            clean = free + sum(p * mpmath.ncdf((c - log) / r + r / 2) for log, p, _ in atoms)
            low, high = (c, high) if clean < p_a else (low, c)
        return sum(q * mpmath.ncdf((low - log) / r - r / 2) for log, _, q in atoms)


def decimal(x: fmpq | arb) -> mpmath.mpf:
    return mpmath.mpf(arb(x).str(60, radius=False))


def assert_encloses(pair: tuple, value: mpmath.mpf, relative: float = 1e-25) -> None:
    with mpmath.workdps(60), oracle.precision(256):
        low, high = (decimal(x) for x in pair)
        slack = mpmath.mpf(relative)  # the reference value is rounded, the enclosure is not
        assert low * (1 - slack) <= value <= high * (1 + slack) + mpmath.mpf(10) ** -60
        assert high - low <= slack * high


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("size", "d"), TINY)
def test_uniform_atoms_equal_enumeration(size: int, d: int, beta: float) -> None:
    channel = oracle.uniform(beta, size, d)
    expected: dict[Fraction, list[Fraction]] = {}
    for p, q in enumerate_outcomes(beta, (size,) * d):
        entry = expected.setdefault(q / p, [Fraction(0), Fraction(0)])
        entry[0] += p
        entry[1] += q
    atoms = zip(channel.ratio, channel.p, channel.q, strict=True)
    assert {fraction(r): [fraction(p), fraction(q)] for r, p, q in atoms} == expected
    assert channel.p_0 == 0
    assert channel.q_inf == 0
    assert list(channel.ratio) == sorted(channel.ratio)


@pytest.mark.parametrize(("beta", "size", "d"), [(0.25, 32000, 5), (0.9, 2**20, 64), (0.001, 2, 64), (0.3, 7, 1)])
def test_groups_and_position_by_position_agree(beta: float, size: int, d: int) -> None:
    by_groups, by_position = oracle.uniform(beta, size, d), oracle.categorical(beta, (size,) * d)
    assert by_groups.ratio == by_position.ratio
    assert by_groups.p == by_position.p
    assert by_groups.q == by_position.q
    assert sum(by_groups.p, fmpq(0)) == 1
    assert by_groups.q == by_groups.p[::-1]
    assert all(len(oracle.uniform(beta, size, n).ratio) <= 2 * n + 1 for n in range(4))


@pytest.mark.parametrize("p_a", LEVELS)
@pytest.mark.parametrize("beta", BETAS)
def test_knapsack_equals_enumeration(beta: float, p_a: float) -> None:
    for size, d in TINY:
        expected = fill(enumerate_outcomes(beta, (size,) * d), p_a)
        low, high = oracle.worst_case_probability(oracle.uniform(beta, size, d), p_a, 0)
        assert fraction(low) == fraction(high) == expected
    for d in (1, 2, 3):
        expected = fill(enumerate_absorbing(beta, d), p_a)
        assert fraction(oracle.knapsack(oracle.absorbing(beta, d), p_a)) == expected
    expected = fill(enumerate_outcomes(beta, (2, 4, 3)), p_a)
    assert fraction(oracle.knapsack(oracle.categorical(beta, (2, 4, 3)), p_a)) == expected


@pytest.mark.parametrize("beta", BETAS)
def test_inverse_knapsack_inverts_exactly(beta: float) -> None:
    for channel in (oracle.uniform(beta, 3, 3), oracle.absorbing(beta, 2), oracle.categorical(beta, (2, 5))):
        for p_a in LEVELS:
            value = oracle.knapsack(channel, p_a)
            if value > 0:
                assert oracle.inverse_knapsack(channel, value) == oracle.exact(p_a)


@pytest.mark.parametrize("rho", [0.01, 0.5, 3.0, 12.0])
@pytest.mark.parametrize(("size", "d", "beta"), [(2, 1, 0.25), (2, 3, 0.75), (3, 2, 0.3), (3, 2, 0.999)])
def test_worst_case_equals_bisection_over_outcomes(size: int, d: int, beta: float, rho: float) -> None:
    outcomes = enumerate_outcomes(beta, (size,) * d)
    for p_a in (1e-6, 0.25, 0.7, 1 - 1e-12):
        pair = oracle.worst_case_probability(oracle.uniform(beta, size, d), p_a, rho)
        assert_encloses(pair, bisect_worst_case(outcomes, p_a, rho))


@pytest.mark.parametrize("p_a", [0.3, 0.95])
def test_other_kernels_equal_bisection_over_outcomes(p_a: float) -> None:
    pair = oracle.worst_case_probability(oracle.categorical(0.4, (2, 4)), p_a, 0.7)
    assert_encloses(pair, bisect_worst_case(enumerate_outcomes(0.4, (2, 4)), p_a, 0.7))
    pair = oracle.worst_case_probability(oracle.absorbing(0.4, 2), p_a, 0.7)
    assert_encloses(pair, bisect_worst_case(enumerate_absorbing(0.4, 2), p_a, 0.7))


@pytest.mark.parametrize("p_a", [0.2, 0.6, 0.97])
def test_worst_case_equals_knapsack_over_a_gaussian_grid(p_a: float) -> None:
    """No likelihood-ratio formula: joint cells of a fine grid, sorted by their masses' ratio."""
    beta, size, rho = 0.4, 3, 0.8
    edges = np.concatenate([[-np.inf], np.linspace(-7, 8, 6001), [np.inf]])
    clean, adversarial = np.diff(ndtr(edges)), np.diff(ndtr(edges - rho))
    p = np.concatenate([(1 - beta) * clean, beta / 2 * clean, beta / 2 * clean])
    q = np.concatenate([beta / 2 * adversarial, beta / 2 * adversarial, (1 - beta) * adversarial])
    order = np.argsort(q / np.maximum(p, 1e-300))
    value = float(np.interp(p_a, np.cumsum(p[order]), np.cumsum(q[order])))
    low, high = oracle.worst_case_probability(oracle.uniform(beta, size, 1), p_a, rho)
    assert float(low) == pytest.approx(value, abs=2e-6)
    assert low <= high


@pytest.mark.parametrize("rho", [1e-9, 0.3, 5.0, 20.0])
@pytest.mark.parametrize("p_a", LEVELS)
def test_no_budget_is_the_gaussian_closed_form(p_a: float, rho: float) -> None:
    with mpmath.workdps(60):
        quantile = mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(p_a) - 1)
        value = mpmath.ncdf(quantile - rho)
    assert_encloses(oracle.worst_case_probability(oracle.gaussian(), p_a, rho), value)
    assert oracle.uniform(0.25, 9, 0).ratio == (fmpq(1),)


@pytest.mark.parametrize(("beta", "d"), [(0.25, 1), (0.9, 3), (0.999, 64)])
def test_absorbing_closed_form(beta: float, d: int) -> None:
    with mpmath.workdps(60):
        kept = mpmath.mpf(drawn_probability("beta", beta)) ** d
        for p_a in (0.8, 0.99, 1 - 1e-12):
            inside = (p_a - (1 - kept)) / kept
            quantile = mpmath.sqrt(2) * mpmath.erfinv(2 * inside - 1) if inside > 0 else None
            value = kept * mpmath.ncdf(quantile - 0.75) if quantile is not None else mpmath.mpf(0)
            assert_encloses(oracle.worst_case_probability(oracle.absorbing(beta, d), p_a, 0.75), value)


def test_gaussian_radius_is_the_difference_of_quantiles() -> None:
    with mpmath.workdps(60):
        for p_a, tau in ((0.99, 0.5), (1 - 1e-12, 4.6e-5), (0.3, 0.299999), (1e-6, 1e-9)):
            quantiles = [mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(x) - 1) for x in (p_a, tau)]
            low, high = oracle.certified_radius(oracle.gaussian(), p_a, tau)
            ends = [decimal(x) for x in (low, high)]
            assert ends[0] <= quantiles[0] - quantiles[1] <= ends[1]
            assert ends[1] - ends[0] <= 1e-12 * ends[0]


def test_limits() -> None:
    channel = oracle.absorbing(0.5, 2)
    assert oracle.worst_case_probability(channel, 0.75, 1.0) == (0, 0)  # p_a = p_0
    assert oracle.worst_case_probability(channel, 0.0, 1.0) == (0, 0)
    assert oracle.worst_case_probability(channel, 1.0, 1.0) == (fmpq(1, 4), fmpq(1, 4))
    assert oracle.certified_radius(channel, 1.0, 0.2)[0] == arb("inf")
    assert oracle.certified_radius(channel, 1.0, 0.3) == (-1, -1)
    assert oracle.certified_radius(oracle.uniform(0.5, 2, 1), 0.75, 0.75) == (0, 0)  # all atoms coincide
    assert oracle.required_probability(channel, 1.0, 0.25) == (1, 1)
    assert oracle.required_probability(channel, 1.0, 0.26)[0] == arb("inf")
    for beta, p_0 in ((0.0, fmpq(1)), (1.0, fmpq(1, 4))):
        assert oracle.uniform(beta, 5, 1).p_0 == oracle.categorical(beta, (5,)).q_inf == p_0


def test_exact_corner_with_a_tiny_radius_is_not_missed() -> None:
    """p_a equal to a running mass: V* stays at its value for rho = 0 up to exp(-1 / rho^2)."""
    channel = oracle.uniform(0.25, 2, 2)
    p_a = float(channel.p[0])
    for rho in (1e-9, 1e-3, 0.05):
        low, high = oracle.worst_case_probability(channel, p_a, rho)
        assert high <= channel.q[0]
        assert float(low) == float(channel.q[0])
    assert oracle.lower_bound_is_sound(channel, p_a, 0, float(channel.q[0]))
    assert not oracle.lower_bound_is_sound(channel, p_a, 0.05, float(channel.q[0]))


def test_long_budget_that_underflows() -> None:
    """A published code certifies radius 1.64 here; the true worst case is about 1e-182."""
    channel = oracle.uniform(0.25, 30000, 64)
    low, high = oracle.worst_case_probability(channel, 0.9995, 1e-6)
    assert 1.42e-182 < float(low) <= float(high) < 1.44e-182
    assert oracle.certified_radius(channel, 0.9995, 0.5) == (-1, -1)
    assert not oracle.radius_is_sound(channel, 0.9995, 0.5, 1.64)
    assert not oracle.radius_is_sound(channel, 0.9995, 0.5, 0)


CHANNELS = {
    "uniform": oracle.uniform(0.8, 1000, 3),
    "long": oracle.uniform(0.97, 50, 40),
    "turned": oracle.uniform(0.9, 3, 4),
    "absorbing": oracle.absorbing(0.9, 5),
    "categorical": oracle.categorical(0.6, (2, 7, 40)),
}


@pytest.mark.parametrize("tau", [1e-9, 4.6e-5, 0.5])
@pytest.mark.parametrize("rho", [1e-7, 0.4, 2.5])
@pytest.mark.parametrize("name", CHANNELS)
def test_required_probability_and_radius_are_inverse(name: str, rho: float, tau: float) -> None:
    channel = CHANNELS[name]
    low, high = oracle.required_probability(channel, rho, tau)
    assert low <= high
    if not high < 1 - 1e-13:
        return
    p_a = float(high)
    while not p_a > high:
        p_a = math.nextafter(p_a, 1)
    assert oracle.radius_is_sound(channel, p_a, tau, rho)
    below = p_a
    while not below < low:
        below = math.nextafter(below, 0)
    assert not oracle.radius_is_sound(channel, below, tau, rho)
    inner, outer = oracle.certified_radius(channel, p_a, tau)
    assert rho < outer
    assert 0 < float(inner) <= float(outer) <= float(inner) * (1 + 1e-12)
    assert oracle.radius_is_sound(channel, p_a, tau, inner)
    assert not oracle.radius_is_sound(channel, p_a, tau, outer)


@pytest.mark.parametrize("name", CHANNELS)
def test_one_sided_checks_separate_neighbouring_floats(name: str) -> None:
    for rho in (1e-9, 1.0, 8.0):
        low, high = oracle.worst_case_probability(CHANNELS[name], 0.9, rho)
        value = float(low)
        inside, outside = math.nextafter(value, 0), math.nextafter(value, 1)
        assert oracle.lower_bound_is_sound(CHANNELS[name], 0.9, rho, inside)
        assert not oracle.lower_bound_is_sound(CHANNELS[name], 0.9, rho, outside)
        assert oracle.upper_bound_is_sound(CHANNELS[name], 0.9, rho, outside)
        assert not oracle.upper_bound_is_sound(CHANNELS[name], 0.9, rho, inside) or inside == 0
        assert low <= high


def test_masses_at_the_root_match() -> None:
    """The public sums F and V, at a dual-optimal c, reproduce p_a and V*."""
    channel = CHANNELS["uniform"]
    low, high = arb(-60), arb(60)
    with oracle.precision(256):
        for _ in range(150):
            c = arb(((low + high) / 2).mid())
            low, high = (c, high) if oracle.clean_mass(channel, c, 0.5) < 0.9 else (low, c)
        below, above = oracle.adversarial_mass(channel, low, 0.5), oracle.adversarial_mass(channel, high, 0.5)
        value = oracle.worst_case_probability(channel, 0.9, 0.5)
        assert below < value[1]
        assert value[0] < above
        assert above - below < 1e-38


def test_several_attacks_give_the_worst() -> None:
    attacks = oracle.categorical_attacks(0.3, (2, 2, 9), 2)
    assert len(attacks) == 2
    both = oracle.worst_case_probability(attacks, 0.9, 0.5)
    each = [oracle.worst_case_probability(attack, 0.9, 0.5) for attack in attacks]
    assert both[0] == min(low for low, _ in each)
    assert oracle.certified_radius(attacks, 0.9, 0.01)[0] == oracle.certified_radius(attacks[1], 0.9, 0.01)[0]
    assert oracle.required_probability(attacks, 0, 0.01)[0] == max(
        oracle.inverse_knapsack(attack, 0.01) for attack in attacks
    )


def dominated(harder: oracle.Channel, easier: oracle.Channel) -> bool:
    """V*(p_a) of `harder` is nowhere above: both are convex and linear between the running masses."""
    corners = (channel.p_0 + mass for channel in (harder, easier) for mass in channel.prefix(True))
    return all(oracle.knapsack(harder, p_a) <= oracle.knapsack(easier, p_a) for p_a in corners)


def test_largest_cardinalities_are_the_worst_only_while_noise_is_moderate() -> None:
    for beta in (0.01, 0.3, 0.5):
        for attack in oracle.categorical_attacks(beta, (2, 3, 3, 17, 900), 3):
            assert dominated(oracle.categorical(beta, (3, 17, 900)), attack)
    small, large = oracle.categorical(0.8, (2,)), oracle.categorical(0.8, (100,))  # 0.8 > (2 - 1) / 2
    assert not dominated(large, small)
    assert not dominated(small, large)


def test_draws_needed_when_all_succeed() -> None:
    needed = []
    for d in range(1, 6):
        p_a = oracle.required_probability(oracle.uniform(0.25, 32000, d), 1e-6, 4.6e-5)[1]
        needed.append(next(n for n in range(1, 6000) if 0.01 ** (1 / n) >= float(p_a)))
    assert needed == [17, 72, 294, 1190, 4936]


def test_binomial_tail_matches_exact_sums_and_the_beta_law() -> None:
    for n, k in ((65, 60), (90, 13), (120, 120), (64, 1), (1, 1)):
        for p in (0.05, 0.5, 0.83, 0.95):
            b = Fraction(p)
            tail = sum(math.comb(n, i) * b**i * (1 - b) ** (n - i) for i in range(k, n + 1))
            for alpha in (1e-6, 0.01, 0.3, float(tail), float(tail) * (1 + 1e-15), float(tail) * (1 - 1e-15)):
                assert oracle.clopper_pearson_is_sound(k, n, alpha, p) == (tail <= Fraction(alpha))
    for n, k in ((10_000, 9_990), (1_000_000, 3), (1_000_000, 500_000), (1_000_000, 999_999), (10**6, 10**6)):
        for alpha in (0.01, 1e-9):
            bound = float(beta_law.ppf(alpha, k, n - k + 1))
            assert oracle.clopper_pearson_is_sound(k, n, alpha, bound * (1 - 1e-10))
            assert not oracle.clopper_pearson_is_sound(k, n, alpha, bound * (1 + 1e-10))
    assert oracle.clopper_pearson_is_sound(0, 10, 0.01, 0.0)
    assert not oracle.clopper_pearson_is_sound(0, 10, 0.01, 1e-9)
    assert oracle.clopper_pearson_is_sound(2, 2, 0.25, 0.5)  # exactly alpha
    assert not oracle.clopper_pearson_is_sound(2, 2, math.nextafter(0.25, 0), 0.5)
    assert not oracle.clopper_pearson_is_sound(10, 10, 0.01, 1.0)


def test_cases_are_reproducible_in_range_and_mostly_not_trivial() -> None:
    drawn = oracle_cases.cases(200, seed=7)
    assert drawn == oracle_cases.cases(200, seed=7)
    assert drawn != oracle_cases.cases(200, seed=8)
    assert {case.kernel for case in drawn} == {"uniform", "absorbing", "categorical", "gaussian"}
    useful = 0
    for case in drawn:
        assert 0 <= case.d <= 64
        assert 1e-6 <= case.p_a <= 1
        assert 1e-9 <= case.tau <= 0.9
        assert case.sigma > 0
        assert 0 <= case.rho <= 25
        worst = float(oracle.worst_case_probability(case.channels, case.p_a, case.rho)[0])
        certified = oracle.radius_is_sound(case.channels, case.p_a, case.tau, 0)
        useful += certified and 1e-12 < worst < 1
    assert useful >= 100
