"""Towers of open_clip's layout: converted, loaded, held against open_clip's code and transformers' with its numbers.

open_clip needs a torchvision that goes with the installed PyTorch. Where it cannot be imported the oracle is
transformers' tower, built from the same numbers by a map of names that is written here once more, apart from ours.
"""

import json

import numpy as np
import pytest

from hybrid_rs_jax.features import TowerEncoder
from hybrid_rs_jax.models.convert_open_clip import convert, main

torch = pytest.importorskip("torch", reason="PyTorch is the oracle: pip install hybrid-rs-jax[parity]")
transformers = pytest.importorskip("transformers")

WIDTH, LAYERS, PATCH, SIDE, HEAD = 32, 3, 8, 16, 16


def state(seed=0):
    """A state dict as open_clip's tower has it, with random numbers."""
    rng = np.random.default_rng(seed)
    shapes = {
        "class_embedding": (WIDTH,),
        "positional_embedding": ((SIDE // PATCH) ** 2 + 1, WIDTH),
        "proj": (WIDTH, 24),
        "conv1.weight": (WIDTH, 3, PATCH, PATCH),
        **{f"{norm}.{kind}": (WIDTH,) for norm in ("ln_pre", "ln_post") for kind in ("weight", "bias")},
    }
    for layer in range(LAYERS):
        name = f"transformer.resblocks.{layer}"
        shapes |= {f"{name}.{norm}.{kind}": (WIDTH,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
        shapes |= {f"{name}.attn.in_proj_weight": (3 * WIDTH, WIDTH), f"{name}.attn.in_proj_bias": (3 * WIDTH,)}
        shapes |= {f"{name}.attn.out_proj.weight": (WIDTH, WIDTH), f"{name}.attn.out_proj.bias": (WIDTH,)}
        shapes |= {f"{name}.mlp.c_fc.weight": (4 * WIDTH, WIDTH), f"{name}.mlp.c_fc.bias": (4 * WIDTH,)}
        shapes |= {f"{name}.mlp.c_proj.weight": (WIDTH, 4 * WIDTH), f"{name}.mlp.c_proj.bias": (WIDTH,)}
    return {name: torch.tensor(0.3 * rng.standard_normal(shape), dtype=torch.float32) for name, shape in shapes.items()}


def converted(tensors, folder, activation="quick_gelu"):
    path = folder / "tower.pt"
    torch.save(tensors, path)
    flags = ["--activation", activation, "--head-width", str(HEAD)]
    assert main([str(path), str(folder / "tower"), *flags]) == 0
    return folder / "tower"


def normalised(images):
    """Pictures [b, 3, h, w] with OpenAI's means and deviations."""
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    deviation = np.array([0.26862954, 0.26130258, 0.27577711])
    return torch.tensor(((images - mean) / deviation).transpose(0, 3, 1, 2), dtype=torch.float32)


def pictures():
    return np.random.default_rng(1).random((3, SIDE, SIDE, 3)).astype(np.float32)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_features_are_those_of_open_clips_own_tower(activation, tmp_path):
    try:
        from open_clip.model import CLIPVisionCfg, _build_vision_tower
    except (ImportError, RuntimeError) as error:  # a torchvision of another PyTorch ends with a RuntimeError
        pytest.skip(f"open_clip cannot be imported here ({str(error)[:80]})")
    settings = CLIPVisionCfg(layers=LAYERS, width=WIDTH, head_width=HEAD, patch_size=PATCH, image_size=SIDE)
    tower = _build_vision_tower(24, settings, quick_gelu=activation == "quick_gelu").eval()
    tower.load_state_dict(state())
    folder = converted(tower.state_dict(), tmp_path, activation)
    images = pictures()
    with torch.no_grad():
        wanted = tower.transformer(tower._embeds(normalised(images))).numpy()
    compare(folder, images, wanted)


def their_names(tensors):
    """The same numbers under transformers' names."""
    found = {}
    for name, value in tensors.items():
        parts = name.split(".")
        if parts[0] == "transformer":
            start = f"encoder.layers.{parts[2]}."
            if "in_proj" in name:
                for number, letter in enumerate("qkv"):
                    kind = name.rsplit("_", 1)[1]
                    third = value[number * WIDTH : (number + 1) * WIDTH]
                    found[f"{start}self_attn.{letter}_proj.{kind}"] = third
                continue
            inner = ".".join(parts[3:])
            for a, b in (("ln_", "layer_norm"), ("attn.", "self_attn."), ("c_fc", "fc1"), ("c_proj", "fc2")):
                inner = inner.replace(a, b)
            found[start + inner] = value
        elif parts[0].startswith("ln_"):
            found[{"ln_pre": "pre_layrnorm", "ln_post": "post_layernorm"}[parts[0]] + f".{parts[1]}"] = value
        elif name == "conv1.weight":
            found["embeddings.patch_embedding.weight"] = value
        elif name == "positional_embedding":
            found["embeddings.position_embedding.weight"] = value
        elif name == "class_embedding":
            found["embeddings.class_embedding"] = value
    return found


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_features_are_those_of_transformers_tower_with_the_same_numbers(activation, tmp_path):
    config = transformers.CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // HEAD,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_act=activation,
    )
    model = transformers.CLIPVisionModel(config).eval()
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in model.state_dict()) else ""
    missing, unknown = model.load_state_dict(
        {prefix + name: value for name, value in their_names(state()).items()}, strict=False
    )
    assert not unknown
    assert all("position_ids" in name for name in missing)
    images = pictures()
    with torch.no_grad():
        wanted = model(normalised(images), output_hidden_states=True).hidden_states[-1].numpy()
    compare(converted(state(), tmp_path, activation), images, wanted)


def compare(folder, images, wanted):
    """Class token and patches before the last norm, against [b, 1 + patches, width]."""
    tokens = np.zeros((len(images), 1), np.int32)
    assert np.std(wanted) > 0.1
    for pooling, states in (("class", wanted[:, 0]), ("grid", wanted[:, 1:].reshape(len(images), -1))):
        found = np.asarray(TowerEncoder.from_pretrained(folder, pooling=pooling)(tokens, images))
        assert np.allclose(found, states, atol=1e-4 * np.abs(wanted).max())


def test_a_folder_is_what_transformers_reads_too(tmp_path):
    folder = converted(state(), tmp_path)
    model = transformers.CLIPVisionModel.from_pretrained(folder).eval()
    images = pictures()
    with torch.no_grad():
        wanted = model(normalised(images), output_hidden_states=True).hidden_states[-1].numpy()
    compare(folder, images, wanted)
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_attention_heads"], config["hidden_act"], config["image_size"]) == (2, "quick_gelu", 16)


@pytest.mark.parametrize("wrap", ["visual.", "module.visual.", "model."])
def test_the_tower_is_found_in_a_whole_clip_and_in_a_training_checkpoint(wrap, tmp_path):
    rest = {} if wrap == "model." else {f"{wrap.replace('visual.', '')}token_embedding.weight": torch.zeros(5, 4)}
    whole = {wrap + name: value for name, value in state().items()} | rest
    torch.save({"epoch": 3, "state_dict": whole}, tmp_path / "epoch_3.pt")
    flags = ["--activation", "gelu", "--head-width", "16", "--half"]
    assert main([str(tmp_path / "epoch_3.pt"), str(tmp_path / "out"), *flags]) == 0
    sizes, tensors = convert({name: value.numpy() for name, value in state().items()}, HEAD)
    assert (sizes.width, sizes.inner, sizes.layers, sizes.patch, sizes.side) == (WIDTH, 4 * WIDTH, LAYERS, PATCH, SIDE)
    assert len(tensors) == 7 + 16 * LAYERS
    encoder = TowerEncoder.from_pretrained(tmp_path / "out")
    assert np.isfinite(np.asarray(encoder(np.zeros((3, 1), np.int32), pictures()))).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("ln_pre.bias"), "ln_pre.bias is missing"),
        (lambda s: s.update({"attn_pool.probe": torch.zeros(3)}), "attn_pool.probe is unknown"),
        (lambda s: s.pop("conv1.weight"), "conv1.weight is missing"),
        (lambda s: s.update(positional_embedding=torch.zeros(4, WIDTH)), "got 4 positions"),
        (lambda s: s.update(epoch=3), "must hold tensors by their names"),
    ],
)
def test_what_is_no_such_tower_ends_with_one_sentence_and_writes_nothing(change, message, tmp_path, capsys):
    tensors = state()
    change(tensors)
    torch.save(tensors, tmp_path / "x.pt")
    arguments = [str(tmp_path / "x.pt"), str(tmp_path / "out"), "--activation", "gelu", "--head-width", "16"]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments[:-1], "7"]) == 2
    assert main([*arguments[:-1], "0"]) == 2
    assert main([str(tmp_path / "absent.pt"), *arguments[1:]]) == 2
