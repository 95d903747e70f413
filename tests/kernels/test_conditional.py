"""Conditional draws: the law between forced draws and every attack, held against enumeration and exact arithmetic.

Here a classifier is a table over all noisy texts (with a half-line of the image for each), an attack any change within
S, and scores are sums over all texts: the likelihood ratio itself is never asked.
"""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flint import arb, ctx
from scipy.special import ndtr

import hybrid_rs_jax as hrs
from hybrid_rs_jax.certificate.bounds import worst_case_bounds
from hybrid_rs_jax.kernels.conditional import check_forced
from hybrid_rs_jax.kernels.record import build_smoothing, describe_smoothing, smoothing_text


def law(symbols, kept, replaced, tokens):
    """Probabilities of all texts, each position with its own matrix `[clean, drawn]`."""
    rows = [
        np.where(np.arange(k) == t, kept[i], replaced[i]) for i, (k, t) in enumerate(zip(symbols, tokens, strict=True))
    ]
    return np.array([math.prod(row[z] for row, z in zip(rows, text, strict=True)) for text in all_texts(symbols)])


def all_texts(symbols):
    return list(itertools.product(*map(range, symbols)))


def uniform_laws(symbols, betas, clean, forced):
    """The law that is drawn with `forced` positions resampled, and the deployed law of every attack on them."""
    kept, replaced = 1 - betas, betas / (symbols - 1)
    even = 1 / symbols
    drawn = law(symbols, np.where(forced, even, kept), np.where(forced, even, replaced), clean)
    options = [range(k) if f else [c] for k, f, c in zip(symbols, forced, clean, strict=True)]
    return drawn, [law(symbols, kept, replaced, attacked) for attacked in itertools.product(*options)]


def scores(rng, drawn, attacked, rho, kind):
    """A random classifier's score on forced draws, and its least score over the attacks."""
    if kind == "random":
        t = rng.normal(0, 3, drawn.size)
    else:  # the Neyman-Pearson test of one attack, at a random threshold
        ratio = np.log(attacked[rng.integers(len(attacked))]) - np.log(drawn)
        t = (rng.normal(0, 3) - ratio) / max(rho, 1e-9) + rho / 2
    accept = (t > 0).astype(float) if rho == 0 else ndtr(t)
    after = accept if rho == 0 else ndtr(t - rho)
    return float(drawn @ accept), min(float(q @ after) for q in attacked)


CASES = [
    (hrs.UniformKernel(0.25, 3), (3, 3, 3)),
    (hrs.UniformKernel(0.75, 3), (3, 3, 3)),
    (hrs.UniformKernel(0.1, 5), (5, 5)),
    (hrs.UniformKernel(0.5, 2), (2, 2, 2, 2)),
    (hrs.CategoricalKernel(0.25, (2, 5, 3)), (2, 5, 3)),
    (hrs.CategoricalKernel(0.6, (2, 4, 3)), (2, 4, 3)),
    (hrs.CategoricalKernel((0.2, 0.75, 0.5), (2, 3, 3)), (2, 3, 3)),
]


@pytest.mark.parametrize(("kernel", "symbols"), CASES, ids=lambda x: str(x)[:40])
def test_no_attack_on_any_classifier_falls_below_the_bound_and_one_attains_it(kernel, symbols):
    rng = np.random.default_rng(0)
    symbols = np.array(symbols)
    betas = np.broadcast_to(np.asarray(kernel.beta), symbols.shape)
    smoothing = hrs.HybridSmoothing(hrs.Conditional(kernel), 1.0)
    clean = tuple(rng.integers(symbols))
    for d in range(1, len(symbols) + 1):
        cases = []
        for positions in itertools.combinations(range(len(symbols)), d):
            forced = np.isin(np.arange(len(symbols)), positions)
            drawn, attacked = uniform_laws(symbols, betas, clean, forced)
            for rho in (0.0, 0.4, 2.0):
                for kind in ["random"] * 5 + ["optimal"] * 15:
                    q, truth = scores(rng, drawn, attacked, rho, kind)
                    cases.append((min(q, 1.0), truth, rho))
        q, truth, rho = np.array(cases).T
        bound, _ = worst_case_bounds(q, d, rho, smoothing)
        assert np.all(bound <= truth * (1 + 1e-12) + 1e-14)
        assert np.any((truth > 1e-3) & (truth < bound * (1 + 1e-9)))


