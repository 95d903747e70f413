"""Laws of log likelihood ratios: composition is exact, coarsening is pessimistic, enumeration agrees."""

import collections
import itertools
import math
from fractions import Fraction

import jax
import numpy as np
import oracle
import pytest
from flint import arb, fmpq

import hybrid_rs_jax as hrs
from hybrid_rs_jax.kernels.base import drawn_probability
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio, coarsen, compose, compose_all, identity, singular

CLEAN = (1e-6, 0.01, 0.2, 0.5, 0.7, 0.9, 0.99, 0.9999, 1 - 1e-9)


class Fixed:
    """A kernel whose law is given: the way to put a single likelihood ratio through the certificate."""

    def __init__(self, ratio):
        self.ratio = ratio

    def likelihood_ratio(self, d):
        return self.ratio if d else identity()

    def likelihood_ratios(self, d):
        return (self.likelihood_ratio(d),)

    def sample(self, key, tokens, eligible=None):
        raise NotImplementedError

    def check_tokens(self, tokens):
        raise NotImplementedError


def worst_case(ratio, p_a, rho):
    return np.asarray(hrs.worst_case_probability(p_a, 1, rho, hrs.HybridSmoothing(Fixed(ratio), 1.0)))


def random_masses(rng, outcomes, zeros=0):
    masses = rng.dirichlet(np.full(outcomes, 0.5))
    masses[rng.permutation(outcomes)[:zeros]] = 0
    return masses / masses.sum()


def random_pair(rng, outcomes, zeros=1):
    return random_masses(rng, outcomes, zeros), random_masses(rng, outcomes, zeros)


# From masses


def test_masses_become_sorted_atoms_and_singular_masses():
    ratio = LikelihoodRatio.from_masses([0.5, 0.125, 0.125, 0.25, 0.0], [0.125, 0.5, 0.125, 0.0, 0.25])
    np.testing.assert_allclose(ratio.log_ratio, [-math.log(4), 0.0, math.log(4)], atol=1e-15)
    np.testing.assert_allclose(np.exp(ratio.log_p), [0.5, 0.125, 0.125], rtol=1e-15)
    np.testing.assert_allclose(np.exp(ratio.log_q), [0.125, 0.125, 0.5], rtol=1e-15)
    assert (ratio.p_0, ratio.q_inf) == (0.25, 0.25)


def test_disjoint_masses_are_singular():
    ratio = LikelihoodRatio.from_masses([1.0, 0.0], [0.0, 1.0])
    assert (ratio.p_0, ratio.q_inf) == (singular().p_0, singular().q_inf) == (1.0, 1.0)
    np.testing.assert_array_equal(ratio.log_p, singular().log_p)


def test_equal_masses_are_certified_like_the_identity():
    ratio = LikelihoodRatio.from_masses([0.25] * 4, [0.25] * 4)
    np.testing.assert_allclose(worst_case(ratio, CLEAN, 0.7), worst_case(identity(), CLEAN, 0.7), rtol=1e-12)


@pytest.mark.parametrize(
    ("p", "q", "value"),
    [
        ([0.5, 0.4], [0.5, 0.5], "0.9"),
        ([0.5, 0.5], [0.5, 0.75], "1.25"),
        ([1.5, -0.5], [0.5, 0.5], "-0.5"),
        ([0.5, 0.5], [math.nan, 0.5], "nan"),
        ([0.5, 0.5], [1.0], r"\(2,\) and \(1,\)"),
        ([[0.5, 0.5]], [[0.5, 0.5]], r"\(1, 2\)"),
    ],
)
def test_vectors_that_are_no_probabilities_raise_one_sentence_with_the_value(p, q, value):
    with pytest.raises(ValueError, match=rf"^[^\n]*{value}[^\n]*\.$"):
        LikelihoodRatio.from_masses(np.asarray(p), np.asarray(q))


def test_a_likelihood_ratio_is_a_pytree_of_its_fields():
    ratio = LikelihoodRatio.from_masses([0.5, 0.5], [0.25, 0.75])
    leaves, structure = jax.tree.flatten(ratio)
    assert len(leaves) == 6
    assert jax.tree.unflatten(structure, leaves).atoms == 2


# Composition


@pytest.mark.parametrize("seed", range(8))
def test_composition_is_the_law_of_the_product(seed):
    rng = np.random.default_rng(seed)
    (p, q), (r, s) = random_pair(rng, 5), random_pair(rng, 4)
    composed = compose(LikelihoodRatio.from_masses(p, q), LikelihoodRatio.from_masses(r, s))
    product = LikelihoodRatio.from_masses(np.outer(p, r).ravel(), np.outer(q, s).ravel())
    np.testing.assert_allclose(composed.log_ratio, product.log_ratio, atol=1e-13)
    np.testing.assert_allclose(composed.log_p, product.log_p, atol=1e-13)
    np.testing.assert_allclose(composed.log_q, product.log_q, atol=1e-13)
    assert composed.p_0 == pytest.approx(product.p_0, rel=1e-13)
    assert composed.q_inf == pytest.approx(product.q_inf, rel=1e-13)


