"""A denoiser before a base classifier: on devices and host, with its sigma, in one compiled step."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hybrid_rs_jax import SmoothedClassifier
from hybrid_rs_jax.attacks import AttackSettings, TableGuard, attack
from hybrid_rs_jax.classifiers import DemoGuard, Denoised, HostClassifier
from hybrid_rs_jax.confidence import FixedSample
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.data.inputs import ArrayInputs
from hybrid_rs_jax.kernels import HybridSmoothing, UniformKernel
from hybrid_rs_jax.models._resize import resize_matrix
from hybrid_rs_jax.models.denoiser import Denoiser, Diffusion, UNet, UNetConfig
from hybrid_rs_jax.sampling import sample, sample_counts
from hybrid_rs_jax.sampling.engine import stream
from hybrid_rs_jax.sampling.ledger import Ledger
from hybrid_rs_jax.sampling.run import sample_run

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
    other, parameters = Denoised(guard, denoiser, 0.5).functional()
    assert first == other, "sigma is an argument: a sweep over it compiles once"
    assert parameters[2] == 0.5
    assert Denoised(bright, denoiser, 0.5).functional is None, "a plain function is tried before it is traced"


@pytest.mark.parametrize("batch_size", [64, 7])
@pytest.mark.slow
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


def doors(classifier, smoothing, folder):
    """Everything that draws noise, as functions without arguments."""
    tokens, images = pairs(2)
    images = np.clip(images, 0, 1)
    key = jax.random.key(0)
    inputs = ArrayInputs(["a", "b"], tokens, images, np.ones(3, bool))

    def run():
        with Ledger.create(folder, {"classes": None}) as ledger:
            return sample_run(ledger, classifier, inputs, range(2), smoothing, FixedSample(20), key)

    return {
        "sample_counts": lambda: sample_counts(classifier, tokens, images, smoothing, 20, key),
        "sample": lambda: sample(classifier, tokens, images, smoothing, FixedSample(20), key),
        "stream": lambda: next(stream(classifier, [], 0, smoothing, FixedSample(20), key), None),
        "sample_run": run,
        "predict": lambda: SmoothedClassifier(classifier, smoothing).predict(tokens, images, 20, key),
    }


def test_every_door_to_the_engine_refuses_another_sigma_in_one_sentence(denoiser, tmp_path):
    for door in doors(Denoised(bright, denoiser, 0.5), HybridSmoothing(None, 0.25), tmp_path / "run").values():
        with pytest.raises(ValueError, match=r"^sigma of the smoothing must be 0\.5, .*got 0\.25\.$"):
            door()
    no_noise = HybridSmoothing(UniformKernel(0.25, 5), None)
    for door in doors(Denoised(bright, denoiser), no_noise, tmp_path / "other").values():
        with pytest.raises(ValueError, match="needs pixel noise"):
            door()


def test_every_door_tells_an_open_one_the_sigma_of_its_smoothing(denoiser, tmp_path):
    smoothing = HybridSmoothing(UniformKernel(0.25, 5), 0.25)
    found = [doors(Denoised(bright, denoiser, sigma), smoothing, tmp_path / f"{sigma}") for sigma in (None, 0.25)]
    for name in found[0]:
        open_one, told = (doors[name]() for doors in found)
        assert repr(open_one) == repr(told)
    counts = found[0]["sample_counts"]()
    assert 0 < counts.sum() < 40
    np.testing.assert_array_equal(found[0]["sample"]().successes, counts)


def test_conditional_draws_go_through_the_denoiser_too(denoiser):
    tokens, images = pairs(2)
    smoothing = HybridSmoothing(UniformKernel(0.25, 5), 0.5)
    settings = (tokens, np.clip(images, 0, 1), smoothing, 50, jax.random.key(0))
    forced = sample_counts(Denoised(bright, denoiser), *settings, forced=np.array([True, False, False]))
    np.testing.assert_array_equal(forced, sample_counts(Denoised(bright, denoiser), *settings))


@pytest.mark.slow
def test_attacks_see_through_the_denoiser(denoiser):
    inputs = demo.load_demo()
    guard = Denoised(TableGuard(DemoGuard.load()), denoiser)
    smoothing = HybridSmoothing(UniformKernel(0.25, demo.VOCAB_SIZE), 0.25)
    settings = AttackSettings(restarts=1, steps=2, gradient_samples=8, selection_samples=16)
    shown = (inputs.tokens[:1], inputs.images[:1], smoothing, 1, 0.5, jax.random.key(0))
    found = attack(guard, *shown, settings=settings)
    assert 0 < found.distance[0] <= 0.5
    other = attack(guard.classifier, *shown, settings=settings)
    assert not np.array_equal(other.images, found.images)
    with pytest.raises(ValueError, match="sigma of the smoothing must be"):
        attack(Denoised(TableGuard(DemoGuard.load()), denoiser, 0.5), *shown, settings=settings)
    with pytest.raises(ValueError, match="goes around the table"):
        TableGuard(Denoised(DemoGuard.load(), denoiser, 0.5))


# Sizes


class Picture:
    """Gives what it is shown in the place of a margin."""

    def __call__(self, tokens, images):
        return bright(tokens, images)

    def margin(self, tokens, images):
        return images


def test_pictures_are_resized_for_the_denoiser_and_back(denoiser):
    tokens, noisy = pairs(5)
    seen = []

    def asked(images, sigma):
        seen.append((images.shape, sigma))
        return denoiser(images, sigma)

    through = Denoised(Picture(), asked, 0.5, size=(4, 6)).margin(tokens, noisy)
    assert through.shape == noisy.shape
    (shape, told), *_ = seen
    assert shape == (5, 4, 6, 1)
    rows, columns = (resize_matrix(SIZE, side, "bicubic") for side in (4, 6))
    small = np.einsum("Hh,Ww,bhwc->bHWc", rows, columns, noisy.astype(float))
    clean = np.asarray(denoiser(small, told), float)
    back = [resize_matrix(side, SIZE, "bicubic") for side in (4, 6)]
    np.testing.assert_allclose(through, np.einsum("Hh,Ww,bhwc->bHWc", *back, clean), atol=1e-5)
    white = np.random.default_rng(1).normal(0, 0.5, (20_000, SIZE, SIZE))
    np.testing.assert_allclose(told, np.std(np.einsum("Hh,Ww,bhw->bHW", rows, columns, white)), rtol=0.01)


def test_the_resized_denoiser_is_one_compiled_function_and_decides_the_same(denoiser):
    denoised, inputs = Denoised(DemoGuard.load(), denoiser, 0.25, size=(4, 4)), demo.load_demo()
    apply, parameters = denoised.functional()
    tokens, images = jnp.asarray(inputs.tokens[:30]), jnp.asarray(inputs.images[:30])
    np.testing.assert_allclose(jax.jit(apply)(parameters, tokens, images), denoised.margin(tokens, images), atol=1e-4)


@pytest.mark.parametrize("size", [(8,), (0, 8), 8, "8x8", (8.0, 8)])
def test_a_size_that_is_none_is_refused(denoiser, size):
    with pytest.raises(ValueError, match="size must be a height and a width"):
        Denoised(bright, denoiser, size=size)


def test_a_grey_denoiser_takes_each_channel_by_itself(denoiser):
    _, noisy = pairs(3)
    coloured = np.concatenate([noisy, noisy[::-1], noisy * 0.5], axis=3)
    through = Denoised(Picture(), denoiser, 0.5).margin(np.zeros((3, 1), np.int32), coloured)
    for channel in range(3):
        wanted = denoiser(coloured[..., channel : channel + 1], 0.5)[..., 0]
        np.testing.assert_allclose(through[..., channel], wanted, atol=1e-5)


def test_pictures_that_the_denoiser_cannot_take_are_refused_where_it_is_traced(denoiser):
    two = Denoiser(
        UNet(dataclasses.replace(denoiser.config, in_channels=2, out_channels=2), rngs=nnx.Rngs(0)), Diffusion()
    )
    tokens, images = pairs(2)
    with pytest.raises(ValueError, match="images must have 2 channels"):
        sample_counts(
            Denoised(DemoGuard.load(), two), tokens, images, HybridSmoothing(None, 0.5), 10, jax.random.key(0)
        )
    with pytest.raises(ValueError, match="images must have 2 channels"):
        Denoised(bright, two, 0.5).check_pictures((8, 8, 1))
    Denoised(bright, two, 0.5).check_pictures((8, 8, 2))


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
    assert found["time"] == pytest.approx(denoiser.time(0.5), abs=1e-3)
    assert 258 < found["time"] < 259
    assert "time" not in Denoised(guard, denoiser, 0.5, size=(4, 4)).describe(), "the size of the pictures is not known"
    assert found != Denoised(guard, denoiser, 0.25).describe()
    assert Denoised(bright, denoiser, 0.5).describe()["classifier"]["name"].endswith("bright")