def test_the_bound_at_a_budget_covers_fewer_changes_and_every_symbol_at_the_forced_positions():
    """The clean text itself is among the attacks that `uniform_laws` enumerates, and so is any part of a change."""
    drawn, attacked = uniform_laws(np.array([3, 3]), np.array([0.25, 0.25]), (0, 1), np.array([True, True]))
    assert len(attacked) == 9
    assert all(q.sum() == pytest.approx(1) for q in [drawn, *attacked])


def test_absorbing_noise_keeps_the_share_that_masks_every_attacked_token():
    """Symbols 0, 1 and the mask 2; S is all masked in the draws, so the score there does not depend on the attack."""
    rng, kernel = np.random.default_rng(1), hrs.AbsorbingKernel(0.3, mask_token=2)
    beta, smoothing = kernel.beta, hrs.HybridSmoothing(hrs.Conditional(kernel), 1.0)
    for _ in range(12):
        accept = {text: rng.random() for text in itertools.product(range(3), repeat=3)}

        def score(tokens, forced, accept=accept):
            rows = [{2: 1.0} if f else {t: 1 - beta, 2: beta} for t, f in zip(tokens, forced, strict=True)]
            return sum(
                math.prod(row[z] for row, z in zip(rows, text, strict=True)) * accept[text]
                for text in itertools.product(*rows)
            )

        for forced in itertools.product((False, True), repeat=3):
            d = sum(forced)
            q = score((0, 0, 0), forced)
            truth = min(
                score(attacked, (False,) * 3)
                for attacked in itertools.product(*[(0, 1) if f else (0,) for f in forced])
            )
            bound, _ = worst_case_bounds(q, d, 0.0, smoothing)
            assert bound <= truth * (1 + 1e-12)
    # the classifier that accepts masked texts only
    assert worst_case_bounds(1.0, 2, 0.0, smoothing)[0] == pytest.approx(beta**2, rel=1e-12)


# Exact values


def exact_atoms(beta, vocab_size, d):
    ctx.prec = 200
    b, v = arb(beta), arb(vocab_size)
    for j in range(d + 1):
        choose = arb(math.comb(d, j))
        p = choose * v**-j * (1 - 1 / v) ** (d - j)
        q = choose * (1 - b) ** j * b ** (d - j)
        ratio = j * ((1 - b) * v).log() + (d - j) * (b * v / (v - 1)).log()
        yield ratio, p.log(), q.log()


@pytest.mark.parametrize("beta", [2.0**-32, 0.25, 0.5, 0.75, 1 - 2.0**-32])
@pytest.mark.parametrize("vocab_size", [2, 3, 1000, 151_936])
@pytest.mark.parametrize("d", [1, 2, 9, 300])
def test_atoms_are_exact_to_the_last_bits(beta, vocab_size, d):
    ratio = hrs.Conditional(hrs.UniformKernel(beta, vocab_size)).likelihood_ratio(d)
    assert ratio.atoms == d + 1
    assert ratio.p_0 == ratio.q_inf == 0
    assert np.all(np.diff(ratio.log_ratio) >= 0)
    exact = list(exact_atoms(beta, vocab_size, d))
    if exact[0][0] > exact[-1][0]:
        exact.reverse()
    allowed = 2.0**-53
    for (log_ratio, log_p, log_q), *found in zip(exact, ratio.log_ratio, ratio.log_p, ratio.log_q, strict=True):
        for value, stored in zip((log_ratio, log_p, log_q), found, strict=True):
            assert abs(value - arb(float(stored))) <= allowed * (abs(float(value)) + 4)


def test_the_ends_of_beta_are_singular_and_sound():
    always = hrs.Conditional(hrs.UniformKernel(1.0, 5)).likelihood_ratio(2)
    assert always.p_0 == pytest.approx(1 - 0.8**2)
    assert np.exp(always.log_q) == pytest.approx(1)
    assert np.exp(always.log_ratio) == pytest.approx(1 / 0.8**2)
    never = hrs.Conditional(hrs.UniformKernel(0.0, 5)).likelihood_ratio(2)
    assert never.p_0 == pytest.approx(1 - 1 / 25)
    assert np.exp(never.log_ratio) == pytest.approx(25)
    assert hrs.Conditional(hrs.AbsorbingKernel(0.0)).likelihood_ratio(1).q_inf == 1
    for kernel in (hrs.UniformKernel(0.5, 5), hrs.AbsorbingKernel(0.5), hrs.DeletionKernel(0.5)):
        assert hrs.Conditional(kernel).likelihood_ratio(0).log_ratio.tolist() == [0]


