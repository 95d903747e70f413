"""Gradients through the noise: against finite differences and against trying out every substitution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from linear_guard import LinearGuard

import hybrid_rs_jax as hrs
from hybrid_rs_jax.attacks import TableGuard
from hybrid_rs_jax.attacks._objective import Target, gradients, margins, noisy_and_kept, soft_logit
from hybrid_rs_jax.classifiers import DemoGuard
from hybrid_rs_jax.data import demo

VOCAB, LENGTH, WIDTH, SAMPLES = 6, 4, 3, 7
KERNEL = hrs.UniformKernel(0.4, VOCAB)


class SmoothNetwork(nnx.Module):
    """Tokens and pixels interact, and nothing has a kink."""

    def __init__(self, rngs):
        draw = lambda *shape: nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float64))
        self.embedding, self.mix, self.pixels, self.out = draw(VOCAB, WIDTH), draw(WIDTH, 5), draw(4, 5), draw(5)

    def __call__(self, tokens, images):
        text = jnp.tanh(self.embedding[...][tokens] @ self.mix[...]).sum(axis=1)
        return jnp.tanh(text + images.reshape(len(images), -1) @ self.pixels[...]) @ self.out[...]


class SmoothGuard:
    def __init__(self):
        graph, self.parameters = nnx.split(SmoothNetwork(nnx.Rngs(0)))
        self.apply = lambda parameters, tokens, images: nnx.merge(graph, parameters)(tokens, images)

    def functional(self):
        return self.apply, self.parameters


def central(function, x, step=1e-5):
    slope = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        bump = np.zeros(x.shape)
        bump[place] = step
        slope[place] = (function(x + bump) - function(x - bump)) / (2 * step)
    return slope


def test_gradients_are_those_of_finite_differences_in_one_hot_tokens_and_pixels():
    with jax.enable_x64(True):
        guard = TableGuard(SmoothGuard())
        margin, parameters, table = guard.embedded()
        smoothing = hrs.HybridSmoothing(KERNEL, 0.5)
        target = Target(margin, smoothing, 0.7, parameters, table)
        rng = np.random.default_rng(1)
        tokens = rng.integers(0, VOCAB, (2, LENGTH)).astype(np.int32)
        images = rng.normal(size=(2, 2, 2, 1))
        eligible = np.array([[True, True, False, True]] * 2)
        keys = jax.vmap(lambda key: jax.random.split(key, SAMPLES))(jax.random.split(jax.random.key(3), 2))
        slope, pixel_slope = gradients(target, jnp.asarray(tokens), jnp.asarray(images), keys, jnp.asarray(eligible))
        slope = np.asarray(jnp.einsum("nle,ve->nlv", slope, table))
        for row in range(2):
            draw = lambda key, row=row: smoothing.sample(
                key, jnp.asarray(tokens[row]), jnp.asarray(images[row]), jnp.asarray(eligible[row])
            )
            noisy, pixels = jax.vmap(draw)(keys[row])
            noise = pixels - images[row]
            # the uniform kernel never replaces a token by itself, so an equal token is a kept one
            kept = (noisy == tokens[row])[..., None]
            assert 0 < kept.sum() < kept.size

            @jax.jit
            def objective(one_hot, image, kept=kept, noisy=noisy, noise=noise):
                mixed = jnp.where(kept, one_hot @ table, table[noisy])
                return soft_logit(margin(parameters, mixed, image + noise), 0.7)

            one_hot = np.eye(VOCAB)[tokens[row]]
            numeric = central(lambda x, row=row, f=objective: f(x, images[row]), one_hot)
            np.testing.assert_allclose(slope[row], numeric, rtol=1e-6, atol=1e-8)
            numeric = central(lambda x, f=objective, hot=one_hot: f(hot, x), images[row])
            np.testing.assert_allclose(np.asarray(pixel_slope[row]), numeric, rtol=1e-6, atol=1e-8)


def test_token_gradient_predicts_every_substitution_of_a_linear_guard():
    """With a large temperature the objective is the mean margin: linear, so the prediction is exact."""
    with jax.enable_x64(True):
        guard = LinearGuard(0, vocab=VOCAB, length=LENGTH, dtype=np.float64)
        temperature = 1e5
        target = Target(linear := guard.embedded()[0], hrs.HybridSmoothing(hrs.AbsorbingKernel(0.4), 0.5), temperature,
                        *guard.embedded()[1:])  # fmt: skip
        assert linear is guard.embedded()[0]
        tokens = jnp.asarray([[1, 2, 3, 4]], jnp.int32)
        images, eligible = jnp.zeros((1, 2, 2, 1)), jnp.ones((1, LENGTH), bool)
        keys = jax.random.split(jax.random.key(0), 50)[None]
        value = jax.jit(lambda t: soft_logit(margins(target, t, images, keys, eligible), temperature)[0])
        slope = np.asarray(gradients(target, tokens, images, keys, eligible)[0][0] @ target.table.T)
        for place in range(LENGTH):
            for token in range(VOCAB):
                exact = float(value(tokens.at[0, place].set(token)) - value(tokens))
                predicted = slope[place, token] - slope[place, int(tokens[0, place])]
                assert predicted * temperature == pytest.approx(exact * temperature, abs=1e-4)


@pytest.mark.parametrize("kernel", [KERNEL, hrs.AbsorbingKernel(0.4), hrs.CategoricalKernel(0.4, (6, 2, 3, 6))])
def test_kept_positions_are_those_where_every_symbol_comes_through(kernel):
    smoothing = hrs.HybridSmoothing(kernel, 0.5)
    tokens = jnp.asarray([[0, 1, 2, 5], [0, 0, 0, 0]], jnp.int32)
    images, eligible = jnp.zeros((2, 2, 2, 1)), jnp.asarray([[True, True, True, False]] * 2)
    keys = jax.vmap(lambda key: jax.random.split(key, 2000))(jax.random.split(jax.random.key(0), 2))
    kept = np.asarray(noisy_and_kept(smoothing, tokens, images, keys, eligible)[1])
    assert kept[..., 3].all()
    np.testing.assert_allclose(kept[..., :3].mean(axis=1), 0.6, atol=0.04)


def test_table_guard_gives_the_margin_of_the_guard_and_its_decisions():
    guard = DemoGuard.load()
    wrapped, inputs = TableGuard(guard), demo.held_out_unsafe(16)
    margin, parameters, table = wrapped.embedded()
    found = margin(parameters, table[inputs.tokens], jnp.asarray(inputs.images))
    np.testing.assert_allclose(found, guard.margin(inputs.tokens, inputs.images), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(wrapped(inputs.tokens, inputs.images), guard(inputs.tokens, inputs.images))
    assert wrapped.embedded()[0] is TableGuard(DemoGuard.load()).embedded()[0]
    assert wrapped.tie_tolerance == guard.tie_tolerance


def test_table_guard_names_the_parameters_where_the_path_is_wrong():
    with pytest.raises(ValueError, match=r"path must name a parameter of the guard, got 'table'; it has .*embedding"):
        TableGuard(DemoGuard.load(), "table")