def test_composition_merges_equal_ratios():
    one = hrs.UniformKernel(0.3, 5).likelihood_ratio(1)
    assert compose_all([one] * 6).atoms == 13
    np.testing.assert_allclose(
        compose_all([one] * 6).log_p, hrs.UniformKernel(0.3, 5).likelihood_ratio(6).log_p, rtol=1e-14, atol=1e-14
    )


def test_the_identity_is_neutral_and_a_singular_part_absorbs():
    ratio = LikelihoodRatio.from_masses([0.5, 0.25, 0.25], [0.25, 0.75, 0.0])
    for left, right in ((ratio, identity()), (identity(), ratio)):
        composed = compose(left, right)
        np.testing.assert_array_equal(composed.log_p, ratio.log_p)
        assert (composed.p_0, composed.q_inf) == (ratio.p_0, ratio.q_inf)
    composed = compose(ratio, singular())
    assert (composed.p_0, composed.q_inf) == (1.0, 1.0)
    assert np.exp(composed.log_p).sum() == 0


def test_composing_nothing_is_the_identity():
    assert compose_all([]).atoms == 1
    assert compose_all([]).p_0 == 0


def test_rounding_of_a_composition_covers_its_masses():
    cardinalities = (2, 3, 4, 5, 6, 7)
    parts = [hrs.UniformKernel(0.25, k).likelihood_ratio(1) for k in cardinalities]
    composed, channel = compose_all(parts), oracle.categorical(0.25, cardinalities)
    assert composed.atoms == len(channel.p)
    with oracle.precision(256):
        for log_p, (_, p, _) in zip(composed.log_p, channel.atoms(), strict=True):
            error = float(abs(arb(float(log_p)).exp() / p - 1))
            assert error <= float(composed.rounding) * (abs(log_p) + 4) * 2.0**-53


# Coarsening


LONG = {
    "moderate noise": ((2, 3, 5, 7), 0.3),
    "little noise": ((3, 5, 9, 17), 0.01),
    "much noise": ((2, 3, 4, 5, 6), 0.7),
}


@pytest.mark.parametrize("max_atoms", [2, 16])
@pytest.mark.parametrize("name", LONG)
def test_a_coarsened_law_never_claims_more_than_the_exact_one(name, max_atoms):
    cardinalities, beta = LONG[name]
    exact = compose_all(hrs.UniformKernel(beta, k).likelihood_ratio(1) for k in cardinalities)
    channel = oracle.categorical(beta, cardinalities)
    coarse = coarsen(exact, max_atoms)
    assert coarse.atoms <= max_atoms < exact.atoms
    for rho in (0.0, 0.5, 3.0):
        for p_a, value in zip(CLEAN, worst_case(coarse, CLEAN, rho), strict=True):
            assert oracle.lower_bound_is_sound(channel, p_a, rho, float(value)), f"p_a = {p_a}, rho = {rho}"