def test_equal_fields_have_the_atoms_of_the_uniform_kernel():
    fields = hrs.Conditional(hrs.CategoricalKernel(0.25, (7,) * 4)).likelihood_ratio(3)
    tokens = hrs.Conditional(hrs.UniformKernel(0.25, 7)).likelihood_ratio(3)
    np.testing.assert_array_equal(fields.log_ratio, tokens.log_ratio)
    # a budget beyond the fields means all of them
    assert hrs.Conditional(hrs.CategoricalKernel(0.25, (7,) * 4)).likelihood_ratio(9).atoms == 5


@pytest.mark.parametrize(
    "beta", [0.1, 0.45, pytest.param(0.55, marks=pytest.mark.slow), pytest.param(0.7, marks=pytest.mark.slow), 0.85]
)
def test_the_worst_set_of_fields_is_among_the_candidates(beta):
    """All sets of fields by themselves, each by its own law, are never below the least candidate."""
    sizes = (2, 3, 4, 6)
    kernel = hrs.CategoricalKernel(beta, sizes)
    smoothing = hrs.HybridSmoothing(hrs.Conditional(kernel), 1.0)
    for d in (1, 2, 3):
        for rho in (0.0, 0.7):
            for q in (0.3, 0.9, 0.999):
                least = min(
                    hrs.worst_case_probability(
                        q, d, rho, hrs.HybridSmoothing(hrs.Conditional(hrs.CategoricalKernel(beta, chosen)), 1.0)
                    )
                    for chosen in itertools.combinations(sizes, d)
                )
                assert hrs.worst_case_probability(q, d, rho, smoothing) == pytest.approx(least, rel=1e-9, abs=1e-15)


# What the method promises


def test_draws_needed_when_all_agree():
    smoothing = hrs.HybridSmoothing(hrs.Conditional(hrs.UniformKernel(0.25, 32_000)), 1.0)
    assert hrs.required_samples(range(1, 9), 1.0, smoothing, 4.6e-5, 0.01).tolist() == [1, 2, 2, 3, 4, 8, 98, 28_441]
    ordinary = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 32_000), 1.0)
    needed = [17, 73, 305, 1_310, 6_270, 41_354, 1_598_233]
    assert hrs.required_samples(range(1, 8), 1.0, ordinary, 4.6e-5, 0.01).tolist() == needed


def test_draws_needed_for_categorical_fields():
    smoothing = hrs.HybridSmoothing(hrs.Conditional(hrs.CategoricalKernel(0.25, (3,) * 4)), 1.0)
    # 127 draws prove .964388, and d = 3 needs .964455 (200 bits: the test below), so 128
    assert hrs.required_samples([1, 2, 3], 1.0, smoothing, 0.5, 0.01).tolist() == [48, 80, 128]
    ordinary = hrs.HybridSmoothing(hrs.CategoricalKernel(0.25, (3,) * 4), 1.0)
    assert hrs.required_samples([1, 2, 3], 1.0, ordinary, 0.5, 0.01).tolist() == [130, 549, 2_050]


def test_the_needed_score_agrees_with_200_bits():
    """The frontier `V(c) = tau`, `p = F(c)`, by bisection on balls."""
    ctx.prec = 200

    def cdf(x):
        return (1 + (x / arb(2).sqrt()).erf()) / 2

    for beta, vocab_size, d, tau in [(0.25, 3, 3, 0.5), (0.25, 32_000, 6, 4.6e-5), (0.5, 10, 2, 0.1)]:
        atoms = [(r, p.exp(), q.exp()) for r, p, q in exact_atoms(beta, vocab_size, d)]
        low, high = arb(-60), arb(60)
        for _ in range(150):
            c = arb(((low + high) / 2).mid())
            accepted = sum((q * cdf(c - r - arb(0.5)) for r, _, q in atoms), arb(0))
            low, high = (low, c) if accepted > arb(tau) else (c, high)
        exact = sum((p * cdf(high - r + arb(0.5)) for r, p, _ in atoms), arb(0))
        smoothing = hrs.HybridSmoothing(hrs.Conditional(hrs.UniformKernel(beta, vocab_size)), 1.0)
        found = hrs.required_probability(d, 1.0, smoothing, tau)
        assert arb(found) >= exact * (1 - arb(1e-40))
        assert found == pytest.approx(float(exact), rel=1e-11)


