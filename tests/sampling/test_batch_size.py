"""A step holds what memory holds: read off the trace, by one rule for all classifiers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.classifiers import DemoGuard, Denoised
from hybrid_rs_jax.models._memory import peak_bytes
from hybrid_rs_jax.sampling import _batch
from hybrid_rs_jax.sampling._batch import batch_for
from hybrid_rs_jax.sampling._drawing import Row, data_mesh

ROW = Row(np.zeros(16, np.int32), np.zeros((28, 28, 1), np.float32), np.ones(16, bool), 0)
FLOAT = jax.ShapeDtypeStruct((100, 100), jnp.float32)


@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        (lambda x: x @ x, 1),
        (lambda x: (x @ x) @ x, 2),
        (lambda x: ((x @ x) @ x) @ x, 2),  # the first product is gone by then
        (lambda x: jax.jit(lambda y: (y @ y) @ y)(x @ x), 3),
        (lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: (y @ y) @ y, lambda y: y @ y, x), 2),
        (lambda x: jax.lax.scan(lambda carry, _: (carry @ x, None), x, None, length=50)[0], 1),
    ],
)
def test_the_peak_is_that_of_the_arrays_alive_together(function, arrays):
    assert peak_bytes(function, FLOAT) == pytest.approx(arrays * 40_000, abs=100)


def test_the_compiler_takes_no_more_than_is_set_aside():
    apply, parameters = DemoGuard.load().functional()
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), parameters)
    tokens, images = jax.ShapeDtypeStruct((64, 16), jnp.int32), jax.ShapeDtypeStruct((64, 28, 28, 1), jnp.float32)
    taken = jax.jit(apply).lower(shapes, tokens, images).compile().memory_analysis().temp_size_in_bytes
    assert 0 < taken <= _batch._REORDERED * peak_bytes(apply, shapes, tokens, images)


def test_a_classifier_that_needs_more_memory_gets_smaller_batches(monkeypatch):
    guard, mesh = DemoGuard.load(), data_mesh(1)
    monkeypatch.setattr(_batch, "_UNKNOWN", 1 << 22)
    light = batch_for(guard, ROW, 1, mesh)

    def denoiser(images, sigma):  # features of 64 channels at the size of the picture
        return (images * jnp.ones(64, jnp.float32) @ jnp.eye(64, dtype=jnp.float32)).mean(axis=-1, keepdims=True)

    heavy = batch_for(Denoised(guard, denoiser, 0.25), ROW, 1, mesh)
    assert 1 <= heavy < light < _batch.MOST
    assert heavy & (heavy - 1) == light & (light - 1) == 0
    assert batch_for(Denoised(guard, denoiser, 0.25), ROW, 9, mesh) <= heavy
    assert batch_for(guard, ROW, 1, data_mesh(2)) == 2 * light
    assert batch_for(lambda tokens, images: tokens[:, 0] > 0, ROW, 1, mesh) == _batch.MOST


def test_counts_are_the_same_whatever_memory_there_is(monkeypatch):
    tokens = np.zeros((2, 16), np.int32)
    images = np.random.default_rng(0).random((2, 28, 28, 1)).astype(np.float32)
    smoothing, key = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 16), 0.5), jax.random.key(0)
    counts = [hrs.sample_counts(DemoGuard.load(), tokens, images, smoothing, 100, key, batch_size=50)]
    monkeypatch.setattr(_batch, "_UNKNOWN", 1 << 21)
    counts.append(hrs.sample_counts(DemoGuard.load(), tokens, images, smoothing, 100, key))
    np.testing.assert_array_equal(*counts)
