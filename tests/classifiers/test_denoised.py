"""A denoiser before a base classifier: on devices and host, with its sigma, in one compiled step."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hybrid_rs_jax.classifiers import DemoGuard, Denoised, HostClassifier
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.kernels import HybridSmoothing, UniformKernel
from hybrid_rs_jax.models.denoiser import Denoiser, Diffusion, UNet, UNetConfig
from hybrid_rs_jax.sampling import sample_counts

SIZE = 8


@pytest.fixture(scope="module")
def denoiser():
    config = UNetConfig(
        in_channels=1,
        out_channels=1,
        block_out_channels=(4,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        layers_per_block=1,
        norm_num_groups=2,
    )
    return Denoiser(UNet(config, rngs=nnx.Rngs(0)), Diffusion(fractional=True))


def bright(tokens, images):
    return jnp.mean(images, axis=(1, 2, 3)) > 0.5


def pairs(count, seed=0):
    random = np.random.default_rng(seed)
    return np.zeros((count, 3), np.int32), random.normal(0.5, 0.5, (count, SIZE, SIZE, 1)).astype(np.float32)


def test_it_decides_on_the_denoised_picture(denoiser):
    tokens, noisy = pairs(20)
    wanted = bright(tokens, denoiser(noisy, 0.5))
    np.testing.assert_array_equal(Denoised(bright, denoiser, 0.5)(tokens, noisy), wanted)
    assert 0 < wanted.sum() < 20


def test_the_functional_form_decides_the_same(denoiser):
    guard, inputs = DemoGuard.load(), demo.load_demo()
    denoised = Denoised(guard, denoiser, 0.25)
    apply, parameters = denoised.functional()
    tokens, images = inputs.tokens[:30], inputs.images[:30]
    np.testing.assert_allclose(
        jax.jit(apply)(parameters, jnp.asarray(tokens), jnp.asarray(images)), denoised.margin(tokens, images), atol=1e-4
    )
    np.testing.assert_array_equal(denoised(tokens, images), guard(tokens, denoiser(images, 0.25)))


def test_equal_ones_share_one_compiled_step(denoiser):
    guard = DemoGuard.load()
    first, second = (Denoised(guard, denoiser, 0.25).functional()[0] for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != Denoised(guard, denoiser, 0.5).functional()[0]
    assert Denoised(bright, denoiser, 0.5).functional is None, "a plain function is tried before it is traced"


@pytest.mark.parametrize("batch_size", [64, 7])
def test_counts_are_those_of_the_classifier_on_denoised_copies(denoiser, batch_size):
    tokens, images = pairs(3)
    smoothing = HybridSmoothing(UniformKernel(0.25, 5), 0.5)
    counts = sample_counts(
        Denoised(bright, denoiser, 0.5), tokens, images, smoothing, 100, jax.random.key(0), batch_size=batch_size
    )
    wanted = sample_counts(
        lambda tokens, images: bright(tokens, denoiser(images, 0.5)), tokens, images, smoothing, 100, jax.random.key(0)
    )
    np.testing.assert_array_equal(counts, wanted)
    host = HostClassifier(lambda tokens, images: images.mean(axis=(1, 2, 3)) > 0.5, batch_size=16)
    on_host = sample_counts(
        Denoised(host, denoiser, 0.5), tokens, images, smoothing, 100, jax.random.key(0), batch_size=batch_size
    )
    assert np.abs(on_host - wanted).max() <= 1  # a mean at rounding level


def test_several_classes_are_passed_on(denoiser):
    host = HostClassifier(lambda tokens, images: (images.mean(axis=(1, 2, 3)) * 2.99).astype(int), classes=3)
    denoised = Denoised(host, denoiser, 0.5)
    assert denoised.classes == 3
    assert denoised.on_host
    tokens, noisy = pairs(5)
    np.testing.assert_array_equal(denoised(tokens, noisy), host(tokens, np.asarray(denoiser(noisy, 0.5))))
    assert Denoised(host, denoiser, 0.5)(*(part[:0] for part in pairs(1))).shape == (0,)


def test_what_the_engine_asks_a_classifier_is_answered_by_the_one_inside(denoiser):
    class Inside:
        on_host, max_in_flight, cancelled = True, 3, False

        def __call__(self, tokens, images):
            return np.zeros(len(tokens), bool)

        def cancel(self):
            self.cancelled = True

    inside = Inside()
    denoised = Denoised(inside, denoiser, 0.5)
    denoised.cancel()
    assert inside.cancelled
    assert denoised.max_in_flight == 3
    assert denoised.tie_tolerance is None
    assert Denoised(DemoGuard.load(), denoiser, 0.5).tie_tolerance == DemoGuard.tie_tolerance
    Denoised(bright, denoiser, 0.5).cancel()
    assert Denoised(bright, denoiser, 0.5).on_host is None


def test_a_smoothing_with_another_sigma_is_refused(denoiser):
    denoised = Denoised(bright, denoiser, 0.5)
    denoised.check_smoothing(HybridSmoothing(None, 0.5))
    assert denoised.for_smoothing(HybridSmoothing(None, 0.5)) is denoised
    for method in (denoised.check_smoothing, denoised.for_smoothing):
        with pytest.raises(ValueError, match=r"sigma of the smoothing must be 0\.5, .*got 0\.25"):
            method(HybridSmoothing(None, 0.25))
        with pytest.raises(ValueError, match="needs pixel noise"):
            method(HybridSmoothing(UniformKernel(0.25, 5), None))


def test_without_a_sigma_that_of_the_smoothing_is_taken(denoiser):
    open_one = Denoised(bright, denoiser)
    tokens, noisy = pairs(20)
    bound = open_one.for_smoothing(HybridSmoothing(None, 0.25))
    assert bound.sigma == 0.25
    np.testing.assert_array_equal(bound(tokens, noisy), Denoised(bright, denoiser, 0.25)(tokens, noisy))
    for use in (lambda: open_one(tokens, noisy), Denoised(DemoGuard.load(), denoiser).functional):
        with pytest.raises(ValueError, match="sigma of a denoised classifier must be known"):
            use()
    with pytest.raises(ValueError, match="sigma must lie in"):
        open_one.for_smoothing(HybridSmoothing(None, 100.0))


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf"), 100.0])
def test_a_sigma_that_the_denoiser_cannot_take_is_refused(denoiser, sigma):
    with pytest.raises(ValueError, match="sigma must"):
        Denoised(bright, denoiser, sigma)


def test_what_cannot_be_called_is_refused(denoiser):
    with pytest.raises(ValueError, match="denoiser must be callable, got str"):
        Denoised(bright, "a/path")
    with pytest.raises(ValueError, match="classifier must be callable, got NoneType"):
        Denoised(None, denoiser)


def test_the_description_holds_all_that_decisions_depend_on(denoiser):
    guard = DemoGuard.load()
    found = Denoised(guard, denoiser, 0.5).describe()
    assert found["classifier"] == guard.describe()
    assert found["denoiser"] == denoiser.describe()
    json.dumps(found)
    assert found != Denoised(guard, denoiser, 0.25).describe()
    assert Denoised(bright, denoiser, 0.5).describe()["classifier"]["name"].endswith("bright")