def test_large_alphabets_keep_about_kappa_to_the_d():
    vocab_size, beta, rho, q = 151_936, 0.25, 0.8, 0.93
    kappa = vocab_size * min(beta / (vocab_size - 1), 1 - beta)
    smoothing = hrs.HybridSmoothing(hrs.Conditional(hrs.UniformKernel(beta, vocab_size)), 1.0)
    for d in (1, 2, 4):
        simple = kappa**d * ndtr(1.4757910281791713 - rho)
        assert hrs.worst_case_probability(q, d, rho, smoothing) == pytest.approx(simple, rel=1e-3)
        assert hrs.worst_case_probability(q, d, rho, smoothing) >= simple * (1 - 1e-12)


def test_everything_downstream_takes_conditional_draws():
    smoothing = hrs.HybridSmoothing(hrs.Conditional(hrs.UniformKernel(0.25, 1000)), 0.5)
    budgets, q = np.arange(4), np.array([0.999, 0.99, 0.98, 0.97])
    radius = hrs.certified_radius(q, budgets, smoothing, 1e-3)
    assert np.all(hrs.worst_case_probability(q, budgets, radius, smoothing) > 1e-3)
    need = hrs.required_probability(budgets, radius, smoothing, 1e-3)
    np.testing.assert_allclose(need, q, rtol=1e-6)
    below = hrs.certified_radius(1 - q, budgets, smoothing, 0.999, side="below")
    np.testing.assert_allclose(below, radius, rtol=1e-6)
    assert np.all(hrs.largest_probability(1 - q, budgets, radius, smoothing) < 0.999 + 1e-9)
    ratio = hrs.Conditional(hrs.UniformKernel(0.25, 1000)).likelihood_ratio(2)
    with jax.enable_x64(True):
        rho = hrs.core.certified_radius(0.98, ratio, 1e-3)
        assert float(rho) * 0.5 == pytest.approx(radius[2], rel=1e-9)
    narrow = hrs.core.certified_radius(jnp.float32(0.98), ratio, jnp.float32(1e-3))
    assert 0.9 * float(rho) < float(narrow) <= float(rho)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: hrs.certified_radius(0.9, [1, 2], s, 0.1),
        lambda s: hrs.certified_radius([[0.9], [0.8]], [1, 2], s, 0.1),
        lambda s: hrs.certified_radius([0.9, 0.8], [[1], [2]], s, 0.1),
        lambda s: hrs.worst_case_probability(0.9, [1, 2], 0.0, s),
        lambda s: hrs.largest_probability(0.1, [1, 2], 0.0, s),
        lambda s: hrs.certified_budget(0.9, s, 0.1),
        lambda s: hrs.certified_radius(0.9, hrs.Edits(1), s, 0.1),
    ],
)
def test_one_score_for_several_budgets_is_refused(call):
    smoothing = hrs.HybridSmoothing(hrs.Conditional(hrs.UniformKernel(0.25, 1000)), 0.5)
    with pytest.raises(ValueError, match=r"^[^\n]*got [^\n]*$"):
        call(smoothing)


def test_scores_for_one_budget_or_one_for_each_are_taken():
    smoothing = hrs.HybridSmoothing(hrs.Conditional(hrs.UniformKernel(0.25, 1000)), 0.5)
    both = hrs.certified_radius(np.full((3, 2), 0.9), [1, 2], smoothing, 0.1)
    assert both.shape == (3, 2)
    np.testing.assert_array_equal(hrs.certified_radius([0.9, 0.9, 0.9], 1, smoothing, 0.1), both[:, 0])
    np.testing.assert_array_equal(hrs.certified_radius([0.9, 0.9], [2, 2], smoothing, 0.1), both[:2, 1])


# The sampler


def copies(kernel, tokens, n, eligible=None, forced=None, seed=0):
    keys = jax.random.split(jax.random.key(seed), n)
    draw = jax.jit(jax.vmap(lambda key: hrs.Conditional(kernel).sample(key, tokens, eligible, forced)))
    return np.asarray(draw(keys))


def test_forced_positions_show_every_symbol_equally_often_and_the_others_their_ordinary_noise():
    tokens = jnp.asarray([3, 1, 4, 0], jnp.int32)
    forced = jnp.asarray([False, True, True, False])
    drawn = copies(hrs.UniformKernel(0.25, 5), tokens, 40_000, forced=forced)
    for position in (1, 2):
        share = np.bincount(drawn[:, position], minlength=5) / 40_000
        np.testing.assert_allclose(share, 0.2, atol=0.009)
    np.testing.assert_allclose((drawn[:, [0, 3]] == [3, 0]).mean(0), 0.75, atol=0.009)
    pairs = np.bincount(drawn[:, 1] * 5 + drawn[:, 2], minlength=25) / 40_000
    np.testing.assert_allclose(pairs, 0.04, atol=0.005)


