"""The attack on features: within its budget, better than nothing, and never below what is certified."""

import jax
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.attacks.features import FeatureAttackSettings, attack_features, score_upper_bound
from hybrid_rs_jax.confidence.score_law import ScoreLaw, score_edges
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.features import DemoEncoder, unit_features
from hybrid_rs_jax.kernels.grid import round_to_grid

LIGHT = FeatureAttackSettings(restarts=2, steps=10, copies=8, selection_copies=64)
SMOOTHING = hrs.HybridSmoothing(hrs.UniformKernel(0.9, 512), 0.25)


class Plane:
    """The picture itself as its feature."""

    def __call__(self, tokens, images):
        return images.reshape(len(images), -1)

    def functional(self):
        return _plane, ()


def _plane(parameters, tokens, images):
    return images.reshape(len(images), -1)


def test_the_attack_reaches_the_angle_that_geometry_allows():
    images = np.zeros((1, 1, 2, 1), np.float32)
    images[0, 0, 0] = 1.0
    smoothing = hrs.HybridSmoothing(None, 0.01)
    found = attack_features(
        Plane(), np.zeros((1, 1), np.int32), images, smoothing, [[1.0, 0.0]], 0.5, jax.random.key(0)
    )
    assert np.linalg.norm(found.images - images) <= 0.5
    assert abs(found.cosine[0] - np.cos(np.arcsin(0.5))) < 0.02
    levels = found.images * 255
    assert np.allclose(levels, np.rint(levels), atol=1e-3)


def test_upper_bounds_lie_above_the_mean_and_shrink():
    values = np.random.default_rng(0).beta(9, 2, (1, 5000))
    few, many = (score_upper_bound(ScoreLaw.of(values[:, :n], score_edges(512)), 0.01)[0] for n in (100, 5000))
    assert values.mean() < many < few < 1


@pytest.mark.slow
def test_no_attack_within_the_certified_radius_goes_below_the_certified_score():
    inputs, encoder, mask = demo.held_out_unsafe(10_000).take(range(24)), DemoEncoder.load(), demo.suffix_mask()
    given = (encoder, inputs.tokens, inputs.images, SMOOTHING)
    clean = unit_features(encoder(inputs.tokens, inputs.images))
    law = hrs.sample_features(*given, 2000, jax.random.key(1), clean, eligible=mask)
    certificate = hrs.certify_features(law, SMOOTHING, 1e-3, (0, 1), reference="fixed")
    for column, d in enumerate((0, 1)):
        radius = certificate.radius(0.5)[:, column]
        assert np.all(radius > 0.2)
        found = attack_features(*given, clean, radius, jax.random.key(2), d=d, eligible=mask, settings=LIGHT)
        assert np.all((found.tokens != inputs.tokens).sum(axis=1) <= d)
        apart = (found.images - round_to_grid(inputs.images, 1 / 255)[0] / 255).reshape(24, -1)
        assert np.all(np.linalg.norm(apart, axis=1) <= radius)
        fresh = hrs.sample_features(
            encoder, found.tokens, found.images, SMOOTHING, 1000, jax.random.key(3), clean, eligible=mask
        )
        upper = score_upper_bound(fresh, 1e-4)
        assert np.all(upper >= 0.75)
        assert np.mean(found.cosine) < np.mean(law.counts @ law.edges[:-1] / 2000) * 2 - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": lambda tokens, images: images}, "functional"),
        ({"smoothing": hrs.HybridSmoothing(hrs.UniformKernel(0.5, 4), None)}, "pixel noise"),
        ({"d": 1}, "uniform kernel"),
        ({"epsilon": -1.0}, "epsilon must"),
    ],
)
def test_attacks_that_make_no_sense_are_refused(change, message):
    arguments = {
        "encoder": Plane(),
        "tokens": np.zeros((1, 1), np.int32),
        "images": np.ones((1, 2, 2, 1), np.float32),
        "smoothing": hrs.HybridSmoothing(None, 0.1),
        "reference": np.ones((1, 4)),
        "epsilon": 0.1,
        "key": jax.random.key(0),
    }
    with pytest.raises(ValueError, match=message):
        attack_features(**(arguments | change))
