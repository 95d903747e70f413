"""The noise that is drawn is the noise that is certified: masses, samplers, and what the kernels refuse."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from flint import arb
from scipy import stats

import hybrid_rs_jax as hrs
from hybrid_rs_jax.kernels.base import hit_limits
from hybrid_rs_jax.kernels.uniform import below

DRAWS = 200_000


def assert_masses_are_promised(ratio, channel):
    """Every mass within `rounding * (|log mass| + 4) * 2^-53` of the exact one, every log ratio within a few units."""
    assert ratio.atoms == len(channel.ratio)
    allowed = float(ratio.rounding) * 2.0**-53
    with oracle.precision(256):
        for i, (log_ratio, p, q) in enumerate(channel.atoms()):
            for log_mass, mass in ((ratio.log_p[i], p), (ratio.log_q[i], q)):
                error = float(abs(arb(float(log_mass)).exp() / mass - 1))
                assert error <= allowed * (abs(log_mass) + 4), f"atom {i}: log mass {log_mass} is off by {error}"
            assert float(abs(float(ratio.log_ratio[i]) - log_ratio)) <= 8 * 2.0**-53 * (abs(float(log_ratio)) + 1)
        for singular, mass in ((ratio.p_0, channel.p_0), (ratio.q_inf, channel.q_inf)):
            assert float(abs(float(singular) - arb(mass))) <= allowed * 5 * float(mass)


@pytest.mark.parametrize("d", [1, 2, 7, 64])
@pytest.mark.parametrize(
    ("beta", "vocab_size"),
    [(0.25, 32_000), (0.1, 3), (0.3, 2), (0.8, 2), (0.9, 3), (1e-9, 512), (0.999, 1 << 20), (1 - 1e-9, 17)],
)
def test_uniform_masses_are_within_the_promised_rounding(beta, vocab_size, d):
    assert_masses_are_promised(
        hrs.UniformKernel(beta, vocab_size).likelihood_ratio(d), oracle.uniform(beta, vocab_size, d)
    )


def test_uniform_masses_beyond_the_range_of_float64_are_within_the_promised_rounding():
    ratio, channel = hrs.UniformKernel(0.01, 50_000).likelihood_ratio(150), oracle.uniform(0.01, 50_000, 150)
    assert ratio.log_p.min() < math.log(5e-324)
    assert_masses_are_promised(ratio, channel)


@pytest.mark.parametrize("d", [1, 3, 50])
@pytest.mark.parametrize("beta", [1e-6, 0.25, 0.5, 0.999])
def test_absorbing_masses_are_within_the_promised_rounding(beta, d):
    assert_masses_are_promised(hrs.AbsorbingKernel(beta).likelihood_ratio(d), oracle.absorbing(beta, d))


@pytest.mark.parametrize("beta", [0.1, 0.25, 0.45])
@pytest.mark.parametrize("cardinalities", [(2,), (2, 3), (3, 3, 7), (2, 5, 11, 11), (4, 4, 4, 9, 9)])
def test_categorical_masses_are_within_the_promised_rounding(beta, cardinalities):
    ratio = hrs.CategoricalKernel(beta, cardinalities).likelihood_ratio(len(cardinalities))
    assert_masses_are_promised(ratio, oracle.categorical(beta, tuple(sorted(cardinalities))))


def test_equal_fields_are_the_uniform_kernel():
    fields, tokens = hrs.CategoricalKernel(0.3, (6,) * 5), hrs.UniformKernel(0.3, 6)
    for d in range(6):
        for one, other in zip(
            jax.tree.leaves(fields.likelihood_ratio(d)), jax.tree.leaves(tokens.likelihood_ratio(d)), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-14)


# Limits


@pytest.mark.parametrize(
    "kernel", [hrs.UniformKernel(0.5, 9), hrs.AbsorbingKernel(0.5), hrs.CategoricalKernel(0.5, (9,))]
)
def test_no_changed_token_is_the_identity(kernel):
    ratio = kernel.likelihood_ratio(0)
    assert (ratio.atoms, ratio.log_ratio[0], ratio.log_p[0], ratio.p_0, ratio.q_inf) == (1, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "kernel", [hrs.UniformKernel(0.0, 9), hrs.AbsorbingKernel(0.0), hrs.CategoricalKernel(0.0, (9,))]
)
def test_no_noise_hides_nothing(kernel):
    ratio = kernel.likelihood_ratio(1)
    assert (ratio.p_0, ratio.q_inf) == (1, 1)
    assert np.exp(ratio.log_p).sum() == 0


@pytest.mark.parametrize(("vocab_size", "d"), [(3, 1), (10, 4), (2, 1), (2, 3)])
def test_certain_replacement_has_the_singular_masses_of_the_oracle(vocab_size, d):
    ratio, channel = hrs.UniformKernel(1.0, vocab_size).likelihood_ratio(d), oracle.uniform(1.0, vocab_size, d)
    assert ratio.p_0 == pytest.approx(float(channel.p_0), rel=1e-15)
    assert ratio.q_inf == pytest.approx(float(channel.q_inf), rel=1e-15)
    assert np.exp(ratio.log_p).sum() == pytest.approx(float(sum(channel.p)), rel=1e-15)


def test_certain_masking_hides_everything():
    assert hrs.AbsorbingKernel(1.0).likelihood_ratio(5).p_0 == 0


@pytest.mark.parametrize(("beta", "vocab_size"), [(0.5, 2), (0.75, 4), (31 / 32, 32)])
def test_noise_that_forgets_the_token_has_ratio_one_everywhere(beta, vocab_size):
    ratio = hrs.UniformKernel(beta, vocab_size).likelihood_ratio(3)
    np.testing.assert_array_equal(ratio.log_ratio, 0.0)
    assert np.exp(ratio.log_p).sum() == pytest.approx(1, abs=1e-15)


def test_ratios_are_sorted_where_a_replacement_is_likelier_than_the_token_itself():
    ratio = hrs.UniformKernel(0.9, 3).likelihood_ratio(2)
    assert np.all(np.diff(ratio.log_ratio) > 0)
    assert np.exp(ratio.log_p) @ np.exp(ratio.log_ratio) == pytest.approx(1, rel=1e-14)


def test_more_changed_fields_than_there_are_means_all_of_them():
    kernel = hrs.CategoricalKernel(0.25, (2, 3, 5))
    np.testing.assert_array_equal(kernel.likelihood_ratio(9).log_p, kernel.likelihood_ratio(3).log_p)
    kernel = hrs.CategoricalKernel((0.25, 0.5, 0.1), (2, 3, 5))
    np.testing.assert_array_equal(kernel.likelihood_ratio(9).log_p, kernel.likelihood_ratio(3).log_p)


@pytest.mark.parametrize("d", range(7))
def test_one_beta_leaves_at_most_d_plus_one_sets_of_fields(d):
    kernel = hrs.CategoricalKernel(0.7, (2, 2, 3, 4, 5, 6, 7, 8))
    assert 1 <= len(kernel.likelihood_ratios(d)) <= d + 1


def test_incomparable_sets_of_fields_are_not_passed_off_as_one_law():
    with pytest.raises(ValueError, match=r"^No single set of 1 fields .* take the minimum over the 2 laws .*\.$"):
        hrs.CategoricalKernel(0.7, (2, 9)).likelihood_ratio(1)


# The sampler against the likelihood ratio


def uniform_pmf(beta, size):
    """Law of one noisy symbol, rows: the clean symbol, columns: the noisy one; beta as drawn."""
    beta = round(beta * 2**32) / 2**32
    return np.where(np.eye(size, dtype=bool), 1 - beta, beta / (size - 1))


def absorbing_pmf(beta, size, mask):
    beta = round(beta * 2**32) / 2**32
    pmf = (1 - beta) * np.eye(size)
    pmf[:, mask] += beta
    return pmf


MIXED = (2, 3, 5, 7)
SAMPLED = {
    "uniform": (hrs.UniformKernel(0.3, 4), [uniform_pmf(0.3, 4)] * 4, [0, 1, 2, 3], [3, 1, 0, 2]),
    "uniform, two symbols": (hrs.UniformKernel(0.2, 2), [uniform_pmf(0.2, 2)] * 4, [0, 1, 1, 0], [1, 0, 0, 1]),
    "uniform, turned order": (hrs.UniformKernel(0.9, 3), [uniform_pmf(0.9, 3)] * 4, [0, 1, 2, 0], [1, 1, 1, 1]),
    "uniform, certain": (hrs.UniformKernel(1.0, 4), [uniform_pmf(1.0, 4)] * 4, [0, 1, 2, 3], [1, 0, 2, 3]),
    "absorbing": (hrs.AbsorbingKernel(0.6, 3), [absorbing_pmf(0.6, 5, 3)] * 4, [0, 1, 2, 4], [1, 0, 2, 0]),
    "categorical": (
        hrs.CategoricalKernel(0.35, MIXED),
        [uniform_pmf(0.35, k) for k in MIXED],
        [0, 1, 2, 3],
        [1, 2, 4, 0],
    ),
    "categorical, one beta per field": (
        hrs.CategoricalKernel((0.1, 0.5, 0.3, 0.6), MIXED),
        [uniform_pmf(b, k) for b, k in zip((0.1, 0.5, 0.3, 0.6), MIXED, strict=True)],
        [1, 0, 4, 6],
        [0, 2, 1, 5],
    ),
}


def log_ratios(noisy, pmfs, clean, attacked):
    """`log(q/p)` of noisy copies, from the definition of the kernel."""
    with np.errstate(divide="ignore"):
        logs = [np.log(pmf) for pmf in pmfs]
    changed = [i for i, (x, y) in enumerate(zip(clean, attacked, strict=True)) if x != y]
    q = sum(logs[i][attacked[i], noisy[:, i]] for i in changed)
    return q - sum(logs[i][clean[i], noisy[:, i]] for i in changed)


@pytest.mark.parametrize("attacker_draws", [False, True], ids=["clean", "attacked"])
@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_log_ratios_follow_the_certified_law(name, attacker_draws):
    kernel, pmfs, clean, attacked = SAMPLED[name]
    ratio = kernel.likelihood_ratio(sum(x != y for x, y in zip(clean, attacked, strict=True)))
    start = jnp.asarray(attacked if attacker_draws else clean, jnp.int32)
    noisy = jax.jit(jax.vmap(kernel.sample, (0, None)))(jax.random.split(jax.random.key(7), DRAWS), start)
    found = log_ratios(np.asarray(noisy), pmfs, clean, attacked)

    masses, singular = (ratio.log_q, ratio.q_inf) if attacker_draws else (ratio.log_p, ratio.p_0)
    finite = np.isfinite(found)
    assert np.all(found[~finite] == (np.inf if attacker_draws else -np.inf))
    atom = np.abs(found[finite][:, None] - np.asarray(ratio.log_ratio)).argmin(axis=1)
    np.testing.assert_allclose(np.asarray(ratio.log_ratio)[atom], found[finite], atol=1e-12)

    expected = DRAWS * np.append(np.exp(masses), singular)
    counted = np.append(np.bincount(atom, minlength=ratio.atoms), (~finite).sum())
    rare = expected < 10
    if rare.any():
        expected = np.append(expected[~rare], expected[rare].sum())
        counted = np.append(counted[~rare], counted[rare].sum())
    expected, counted = expected[:-1] if expected[-1] == 0 else expected, counted[: -1 if expected[-1] == 0 else None]
    assert counted.sum() == DRAWS
    statistic = ((counted - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(statistic, max(len(expected) - 1, 1)) > 1e-6


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int16, jnp.int32])
def test_replacements_are_uniform_over_the_other_symbols_in_every_signed_dtype(dtype):
    kernel, token = hrs.UniformKernel(1.0, 100), 99
    noisy = kernel.sample(jax.random.key(1), jnp.full(DRAWS, token, dtype))
    assert noisy.dtype == dtype
    counted = np.bincount(np.asarray(noisy), minlength=100)
    assert counted.shape == (100,)
    assert counted[token] == 0
    assert stats.chisquare(counted[:token]).pvalue > 1e-6


def test_int16_tokens_stay_in_a_vocabulary_close_to_the_limit_of_the_dtype():
    noisy = hrs.UniformKernel(1.0, 32_000).sample(jax.random.key(2), jnp.full(DRAWS, 31_999, jnp.int16))
    assert 0 <= int(noisy.min()) < int(noisy.max()) < 31_999


def test_the_largest_alphabet_has_no_bias_towards_either_half():
    """`randint` of JAX takes remainders; here a word of 96 bits is scaled."""
    size = 3 * 2**29  # a remainder of 32 bits would favour the lower symbols by half
    noisy = hrs.UniformKernel(1.0, size).sample(jax.random.key(2), jnp.full(DRAWS, size - 1, jnp.int32))
    thirds = np.bincount(np.asarray(noisy) // 2**29, minlength=3)
    assert stats.chisquare(thirds).pvalue > 1e-6


@pytest.mark.parametrize("limit", [1, 2, 3, 511, 32_000, 151_935, 2**31 - 2])
def test_a_symbol_is_the_product_of_its_96_bits_and_the_alphabet(limit):
    words = np.random.default_rng(limit).integers(0, 2**32, (3, 2000), dtype=np.uint32)
    words[:, 0], words[:, 1] = 0, 2**32 - 1
    found = below(tuple(map(jnp.asarray, words)), jnp.full(2000, limit, jnp.uint32))
    exact = [
        ((high << 64) + (middle << 32) + low) * limit >> 96 for high, middle, low in zip(*words.tolist(), strict=True)
    ]
    assert found.tolist() == exact


def test_beta_is_kept_as_it_is_drawn():
    kernel = hrs.UniformKernel(0.3, 7)
    assert kernel.beta * 2**32 == round(0.3 * 2**32)
    last, possible = hit_limits(kernel.beta)
    assert (int(last) + 1) == kernel.beta * 2**32
    assert possible
    assert hrs.UniformKernel(1e-10, 7).beta == 0, "what is never drawn is not certified as if it were"
    assert hrs.AbsorbingKernel(1 - 1e-11).beta == 1


def test_noisy_positions_are_independent():
    kernel = hrs.UniformKernel(0.5, 3)
    noisy = np.asarray(kernel.sample(jax.random.key(3), jnp.zeros((DRAWS, 2), jnp.int32)))
    counted = np.bincount(noisy[:, 0] * 3 + noisy[:, 1], minlength=9)
    one = np.array([0.5, 0.25, 0.25])
    assert stats.chisquare(counted, DRAWS * np.outer(one, one).ravel()).pvalue > 1e-6


KERNELS = [
    hrs.UniformKernel(0.4, 7),
    hrs.AbsorbingKernel(0.4, 2),
    hrs.CategoricalKernel(0.4, (7,) * 60),
    hrs.CategoricalKernel(tuple(np.linspace(0.0, 1.0, 60).tolist()), (7,) * 60),
]
TOKENS = jnp.arange(60, dtype=jnp.int32) % 7


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_jitted_sample_is_the_eager_sample(kernel):
    key = jax.random.key(4)
    np.testing.assert_array_equal(jax.jit(kernel.sample)(key, TOKENS), kernel.sample(key, TOKENS))


@pytest.mark.parametrize("kernel", KERNELS)
def test_positions_that_are_not_eligible_are_kept(kernel):
    eligible = jnp.arange(60) % 3 == 0
    keys = jax.random.split(jax.random.key(5), 200)
    moved = np.asarray(jax.vmap(lambda key: kernel.sample(key, TOKENS, eligible))(keys) != TOKENS).any(axis=0)
    assert not moved[~np.asarray(eligible)].any()
    assert moved[np.asarray(eligible)].sum() >= 15
    np.testing.assert_array_equal(kernel.sample(keys[0], TOKENS, jnp.ones(60, bool)), kernel.sample(keys[0], TOKENS))


@pytest.mark.parametrize(
    "kernel", [hrs.UniformKernel(0.0, 7), hrs.AbsorbingKernel(0.0), hrs.CategoricalKernel(0.0, (7,) * 60)]
)
def test_probability_zero_never_replaces(kernel):
    noisy = jax.vmap(kernel.sample, (0, None))(jax.random.split(jax.random.key(6), 2000), TOKENS)
    assert bool((noisy == TOKENS).all())


def test_probability_one_always_replaces():
    keys = jax.random.split(jax.random.key(6), 2000)
    assert bool((jax.vmap(hrs.UniformKernel(1.0, 7).sample, (0, None))(keys, TOKENS) != TOKENS).all())
    assert bool((jax.vmap(hrs.AbsorbingKernel(1.0, 9).sample, (0, None))(keys, TOKENS) == 9).all())
    flipped = jax.vmap(hrs.UniformKernel(1.0, 2).sample, (0, None))(keys, TOKENS % 2)
    assert bool((flipped == 1 - TOKENS % 2).all())


# What the kernels refuse


@pytest.mark.parametrize(
    ("kernel", "tokens", "value"),
    [
        (hrs.UniformKernel(0.5, 7), [0, 7], "Token 7 lies outside of the noise alphabet 0..6"),
        (hrs.UniformKernel(0.5, 7), [-1, 3], "Token -1 "),
        (hrs.UniformKernel(0.5, 7), [0.5], "float64"),
        (hrs.AbsorbingKernel(0.5), [0.5], "float64"),
        (hrs.CategoricalKernel(0.5, (2, 9)), [[1, 8], [2, 0]], "Token 2 lies outside of the noise alphabet 0..1"),
        (hrs.CategoricalKernel(0.5, (2, 9)), [1, 8, 0], r"\(3,\)"),
        (hrs.CategoricalKernel(0.5, (2, 9)), 1, r"\(\)"),
    ],
)
def test_tokens_that_the_certificate_does_not_cover_are_refused(kernel, tokens, value):
    with pytest.raises(ValueError, match=value):
        kernel.check_tokens(np.asarray(tokens))


@pytest.mark.parametrize(
    ("kernel", "tokens"),
    [
        (hrs.UniformKernel(0.5, 7), [0, 6]),
        (hrs.AbsorbingKernel(0.5), [-5, 10**9]),
        (hrs.CategoricalKernel(0.5, (2, 9)), [[1, 8], [0, 0]]),
    ],
)
def test_tokens_of_the_alphabet_pass(kernel, tokens):
    kernel.check_tokens(np.asarray(tokens))


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda: hrs.UniformKernel(-0.1, 7), "-0.1"),
        (lambda: hrs.UniformKernel(1.5, 7), "1.5"),
        (lambda: hrs.UniformKernel(math.nan, 7), "nan"),
        (lambda: hrs.UniformKernel(0.5, 1), "1"),
        (lambda: hrs.UniformKernel(0.5, -3), "-3"),
        (lambda: hrs.AbsorbingKernel(1.0001), "1.0001"),
        (lambda: hrs.AbsorbingKernel(math.nan), "nan"),
        (lambda: hrs.CategoricalKernel(2.0, (3, 4)), "2.0"),
        (lambda: hrs.CategoricalKernel((0.5, -1.0), (3, 4)), "-1.0"),
        (lambda: hrs.CategoricalKernel((0.5,), (3, 4)), "1"),
        (lambda: hrs.CategoricalKernel(0.5, (3, 1)), "got 1"),
        (lambda: hrs.CategoricalKernel(0.5, ()), "()"),
        (lambda: hrs.UniformKernel(0.5, 7).likelihood_ratio(-1), "-1"),
        (lambda: hrs.UniformKernel(0.5, 7).likelihood_ratio(True), "True"),
        (lambda: hrs.AbsorbingKernel(0.5).likelihood_ratio(-2), "-2"),
        (lambda: hrs.CategoricalKernel(0.5, (3, 4)).likelihood_ratios(-3), "-3"),
        (lambda: hrs.HybridSmoothing(None, 0.5).likelihood_ratios(-4), "-4"),
        (lambda: hrs.HybridSmoothing(None, 0.0), "0.0"),
        (lambda: hrs.HybridSmoothing(None, -0.25), "-0.25"),
        (lambda: hrs.HybridSmoothing(None, math.nan), "nan"),
        (lambda: hrs.HybridSmoothing(None, math.inf), "inf"),
        (lambda: hrs.HybridSmoothing(None, None), "neither"),
        (lambda: hrs.HybridSmoothing(None, 0.5, step=0.0), "0.0"),
        (lambda: hrs.HybridSmoothing(None, 0.5, step=math.inf), "inf"),
        (lambda: hrs.HybridSmoothing(hrs.AbsorbingKernel(0.5), None, step=0.1), "0.1"),
        (lambda: hrs.UniformKernel(0.5, 2**31), "2147483648"),
        (lambda: hrs.CategoricalKernel(0.5, (3, 2**31)), "2147483648"),
    ],
)
def test_a_bad_parameter_raises_one_sentence_with_its_value(make, value):
    with pytest.raises(ValueError) as info:
        make()
    message = str(info.value)
    assert value in message
    assert message.endswith(".")
    assert "\n" not in message
    assert ". " not in message


def test_too_many_candidate_sets_are_refused():
    kernel = hrs.CategoricalKernel(tuple(np.linspace(0.1, 0.5, 20).tolist()), (5,) * 20)
    with pytest.raises(ValueError, match="More than 4096 sets of 10 fields"):
        kernel.likelihood_ratios(10)


# Tokens and pixels together


def test_pixel_noise_has_the_mean_and_the_standard_deviation_of_sigma():
    smoothing, image = hrs.HybridSmoothing(None, 0.25), jnp.full((500, 400), 0.5, jnp.float32)
    _, noisy = smoothing.sample(jax.random.key(8), TOKENS, image)
    noise = (np.asarray(noisy, np.float64) - 0.5) / 0.25
    assert noisy.dtype == jnp.float32
    assert abs(noise.mean()) < 5 / math.sqrt(noise.size)
    assert abs(noise.std() - 1) < 5 / math.sqrt(2 * noise.size)
    # the noise is rounded to steps of 1/255; spread over the steps it is normal again, nearly
    spread = np.random.default_rng(0).uniform(-0.5, 0.5, noise.shape) / 255 / 0.25
    assert stats.kstest((noise + spread).ravel(), "norm").pvalue > 1e-6


def test_hybrid_noise_is_reproducible_and_changes_with_the_key():
    smoothing, image = hrs.HybridSmoothing(hrs.UniformKernel(0.5, 7), 0.5), jnp.zeros((8, 8, 3))
    first, again, other = (smoothing.sample(jax.random.key(seed), TOKENS, image) for seed in (9, 9, 10))
    for one, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert bool((one != different).any())


def test_jitted_hybrid_noise_is_the_eager_noise():
    smoothing, image = hrs.HybridSmoothing(hrs.UniformKernel(0.5, 7), 0.5), jnp.zeros((8, 8, 3))
    jitted, eager = (draw(jax.random.key(9), TOKENS, image) for draw in (jax.jit(smoothing.sample), smoothing.sample))
    np.testing.assert_array_equal(jitted[0], eager[0])
    np.testing.assert_allclose(jitted[1], eager[1], rtol=1e-6)


def test_token_noise_and_pixel_noise_are_uncorrelated():
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.5, 2), 1.0)
    keys = jax.random.split(jax.random.key(11), 50_000)
    tokens, images = jax.vmap(lambda key: smoothing.sample(key, jnp.zeros(1, jnp.int32), jnp.zeros(1)))(keys)
    assert abs(np.corrcoef(tokens[:, 0], images[:, 0])[0, 1]) < 5 / math.sqrt(50_000)


def test_a_part_without_noise_is_kept_as_it_is():
    image = jnp.full((4, 4, 1), 0.3)
    tokens, noisy = hrs.HybridSmoothing(None, 1.0).sample(jax.random.key(12), TOKENS, image)
    np.testing.assert_array_equal(tokens, TOKENS)
    assert bool((noisy != image).all())
    tokens, noisy = hrs.HybridSmoothing(hrs.AbsorbingKernel(1.0, 9), None).sample(jax.random.key(12), TOKENS, image)
    np.testing.assert_array_equal(noisy, image)
    assert bool((tokens == 9).all())


def test_hybrid_noise_respects_the_eligible_mask():
    smoothing, eligible = hrs.HybridSmoothing(hrs.UniformKernel(1.0, 7), 1.0), jnp.arange(60) < 20
    tokens, _ = smoothing.sample(jax.random.key(13), TOKENS, jnp.zeros((2, 2)), eligible)
    np.testing.assert_array_equal(np.asarray(tokens != TOKENS), np.asarray(eligible))


def test_without_a_kernel_a_token_change_is_not_hidden_at_all():
    smoothing = hrs.HybridSmoothing(None, 1.0)
    (unchanged,), (changed,) = (smoothing.likelihood_ratios(d) for d in (0, 1))
    assert (unchanged.p_0, unchanged.q_inf) == (0, 0)
    assert (changed.p_0, changed.q_inf) == (1, 1)


def test_smoothing_passes_on_the_candidates_of_its_kernel():
    kernel = hrs.CategoricalKernel(0.7, (2, 9, 9))
    for d in range(4):
        assert hrs.HybridSmoothing(kernel, 0.5).likelihood_ratios(d) == kernel.likelihood_ratios(d)
