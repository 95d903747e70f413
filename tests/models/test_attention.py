"""Attention after a shared prefix is one softmax, at every size of the logits and in every dtype."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_rs_jax.models._attention import (
    _one_causal_kernel,
    _one_masked_kernel,
    attend,
    attend_last,
    attend_with_prefix,
    check_implementation,
)

WAYS = {
    "side by side": attend_with_prefix,
    "one causal kernel": functools.partial(_one_causal_kernel, implementation="xla"),
    "one masked kernel": functools.partial(_one_masked_kernel, implementation="xla"),
}


def softmax_in_float64(query, key, value, prefix_key, prefix_value):
    """The definition, row by row of the logits, in NumPy."""
    query, key, value, prefix_key, prefix_value = (
        np.asarray(part.astype(jnp.float32), np.float64) for part in (query, key, value, prefix_key, prefix_value)
    )
    batch, length, heads, size = query.shape
    repeats = heads // key.shape[2]
    keys, values = (
        np.repeat(np.concatenate([np.repeat(shared, batch // len(shared), axis=0), own], axis=1), repeats, axis=2)
        for shared, own in ((prefix_key, key), (prefix_value, value))
    )
    logits = np.einsum("bthd,bshd->bhts", query, keys) / np.sqrt(size)
    prefix = prefix_key.shape[1]
    for position in range(length):
        logits[:, :, position, prefix + position + 1 :] = -np.inf
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.einsum("bhts,bshd->bthd", weights / weights.sum(axis=-1, keepdims=True), values)


def inputs(offset=0.0, prefix=240, dtype=jnp.bfloat16, batch=2, length=48, prefixes=1):
    """Queries and keys whose logits all have the same constant on top, which a softmax does not see."""
    random = np.random.default_rng(0)
    shapes = [(batch, length, 8), (batch, length, 2), (batch, length, 2), *[(prefixes, prefix, 2)] * 2]
    parts = [random.normal(size=(*shape, 64)) for shape in shapes]
    for number in (0, 1, 3):
        parts[number][..., 0] = np.sqrt(8 * offset)
    return [jnp.asarray(part, dtype) for part in parts]


def relative_error(found, expected):
    return float(np.sqrt(np.mean((np.asarray(found, np.float64) - expected) ** 2) / np.mean(expected**2)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("offset", [0, 32, 128, 2048])
def test_a_constant_on_all_logits_costs_bfloat16_nothing(way, offset):
    parts = inputs(offset)
    assert relative_error(jax.jit(WAYS[way])(*parts), softmax_in_float64(*parts)) < 0.0025


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("prefix", "length", "prefixes"), [(7, 5, 1), (1, 9, 2), (300, 2, 3)])
def test_float32_equals_the_definition(way, prefix, length, prefixes):
    parts = inputs(prefix=prefix, length=length, dtype=jnp.float32, batch=6, prefixes=prefixes)
    np.testing.assert_allclose(jax.jit(WAYS[way])(*parts), softmax_in_float64(*parts), rtol=0, atol=1e-6)


@pytest.mark.parametrize("prefixes", [0, 1, 3])
def test_the_last_position_by_itself_is_that_of_the_whole_text(prefixes):
    query, key, value, *prefix = inputs(dtype=jnp.float32, batch=6, length=9, prefixes=max(prefixes, 1))
    lengths = jnp.array([9, 1, 4, 9, 2, 8], jnp.int32)
    last = jnp.take_along_axis(query, (lengths - 1)[:, None, None, None], axis=1)
    if prefixes:
        whole = softmax_in_float64(query, key, value, *prefix)
    else:
        whole = np.asarray(attend(query, key, value, causal=True))
    found = attend_last(last, key, value, lengths, tuple(prefix) if prefixes else None)
    np.testing.assert_allclose(found[:, 0], whole[np.arange(6), np.asarray(lengths) - 1], rtol=0, atol=1e-6)


def test_a_prefix_without_use_changes_nothing():
    query, key, value, prefix_key, prefix_value = inputs(prefix=3, dtype=jnp.float32)
    far = jnp.zeros_like(prefix_key).at[..., 0].set(-1e4)
    found = attend_with_prefix(query.at[..., 0].set(10.0), key, value, far, prefix_value)
    alone = attend(query.at[..., 0].set(10.0), key, value, causal=True)
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-5)


def test_attention_that_lies_wholly_on_one_side_stays_finite():
    ones = jnp.ones((1, 2, 2, 8))
    for sign in (-1.0, 1.0):
        found = jax.jit(attend_with_prefix)(100 * ones, sign * 100 * ones, ones, -sign * 100 * ones, 2 * ones)
        np.testing.assert_allclose(found, 1.0 if sign > 0 else 2.0)


def test_an_unknown_kind_of_attention_is_refused():
    with pytest.raises(ValueError, match=r"^attention must be 'auto', 'xla' or 'cudnn', got 'flash'\.$"):
        check_implementation("flash")
