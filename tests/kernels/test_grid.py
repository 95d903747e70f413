"""Pixel noise on a grid: the table is the law, the draw is the table, and the same integers come out everywhere."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import oracle
import pytest
from flint import arb
from scipy import stats

import hybrid_rs_jax as hrs
from hybrid_rs_jax.kernels import _threefry, grid
from hybrid_rs_jax.kernels._alias import alias_table, half_width, outcome_weights

H = 1 / 255
LAWS = [(0.25, H), (0.5, H), (1.0, H), (0.3, 0.3 / 64), (0.001, H), (1e-6, H), (0.01, 1.0), (2.0, 3.0)]


def exact_mass(z, sigma, step):
    """`Phi((z + 1/2) h/sigma) - Phi((z - 1/2) h/sigma)`, a ball of 256 bits."""
    root = arb(2).sqrt()
    low, high = ((2 * abs(z) + side) * arb(step) / (2 * arb(sigma)) / root for side in (-1, 1))
    return (low.erfc() - high.erfc()) / 2


@pytest.mark.parametrize(("sigma", "step"), LAWS)
def test_weights_are_the_exact_masses_rounded_and_add_up_to_one(sigma, step):
    weights = outcome_weights(sigma, step)
    width = half_width(sigma, step)
    assert len(weights) == 2 * width + 1
    assert sum(weights) == 2**64
    with oracle.precision(256):
        outcomes = range(-width, width + 1, max(1, width // 60))
        for z in (*outcomes, 0, width):
            assert float(abs(exact_mass(z, sigma, step) * 2**64 - weights[z + width])) < 1


@pytest.mark.parametrize(("sigma", "step"), LAWS)
def test_the_alias_table_holds_exactly_the_weights(sigma, step):
    table, weights = alias_table(sigma, step), outcome_weights(sigma, step)
    assert len(table.alias) == 1 << table.bits >= table.outcomes == len(weights)
    assert table.bits == 1 or len(table.alias) < 2 * table.outcomes
    mass, capacity = [0] * len(table.alias), 1 << (64 - table.bits)
    for cell, (threshold, alias) in enumerate(zip(table.threshold.tolist(), table.alias.tolist(), strict=True)):
        mass[cell] += threshold
        mass[alias] += capacity - threshold
    assert mass == weights + [0] * (len(mass) - len(weights))


@pytest.mark.parametrize(("sigma", "step"), [(0.25, H), (2.0, 3.0)])
def test_a_draw_is_what_the_table_says_for_its_64_bits(sigma, step):
    """Word by word, in Python integers."""
    table, words = alias_table(sigma, step), _threefry.key_words(jax.random.key(3))
    high, low = (np.asarray(part).tolist() for part in _threefry.random_words(words, _threefry.IMAGE, (3000,)))
    found = grid.draw_levels(words, (3000,), grid.pixel_noise(sigma, step, np.dtype(np.float32))).tolist()
    for upper, lower, z in zip(high, low, found, strict=True):
        cell, rest = divmod((upper << 32) + lower, 1 << (64 - table.bits))
        assert z == (cell if rest < table.threshold[cell] else table.alias[cell]) - table.centre


@pytest.mark.parametrize(("sigma", "step"), [(0.25, H), (0.01, H), (2.0, 3.0)])
def test_drawn_integers_follow_the_exact_masses(sigma, step):
    n, width = 1_000_000, half_width(sigma, step)
    noise = grid.pixel_noise(sigma, step, np.dtype(np.float32))
    drawn = np.asarray(grid.draw_levels(_threefry.key_words(jax.random.key(5)), (n,), noise))
    counted = np.bincount(drawn + width, minlength=2 * width + 1)
    expected = n * np.array(outcome_weights(sigma, step), np.float64) / 2.0**64
    large = expected > 8
    counted, expected = (np.append(part[large], part[~large].sum()) for part in (counted, expected))
    filled = expected > 0
    assert stats.chisquare(counted[filled], expected[filled] * n / expected.sum()).pvalue > 1e-4


def test_the_tail_reaches_as_far_as_the_certificate_needs():
    """float32 normals end at -5.42 and +5.22; here both ends carry mass beyond nine standard deviations."""
    weights = outcome_weights(0.25, H)
    assert weights[0] <= weights[-1] <= 1
    beyond = sum(weights[len(weights) // 2 + math.ceil(5.5 * 0.25 / H) :])
    assert beyond / 2**64 == pytest.approx(stats.norm.sf(5.5), rel=0.05)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_the_same_integers_come_out_in_every_dtype(dtype):
    words, levels = _threefry.key_words(jax.random.key(7)), jnp.arange(256, dtype=jnp.int32)
    z = np.asarray(grid.draw_levels(words, (256,), grid.pixel_noise(0.25, H, np.dtype(np.float32))))
    with jax.enable_x64(dtype == np.float64):
        noise = grid.pixel_noise(0.25, H, np.dtype(dtype))
        noisy = np.asarray(jax.jit(grid.noisy_pixels)(words, levels, noise))
        assert noisy.dtype == dtype
        if dtype == np.float64:
            wanted = H * (np.arange(256) + z)
        else:
            wanted = (np.float32(H) * (np.arange(256) + z).astype(np.float32)).astype(dtype)
        np.testing.assert_array_equal(noisy, wanted)


def test_the_generator_is_threefry_and_folds_as_jax_does():
    key = jax.random.key(11, impl="threefry2x32")
    words = _threefry.key_words(key)
    for number in (0, 1, 2**31, 2**32 - 1):
        folded = jax.random.key_data(jax.random.fold_in(key, np.uint32(number)))
        np.testing.assert_array_equal(_threefry.fold(words, jnp.uint32(number)), folded)
    with jax.threefry_partitionable(True):
        bits = jax.random.bits(key, (50,), jnp.uint32)
    first, second = _threefry.threefry(words[0], words[1], jnp.uint32(0), jnp.arange(50, dtype=jnp.uint32))
    np.testing.assert_array_equal(first ^ second, bits)


def test_a_seed_gives_one_key_whatever_generator_it_was_made_for():
    wanted = _threefry.key_words(_threefry.run_key(9))
    for implementation in ("threefry2x32", "rbg", "unsafe_rbg"):
        np.testing.assert_array_equal(_threefry.key_words(jax.random.key(9, impl=implementation)), wanted)
    one, other = (_threefry.key_words(key) for key in jax.random.split(jax.random.key(9, impl="rbg")))
    assert (np.asarray(one) != np.asarray(other)).any()


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True])
def test_a_seed_out_of_range_raises_one_sentence(seed):
    with pytest.raises(ValueError, match=r"^seed must be an integer in .*, got [^\n]*\.$"):
        _threefry.run_key.__wrapped__(seed)


def test_noise_of_the_picture_does_not_depend_on_the_noise_of_the_text():
    key, tokens, image = jax.random.key(4), jnp.zeros(9, jnp.int32), jnp.zeros((4, 4, 1))
    drawn = [
        hrs.HybridSmoothing(kernel, 0.5).sample(key, tokens, image)[1]
        for kernel in (None, hrs.UniformKernel(0.5, 9), hrs.AbsorbingKernel(0.5))
    ]
    for other in drawn[1:]:
        np.testing.assert_array_equal(other, drawn[0])
    longer = hrs.HybridSmoothing(hrs.UniformKernel(0.5, 9), 0.5).sample(key, jnp.zeros(12, jnp.int32), image)
    np.testing.assert_array_equal(longer[1], drawn[0])


# What is left over


@pytest.mark.parametrize(("sigma", "step"), [(0.25, H), (1e-6, H), (2.0, 3.0)])
def test_total_variation_covers_the_distance_of_the_table_from_the_law(sigma, step):
    weights, width = outcome_weights(sigma, step), half_width(sigma, step)
    with oracle.precision(256):
        masses = [exact_mass(z, sigma, step) for z in range(-width, width + 1)]
        inside = sum((abs(p - arb(w) / 2**64) for p, w in zip(masses, weights, strict=True)), arb(0))
        outside = ((2 * width + 1) * arb(step) / (2 * arb(sigma)) / arb(2).sqrt()).erfc()
        assert grid.total_variation(sigma, step, 1) >= float((inside + outside) / 2)


def test_total_variation_is_the_formula_rounded_up():
    outcomes, pixels = 1175, 224 * 224 * 3
    found = hrs.HybridSmoothing(None, 0.25).total_variation(pixels)
    exact = Fraction(pixels * (outcomes + 2), 2**65)
    assert exact < Fraction(found) < exact * (1 + Fraction(1, 2**50))
    assert 4e-12 < found < 5.1e-12
    assert hrs.HybridSmoothing(hrs.AbsorbingKernel(0.5), None).total_variation(pixels) == 0
    assert hrs.HybridSmoothing(None, 0.25).total_variation(2**62) == 1


def test_the_radius_for_attackers_off_the_grid_is_the_rule_of_the_method():
    for radius, step, pixels in [(1.0, H, 150_528), (0.1, H, 150_528), (2.0, H, 16), (3.0, 0.5, 7)]:
        found = grid.off_grid_radius(radius, step, pixels)
        exact = max(Fraction(radius) / 2, Fraction(radius) - Fraction(step) * Fraction(math.sqrt(pixels)) / 2)
        assert Fraction(found) < exact
        assert found == pytest.approx(float(exact), rel=1e-12)
    assert grid.off_grid_radius(-1.0, H, 9) == -1
    assert grid.off_grid_radius(0.0, H, 9) == 0


# Pixels in


def test_rounding_gives_the_nearest_level_and_the_largest_change():
    levels, change = grid.round_to_grid(np.array([0.0, 1.0, 0.5, 0.3], np.float64), H)
    assert levels.tolist() == [0, 255, 128, 76]
    assert change == pytest.approx(0.5 * H)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_pictures_of_8_bits_are_on_the_grid_in_every_dtype(dtype):
    picture = (np.arange(256) / 255).astype(dtype)
    levels, change = grid.round_to_grid(picture, H)
    assert levels.tolist() == list(range(256))
    assert change == 0


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.array([0.5, math.nan], np.float32), r"finite numbers, got nan in float32"),
        (np.array([-math.inf], np.float32), r"got -inf in float32"),
        (np.array([128], np.uint8), r"uint8; pixels of 0\.\.255 are divided by 255"),
        (np.array([0.1], ml_dtypes.bfloat16), r"bfloat16 must be multiples .* in float32"),
        (np.array([0.3003], np.float16), r"float16 must be multiples"),
        (np.array([1e8], np.float32), r"1e\+08"),
        (np.array([70_000.0], np.float32), r"float32 has steps of 0\.0078125 at a pixel of 70000"),
    ],
)
def test_pixels_without_a_level_are_refused_with_the_fix(image, sentence):
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=sentence):
        grid.round_to_grid(image, H)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (np.full((1, 4, 4, 1), 17.5, np.float32), "divide by 255"),
        (np.tile(np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1), (2, 1, 1, 1)), "divide by 255"),
        (np.full((1, 4, 4, 1), -20.0, np.float32), "rescale"),
        (np.zeros((2, 3, 8, 8), np.float32), r"channels first; give np\.moveaxis\(images, -3, -1\)"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_fix(images, sentence):
    with pytest.raises(ValueError, match=sentence):
        grid.check_pictures(images)


def test_pictures_pass():
    for images in (
        np.zeros((2, 8, 8, 3)),
        np.full((1, 3, 3, 3), 1.0),
        np.full((1, 1, 9, 1), -0.7),
        np.zeros((0, 1, 1, 1)),
    ):
        grid.check_pictures(images.astype(np.float32))


def test_a_sigma_of_too_many_steps_is_refused_where_it_is_drawn():
    smoothing = hrs.HybridSmoothing(None, 1e12)
    with pytest.raises(ValueError, match=r"^sigma must be at most 65536 steps .* give a larger step\.$"):
        smoothing.noise(np.float32)
    assert hrs.certified_radius(0.99, 0, hrs.HybridSmoothing(None, 1000.0), 0.5) > 0, "the ideal Gaussian has no grid"


@pytest.mark.parametrize("key", [3, None, 0.5, "key", np.zeros(2), np.zeros((2, 2), np.uint32), np.uint32(7)])
def test_what_is_no_key_or_more_than_one_raises_one_sentence(key):
    with pytest.raises(ValueError, match=r"^key must be [^\n]*, got [^\n]*\.$"):
        _threefry.key_words.__wrapped__(key)
