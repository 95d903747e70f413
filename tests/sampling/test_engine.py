"""Monte Carlo counts: exact, and the same however the work is cut."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.confidence import FixedSample

N = 23
SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(0.4, 10), 0.5)
TOKENS = np.arange(3 * 5, dtype=np.int32).reshape(3, 5) % 10
IMAGES = np.linspace(0, 1, 3 * 4 * 4, dtype=np.float32).reshape(3, 4, 4, 1)
KEY = jax.random.key(0)


def classifier(tokens, images):
    """Unsafe by a rule that uses every token and every pixel."""
    return (tokens.sum(axis=1) % 3 == 0) ^ (images.mean(axis=(1, 2, 3)) > 0.5)


def counts(batch_size=30, key=KEY, n=N, smoothing=SMOOTHING, **options):
    return hrs.sample_counts(classifier, TOKENS, IMAGES, smoothing, n, key, batch_size=batch_size, **options)


@pytest.fixture(scope="module")
def eager_counts():
    """The definition, one copy at a time: the noise of copy s of input i depends on (key, i, s)."""
    unsafe = np.zeros(3, np.int64)
    for i in range(3):
        for s in range(N):
            key = jax.random.fold_in(jax.random.fold_in(KEY, i), s)
            tokens, image = SMOOTHING.sample(key, jnp.asarray(TOKENS[i]), jnp.asarray(IMAGES[i]))
            unsafe[i] += int(classifier(tokens[None], image[None])[0])
    return unsafe


@pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000])
def test_counts_are_those_of_an_eager_loop_for_every_batch_size(batch_size, eager_counts):
    found = counts(batch_size)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, eager_counts)
    assert 0 < found.min() < found.max() < N


def test_more_draws_extend_the_same_sample():
    few, many = counts(n=10), counts(n=20)
    assert np.all((few <= many) & (many <= few + 10))


def test_the_first_input_does_not_depend_on_the_others():
    alone = hrs.sample_counts(classifier, TOKENS[:1], IMAGES[:1], SMOOTHING, N, KEY)
    np.testing.assert_array_equal(alone, counts()[:1])


@pytest.mark.parametrize("batch_size", [7, 64, 10_000])
def test_progress_grows_to_the_total(batch_size):
    seen = []
    counts(batch_size, progress=seen.append)
    assert seen[-1] == 3 * N
    assert np.all(np.diff([0, *seen]) > 0)


def test_different_keys_give_different_draws():
    found = {tuple(counts(key=jax.random.key(seed), n=500)) for seed in range(4)}
    assert len(found) == 4


def test_one_key_gives_one_set_of_draws():
    np.testing.assert_array_equal(counts(), counts())


def first_token_changed(tokens, images):
    return tokens[:, 0] != 0


def last_token_changed(tokens, images):
    return tokens[:, -1] != 0


def test_positions_that_are_not_eligible_carry_no_noise():
    tokens, smoothing = np.zeros((3, 5), np.int32), hrs.HybridSmoothing(hrs.UniformKernel(1.0, 10), None)
    eligible = np.array([False, False, False, True, True])
    for decide, expected in ((first_token_changed, 0), (last_token_changed, N)):
        found = hrs.sample_counts(decide, tokens, IMAGES, smoothing, N, KEY, eligible=eligible)
        np.testing.assert_array_equal(found, expected)


def any_pixel_changed(tokens, images):
    return (images != jnp.asarray(IMAGES[0])).any(axis=(1, 2, 3))


def test_smoothing_without_sigma_leaves_the_pixels_alone():
    images = np.broadcast_to(IMAGES[0], IMAGES.shape)
    text_only, image_only = hrs.HybridSmoothing(hrs.UniformKernel(0.4, 10), None), hrs.HybridSmoothing(None, 0.5)
    for smoothing, expected in ((text_only, 0), (image_only, N)):
        found = hrs.sample_counts(any_pixel_changed, TOKENS, images, smoothing, N, KEY)
        np.testing.assert_array_equal(found, expected)


def test_an_estimated_share_is_the_true_one():
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.4, 10), None)
    n = 20_000
    found = hrs.sample_counts(first_token_changed, TOKENS * 0, IMAGES, smoothing, n, KEY, batch_size=20_000)
    np.testing.assert_array_less(abs(found - 0.4 * n), 5 * np.sqrt(0.24 * n))


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ({"n": 0}, "0"),
        ({"n": -3}, "-3"),
        ({"batch_size": 0}, "0"),
        ({"batch_size": -7}, "-7"),
        ({"tokens": TOKENS + 1}, "Token 10 "),
        ({"tokens": TOKENS - 1}, "Token -1 "),
    ],
)
def test_bad_input_raises_one_sentence_with_the_value(change, value):
    arguments = {"tokens": TOKENS, "images": IMAGES, "n": N, "batch_size": 64} | change
    with pytest.raises(ValueError, match=rf"^[^\n]*{value}[^\n]*\.$"):
        hrs.sample_counts(classifier, smoothing=SMOOTHING, key=KEY, **arguments)


def test_inputs_that_do_not_pair_up_raise_one_sentence_with_both_numbers():
    unchecked = inspect.unwrap(hrs.sample)  # the tests' shape check would speak first
    with pytest.raises(ValueError, match=r"^[^\n]*2 and 3\.$"):
        unchecked(classifier, TOKENS[:2], IMAGES, SMOOTHING, FixedSample(N), KEY)
