"""Targeted attacks on features: within their budget, and each lowers the score of an encoder that is not smoothed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import hybrid_rs_jax as hrs
from hybrid_rs_jax.attacks import TargetedSettings, attack_towards
from hybrid_rs_jax.attacks.targeted import sinkhorn_cost
from hybrid_rs_jax.features import Boosted

TOKENS = np.zeros((4, 1), np.int32)
LIGHT = {"steps": 25, "restarts": 2, "copies": 4, "patches": 4, "clusters": 2}


class Patches:
    """Four patches of 4 x 4 pixels, each through one dense layer: 4 x 12 features side by side."""

    def __init__(self, seed):
        self.weights = jnp.asarray(np.random.default_rng(seed).normal(0, 1, (16, 12)), jnp.float32)

    def functional(self):
        return _encode, self.weights

    def __call__(self, tokens, images):
        return _encode(self.weights, tokens, jnp.asarray(images))


def _encode(weights, tokens, images):
    cut = images.reshape(-1, 2, 4, 2, 4).transpose(0, 1, 3, 2, 4).reshape(len(images), 4, 16)
    return jnp.tanh((cut - 0.5) @ weights).reshape(len(images), -1)


def pictures(seed):
    return np.random.default_rng(seed).uniform(0.2, 0.8, (4, 8, 8, 1)).astype(np.float32)


def cosines(encoder, one, other):
    a, b = (np.asarray(encoder(TOKENS, x)) for x in (one, other))
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize(
    ("objective", "norm"),
    [
        pytest.param("global", "linf", marks=pytest.mark.slow),
        pytest.param("global", "l2", marks=pytest.mark.slow),
        pytest.param("crops", "linf", marks=pytest.mark.slow),
        pytest.param("crops", "l2", marks=pytest.mark.slow),
        pytest.param("transport", "linf", marks=pytest.mark.slow),
        ("transport", "l2"),  # on crops, too
    ],
)
def test_each_objective_lowers_the_clean_cosine_by_fifteen_hundredths_within_its_budget(objective, norm):
    images, targets, encoders = pictures(0), pictures(1), [Patches(0), Patches(1)]
    epsilon = 32 / 255 if norm == "linf" else 1.0
    settings = TargetedSettings(objective=objective, norm=norm, **LIGHT)
    found = attack_towards(encoders, TOKENS, images, targets, epsilon, jax.random.key(0), settings=settings)
    offset = found.images - images
    size = np.abs(offset).max() if norm == "linf" else np.sqrt((offset**2).sum(axis=(1, 2, 3))).max()
    assert 0.5 * epsilon < size <= epsilon + 1e-6
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    reached = np.mean([cosines(encoder, found.images, targets) for encoder in encoders], axis=0)
    assert np.allclose(found.towards, reached, atol=1e-4)
    for encoder in encoders:
        assert cosines(encoder, found.images, images).mean() < 1 - 0.15
        assert np.all(cosines(encoder, found.images, targets) > cosines(encoder, images, targets) + 0.1)


def test_the_attack_goes_through_noise_and_what_stands_before_the_encoder():
    images, targets = pictures(0), pictures(1)
    smoothing = hrs.HybridSmoothing(None, 0.25)

    class Inverted:
        def functional(self):
            return (lambda parameters, images, sigma: 1 - images), ()

        def __call__(self, images, sigma):
            return 1 - images

    encoder = Boosted(Patches(0), denoiser=Inverted())
    found = attack_towards(
        encoder,
        TOKENS,
        images,
        targets,
        0.3,
        jax.random.key(0),
        smoothing=smoothing,
        settings=TargetedSettings(**LIGHT),
    )
    plain = Patches(0)
    assert np.all(cosines(plain, 1 - found.images, targets) > cosines(plain, 1 - images, targets) + 0.2)


def test_the_transport_cost_is_that_of_the_best_assignment_where_entropy_is_small():
    cost = np.random.default_rng(0).random((5, 6, 6))
    exact = [row[linear_sum_assignment(row)].mean() for row in cost]
    found = sinkhorn_cost(jnp.asarray(cost, jnp.float32), 0.005, 2000)
    assert np.allclose(found, exact, atol=5e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TargetedSettings(objective="far"), "objective must be one of global, crops, transport, got 'far'"),
        (lambda: TargetedSettings(norm="l1"), "norm must be one of linf, l2"),
        (lambda: TargetedSettings(smallest_crop=0.0), "smallest_crop must lie in"),
        (lambda: TargetedSettings(objective="transport", clusters=3), "clusters must be at most patches = 1"),
        (lambda: attack_towards(len, TOKENS, pictures(0), pictures(1), 0.1, jax.random.key(0)), "functional"),
        (
            lambda: attack_towards(Patches(0), TOKENS, pictures(0), pictures(1)[:2], 0.1, jax.random.key(0)),
            "targets must have the shape of images",
        ),
    ],
)
def test_what_cannot_be_attacked_is_refused_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()
