"""The demo guard as a base classifier: its promises on held-out inputs, and its manners."""

import functools
import hashlib
import random
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hybrid_rs_jax as hrs
from hybrid_rs_jax.classifiers import BaseClassifier, DemoGuard
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.models.demo_guard import DemoGuardConfig, DemoGuardNetwork

SMALL = DemoGuardConfig(width=4, patch_features=4, hidden=8, slots=2)


@nnx.jit
def small_network(key):
    return DemoGuardNetwork(SMALL, nnx.Rngs(key))


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
    whole = np.asarray(guard.margin(inputs.tokens[:32], inputs.images[:32]))
    for size in (1, 7):
        part = np.asarray(guard.margin(inputs.tokens[:size], inputs.images[:size]))
        np.testing.assert_allclose(part, whole[:size], rtol=1e-4, atol=1e-4)


def test_guard_works_inside_jit(guard, inputs):
    tokens, images = jnp.asarray(inputs.tokens[:64]), jnp.asarray(inputs.images[:64])
    margin = jax.jit(guard.margin)(tokens, images)
    np.testing.assert_allclose(margin, guard.margin(tokens, images), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(jax.jit(lambda t, i: guard(t, i))(tokens, images), guard(tokens, images))


def test_guard_computes_in_float32_under_x64(guard, inputs):
    expected = np.asarray(guard.margin(inputs.tokens[:16], inputs.images[:16]))
    with jax.enable_x64(True):
        margin = guard.margin(inputs.tokens[:16].astype(np.int64), inputs.images[:16].astype(np.float64))
        assert margin.dtype == jnp.float32
    np.testing.assert_allclose(margin, expected, rtol=1e-4, atol=1e-4)


# What the engine may also ask for


@pytest.fixture(scope="module")
def noisy(inputs):
    """Noisy copies of the held-out inputs, as the demo draws them."""
    count = 6000
    rows, keys = np.arange(count) % len(inputs), jax.random.split(jax.random.key(3), count)
    smoothing, eligible = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 512), 0.25), jnp.asarray(demo.suffix_mask())
    draw = jax.jit(jax.vmap(lambda key, tokens, image: smoothing.sample(key, tokens, image, eligible)))
    return draw(keys, jnp.asarray(inputs.tokens[rows]), jnp.asarray(inputs.images[rows]))


def test_margins_differ_between_batch_sizes_by_less_than_the_tie_tolerance(guard, noisy):
    tokens, images = noisy
    found = []
    for size in (1, 7, 64, 500, 2000, 4096):
        count = min(len(tokens), 150 * size) // size * size
        cuts = [slice(start, start + size) for start in range(0, count, size)]
        margins = np.concatenate([guard.margin(tokens[cut], images[cut]) for cut in cuts])
        found.append(np.pad(margins, (0, len(tokens) - count), constant_values=np.nan))
    spread = np.nanmax(found, axis=0) - np.nanmin(found, axis=0)
    assert spread.max() < guard.tie_tolerance
    assert spread.max() > 0  # else nothing was compared


def test_the_margin_decides(guard, noisy):
    tokens, images = (part[:500] for part in noisy)
    np.testing.assert_array_equal(guard(tokens, images), np.asarray(guard.margin(tokens, images)) > 0)


def test_the_pure_function_gives_the_margin_and_is_compiled_once_for_all_guards_of_one_size(guard, noisy):
    tokens, images = (part[:64] for part in noisy)
    first, second = (DemoGuard(small_network(jax.random.key(seed))) for seed in (0, 1))
    traces = 0

    @functools.partial(jax.jit, static_argnums=0)
    def step(apply, parameters, tokens, images):
        nonlocal traces
        traces += 1
        return apply(parameters, tokens, images)

    for each in (first, second, first):
        apply, parameters = each.functional()
        np.testing.assert_allclose(step(apply, parameters, tokens, images), each.margin(tokens, images), atol=1e-4)
    assert traces == 1
    assert apply is first.functional()[0] is second.functional()[0] is not guard.functional()[0]
    assert not np.allclose(first.margin(tokens, images), second.margin(tokens, images), atol=1e-3)


def test_the_header_holds_the_digest_of_the_weights(guard):
    stored = resources.files("hybrid_rs_jax.models").joinpath("weights", "demo_guard.npz").read_bytes()
    name = "hybrid_rs_jax.classifiers.DemoGuard"
    assert guard.describe() == {"name": name, "weights_sha256": hashlib.sha256(stored).hexdigest()}


def test_other_weights_have_another_digest_and_equal_ones_the_same(guard):
    first, again, second = (DemoGuard(small_network(jax.random.key(seed))).describe() for seed in (0, 0, 1))
    assert first == again
    assert len({first["weights_sha256"], second["weights_sha256"], guard.describe()["weights_sha256"]}) == 3


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
