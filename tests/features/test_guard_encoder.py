"""A vision-language guard as a joint encoder: its margins come from its features, and no attack refutes them."""

from pathlib import Path

import jax
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.attacks.features import FeatureAttackSettings, attack_features, score_upper_bound
from hybrid_rs_jax.classifiers import VlmGuard
from hybrid_rs_jax.classifiers.vlm.forward import _label_logits
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.features import GuardEncoder, unit_features

pytest.importorskip("transformers", reason="tokenizers are read with transformers")

FOLDER = Path(__file__).parents[2] / "experiments" / "tiny_guard"


@pytest.fixture(scope="module")
def guard():
    return VlmGuard.from_pretrained(FOLDER, policy=FOLDER / "policy.txt", text_length=demo.LENGTH, image_size=(8, 8))


def pairs(guard, count):
    inputs = demo.held_out_unsafe(count)
    return np.stack([guard.symbols(text) for text in inputs.prompts]), np.repeat(inputs.images, 3, axis=3)


def test_the_margin_is_read_from_the_feature(guard):
    tokens, images = pairs(guard, 6)
    encoder, layout = GuardEncoder(guard), guard.prompt.layout
    features = encoder(tokens, images)
    network = _decoder(guard)
    logits = np.asarray(_label_logits(network, features, (*layout.unsafe, *layout.safe)), np.float64)
    unsafe, safe = np.split(np.exp(logits), [len(layout.unsafe)], axis=1)
    margin = np.log(unsafe.sum(axis=1)) - np.log(safe.sum(axis=1))
    assert np.allclose(margin, guard.margin(tokens, images), atol=1e-3)
    assert encoder.describe()["layer"].startswith("last hidden")
    with pytest.raises(ValueError, match="must have shapes"):
        encoder(tokens, images[..., :1])


def _decoder(guard):
    from flax import nnx

    forward, parameters = guard.functional()
    return nnx.merge(forward.graph, parameters["network"]).language_model


@pytest.mark.slow
def test_no_attack_on_text_and_picture_within_the_radius_refutes_the_joint_certificate(guard):
    tokens, images = pairs(guard, 40)
    encoder, eligible = GuardEncoder(guard), tokens == 0
    smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.9, guard.vocab_size), 0.25)
    clean = unit_features(encoder(tokens, images))
    law = hrs.sample_features(encoder, tokens, images, smoothing, 300, jax.random.key(0), clean, eligible=eligible)
    certificate = hrs.certify_features(law, smoothing, 1e-3, (0, 1), reference="fixed")
    radius = certificate.radius(0.5)[:, 1]
    assert np.mean(radius >= 0) > 0.5
    effort = FeatureAttackSettings(restarts=1, steps=6, copies=4, selection_copies=16)
    found = attack_features(
        encoder, tokens, images, smoothing, clean, np.maximum(radius, 0), jax.random.key(1), d=1,
        eligible=eligible, settings=effort,
    )  # fmt: skip
    fresh = hrs.sample_features(
        encoder, found.tokens, found.images, smoothing, 300, jax.random.key(2), clean, eligible=eligible
    )
    refuted = (radius >= 0) & (score_upper_bound(fresh, 0.01 / 40) < 0.75)
    assert not refuted.any()
