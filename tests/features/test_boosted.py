"""An encoder between a denoiser and a mapper: the same in every way of calling it, compared with the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.features import Boosted, HostEncoder, unit_features
from hybrid_rs_jax.models.booster import Mapper, MapperConfig, MapperNetwork
from hybrid_rs_jax.models.denoiser import fashion_denoiser

TOKENS = np.zeros((2, 1), np.int32)
IMAGES = (np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1)) / 255).astype(np.float32)
SMOOTHING = hrs.HybridSmoothing(None, 0.25)


def _pooled(parameters, tokens, images):
    return images.reshape(len(images), 8, -1).mean(axis=2) + parameters


class Pooled:
    def functional(self):
        return _pooled, jnp.float32(0.1)

    def __call__(self, tokens, images):
        return _pooled(jnp.float32(0.1), tokens, images)


@pytest.fixture(scope="module")
def mapper():
    from flax import nnx

    config = MapperConfig(features=8, scale=1.0)
    return Mapper(MapperNetwork(config, nnx.Rngs(3)), config)


def test_it_is_denoiser_encoder_and_mapper_one_after_the_other(mapper):
    denoiser, plain = fashion_denoiser(), Pooled()
    noisy = IMAGES + 0.25 * np.random.default_rng(1).standard_normal(IMAGES.shape).astype(np.float32)
    for own in ({"denoiser": denoiser}, {"mapper": mapper}, {"denoiser": denoiser, "mapper": mapper}):
        encoder = Boosted(plain, 0.25, **own)
        wanted = plain(TOKENS, jnp.asarray(denoiser(noisy, 0.25) if "denoiser" in own else noisy))
        wanted = mapper(wanted, 0.25) if "mapper" in own else wanted
        assert np.allclose(encoder(TOKENS, noisy), wanted, atol=1e-5)
        apply, parameters = encoder.functional()
        assert np.allclose(jax.jit(apply)(parameters, TOKENS, noisy), wanted, atol=1e-5)
        assert apply == Boosted(plain, 0.25, **own).functional()[0]


@pytest.mark.slow
def test_laws_compare_noisy_boosted_features_with_the_plain_clean_one(mapper):
    encoder = Boosted(Pooled(), mapper=mapper)
    given = (TOKENS, IMAGES, SMOOTHING, 200, jax.random.key(0))
    clean = unit_features(Pooled()(TOKENS, jnp.asarray(IMAGES)))
    asked, fixed = hrs.sample_features(encoder, *given), hrs.sample_features(encoder, *given, clean)
    assert np.array_equal(asked.counts, fixed.counts)
    host = HostEncoder(lambda tokens, images: np.asarray(Pooled()(tokens, jnp.asarray(images))))
    on_host = hrs.sample_features(Boosted(host, mapper=mapper), *given)
    means = [law.counts @ law.edges[:-1] / 200 for law in (asked, on_host)]
    assert np.allclose(*means, atol=2e-3)
    mean = hrs.SmoothedEncoder(encoder, SMOOTHING, copies=400).mean(TOKENS, IMAGES, jax.random.key(1))
    assert np.allclose((1 + (mean * clean).sum(axis=1)) / 2, means[0], atol=0.02)


def test_noise_of_another_size_is_refused(mapper):
    encoder = Boosted(Pooled(), 0.5, mapper=mapper)
    with pytest.raises(ValueError, match=r"must be 0\.5, which the encoder was told"):
        hrs.sample_features(encoder, TOKENS, IMAGES, SMOOTHING, 10, jax.random.key(0))
    with pytest.raises(ValueError, match="needs pixel noise"):
        encoder.for_smoothing(hrs.HybridSmoothing(hrs.UniformKernel(0.5, 4), None))
    with pytest.raises(ValueError, match="needs a denoiser, a mapper, or both"):
        Boosted(Pooled(), 0.5)
    with pytest.raises(ValueError, match="must be known before"):
        Boosted(Pooled(), mapper=mapper)(TOKENS, IMAGES)
    assert encoder.describe()["clean_reference"] == "the plain encoder"
