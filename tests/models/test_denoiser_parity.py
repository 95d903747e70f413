"""Denoisers against diffusers in PyTorch: random networks of all variants, saved by diffusers and loaded here."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from hybrid_rs_jax.models.denoiser import Diffusion, load_denoiser, save_denoiser

torch = pytest.importorskip("torch", reason="PyTorch is the oracle: pip install hybrid-rs-jax[parity]")
diffusers = pytest.importorskip("diffusers", reason="diffusers is the oracle: pip install hybrid-rs-jax[parity]")

TOLERANCE = 1e-4
SIZE = 8
#: What may vary; any two values of different settings meet in some network.
CHOICES = {
    "down": ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "up": ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "resample": ("conv", "resnet"),
    "padding": (0, 1),
    "head": (None, 4, 3),  # features per attention head; 3 does not divide the 8 features of the first level
    "groups": (2, 4),
    "layers": (1, 2),
    "freq_shift": (0, 1),
    "flip": (False, True),
    "time": ("default", "scale_shift"),
    "schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction": ("epsilon", "sample", "v_prediction"),
}
#: What varies besides, each value in some network; (3, 6) channels: the network also predicts a variance.
BESIDES = {
    "middle": ("attention", "groups", "plain", None),
    "channels": ((3, 3), (1, 1), (3, 6)),
    "act": ("silu", "mish", "gelu", "relu", "swish"),
}


def covering_rows(seed=0):
    """Settings such that any two choices meet in some row, found greedily."""
    random = np.random.default_rng(seed)
    names = list(CHOICES)
    open_pairs = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i in range(len(CHOICES[a]))
        for j in range(len(CHOICES[b]))
    }
    rows = []
    while open_pairs:
        candidates = [{name: int(random.integers(len(CHOICES[name]))) for name in names} for _ in range(300)]
        covered = [set(itertools.combinations(candidate.items(), 2)) & open_pairs for candidate in candidates]
        best = max(range(len(candidates)), key=lambda k: len(covered[k]))
        open_pairs -= covered[best]
        row = {name: CHOICES[name][index] for name, index in candidates[best].items()}
        rows.append(row | {name: values[len(rows) % len(values)] for name, values in BESIDES.items()})
    return rows


ROWS = covering_rows()


def random_network(row, seed):
    """A diffusers network of these settings whose every parameter is random."""
    torch.manual_seed(seed)
    extra = {"attn_norm_num_groups": 2} if row["middle"] == "groups" else {}
    network = diffusers.UNet2DModel(
        sample_size=SIZE,
        in_channels=row["channels"][0],
        out_channels=row["channels"][1],
        block_out_channels=(8, 12),
        down_block_types=(row["down"], "AttnDownBlock2D"),
        up_block_types=("UpBlock2D", row["up"]) if seed % 2 else (row["up"], "UpBlock2D"),
        mid_block_type=None if row["middle"] is None else "UNetMidBlock2D",
        add_attention=row["middle"] != "plain",
        mid_block_scale_factor=1.5 if row["middle"] == "groups" else 1,
        downsample_type=row["resample"],
        upsample_type=row["resample"],
        downsample_padding=row["padding"],
        attention_head_dim=row["head"],
        norm_num_groups=row["groups"],
        norm_eps=1e-6,
        layers_per_block=row["layers"],
        freq_shift=row["freq_shift"],
        flip_sin_to_cos=row["flip"],
        resnet_time_scale_shift=row["time"],
        act_fn=row["act"],
        **extra,
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def scheduler_of(row):
    variance = "learned_range" if row["channels"][1] == 2 * row["channels"][0] else "fixed_small"
    return diffusers.DDPMScheduler(
        beta_schedule=row["schedule"], prediction_type=row["prediction"], variance_type=variance
    )


def one_step(network, scheduler, noisy, t):
    """What diffusers makes of pictures in [0, 1] whose noise is taken for that of step `t`."""
    kept = scheduler.alphas_cumprod[t]
    x = kept.sqrt() * (2 * torch.from_numpy(noisy.transpose(0, 3, 1, 2)) - 1)
    with torch.no_grad():
        answer = network(x, torch.tensor(t)).sample
        clean = scheduler.step(answer, t, x, generator=torch.manual_seed(0)).pred_original_sample
    return (clean.numpy().transpose(0, 2, 3, 1) + 1) / 2


def noisy_pictures(channels, sigma, seed=0):
    random = np.random.default_rng(seed)
    clean = random.random((3, SIZE, SIZE, channels))
    return (clean + sigma * random.standard_normal(clean.shape)).astype(np.float32)


def test_at_least_twelve_rows_cover_all_pairs_of_choices():
    assert len(ROWS) >= 12
    for (a, values_a), (b, values_b) in itertools.combinations(CHOICES.items(), 2):
        assert {(row[a], row[b]) for row in ROWS} == set(itertools.product(values_a, values_b))


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_denoises_as_diffusers_does(number, tmp_path):
    row = ROWS[number]
    network, scheduler = random_network(row, number), scheduler_of(row)
    diffusers.DDPMPipeline(network, scheduler).save_pretrained(tmp_path)
    denoiser = load_denoiser(tmp_path)
    sigmas = np.array([0.1, 0.5, 1.0], np.float32)
    noisy = noisy_pictures(row["channels"][0], 0.5, number)
    steps = denoiser.rule.step(2 * sigmas.astype(np.float64))
    wanted = np.concatenate([one_step(network, scheduler, noisy[i : i + 1], int(t)) for i, t in enumerate(steps)])
    found = np.asarray(denoiser(noisy, sigmas))
    assert np.abs(found - wanted).max() <= TOLERANCE
    assert np.ptp(found) > 0.1, "a test in which everything is clipped would not show much"


@pytest.mark.parametrize("schedule", CHOICES["schedule"])
@pytest.mark.parametrize("steps", [50, 1000, 4000])
def test_levels_of_noise_are_those_of_diffusers(schedule, steps):
    kept = diffusers.DDPMScheduler(beta_schedule=schedule, num_train_timesteps=steps).alphas_cumprod.numpy()
    wanted = np.sqrt((1 - kept) / kept)
    found = Diffusion(schedule, steps).levels
    usable = wanted < 100  # beyond that the float32 of diffusers has few digits left
    np.testing.assert_allclose(found[usable], wanted[usable], rtol=2e-3)


def test_what_was_saved_here_is_read_by_diffusers(tmp_path):
    row = ROWS[0]
    network, scheduler = random_network(row, 0), scheduler_of(row)
    network.save_pretrained(tmp_path / "theirs")
    scheduler.save_pretrained(tmp_path / "theirs")
    save_denoiser(load_denoiser(tmp_path / "theirs"), tmp_path / "ours")
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "ours" / "unet")
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name
    rule = diffusers.DDPMScheduler.from_pretrained(tmp_path / "ours" / "scheduler")
    assert torch.equal(rule.alphas_cumprod, scheduler.alphas_cumprod)
    assert rule.config.prediction_type == scheduler.config.prediction_type


def test_older_names_of_attention_layers_are_understood(tmp_path):
    from safetensors.numpy import load_file, save_file

    row = ROWS[0] | {"middle": "attention"}
    network = random_network(row, 1)
    network.save_pretrained(tmp_path)
    scheduler_of(row).save_pretrained(tmp_path)
    wanted = load_denoiser(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, value in load_file(file).items():
        for new, old in older.items():
            name = name.replace(f".{new}.", f".{old}.")
        tensors[name] = value
    assert any("proj_attn" in name for name in tensors)
    save_file(tensors, file)
    noisy = noisy_pictures(row["channels"][0], 0.25)
    np.testing.assert_array_equal(load_denoiser(tmp_path)(noisy, 0.25), wanted(noisy, 0.25))


@pytest.mark.slow
def test_half_precision_stays_close(tmp_path):
    row = ROWS[1]
    network = random_network(row, 2)
    network.save_pretrained(tmp_path)
    scheduler_of(row).save_pretrained(tmp_path)
    noisy = noisy_pictures(row["channels"][0], 0.25)
    exact, half = load_denoiser(tmp_path), load_denoiser(tmp_path, dtype=jnp.bfloat16)
    assert half(noisy, 0.25).dtype == jnp.float32
    assert np.abs(np.asarray(exact(noisy, 0.25)) - np.asarray(half(noisy, 0.25))).max() < 0.1
    assert exact.describe() == {**half.describe(), "dtype": "float32"}


def edm_schedulers():
    yield diffusers.EDMEulerScheduler(), 1.0
    yield diffusers.EDMEulerScheduler(prediction_type="v_prediction", sigma_data=0.7), 1.0


@pytest.mark.parametrize("number", [0, 1])
def test_preconditioning_is_that_of_edm(number, tmp_path):
    scheduler, _ = list(edm_schedulers())[number]
    network = random_network(ROWS[2] | {"channels": (3, 3)}, 3)
    network.save_pretrained(tmp_path)
    scheduler.save_pretrained(tmp_path)
    noisy = noisy_pictures(3, 0.5)
    s = torch.tensor(1.0)
    x = 2 * torch.from_numpy(noisy.transpose(0, 3, 1, 2)) - 1
    with torch.no_grad():
        answer = network(scheduler.precondition_inputs(x, s), scheduler.precondition_noise(s)).sample
        clean = scheduler.precondition_outputs(x, answer, s).clamp(-1, 1)
    found = np.asarray(load_denoiser(tmp_path)(noisy, 0.5)).transpose(0, 3, 1, 2)
    assert np.abs(found - (clean.numpy() + 1) / 2).max() <= TOLERANCE


def test_preconditioning_is_that_of_consistency_models(tmp_path):
    scheduler = diffusers.CMStochasticIterativeScheduler()
    network = random_network(ROWS[2] | {"channels": (3, 3)}, 3)
    network.save_pretrained(tmp_path)
    scheduler.save_pretrained(tmp_path)
    noisy = noisy_pictures(3, 0.5)
    s = 1.0
    x = 2 * torch.from_numpy(noisy.transpose(0, 3, 1, 2)) - 1
    skip, out = scheduler.get_scalings_for_boundary_condition(torch.tensor(s))
    time = torch.from_numpy(np.asarray(scheduler.sigma_to_t(np.array([s]))).astype(np.float32))
    with torch.no_grad():
        clean = (skip * x + out * network(x / (s**2 + 0.5**2) ** 0.5, time).sample).clamp(-1, 1)
    found = np.asarray(load_denoiser(tmp_path)(noisy, 0.5)).transpose(0, 3, 1, 2)
    assert np.abs(found - (clean.numpy() + 1) / 2).max() <= TOLERANCE


def test_settings_that_the_loader_reads_are_those_that_diffusers_has():
    from hybrid_rs_jax.models.denoiser.config import FIXED, WITHOUT_EFFECT, UNetConfig

    theirs = {name for name in diffusers.UNet2DModel().config if not name.startswith("_")}
    ours = {field.name for field in dataclasses.fields(UNetConfig)} | set(FIXED) | set(WITHOUT_EFFECT)
    assert UNetConfig().patch_size == 1, "the one setting of ours, for networks of ours"
    assert ours - {"patch_size"} == theirs