@pytest.mark.parametrize(
    "kernel", [hrs.UniformKernel(0.5, 9), hrs.AbsorbingKernel(0.5, mask_token=8), hrs.CategoricalKernel(0.5, (9,) * 6)]
)
def test_the_noise_of_the_other_positions_is_the_same_whatever_is_forced(kernel):
    tokens = jnp.arange(6, dtype=jnp.int16)
    plain = np.asarray(jax.vmap(lambda key: kernel.sample(key, tokens))(jax.random.split(jax.random.key(0), 200)))
    np.testing.assert_array_equal(copies(kernel, tokens, 200), plain)
    for forced in ([1, 0, 0, 1, 0, 0], [0, 0, 1, 1, 0, 1]):
        mask = np.asarray(forced, bool)
        drawn = copies(kernel, tokens, 200, forced=jnp.asarray(mask))
        np.testing.assert_array_equal(drawn[:, ~mask], plain[:, ~mask])
        assert drawn.dtype == np.int16


def test_forced_positions_are_always_masked_and_fields_stay_within_their_alphabets():
    tokens, forced = jnp.zeros(3, jnp.int32), jnp.asarray([True, False, True])
    assert np.all(copies(hrs.AbsorbingKernel(0.1, 7), tokens, 50, forced=forced)[:, [0, 2]] == 7)
    drawn = copies(hrs.CategoricalKernel(0.1, (2, 3, 40)), tokens, 4_000, forced=forced)
    assert drawn.max(0).tolist() == [1, 2, 39]
    assert (drawn[:, 0] == 0).mean() == pytest.approx(0.5, abs=0.03)


def test_forced_positions_must_be_eligible():
    eligible = np.array([[True, False, True]])
    assert check_forced([True, False, False], eligible).tolist() == [[True, False, False]]
    with pytest.raises(ValueError, match=r"^forced must hold eligible positions only, got position 1 of input 0\.$"):
        check_forced([True, True, False], eligible)


def unchecked(kind, **fields):
    """An instance as a caller without the tests' type check would make it."""
    made = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    made.__post_init__()
    return made


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda: unchecked(hrs.Conditional, kernel=None, nested=False), "None"),
        (lambda: hrs.Conditional(hrs.UniformKernel(0.5, 5), nested=True), "UniformKernel"),
    ],
)
def test_kernels_without_conditional_draws_are_refused(make, value):
    with pytest.raises(ValueError, match=value):
        make()


def test_sizes_of_the_forced_sets():
    assert list(hrs.Conditional(hrs.UniformKernel(0.5, 5)).forced_sizes(3)) == [3]
    assert list(hrs.Conditional(hrs.CategoricalKernel(0.5, (5, 5))).forced_sizes(3)) == [2]
    deletion = hrs.DeletionKernel(0.5)
    assert list(hrs.Conditional(deletion).forced_sizes(hrs.Edits(1, 2, 1))) == [2]
    assert list(hrs.Conditional(deletion, nested=True).forced_sizes(hrs.Edits(1, 2, 1))) == [0, 1, 2]


@pytest.mark.parametrize(
    "kernel",
    [
        hrs.DeletionKernel(0.5, pad_token=3),
        hrs.Conditional(hrs.UniformKernel(0.25, 9)),
        hrs.Conditional(hrs.AbsorbingKernel(0.25, 2)),
        hrs.Conditional(hrs.CategoricalKernel((0.25, 0.5), (2, 3))),
        hrs.Conditional(hrs.DeletionKernel(0.75), nested=True),
    ],
)
def test_a_record_of_the_noise_gives_it_back(kernel):
    smoothing = hrs.HybridSmoothing(kernel, 0.5)
    record = json.loads(json.dumps(describe_smoothing(smoothing)))
    assert build_smoothing(record) == smoothing
    assert ("conditional draws" in smoothing_text(record)) == smoothing.conditional


def test_a_record_that_says_other_draws_is_refused():
    record = {"kernel": "uniform", "beta": 0.25, "vocab_size": 9, "sigma": 1.0, "draws": "lucky"}
    with pytest.raises(ValueError, match=r"^draws must be ordinary or conditional, got 'lucky'\.$"):
        build_smoothing(record)
