"""Files of guided-diffusion: converted, loaded, and held against the network itself."""

import os
import pickle

import numpy as np
import pytest

from hybrid_rs_jax.models.denoiser import UNet, load_denoiser
from hybrid_rs_jax.models.denoiser.convert import convert, main

torch = pytest.importorskip("torch", reason="PyTorch is the oracle: pip install hybrid-rs-jax[parity]")

from models.guided_diffusion_reference import network  # noqa: E402  (needs PyTorch)

VARIANTS = {
    "as published": {"attention_levels": (1,), "scale_shift": True, "resnet_resample": True, "variance": True},
    "improved": {"attention_levels": (0, 1), "scale_shift": True, "resnet_resample": False, "variance": False},
    "plain": {"attention_levels": (), "scale_shift": False, "resnet_resample": False, "variance": True},
}


def random_network(name, **changes):
    torch.manual_seed(0)
    sizes = {"channels": 32, "multipliers": (1, 2), "layers": 1, "head": 16}
    made = network(**sizes | VARIANTS[name] | changes)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.eval()


def saved(made, path):
    torch.save(made.state_dict(), path)
    return str(path)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_converted_network_denoises_as_the_original_does(name, tmp_path):
    made = random_network(name)
    assert main([saved(made, tmp_path / "model.pt"), str(tmp_path / "out"), "--head-channels", "16"]) == 0
    denoiser = load_denoiser(tmp_path / "out")
    noisy = np.random.default_rng(0).normal(0.5, 0.5, (2, 8, 8, 3)).astype(np.float32)
    t = 259  # the step of sigma = 0.5, as in the repository: linear betas from 1e-4 to 0.02, 1,000 steps
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t]
    x = 2 * torch.from_numpy(noisy.transpose(0, 3, 1, 2)).double() - 1
    with torch.no_grad():
        noise = made((np.sqrt(kept) * x).float(), torch.full((2,), float(t)))[:, :3].double()
    clean = (x - np.sqrt((1 - kept) / kept) * noise).clamp(-1, 1).numpy().transpose(0, 2, 3, 1)
    found = np.asarray(denoiser(noisy, 0.5))
    assert np.abs(found - (clean + 1) / 2).max() <= 1e-4
    assert np.ptp(found) > 0.1


@pytest.mark.skipif("GUIDED_DIFFUSION" not in os.environ, reason="the reference here has the legacy order only")
def test_the_newer_order_of_attention_is_converted_too(tmp_path):
    made = random_network("as published", legacy=False)
    arguments = [saved(made, tmp_path / "model.pt"), str(tmp_path / "out"), "--head-channels", "16"]
    assert main([*arguments, "--new-attention-order"]) == 0
    x = np.random.default_rng(0).standard_normal((1, 8, 8, 3)).astype(np.float32)
    from diffusers import UNet2DModel

    theirs = UNet2DModel.from_pretrained(tmp_path / "out" / "unet")
    with torch.no_grad():
        pixels, time = torch.from_numpy(x.transpose(0, 3, 1, 2)), torch.tensor([100.0])
        assert (made(pixels, time) - theirs(pixels, time).sample).abs().max() <= 1e-4


def test_diffusers_reads_what_was_converted(tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the oracle: pip install hybrid-rs-jax[parity]")
    made = random_network("as published")
    main([saved(made, tmp_path / "model.pt"), str(tmp_path / "out"), "--head-channels", "16", "--size", "8"])
    assert load_denoiser(tmp_path / "out").size == (8, 8)
    theirs = diffusers.UNet2DModel.from_pretrained(tmp_path / "out" / "unet")
    pixels, time = torch.randn(1, 3, 8, 8), torch.tensor([100.0])
    with torch.no_grad():
        assert (made(pixels, time) - theirs(pixels, time).sample).abs().max() <= 1e-4
    scheduler = diffusers.DDPMScheduler.from_pretrained(tmp_path / "out" / "scheduler")
    assert scheduler.config.variance_type == "learned_range"


def test_the_large_network_has_its_published_size_and_cost():
    """The 256 x 256 unconditional network: 552.8 million parameters, 2.24 TFLOP for a picture."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from hybrid_rs_jax.models._flops import count_flops
    from hybrid_rs_jax.models.denoiser import UNetConfig

    plain, attention = "ResnetDownsampleBlock2D", "AttnDownBlock2D"
    up = {plain: "ResnetUpsampleBlock2D", attention: "AttnUpBlock2D"}
    down = (plain, plain, plain, attention, attention, attention)
    config = UNetConfig(
        out_channels=6,
        block_out_channels=(256, 256, 512, 512, 1024, 1024),
        down_block_types=down,
        up_block_types=tuple(up[block] for block in reversed(down)),
        attention_head_dim=64,
        attn_norm_num_groups=32,
        resnet_time_scale_shift="scale_shift",
        downsample_type="resnet",
        upsample_type="resnet",
    )
    large = nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))
    graph, parameters = nnx.split(large)
    count = sum(leaf.size for leaf in jax.tree.leaves(parameters))
    assert round(count / 1e6, 1) == 552.8
    picture = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    flops = count_flops(lambda p, x, t: nnx.merge(graph, p)(x, t), parameters, picture, time)
    assert round(flops / 1e12, 2) == 2.24


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (str(self.folder),))


@pytest.mark.parametrize("kind", ["pickled code", "state dict with code", "empty", "text"])
def test_files_that_hold_more_than_arrays_are_left_alone(kind, tmp_path, capsys):
    path, made = tmp_path / "model.pt", tmp_path / "made"
    if kind == "state dict with code":
        torch.save({"weight": torch.zeros(2), "code": Malicious(made)}, path)
    else:
        contents = {"pickled code": pickle.dumps(Malicious(made)), "empty": b"", "text": b"no pickle at all"}
        path.write_bytes(contents[kind])
    assert main([str(path), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "is no whole file of PyTorch, or holds more than arrays" in error
    assert error.count("\n") == 1
    assert not made.exists()
    assert not (tmp_path / "out").exists()


def test_other_networks_are_refused_in_one_sentence(tmp_path, capsys):
    path = tmp_path / "model.pt"
    state = random_network("plain").state_dict()
    for changed, sentence in (
        ({"weight": torch.zeros(2)}, "no input_blocks or output_blocks"),
        ({**state, "extra.weight": torch.zeros(2)}, "extra.weight is unknown"),
        ({name: value for name, value in state.items() if name != "out.0.bias"}, "conv_norm_out.bias is missing"),
        ({**state, "label_emb.weight": torch.zeros(2)}, "must be unconditional"),
        ({**state, "out.0.bias": torch.zeros(5)}, "conv_norm_out.bias has shape [5], not [32]"),
        ({"state": state}, "must hold tensors by their names"),
        (torch.zeros(3), "must hold tensors by their names"),
    ):
        torch.save(changed, path)
        assert main([str(path), str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
    assert main([str(tmp_path / "absent.pt"), str(tmp_path / "out")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_number_of_head_channels_that_does_not_divide_is_refused():
    tensors = {name: value.numpy() for name, value in random_network("as published").state_dict().items()}
    with pytest.raises(ValueError, match="head_channels must divide the 64 channels of middle_block"):
        convert(tensors, head_channels=48)
