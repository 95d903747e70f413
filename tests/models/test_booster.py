"""The smoothness mapper and its training: against NumPy, at sigma 0, and for what both stages are to gain."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hybrid_rs_jax.models._training import load_optax
from hybrid_rs_jax.models.booster import Mapper, MapperConfig, MapperNetwork, load_mapper, save_mapper
from hybrid_rs_jax.models.booster.training import BoosterPlan, cosine, train_denoiser, train_mapper
from hybrid_rs_jax.models.denoiser import Denoiser, Diffusion, UNet, UNetConfig

CONFIG = MapperConfig(features=8, tokens=3, blocks=2, heads=2, scale=0.3)
UNET = UNetConfig(
    in_channels=4,
    out_channels=4,
    patch_size=2,
    block_out_channels=(8,),
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    mid_block_type=None,
    layers_per_block=1,
    norm_num_groups=2,
)


GRAPH, SHAPES = nnx.split(nnx.eval_shape(lambda: MapperNetwork(CONFIG, nnx.Rngs(0))))


@functools.cache
def random_mapper():
    """A mapper none of whose weights is zero."""
    random = np.random.default_rng(0)
    weights = jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.4, leaf.shape), jnp.float32), SHAPES)
    return Mapper(nnx.merge(GRAPH, weights), CONFIG)


class Linear:
    """An encoder of pictures: one linear map and a tanh."""

    def __init__(self, features=24, seed=0):
        self.weights = jnp.asarray(np.random.default_rng(seed).normal(0, 0.3, (64, features)), jnp.float32)

    def functional(self):
        return _linear, self.weights


def _linear(weights, tokens, images):
    return jnp.tanh(3 * (images.reshape(len(images), -1) - 0.5) @ weights)


def stripes(count, seed=0):
    random = np.random.default_rng(seed)
    rows = (np.arange(8)[None] + random.integers(0, 4, (count, 1))) // 2 % 2
    return np.broadcast_to(rows[:, :, None, None] * 0.6 + 0.2, (count, 8, 8, 1)).astype(np.float32)


def by_hand(mapper, features, sigma):
    """Eq. 10 and A.28 to A.33 in NumPy, one token after the other."""
    network = nnx.merge(GRAPH, mapper.functional()[1])
    config = mapper.config

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    def dense(layer, x):
        return x @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...], np.float64)

    out = []
    for feature in np.asarray(features, np.float64):
        z = feature.reshape(config.tokens, -1)
        length = np.sqrt((z**2).sum() / config.tokens)
        start = z = z / length
        for block in network.blocks:
            centred = z - z.mean(axis=1, keepdims=True)
            x = centred / np.sqrt(z.var(axis=1, keepdims=True) + 1e-6)
            x = x * np.asarray(block.norm.scale[...]) + np.asarray(block.norm.bias[...])
            h = dense(block.down, gelu(dense(block.up, x)))
            taps = np.asarray(block.taps[...], np.float64)
            for t in range(config.tokens):
                for k in range(config.kernel):
                    if 0 <= t + k - config.kernel // 2 < config.tokens:
                        h[t] += 0.5 * taps[k] * x[t + k - config.kernel // 2]
            if block.mixed is not None:
                parts = dense(block.mixed, x).reshape(config.tokens, 3, config.heads, -1)
                heads = []
                for head in range(config.heads):
                    q, k, v = (parts[:, i, head] for i in range(3))
                    weights = np.exp(q @ k.T / np.sqrt(q.shape[1]))
                    heads.append(weights / weights.sum(axis=1, keepdims=True) @ v)
                h = h + dense(block.out, np.concatenate(heads, axis=1))
            level = np.array([np.log(sigma)])
            gamma, beta = np.split(dense(block.film_down, gelu(dense(block.film_up, level))), 2)
            alpha, power = np.log1p(np.exp(dense(block.size_down, gelu(dense(block.size_up, level)))))
            direction = h / np.linalg.norm(h, axis=1, keepdims=True)
            z = z + ((1 + gamma) * alpha * direction + beta) * sigma**power * np.asarray(block.scale[...])
        out.append(feature + length * (z - start).ravel())
    return np.stack(out)


def test_the_mapper_computes_the_equations_of_the_paper():
    mapper = random_mapper()
    features = np.random.default_rng(1).normal(0, 5, (4, 24)).astype(np.float32)
    for sigma in (0.1, 1.0):
        assert np.allclose(mapper(features, sigma), by_hand(mapper, features, sigma), atol=2e-5)
    each = mapper(features, np.array([0.1, 0.1, 1.0, 1.0], np.float32))
    assert np.allclose(each[2:], mapper(features[2:], 1.0), atol=1e-6)


def test_at_sigma_zero_features_come_back_bit_for_bit_and_gradients_are_finite():
    mapper = random_mapper()
    features = np.random.default_rng(1).normal(0, 5, (4, 24)).astype(np.float32)
    assert np.array_equal(mapper(features, 0.0), features)
    apply, parameters = mapper.functional()
    slopes = jax.jit(jax.grad(lambda p: apply(p, jnp.asarray(features), jnp.float32(0)).sum()))(parameters)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_only_the_direction_of_a_feature_counts():
    mapper = random_mapper()
    features = np.random.default_rng(1).normal(0, 1, (4, 24)).astype(np.float32)
    assert np.allclose(mapper(64 * features, 0.5), 64 * mapper(features, 0.5), rtol=1e-4, atol=1e-3)


def test_a_mapper_is_the_same_after_its_file(tmp_path):
    mapper = random_mapper()
    save_mapper(mapper, tmp_path / "m.safetensors")
    again = load_mapper(tmp_path / "m.safetensors")
    assert again.describe() == mapper.describe()
    whole = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:200])
    (tmp_path / "other.safetensors").write_bytes(whole.replace(b"tokens", b"tokene"))
    (tmp_path / "sizes.safetensors").write_bytes(whole.replace(b'expansion\\": 2', b'expansion\\": 3'))
    for name, message in (("cut", "no whole mapper"), ("other", "no whole mapper"), ("sizes", "do not fit")):
        with pytest.raises(ValueError, match=message):
            load_mapper(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MapperConfig(features=8, heads=3), "heads must divide features = 8, got 3"),
        (lambda: MapperConfig(features=8, kernel=2), "kernel must be odd, got 2"),
        (lambda: MapperConfig(features=0), "features must be"),
        (lambda: MapperConfig(features=8, scale=0.0), "scale must be positive"),
        (lambda: random_mapper()(np.zeros((1, 23), np.float32), 0.5), "takes features .* of 8, got shape .1, 23."),
        (lambda: BoosterPlan(sigma_min=0.5, sigma_max=0.25), "sigma_min must be at most"),
        (lambda: BoosterPlan(mapper_rate=0.0), "mapper_rate must be above 0"),
        (lambda: BoosterPlan(lambda_stats=-1.0), "lambda_stats must be at least 0"),
        (lambda: BoosterPlan(average=1.0), "average must lie in"),
        (lambda: train_mapper(CONFIG, Linear(), None, stripes(8), BoosterPlan()), "at least 16 pictures"),
        (lambda: train_mapper(CONFIG, Linear(), None, 2 * stripes(32), BoosterPlan()), "must lie in .0, 1."),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def cosines_with_clean(*views):
    """Mean cosine of features of views of noisy pictures with those of the clean ones, and the plain features."""
    clean = np.repeat(stripes(16, seed=1), 8, axis=0)
    noisy = clean + 0.3 * np.random.default_rng(2).standard_normal(clean.shape).astype(np.float32)
    encode = jax.jit(functools.partial(_linear, Linear().weights, None))
    found = [encode(view(noisy)) for view in (np.asarray, *views)]
    return [float(cosine(feature, encode(clean)).mean()) for feature in found], found[0], encode(clean)


def test_a_mapper_brings_features_nearer_to_the_clean_ones():
    plan = BoosterPlan(0.3, 0.3, epochs=12, copies=4, mapper_rate=2e-2, lambda_stats=1.0, average=0.9)
    mapper, losses = train_mapper(CONFIG, Linear(), None, stripes(64), plan)
    assert np.isfinite(losses).all()
    (plain,), noisy, clean = cosines_with_clean()
    assert float(cosine(mapper(noisy, 0.3), clean).mean()) > plain + 0.05


class Blind(Linear):
    """An encoder whose feature is the same for every picture: its cosine with the clean one is 1."""

    def functional(self):
        return (lambda weights, tokens, images: jnp.ones((len(images), 3)) * weights[0, 0]), self.weights


def test_the_loss_of_a_denoiser_before_a_blind_encoder_is_its_mean_squared_error():
    start = Denoiser(UNet(UNET, rngs=nnx.Rngs(0)), Diffusion(prediction="v_prediction", fractional=True))
    plan = BoosterPlan(0.3, 0.3, epochs=1, copies=8, denoiser_batch=32, denoiser_rate=1e-6, lambda_mse=0.5)
    pictures = stripes(32)
    denoiser, losses = train_denoiser(start, Blind(), pictures, plan)
    clean = np.repeat(pictures, 8, axis=0)
    noisy = clean + 0.3 * np.random.default_rng(3).standard_normal(clean.shape).astype(np.float32)
    error = np.square(np.asarray(start(noisy, 0.3)) - clean).mean()
    assert losses == [pytest.approx(0.5 * error, rel=0.05)]
    assert denoiser.describe()["weights_sha256"] != start.describe()["weights_sha256"]
    assert (denoiser.rule, denoiser.config) == (start.rule, start.config)


def test_training_without_optax_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(ValueError, match=r'^Training needs optax: pip install "hybrid-rs-jax\[experiments\]"\.$'):
        load_optax()


@pytest.mark.slow
def test_a_denoiser_brings_features_nearer_to_the_clean_ones_and_goes_on_from_its_checkpoint(tmp_path):
    network, encoder = UNet(UNET, rngs=nnx.Rngs(0)), Linear()
    start = Denoiser(network, Diffusion(prediction="v_prediction", fractional=True))
    plan = BoosterPlan(0.3, 0.3, epochs=6, copies=4, denoiser_rate=3e-3, checkpoint_every=5)
    denoiser, losses = train_denoiser(start, encoder, stripes(64), plan, checkpoint=tmp_path / "one")
    assert np.isfinite(losses).all()
    (plain, before, after), *_ = cosines_with_clean(lambda x: start(x, 0.3), lambda x: denoiser(x, 0.3))
    assert after > max(plain, before) + 0.05

    again, resumed = train_denoiser(start, encoder, stripes(64), plan, checkpoint=tmp_path / "one")
    assert again.describe() == denoiser.describe()
    assert resumed == losses
    with pytest.raises(ValueError, match="checkpoint of other settings"):
        train_denoiser(start, encoder, stripes(64), dataclasses.replace(plan, seed=1), checkpoint=tmp_path / "one")


@pytest.mark.slow
def test_the_loss_on_statistics_keeps_the_mapper_from_moving_them():
    def moved(weight):
        plan = BoosterPlan(0.3, 0.3, epochs=6, copies=4, mapper_rate=1e-2, lambda_stats=weight)
        mapper, _ = train_mapper(CONFIG, Linear(), None, stripes(64), plan)
        features = np.asarray(_linear(Linear().weights, None, jnp.asarray(stripes(64))))
        return np.abs(np.asarray(mapper(features, 0.3)) - features).mean()

    assert moved(1e4) < 0.7 * moved(0.0)
