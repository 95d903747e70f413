"""The decoder by itself: a prefix cache changes nothing, padding has no influence, nothing large is made or copied."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hybrid_rs_jax.models import PrefixCache, Qwen2, from_config

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 509,
}
QWEN2 = {"model_type": "qwen2", **SIZES}
LLAMA = {"model_type": "llama", **SIZES}


@pytest.fixture(scope="module")
def model():
    """Weights well above their initial size, so that attention is far from uniform."""
    network = from_config(QWEN2, seed=1)
    graph, state = nnx.split(network)
    return nnx.merge(graph, jax.tree.map(lambda x: 2 * x if x.ndim > 1 else x, state))


def embeddings(batch, length, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, length, 32)).astype(np.float32))


hidden = jax.jit(lambda model, x, prefix=None: model.hidden(x, prefix))
last = jax.jit(lambda model, x, lengths, prefix=None: model.last_logits(x, lengths, prefix))
extend = jax.jit(lambda model, x, prefix=None: model.extend(x, prefix))


def repeated(prefix, x):
    """The same rows with the prefix written out in front of each."""
    return jnp.concatenate([jnp.repeat(prefix, len(x), axis=0), x], axis=1)


@pytest.mark.parametrize("length", [1, 9])
def test_continuing_a_prefix_equals_running_the_whole_text(model, length):
    prefix, x = embeddings(1, 13, seed=1), embeddings(3, length)
    whole = hidden(model, repeated(prefix, x))[:, 13:]
    np.testing.assert_allclose(hidden(model, x, extend(model, prefix)), whole, rtol=0, atol=1e-5)


def test_a_prefix_of_a_prefix_equals_running_the_whole_text(model):
    policy, image, x = embeddings(1, 7, seed=1), embeddings(1, 6, seed=2), embeddings(3, 5)
    cache = extend(model, image, extend(model, policy))
    assert cache.length == 13
    once = extend(model, jnp.concatenate([policy, image], axis=1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), cache, once)
    whole = hidden(model, repeated(jnp.concatenate([policy, image], axis=1), x))[:, 13:]
    np.testing.assert_allclose(hidden(model, x, cache), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("with_prefix", [False, True])
def test_last_logits_are_those_of_the_full_output_at_the_last_token(model, with_prefix):
    x, lengths = embeddings(4, 9), jnp.array([9, 1, 4, 7])
    prefix = extend(model, embeddings(1, 5, seed=1)) if with_prefix else None
    everywhere = jax.jit(lambda model, x, prefix: model(x, prefix))(model, x, prefix)
    expected = np.asarray(everywhere)[np.arange(4), np.asarray(lengths) - 1]
    np.testing.assert_allclose(last(model, x, lengths, prefix), expected, rtol=0, atol=1e-5)


def test_what_stands_in_the_padding_has_no_influence(model):
    lengths, x = jnp.array([9, 1, 4, 7]), np.array(embeddings(4, 9))
    clean = last(model, jnp.asarray(x), lengths)
    for row, length in enumerate(lengths):
        x[row, int(length) :] = 1e4
    np.testing.assert_array_equal(last(model, jnp.asarray(x), lengths), clean)


def test_every_earlier_token_has_influence(model):
    x = embeddings(1, 6)
    moved = jnp.concatenate([x.at[0, i].add(1.0) for i in range(6)])
    logits = last(model, jnp.concatenate([x, moved]), jnp.full(7, 6))
    assert np.abs(logits[1:] - logits[0]).max(axis=1).min() > 1e-3


def shapes(text):
    return [tuple(map(int, found.split("x")[:-1])) for found in re.findall(r"tensor<((?:\d+x)+[a-z0-9]+)>", text)]


def test_the_prefix_is_never_repeated_per_row(model):
    batch, length, prefix = 11, 5, 37
    x, cache = embeddings(batch, length), extend(model, embeddings(1, prefix))
    lowered = last.lower(model, x, jnp.full(batch, length), cache)
    size = math.prod(cache.keys[0].shape)
    copies = [shape for shape in shapes(lowered.as_text()) if {prefix, batch, cache.keys[0].shape[3]} <= set(shape)]
    assert copies == []
    per_row = [shape for shape in shapes(lowered.as_text()) if prefix in shape and math.prod(shape) == batch * size]
    assert per_row == []


def test_no_array_spans_all_positions_and_the_vocabulary(model):
    x = embeddings(3, 23)
    text = last.lower(model, x, jnp.full(3, 23)).as_text()
    assert not [shape for shape in shapes(text) if 509 in shape and 23 in shape]
    assert (3, 509) in shapes(text)


def test_weights_are_arguments_and_not_copied_into_the_program(model):
    lowered = last.lower(model, embeddings(3, 23), jnp.full(3, 23))
    assert len(lowered.as_text()) < 200_000
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
    assert lowered.compile().memory_analysis().temp_size_in_bytes < weights


def test_a_prefix_cache_in_bfloat16_stays_near_the_full_text():
    model = from_config(QWEN2 | {"num_hidden_layers": 1}, dtype=jnp.bfloat16)
    prefix, x = embeddings(1, 13, seed=1), embeddings(3, 9)
    whole = hidden(model, repeated(prefix, x))[:, 13:]
    cache = extend(model, prefix)
    assert isinstance(cache, PrefixCache)
    assert cache.keys[0].dtype == jnp.bfloat16
    found = np.asarray(hidden(model, x, cache), np.float32)
    np.testing.assert_allclose(found, np.asarray(whole, np.float32), rtol=0, atol=0.1)


def test_continuations_of_one_length_compile_once(model):
    traces = []

    @jax.jit
    def score(model, x, lengths, prefix):
        traces.append(1)
        return model.last_logits(x, lengths, prefix)

    for seed in range(3):
        cache = extend(model, embeddings(1, 6, seed=seed))
        score(model, embeddings(2, 4, seed=seed), jnp.array([4, 1 + seed]), cache)
    assert len(traces) == 1


def test_a_token_outside_of_the_vocabulary_is_not_taken_for_another(model):
    assert np.isnan(model.embed(jnp.array([[509]]))).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_key_value_heads": 3}, r"num_key_value_heads must divide num_heads = 4, got 3\."),
        ({"hidden_size": 0}, r"hidden_size must be an integer in 1\.\.262144, got 0\."),
        ({"head_dim": 7}, r"head_dim must be even for rotary embeddings, got 7\."),
        ({"hidden_act": "gelu"}, r"hidden_act must be 'silu' for llama, got 'gelu'\."),
        ({"rope_scaling": {"type": "yarn"}}, r"The rotary scaling must be default, linear or llama3, got yarn\."),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor must be 1, got 0\.5\."),
    ],
)
def test_settings_that_are_not_supported_give_one_sentence(change, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        from_config(LLAMA | change)


@pytest.mark.parametrize(
    ("change", "used"),
    [
        ({"max_window_layers": 1}, True),
        ({"max_window_layers": 2}, False),
        ({}, False),
        ({"max_window_layers": 0, "layer_types": ["full_attention"] * 2}, False),
        ({"layer_types": ["full_attention", "sliding_attention"]}, True),
    ],
)
def test_sliding_windows_are_refused_where_a_layer_uses_one(change, used):
    config = QWEN2 | {"use_sliding_window": True} | change
    if not used:
        assert Qwen2.read_config(config).num_layers == 2
        return
    with pytest.raises(ValueError, match=r"^use_sliding_window must be false.*\.$"):
        Qwen2.read_config(config)
