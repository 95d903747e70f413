"""Denoisers: units, time steps, files, and what they refuse."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hybrid_rs_jax.models as hrs_models
from hybrid_rs_jax.models.denoiser import (
    Denoiser,
    Diffusion,
    Preconditioned,
    UNet,
    UNetConfig,
    fashion_denoiser,
    load_denoiser,
    save_denoiser,
)
from hybrid_rs_jax.models.denoiser.denoiser import from_patches, to_patches
from hybrid_rs_jax.models.denoiser.schedule import read_rule

SMALL = UNetConfig(
    in_channels=1,
    out_channels=1,
    block_out_channels=(4, 8),
    down_block_types=("DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    norm_num_groups=2,
)


def small_denoiser(rule=None, config=SMALL):
    return Denoiser(UNet(config, rngs=nnx.Rngs(0)), Diffusion() if rule is None else rule)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("denoiser") / "saved"
    save_denoiser(small_denoiser(), folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "denoiser"))


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_time_steps_are_those_of_twice_the_sigma():
    sigma = np.array([0.25, 0.5, 1.0])
    assert Diffusion("linear", 1000).step(2 * sigma).tolist() == [145, 259, 396]
    assert Diffusion("squaredcos_cap_v2", 4000).step(2 * sigma).tolist() == [1158, 1984, 2809]


@pytest.mark.parametrize(("schedule", "steps"), [("linear", 1000), ("squaredcos_cap_v2", 4000), ("scaled_linear", 50)])
def test_the_step_is_the_first_whose_level_is_at_least_that_of_the_noise(schedule, steps):
    rule = Diffusion(schedule, steps)
    s = np.geomspace(rule.levels[0] / 2, min(rule.levels[-1], 50), 200)
    t = rule.step(s)
    assert (rule.levels[t] >= s).all()
    assert ((t == 0) | (rule.levels[t - 1] < s)).all()
    asked = rule.ask(jnp.asarray(s, jnp.float32))
    np.testing.assert_array_equal(asked.time, t)
    # the network is given x_t = sqrt(abar_t) x', and 1 / abar = 1 + s^2
    np.testing.assert_allclose(asked.scale, 1 / np.sqrt(1 + rule.levels[t] ** 2), rtol=1e-6)


def test_networks_of_our_own_are_told_the_very_level_of_the_noise():
    rule = Diffusion(fractional=True)
    s = np.geomspace(rule.levels[3], rule.levels[-1] / 2, 100)
    asked = rule.ask(jnp.asarray(s, jnp.float32))
    np.testing.assert_allclose(asked.out, -s, rtol=1e-6)
    low, high = np.floor(asked.time).astype(int), np.ceil(asked.time).astype(int)
    assert (rule.levels[low] * (1 - 1e-4) <= s).all()
    assert (s <= rule.levels[high] * (1 + 1e-4)).all()
    whole = rule.ask(jnp.asarray(rule.levels[[145, 500]], jnp.float32))
    np.testing.assert_allclose(whole.time, [145, 500], atol=0.01)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("fractional", [False, True])
def test_a_network_that_answers_right_gives_the_clean_picture_back(prediction, fractional):
    rule = Diffusion(prediction=prediction, fractional=fractional)
    s = jnp.float32(rule.levels[300])
    random = np.random.default_rng(0)
    clean = jnp.asarray(random.uniform(-1, 1, 50), jnp.float32)
    noise = jnp.asarray(random.standard_normal(50), jnp.float32)
    x, asked = clean + s * noise, rule.ask(s)
    np.testing.assert_allclose(asked.skip * x + asked.out * rule.target(clean, noise, s), clean, atol=1e-5)


def test_a_consistency_model_is_the_identity_at_its_least_level():
    asked = Preconditioned(consistency=True).ask(jnp.float32(0.002))
    assert float(asked.skip) == pytest.approx(1, abs=1e-6)
    assert float(asked.out) == pytest.approx(0, abs=1e-9)


def test_images_keep_shape_and_interval():
    denoiser = small_denoiser()
    noisy = np.random.default_rng(0).normal(0.5, 2.0, (3, 8, 12, 1)).astype(np.float32)
    out = denoiser(noisy, 1.0)
    assert out.shape == noisy.shape
    assert out.dtype == jnp.float32
    assert 0 <= out.min() <= out.max() <= 1


def test_sigma_may_be_traced_one_for_all_or_one_each():
    denoiser = small_denoiser(Diffusion(fractional=True))
    noisy = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    traced = jax.jit(denoiser.__call__)
    np.testing.assert_allclose(traced(noisy, 0.5), denoiser(noisy, 0.5), atol=1e-6)
    each = denoiser(noisy, np.array([0.25, 0.5], np.float32))
    np.testing.assert_allclose(each[0], denoiser(noisy[:1], 0.25)[0], atol=1e-6)
    np.testing.assert_allclose(each[1], denoiser(noisy[1:], 0.5)[0], atol=1e-6)


def test_one_compilation_serves_every_sigma():
    denoiser = small_denoiser()
    traces = 0

    def counted(images, sigma):
        nonlocal traces
        traces += 1
        return denoiser(images, sigma)

    run = jax.jit(counted)
    images = jnp.zeros((1, 8, 8, 1))
    for sigma in (0.1, 0.5, 1.0):
        run(images, sigma)
    assert traces == 1


def test_a_traced_sigma_outside_of_the_range_gives_no_picture():
    denoiser = small_denoiser(Preconditioned(sigma_max=2.0))
    run = jax.jit(denoiser.__call__)
    images = jnp.zeros((1, 8, 8, 1))
    assert jnp.isfinite(run(images, 1.0)).all()
    for sigma in (1.01, 0.0005, 0.0, -1.0, math.nan):
        assert jnp.isnan(run(images, sigma)).all()


@pytest.mark.parametrize("sigma", [0.0, -0.5, 80.0, math.inf, math.nan, [0.5, 80.0]])
def test_a_sigma_outside_of_the_range_is_refused(sigma):
    with pytest.raises(ValueError, match=r"sigma must lie in \(0, 78\.7\d+\], .*got"):
        small_denoiser()(np.zeros((2, 8, 8, 1), np.float32), np.array(sigma))


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((2, 8, 8, 3), "must have 1 channels, as the denoiser was made for, got 3"),
        ((2, 9, 8, 1), "sides that are multiples of 2.*got 9 x 8"),
        ((2, 0, 8, 1), "sides that are multiples of 2.*got 0 x 8"),
        ((8, 8, 1), r"must have shape \[batch, height, width, channels\], got \[8, 8, 1\]"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape, sentence):
    with pytest.raises(ValueError, match=sentence):
        small_denoiser()(np.zeros(shape, np.float32), 0.5)


def test_tiles_become_channels_and_go_back_to_their_places():
    pictures = jnp.asarray(np.random.default_rng(0).random((2, 8, 12, 3), np.float32))
    tiles = to_patches(pictures, 4)
    assert tiles.shape == (2, 2, 3, 48)
    np.testing.assert_array_equal(tiles[1, 0, 2], pictures[1, :4, 8:].reshape(48))
    np.testing.assert_array_equal(from_patches(tiles, 4), pictures)


def test_a_network_on_tiles_takes_pictures_of_their_own_channels():
    config = dataclasses.replace(SMALL, in_channels=4, out_channels=4, patch_size=2)
    denoiser = small_denoiser(config=config)
    assert denoiser(np.zeros((2, 8, 12, 1), np.float32), 0.5).shape == (2, 8, 12, 1)
    with pytest.raises(ValueError, match=r"must have 1 channels.*got 4"):
        denoiser(np.zeros((2, 8, 12, 4), np.float32), 0.5)
    with pytest.raises(ValueError, match=r"sides that are multiples of 4.*got 8 x 10"):
        denoiser(np.zeros((2, 8, 10, 1), np.float32), 0.5)
    with pytest.raises(ValueError, match="in_channels must be a multiple of patch_size squared = 4, got 3"):
        dataclasses.replace(SMALL, in_channels=3, out_channels=3, patch_size=2)


def test_the_denoiser_of_the_package_takes_noise_off_a_picture():
    """A sleeve, a trunk, a sleeve: nothing of the training set, but much like it."""
    clean = np.zeros((1, 28, 28, 1), np.float32)
    clean[:, 3:25, 8:20], clean[:, 4:18, 3:7], clean[:, 4:18, 21:25] = 0.7, 0.5, 0.5
    denoiser = fashion_denoiser()
    random = np.random.default_rng(0)
    for sigma, most in ((0.25, 0.12), (0.5, 0.17), (1.0, 0.25)):
        noisy = clean + sigma * random.standard_normal((20, 28, 28, 1)).astype(np.float32)
        left = np.sqrt(np.mean((np.asarray(denoiser(noisy, sigma)) - clean) ** 2))
        assert left < most


def test_the_denoiser_of_the_package_is_small():
    folder = Path(hrs_models.__file__).parent / "weights" / "fashion_denoiser"
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 500_000


def test_saving_and_loading_gives_the_same_denoiser(folder):
    noisy = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    loaded = load_denoiser(folder)
    np.testing.assert_array_equal(loaded(noisy, 0.5), small_denoiser()(noisy, 0.5))
    assert loaded.rule == Diffusion()
    modes = {file.stat().st_mode for file in folder.rglob("*") if file.is_file()}
    assert len(modes) == 1, "whoever may read the settings may read the weights"
    assert loaded.config == SMALL


@pytest.mark.parametrize(
    "rule",
    [Diffusion("squaredcos_cap_v2", 4000, prediction="v_prediction", fractional=True), Diffusion("scaled_linear", 10)],
)
def test_rules_come_back_from_their_file(rule):
    assert read_rule(json.loads(json.dumps(rule.write()))) == rule


def test_betas_of_their_own_come_back_too():
    rule = Diffusion("trained", 3, betas=(0.1, 0.2, 0.3))
    assert read_rule(json.loads(json.dumps(rule.write()))) == rule
    np.testing.assert_allclose(rule.levels, np.sqrt(1 / np.cumprod([0.9, 0.8, 0.7]) - 1))


def test_the_description_tells_weights_and_rules_apart(folder):
    first = load_denoiser(folder)
    assert first.describe() == load_denoiser(folder).describe()
    json.dumps(first.describe())
    change(folder / "scheduler/scheduler_config.json", num_train_timesteps=500)
    assert load_denoiser(folder).describe() != first.describe()
    network = UNet(SMALL, rngs=nnx.Rngs(1))
    assert Denoiser(network, Diffusion()).describe() != small_denoiser().describe()


def test_flops_are_those_of_the_layers():
    plain = UNetConfig(
        in_channels=1,
        out_channels=1,
        block_out_channels=(4,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        layers_per_block=1,
        norm_num_groups=2,
    )
    pixels = 8 * 8
    # conv_in, the block down, two blocks up (which see 8 features), conv_out; then shortcuts and the time
    maps = 9 * (1 * 4 + 2 * 4 * 4 + 2 * (8 * 4 + 4 * 4) + 4 * 1) + 2 * 8 * 4
    time = 4 * 16 + 16 * 16 + 3 * 16 * 4
    assert small_denoiser(config=plain).flops(8, 8) == 2 * (pixels * maps + time)


@pytest.mark.parametrize(
    ("file", "changes", "sentence"),
    [
        (
            "unet/config.json",
            {"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]},
            "SkipDownBlock2D.*be one of",
        ),
        ("unet/config.json", {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}, "CrossAttnUpBlock2D.*one of"),
        ("unet/config.json", {"mid_block_type": "UNetMidBlock2DCrossAttn"}, "mid_block_type must be one of"),
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "_class_name must be UNet2DModel, got"),
        ("unet/config.json", {"time_embedding_type": "fourier"}, "time_embedding_type must be positional, got fourier"),
        ("unet/config.json", {"sample_size": 0}, "sample_size must be an integer of at least 1 or two of them, got 0"),
        ("unet/config.json", {"sample_size": [8, "8"]}, "sample_size must be an integer"),
        ("unet/config.json", {"sample_size": True}, "sample_size must be an integer"),
        ("unet/config.json", {"num_class_embeds": 10}, "num_class_embeds must be null, got 10"),
        (
            "unet/config.json",
            {"resnet_time_scale_shift": "spatial"},
            "one of default, scale_shift, got spatial",
        ),
        ("unet/config.json", {"out_channels": 4}, "out_channels must be in_channels = 1"),
        ("unet/config.json", {"norm_num_groups": 3}, "must divide block_out_channels = 4, got 3"),
        ("unet/config.json", {"block_out_channels": [4, "8"]}, "block_out_channels must be a list of integers"),
        ("unet/config.json", {"block_out_channels": []}, "must have the same length, at least 1"),
        ("unet/config.json", {"layers_per_block": True}, "layers_per_block must be an integer, got True"),
        ("unet/config.json", {"norm_eps": "tiny"}, "norm_eps must be a finite number, got tiny"),
        ("unet/config.json", {"attention_head_dim": 9}, "attention_head_dim must be at most 8"),
        ("unet/config.json", {"act_fn": "tanh"}, "act_fn must be one of"),
        ("unet/config.json", {"brand_new_setting": 3}, "ones that are known here, got brand_new_setting"),
        ("scheduler/scheduler_config.json", {"prediction_type": "score"}, "prediction_type must be one of.*got score"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "beta_schedule must be one of.*got sigmoid"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 1}, "num_train_timesteps must be an integer in 2"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": "many"}, "num_train_timesteps must be an integer"),
        ("scheduler/scheduler_config.json", {"beta_end": 1.5}, r"betas of a schedule must lie in \(0, 1\)"),
        ("scheduler/scheduler_config.json", {"beta_start": "low"}, "beta_start must be a finite number, got low"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1, None]}, "trained_betas must be a list of numbers"),
        ("scheduler/scheduler_config.json", {"trained_betas": 7}, "trained_betas must be a list of numbers"),
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr must be false"),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            "must be one of a",
        ),
        ("scheduler/scheduler_config.json", {"fractional_time": "yes"}, "fractional_time must be true or false"),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "EDMEulerScheduler", "sigma_min": 3, "sigma_max": 2},
            "sigma_min < sigma_max, got",
        ),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "EDMEulerScheduler", "sigma_data": "x"},
            "sigma_data must be a finite number, got x",
        ),
    ],
)
def test_settings_that_are_not_supported_are_refused_in_one_sentence(folder, file, changes, sentence):
    change(folder / file, **changes)
    with pytest.raises(ValueError, match=sentence) as caught:
        load_denoiser(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[1]", '"text"', "{\x00}"])
def test_a_broken_config_is_refused_in_one_sentence(folder, content):
    (folder / "unet/config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json cannot be used"):
        load_denoiser(folder)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.pt", "weights.pkl", "flax_model.msgpack"])
def test_pickled_weights_are_never_opened(folder, name):
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(folder / "unet" / name)
    with pytest.raises(ValueError, match=f"{name} may hold pickled objects.*convert"):
        load_denoiser(folder)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" * 100, b"\x80\x04" * 50, b"\x10" + 7 * b"\x00" + b"{"])
def test_weights_that_are_no_safetensors_file_are_refused(folder, content):
    (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        load_denoiser(folder)


def test_a_file_that_was_cut_off_is_refused(folder):
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        load_denoiser(folder)


def test_everything_that_does_not_fit_is_named_in_one_error(folder):
    from safetensors.numpy import load_file, save_file

    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["extra.weight"] = np.zeros(3, np.float32)
    tensors["conv_in.bias"] = np.zeros(5, np.float32)
    tensors["conv_out.bias"] = np.zeros(1, np.int32)
    del tensors["conv_norm_out.weight"]
    save_file(tensors, weights)
    with pytest.raises(ValueError) as caught:
        load_denoiser(folder)
    for fault in (
        "extra.weight is unknown",
        "conv_in.bias has shape [5], not [4]",
        "conv_out.bias has dtype I32",
        "conv_norm_out.weight is missing",
    ):
        assert fault in str(caught.value)


def test_weights_in_shards_are_one_network(folder):
    from safetensors.numpy import load_file, save_file

    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors, wanted = load_file(weights), load_denoiser(folder)
    names, places = sorted(tensors), {}
    for part, chosen in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in chosen}, folder / f"unet/part-{part}.safetensors")
        places |= dict.fromkeys(chosen, f"part-{part}.safetensors")
    weights.unlink()
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    noisy = np.random.default_rng(0).random((1, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(load_denoiser(folder)(noisy, 0.5), wanted(noisy, 0.5))
    (folder / "unet/part-1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 2 shards: part-1\.safetensors"):
        load_denoiser(folder)


def test_a_folder_without_a_scheduler_is_refused(folder):
    (folder / "scheduler/scheduler_config.json").unlink()
    with pytest.raises(ValueError, match=r"holds no scheduler/scheduler_config\.json or"):
        load_denoiser(folder)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.int8])
def test_other_dtypes_are_refused(folder, dtype):
    with pytest.raises(ValueError, match="dtype must be float32 or bfloat16, got"):
        load_denoiser(folder, dtype=dtype)


@pytest.mark.parametrize(("written", "size"), [(28, (28, 28)), ([16, 24], (16, 24)), (None, None)])
def test_the_size_that_a_denoiser_was_trained_on_is_read_and_written(folder, tmp_path, written, size):
    change(folder / "unet/config.json", sample_size=written)
    found = load_denoiser(folder)
    assert found.size == size
    save_denoiser(found, tmp_path / "again")
    assert load_denoiser(tmp_path / "again").size == size


@pytest.mark.parametrize(
    "rule",
    [
        Preconditioned(0.7, 0.01, 9.0),
        Preconditioned(sign=-1),
        Preconditioned(sigma_max=2.0, consistency=True, time_scale=1000.0),
    ],
)
def test_a_rule_that_is_told_the_level_comes_back_from_its_file(rule):
    assert read_rule(json.loads(json.dumps(rule.write()))) == rule
    described = rule.describe()
    assert (described["rule"], described["sigma_max"]) == ("preconditioned", rule.sigma_max)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: Preconditioned(consistency=True).write(),
            r"^time_scale must be 1000 and sign 1 for .*, got 1 and sign 1",
        ),
        (lambda: Preconditioned(time_scale=4.0).write(), r"^time_scale must be 1 for EDM in .*, got 4 and sign 1\.$"),
        (
            lambda: read_rule({"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}),
            r"^prediction_type must be one of epsilon, v_prediction for EDMEulerScheduler, got sample\.$",
        ),
        (
            lambda: Diffusion("trained", 3, betas=(0.1, 0.2)),
            r"^trained_betas must hold num_train_timesteps = 3, got 2\.$",
        ),
    ],
)
def test_a_rule_that_no_file_can_hold_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
