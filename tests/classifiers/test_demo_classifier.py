"""The demo guard as a base classifier: its promises on held-out inputs, and its manners."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_rs_jax.classifiers import BaseClassifier, DemoGuard
from hybrid_rs_jax.data import demo


@pytest.fixture(scope="module")
def guard():
    return DemoGuard.load()


@pytest.fixture(scope="module")
def inputs():
    return demo.load_demo()


@pytest.fixture(scope="module")
def prompts():
    """Fresh prompts of all kinds, sentences and scrambled words."""
    rng = random.Random(99)
    kinds = [demo.PROMPT_KINDS[index % 4] for index in range(2000)]
    return np.stack(
        [demo.encode(demo.draw_prompt(rng, kind, int(rng.random() * 10), rng.random() < 0.5)) for kind in kinds]
    )


def pictures_for(inputs, count):
    return inputs.images[np.arange(count) % len(inputs)]


def with_suffix(tokens, suffix):
    return np.concatenate([tokens[:, : demo.PROMPT_LENGTH], suffix], axis=1).astype(np.int32)


def test_guard_is_a_base_classifier(guard):
    assert isinstance(guard, BaseClassifier)
    assert isinstance(lambda tokens, images: images.sum((1, 2, 3)) > 0, BaseClassifier)
    assert not isinstance(3, BaseClassifier)


def test_held_out_accuracy_is_at_least_97_percent(guard, inputs):
    decisions = np.asarray(guard(inputs.tokens, inputs.images))
    assert decisions.dtype == np.bool_
    assert np.mean(decisions == inputs.labels) >= 0.97
    assert np.mean(decisions[inputs.labels]) >= 0.97
    assert np.mean(~decisions[~inputs.labels]) >= 0.97


def test_new_prompts_are_judged_by_the_rule(guard, inputs, prompts):
    images, digits = pictures_for(inputs, len(prompts)), inputs.digits[np.arange(len(prompts)) % len(inputs)]
    truth = np.array([demo.is_unsafe(row, int(digit)) for row, digit in zip(prompts, digits, strict=True)])
    assert np.mean(np.asarray(guard(prompts, images)) == truth) >= 0.97


def test_prompts_with_a_blank_picture_are_safe(guard, prompts):
    blank = np.zeros((len(prompts), *demo.IMAGE_SHAPE), np.float32)
    assert np.mean(~np.asarray(guard(prompts, blank))) >= 0.99


def test_pictures_with_an_empty_prompt_are_safe(guard, inputs):
    assert np.mean(~np.asarray(guard(np.zeros_like(inputs.tokens), inputs.images))) >= 0.99


def test_words_in_the_suffix_do_not_sway_the_guard(guard, inputs):
    rng = np.random.default_rng(0)
    shape = (len(inputs), demo.SUFFIX_LENGTH)
    triggers = np.concatenate([demo.token_ids("digit"), demo.token_ids("action")])
    pictured = np.broadcast_to(demo.token_ids("digit")[inputs.digits][:, None], shape)
    for suffix in (rng.integers(0, demo.VOCAB_SIZE, shape), rng.choice(triggers, shape), pictured):
        decisions = np.asarray(guard(with_suffix(inputs.tokens, suffix), inputs.images))
        assert np.mean(decisions == inputs.labels) >= 0.97


def test_most_unsafe_inputs_stay_unsafe_under_the_noise_of_the_demo(guard, inputs):
    unsafe = demo.held_out_unsafe(limit=len(inputs))
    rng = np.random.default_rng(1)
    unsafe_share = np.zeros(len(unsafe))
    draws = 200
    for _ in range(draws):
        suffix = unsafe.tokens[:, demo.PROMPT_LENGTH :]
        step = rng.integers(1, demo.VOCAB_SIZE, suffix.shape)
        noisy = np.where(rng.random(suffix.shape) < 0.25, (suffix + step) % demo.VOCAB_SIZE, suffix)
        images = unsafe.images + np.float32(0.25) * rng.standard_normal(unsafe.images.shape, np.float32)
        unsafe_share += np.asarray(guard(with_suffix(unsafe.tokens, noisy), images)) / draws
    assert np.mean(unsafe_share >= 0.99) >= 0.85
    assert unsafe_share.mean() >= 0.99


def test_decisions_do_not_depend_on_the_batch(guard, inputs):
    whole = np.asarray(guard.logits(inputs.tokens[:32], inputs.images[:32]))
    for size in (1, 7):
        part = np.asarray(guard.logits(inputs.tokens[:size], inputs.images[:size]))
        np.testing.assert_allclose(part, whole[:size], rtol=1e-4, atol=1e-4)


def test_guard_works_inside_jit(guard, inputs):
    tokens, images = jnp.asarray(inputs.tokens[:64]), jnp.asarray(inputs.images[:64])
    logits = jax.jit(guard.logits)(tokens, images)
    np.testing.assert_allclose(logits, guard.logits(tokens, images), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(jax.jit(lambda t, i: guard(t, i))(tokens, images), guard(tokens, images))


def test_guard_computes_in_float32_under_x64(guard, inputs):
    expected = np.asarray(guard.logits(inputs.tokens[:16], inputs.images[:16]))
    with jax.enable_x64(True):
        logits = guard.logits(inputs.tokens[:16].astype(np.int64), inputs.images[:16].astype(np.float64))
        assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("tokens", "images", "message"),
    [
        (
            np.zeros((2, 15), np.int32),
            np.zeros((2, 8, 8, 1), np.float32),
            r"tokens must have shape \[batch, 16\]",
        ),
        (np.zeros(16, np.int32), np.zeros((1, 8, 8, 1), np.float32), r"tokens must have shape \[batch, 16\]"),
        (
            np.zeros((2, 16), np.int32),
            np.zeros((3, 8, 8, 1), np.float32),
            r"images must have shape \[2, 8, 8, 1\]",
        ),
        (
            np.zeros((2, 16), np.int32),
            np.zeros((2, 8, 8), np.float32),
            r"images must have shape \[2, 8, 8, 1\]",
        ),
        (np.zeros((2, 16), np.float32), np.zeros((2, 8, 8, 1), np.float32), "tokens must be integers"),
        (np.zeros((2, 16), np.int32), np.zeros((2, 8, 8, 1), np.uint8), "images must be floats"),
        (
            np.full((2, 16), 512, np.int32),
            np.zeros((2, 8, 8, 1), np.float32),
            "Token 512 lies outside the alphabet",
        ),
        (
            np.full((2, 16), -1, np.int32),
            np.zeros((2, 8, 8, 1), np.float32),
            "Token -1 lies outside the alphabet",
        ),
    ],
)
def test_bad_input_gives_one_clear_sentence(guard, tokens, images, message):
    with pytest.raises(ValueError, match=message):
        guard(tokens, images)
