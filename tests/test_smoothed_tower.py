"""A smoothed tower inside of a LLaVA guard: the decoder reads the direction that is certified, and nothing else."""

from pathlib import Path

import jax
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.classifiers import VlmGuard
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.features import Boosted, GuardTower, TowerEncoder, unit_features

pytest.importorskip("transformers", reason="tokenizers are read with transformers")

FOLDER = Path(__file__).parents[1] / "experiments" / "tiny_guard"
NOISE = hrs.HybridSmoothing(None, 0.25)


def opened(size):
    return VlmGuard.from_pretrained(FOLDER, policy=FOLDER / "policy.txt", text_length=demo.LENGTH, image_size=size)


@pytest.fixture(scope="module")
def guard():
    return opened((8, 8))


def pairs(guard, count):
    inputs = demo.load_demo("held_out").take(range(count))
    return np.stack([guard.symbols(text) for text in inputs.prompts]), np.repeat(inputs.images, 3, axis=3)


def test_the_decoder_gives_the_guards_margins_where_the_features_are_those_of_the_tower(guard):
    tokens, images = pairs(guard, 6)
    features = GuardTower(guard)(tokens, images)
    texts = np.stack([tokens, tokens[::-1]], axis=1)
    found = np.asarray(guard.margin_of_tower(texts, features))
    assert np.allclose(found[:, 0], guard.margin(tokens, images), atol=1e-4)
    assert np.allclose(found[:, 1], guard.margin(tokens[::-1], images), atol=1e-4)


def test_at_the_towers_own_size_the_features_are_those_of_the_tower_alone():
    guard = opened((28, 28))
    images = np.random.default_rng(0).random((3, 28, 28, 3)).astype(np.float32)
    tokens = np.zeros((3, 1), np.int32)
    alone = TowerEncoder.from_pretrained(FOLDER, pooling="grid")
    assert np.allclose(GuardTower(guard)(tokens, images), alone(tokens, images), atol=1e-4)


def test_many_copies_of_little_noise_decide_as_the_plain_guard_does(guard):
    tokens, images = pairs(guard, 12)
    length = hrs.SmoothedTower.length_of(guard, images)
    quiet = hrs.SmoothedTower(guard, hrs.HybridSmoothing(None, 0.01), length, copies=4)
    assert np.array_equal(quiet(tokens, images, jax.random.key(0)), guard(tokens, images))
    direction = quiet.features(images, jax.random.key(0))
    clean = unit_features(GuardTower(guard)(tokens, images))
    assert (direction * clean).sum(axis=1).min() > 0.99


def test_the_margin_is_that_of_the_mean_direction_times_the_length(guard):
    tokens, images = pairs(guard, 4)
    tower = GuardTower(guard)
    encoder = Boosted(tower, 0.25, mapper=lambda features, sigma: features * 3)
    smoothed = hrs.SmoothedTower(guard, NOISE, 10.0, copies=5, encoder=encoder)
    key = jax.random.key(3)
    mean = hrs.SmoothedEncoder(tower, NOISE, 5)(tokens, images, key)  # a length of three changes no direction
    assert np.allclose(smoothed.features(images, key), mean, atol=1e-6)
    wanted = guard.margin_of_tower(tokens[:, None], 10 * mean)
    assert np.allclose(smoothed.margin(tokens[:, None], images, key), wanted, atol=1e-4)


def test_the_smoothed_tower_is_certified_as_any_encoder(guard):
    tokens, images = pairs(guard, 2)
    law = hrs.sample_features(GuardTower(guard), tokens, images, NOISE, 300, jax.random.key(0))
    delta = NOISE.total_variation(images[0].size)
    assert np.all(hrs.certify_features(law, NOISE, 0.01, total_variation=delta).radius(0.5) > 0)


def test_what_cannot_be_smoothed_is_refused(guard):
    tokens, images = pairs(guard, 2)
    with pytest.raises(ValueError, match="pixels alone"):
        hrs.SmoothedTower(guard, hrs.HybridSmoothing(hrs.UniformKernel(0.5, 10), 0.1), 1.0)
    with pytest.raises(ValueError, match="length must be above 0"):
        hrs.SmoothedTower(guard, NOISE, 0.0)
    with pytest.raises(ValueError, match="copies must"):
        hrs.SmoothedTower(guard, NOISE, 1.0, copies=0)
    with pytest.raises(ValueError, match="images must have shape"):
        GuardTower(guard)(tokens, images[:, 1:])
    with pytest.raises(ValueError, match="tokens and features must have shapes"):
        guard.margin_of_tower(tokens[:, None], np.zeros((2, 7)))
    generating = VlmGuard.from_pretrained(
        FOLDER, policy=FOLDER / "policy.txt", text_length=demo.LENGTH, decision="generate"
    )
    with pytest.raises(ValueError, match="Only a LLaVA network that decides by logits"):
        GuardTower(generating)