@pytest.mark.parametrize("name", LONG)
def test_a_coarsened_law_is_close_to_the_exact_one(name):
    cardinalities, beta = LONG[name]
    exact = compose_all(hrs.UniformKernel(beta, k).likelihood_ratio(1) for k in cardinalities)
    coarse = coarsen(exact, exact.atoms // 2)
    span = float(exact.log_ratio[-1] - exact.log_ratio[0]) / (coarse.atoms - 1)
    for rho in (0.0, 0.5, 3.0):
        true, ours = worst_case(exact, CLEAN, rho), worst_case(coarse, CLEAN, rho)
        np.testing.assert_array_less(true - ours, 4 * span**2 * np.minimum(true + 1e-12, 1 - true + 1e-12) + 1e-12)


def test_coarsening_loses_to_second_order_in_the_grid_step():
    cardinalities, beta = LONG["moderate noise"]
    exact = compose_all(hrs.UniformKernel(beta, k).likelihood_ratio(1) for k in cardinalities)
    true = worst_case(exact, CLEAN, 0.5)
    loss = [float(np.max(true - worst_case(coarsen(exact, size), CLEAN, 0.5))) for size in (10, 40)]
    assert 0 < loss[1] < loss[0] / 8


def test_coarsening_keeps_singular_masses_and_both_totals():
    rng = np.random.default_rng(3)
    exact = LikelihoodRatio.from_masses(*random_pair(rng, 200, zeros=9))
    coarse = coarsen(exact, 20)
    assert (coarse.p_0, coarse.q_inf) == (exact.p_0, exact.q_inf)
    assert np.exp(coarse.log_p).sum() == pytest.approx(np.exp(exact.log_p).sum(), rel=1e-12)
    assert np.exp(coarse.log_q).sum() == pytest.approx(np.exp(exact.log_q).sum(), rel=1e-12)


def test_a_short_law_is_not_coarsened():
    ratio = hrs.UniformKernel(0.3, 5).likelihood_ratio(3)
    assert coarsen(ratio, ratio.atoms) is ratio


def test_a_long_composition_is_coarsened_on_the_way():
    parts = [hrs.UniformKernel(0.3, k).likelihood_ratio(1) for k in (2, 3, 5, 7, 11)]
    short, full = compose_all(parts, max_atoms=64), compose_all(parts)
    assert short.atoms <= 64 < full.atoms
    np.testing.assert_array_less(worst_case(short, CLEAN, 0.5), worst_case(full, CLEAN, 0.5) + 1e-15)


# Enumeration of the whole joint law


def replaced(beta, size):
    """Law of one noisy symbol under uniform replacement: {clean: {noisy: mass}}."""
    beta = Fraction(drawn_probability("beta", beta))
    return {x: {z: 1 - beta if z == x else beta / (size - 1) for z in range(size)} for x in range(size)}


def masked(beta, size, mask):
    beta = Fraction(drawn_probability("beta", beta))
    law = {x: {x: 1 - beta, mask: beta} for x in range(size) if x != mask}
    return law | {mask: {mask: Fraction(1)}}


def enumerated(laws, clean, attacked):
    """All masses (clean, adversarial) of the whole text, merged by their exact ratio."""
    merged = collections.defaultdict(lambda: [Fraction(0), Fraction(0)])
    lost = [Fraction(0), Fraction(0)]
    supports = [sorted(set(law[x]) | set(law[y])) for law, x, y in zip(laws, clean, attacked, strict=True)]
    for noisy in itertools.product(*supports):
        p = math.prod(
            (law[x].get(z, Fraction(0)) for law, x, z in zip(laws, clean, noisy, strict=True)), start=Fraction(1)
        )
        q = math.prod(
            (law[y].get(z, Fraction(0)) for law, y, z in zip(laws, attacked, noisy, strict=True)), start=Fraction(1)
        )
        entry = merged[q / p] if p and q else lost
        entry[0] += p
        entry[1] += q
    return sorted((ratio, p, q) for ratio, (p, q) in merged.items()), lost


def assert_law_equals_enumeration(ratio, laws, clean, attacked):
    atoms, lost = enumerated(laws, clean, attacked)
    merged = collections.defaultdict(lambda: np.zeros(2))
    for log_ratio, *logs in zip(ratio.log_ratio, ratio.log_p, ratio.log_q, strict=True):
        if np.isfinite(logs[0]):
            merged[round(float(log_ratio), 9)] += np.exp(logs)
    assert len(merged) == len(atoms)
    for (log_ratio, ours), (exact, *masses) in zip(sorted(merged.items()), atoms, strict=True):
        assert log_ratio == pytest.approx(math.log(exact), abs=1e-9)
        np.testing.assert_allclose(ours, np.array(masses, float), rtol=1e-13)
    np.testing.assert_allclose([ratio.p_0, ratio.q_inf], np.array(lost, float), atol=1e-15)


def pairs(sizes):
    texts = list(itertools.product(*map(range, sizes)))
    return itertools.product(texts, texts)


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("vocab_size", "length"), [(2, 3), (3, 2), (4, 2)])
def test_the_uniform_law_is_that_of_every_pair_of_texts(beta, vocab_size, length):
    kernel, laws = hrs.UniformKernel(beta, vocab_size), [replaced(beta, vocab_size)] * length
    for clean, attacked in pairs((vocab_size,) * length):
        d = sum(x != y for x, y in zip(clean, attacked, strict=True))
        assert_law_equals_enumeration(kernel.likelihood_ratio(d), laws, clean, attacked)


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.9, 1.0])
def test_the_absorbing_law_is_that_of_every_pair_of_unmasked_texts(beta):
    kernel, laws = hrs.AbsorbingKernel(beta, 3), [masked(beta, 4, 3)] * 2
    for clean, attacked in pairs((3, 3)):
        d = sum(x != y for x, y in zip(clean, attacked, strict=True))
        assert_law_equals_enumeration(kernel.likelihood_ratio(d), laws, clean, attacked)


