"""The run-time rule "flag at k of m unsafe copies": its threshold keeps its promise to the last digit."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from flint import arb, ctx

import hybrid_rs_jax as hrs
from hybrid_rs_jax.confidence import miss_probability_at


def log_tail(m, k, score):
    """Log of P[Bin(m, score) < k] from binomial coefficients, 256-bit balls."""
    ctx.prec = 256
    s = arb(score)
    terms = [arb(math.comb(m, j)) * s**j * (1 - s) ** (m - j) for j in range(k)]
    return sum(terms, arb(0)).log()


@pytest.mark.parametrize("miss", [1e-250, 1e-12, 0.01, 0.5, 0.999])
@pytest.mark.parametrize(
    ("m", "k"), [(1, 1), (5, 5), (37, 1), (53, 2), (100, 50), (1_000, 7), (100_000, 1), (100_000, 2), (100_000, 50)]
)
def test_the_threshold_is_the_smallest_number_at_which_the_tail_keeps_the_promise(m, k, miss):
    tau = hrs.detection_threshold(m, miss, k)
    below = float(np.nextafter(tau, 0))
    if tau < 1:
        assert log_tail(m, k, tau) <= arb(miss).log()
    # a tail that is within 40 digits of the promise counts as above it
    assert log_tail(m, k, below) > arb(miss).log() - arb(1e-39)


def test_rational_arithmetic_agrees_for_few_copies():
    for m in range(1, 9):
        for k in range(1, m + 1):
            for miss in (0.01, 0.3):
                tau = hrs.detection_threshold(m, miss, k)
                scores = Fraction(tau), Fraction(float(np.nextafter(tau, 0)))
                tails = [sum(math.comb(m, j) * s**j * (1 - s) ** (m - j) for j in range(k)) for s in scores]
                assert tails[0] < Fraction(miss) <= tails[1]


def test_figures_of_the_method():
    assert hrs.detection_threshold(100_000, 0.01) == pytest.approx(4.60506e-5, rel=1e-5)
    # a score of beta^3 = .12 needs 37 copies with one flag and 53 with two
    for m, k in ((37, 1), (53, 2)):
        assert hrs.detection_threshold(m, 0.01, k) <= 0.12 < hrs.detection_threshold(m - 1, 0.01, k)


def test_the_threshold_grows_with_the_flags_and_falls_with_the_copies():
    taus = [hrs.detection_threshold(100, 0.01, k) for k in range(1, 101)]
    assert all(a < b for a, b in itertools.pairwise(taus))
    assert hrs.detection_threshold(101, 0.01, 5) < hrs.detection_threshold(100, 0.01, 5)


def test_the_miss_probability_is_rounded_up_and_attained():
    assert miss_probability_at(0.0, 10, 3) == 1
    assert miss_probability_at(1.0, 10, 3) == 0
    for score in (1e-9, 0.1, 0.5, 0.99):
        exact = log_tail(50, 4, score).exp()
        found = miss_probability_at(score, 50, 4)
        assert exact <= arb(found)
        assert found <= float(exact.upper()) * (1 + 1e-15) + 5e-324


@pytest.mark.parametrize(("flags", "value"), [(0, "0"), (11, "11"), (1.5, "1.5"), (True, "True"), (math.nan, "nan")])
def test_a_number_of_flags_that_no_run_can_reach_is_refused(flags, value):
    with pytest.raises(ValueError, match=rf"^flags must be an integer in 1\.\.10, got {value}\.$"):
        hrs.detection_threshold.__wrapped__(10, 0.01, flags)
