"""Encoders and heads: directions are checked once, the smoothed encoder is a mean of them."""

import jax
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.classifiers import DemoGuard
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.features import DemoEncoder, Encoder, HostEncoder, PrototypeHead, unit_features

PIXELS = hrs.HybridSmoothing(None, 0.2)
TOKENS, IMAGES = np.zeros((2, 1), np.int32), np.random.default_rng(0).random((2, 4, 4, 1)).astype(np.float32)


def flat(tokens, images):
    return images.reshape(len(images), -1)


def test_features_are_divided_by_their_length_however_large_or_small_they_are():
    for size in (1e-300, 1.0, 1e300):
        unit = unit_features([[3 * size, 4 * size]])
        assert np.allclose(unit, [[0.6, 0.8]], rtol=1e-15)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([[0.0, 0.0]], "pair 0 is zero"),
        ([[1.0, 0.0], [np.nan, 1.0]], "pair 1 is not finite"),
        ([[np.inf, 0.0]], "pair 0 is not finite"),
        ([1.0, 2.0], "one vector per pair"),
        ([[1, 2]], "must return floats"),
        (np.zeros((1, 0)), "one vector per pair"),
    ],
)
def test_what_has_no_direction_is_refused(features, message):
    with pytest.raises(ValueError, match=message):
        unit_features(features)


def test_a_host_encoder_is_called_in_pieces_with_copies():
    sizes = []

    def encode(tokens, images):
        sizes.append(len(tokens))
        images += 1
        return images.reshape(len(images), -1)

    before = IMAGES.copy()
    encoder = HostEncoder(encode, batch_size=1, name="mine", digest="abc")
    assert encoder(TOKENS, IMAGES).shape == (2, 16)
    assert sizes == [1, 1]
    assert np.array_equal(IMAGES, before)
    assert encoder.describe() == {"name": "mine", "digest": "abc"}
    assert isinstance(encoder, Encoder)


def test_the_features_of_the_demo_guard_are_those_that_it_decides_by():
    inputs = demo.load_demo().take(range(40))
    encoder, guard = DemoEncoder.load(), DemoGuard.load()
    features = np.maximum(np.asarray(encoder(inputs.tokens, inputs.images)), 0)
    head = guard.functional()[1]["joint_out"]
    margin = features @ np.asarray(head["kernel"][...])[:, 0] + np.asarray(head["bias"][...])[0]
    assert np.allclose(margin, np.asarray(guard.margin(inputs.tokens, inputs.images)), atol=1e-3)


def test_the_smoothed_encoder_is_the_mean_of_unit_features_over_copies():
    copies, encoder = 3, []

    def record(tokens, images):
        encoder.append(np.asarray(images).copy())
        return images.reshape(len(images), -1)

    smoothed = hrs.SmoothedEncoder(record, PIXELS, copies=copies, batch_size=4)
    mean = smoothed.mean(TOKENS, IMAGES, jax.random.key(3))
    seen = np.concatenate(encoder).reshape(2, copies, -1).astype(np.float64)
    wanted = (seen / np.linalg.norm(seen, axis=2, keepdims=True)).mean(axis=1)
    assert np.allclose(mean, wanted, atol=1e-12)
    assert np.all(np.linalg.norm(mean, axis=1) < 1)
    unit = smoothed(TOKENS, IMAGES, jax.random.key(3))
    assert np.allclose(unit, wanted / np.linalg.norm(wanted, axis=1, keepdims=True))


def test_the_key_decides_and_the_batch_does_not():
    one, other = (hrs.SmoothedEncoder(flat, PIXELS, batch_size=size) for size in (3, 1000))
    assert np.allclose(one.mean(TOKENS, IMAGES, jax.random.key(1)), other.mean(TOKENS, IMAGES, jax.random.key(1)))
    assert not np.allclose(one.mean(TOKENS, IMAGES, jax.random.key(1)), one.mean(TOKENS, IMAGES, jax.random.key(2)))


def test_tokens_carry_noise_too():
    def count(tokens, images):
        return jax.nn.one_hot(tokens[:, 0], 8) + 0.0 * images[:, 0, 0]

    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.5, 8), None)
    mean = hrs.SmoothedEncoder(count, smoothing, copies=4000).mean(TOKENS, IMAGES, jax.random.key(0))
    assert abs(mean[0, 0] - 0.5) < 0.04
    assert np.all(np.abs(mean[0, 1:] - 0.5 / 7) < 0.02)


def test_a_prototype_head_takes_the_mean_direction_of_each_class():
    features = np.array([[1.0, 0.1], [10.0, -1.0], [0.1, 1.0]])
    head = PrototypeHead.of(features, [0, 0, 1], 2)
    assert np.allclose(head.prototypes[0], [1.0, 0.0])
    assert head(features).tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="at least 2 rows"):
        PrototypeHead([[1.0, 0.0]])


def test_a_table_of_copies_has_the_cosines_of_the_smoothed_encoder_with_noise_of_its_own_for_each_row():
    key, reference = jax.random.key(5), 3 * np.asarray(flat(TOKENS, IMAGES))
    rows = hrs.smoothed_encoder.copies_table(flat, TOKENS, IMAGES, PIXELS, reference, [1, 8], key)
    for number, row in enumerate(rows):
        mean = hrs.SmoothedEncoder(flat, PIXELS, row.copies)(TOKENS, IMAGES, jax.random.fold_in(key, number))
        cosine = (mean * reference).sum(axis=1) / np.linalg.norm(reference, axis=1)
        assert (row.mean, row.least) == (pytest.approx(cosine.mean()), pytest.approx(cosine.min()))
        assert row.seconds > 0
    assert [row.copies for row in rows] == [1, 8]


def test_a_smoothed_encoder_needs_an_input():
    with pytest.raises(ValueError, match=r"^tokens and images must hold at least one input, got none\.$"):
        hrs.SmoothedEncoder(flat, PIXELS).mean(TOKENS[:0], IMAGES[:0], jax.random.key(0))