@pytest.mark.parametrize("beta", [0.25, 0.9])
def test_masks_in_the_text_are_never_worse_than_the_absorbing_law(beta):
    kernel, laws = hrs.AbsorbingKernel(beta, 2), [masked(beta, 3, 2)] * 2
    for clean, attacked in pairs((3, 3)):
        atoms, lost = enumerated(laws, clean, attacked)
        parts = [tuple(fmpq(x.numerator, x.denominator) for x in atom) for atom in atoms]
        channel = oracle.Channel(*zip(*parts, strict=True), *(fmpq(x.numerator, x.denominator) for x in lost))
        d = sum(x != y for x, y in zip(clean, attacked, strict=True))
        for p_a, value in zip(CLEAN, worst_case(kernel.likelihood_ratio(d), CLEAN, 0.0), strict=True):
            assert oracle.lower_bound_is_sound(channel, p_a, 0.0, float(value))


@pytest.mark.parametrize("beta", [0.25, 0.6, 1.0])
def test_the_categorical_laws_hold_that_of_every_attacked_set(beta):
    sizes = (2, 3, 3)
    laws = [replaced(beta, size) for size in sizes]
    for clean, attacked in pairs(sizes):
        changed = tuple(size for size, x, y in zip(sizes, clean, attacked, strict=True) if x != y)
        ratio = hrs.CategoricalKernel(beta, changed).likelihood_ratio(len(changed)) if changed else identity()
        assert_law_equals_enumeration(ratio, laws, clean, attacked)


# The worst set of fields


FIELDS = {
    "moderate noise": (0.3, (2, 3, 5, 9, 9)),
    "binary fields beyond one half": (0.6, (2, 2, 3, 5, 9)),
    "most fields beyond": (0.85, (2, 3, 5, 8, 20)),
    "all fields beyond": (0.97, (2, 3, 5, 8, 8)),
    "at the edge": (0.75, (2, 4, 4, 5, 8)),
    "certain": (1.0, (2, 3, 5, 9)),
    "none": (0.0, (2, 3, 5)),
}


@pytest.mark.parametrize("rho", [0.0, 0.7])
@pytest.mark.parametrize("name", FIELDS)
def test_the_worst_candidate_set_is_the_worst_of_all_attacked_sets(name, rho):
    beta, cardinalities = FIELDS[name]
    smoothing = hrs.HybridSmoothing(hrs.CategoricalKernel(beta, cardinalities), 1.0)
    for d in range(1, len(cardinalities) + 1):
        channels = oracle.categorical_attacks(beta, cardinalities, d)
        ours = np.asarray(hrs.worst_case_probability(CLEAN, d, rho, smoothing))
        for p_a, value in zip(CLEAN, ours, strict=True):
            assert oracle.lower_bound_is_sound(channels, p_a, rho, float(value)), f"d = {d}, p_a = {p_a}"
            truth = float(oracle.worst_case_probability(channels, p_a, rho, relative=1e-12)[0])
            assert value == pytest.approx(truth, rel=1e-6, abs=1e-13), f"d = {d}, p_a = {p_a}"


@pytest.mark.parametrize("name", FIELDS)
def test_no_attacked_set_beats_the_candidates_at_zero_radius(name):
    beta, cardinalities = FIELDS[name]
    kernel = hrs.CategoricalKernel(beta, cardinalities)
    for d in range(1, len(cardinalities) + 1):
        everything = oracle.categorical_attacks(beta, cardinalities, d)
        sets = [tuple(sorted(k for k, _ in attacked)) for attacked in kernel.worst_sets(d)]
        candidates = [oracle.categorical(beta, attacked) for attacked in sets]
        for p_a in (fmpq(i, 97) for i in range(98)):
            assert min(oracle.knapsack(c, p_a) for c in candidates) == min(oracle.knapsack(c, p_a) for c in everything)


def test_one_beta_per_field_takes_the_worst_of_all_attacked_sets():
    betas, cardinalities = (0.2, 0.55, 0.2, 0.4), (2, 3, 3, 6)
    smoothing = hrs.HybridSmoothing(hrs.CategoricalKernel(betas, cardinalities), 1.0)
    fields = list(zip(betas, cardinalities, strict=True))
    for d in (1, 2, 3, 4):
        ours = np.asarray(hrs.worst_case_probability(CLEAN, d, 0.0, smoothing))
        each = [
            worst_case(compose_all(hrs.UniformKernel(b, k).likelihood_ratio(1) for b, k in attacked), CLEAN, 0.0)
            for attacked in itertools.combinations(fields, d)
        ]
        np.testing.assert_allclose(ours, np.min(each, axis=0), rtol=1e-12, atol=1e-14)


def test_equal_betas_given_per_field_are_one_beta():
    one, each = hrs.CategoricalKernel(0.6, (2, 3, 9)), hrs.CategoricalKernel((0.6,) * 3, (2, 3, 9))
    for d in range(4):
        assert one.worst_sets(d) == each.worst_sets(d)
