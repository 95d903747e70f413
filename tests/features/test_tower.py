"""Vision towers as encoders: held against transformers' own towers on tiny random weights."""

import jax
import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.features import TowerEncoder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """Folder and torch model of a CLIP and a SigLIP tower."""
    torch.manual_seed(0)
    made = {}
    clip = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SIZES)).eval()
    siglip = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SIZES, vision_use_head=False)).eval()
    for name, model in {"clip": clip, "siglip": siglip}.items():
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        made[name] = folder, model
    return made


@pytest.mark.parametrize(
    ("tower", "pooling"),
    [("clip", "mean"), ("clip", "class"), ("clip", "grid"), ("siglip", "mean"), ("siglip", "grid")],
)
def test_features_are_those_of_transformers(towers, tower, pooling):
    folder, model = towers[tower]
    images = np.random.default_rng(0).random((3, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        outputs = model(torch.tensor(2 * images - 1).permute(0, 3, 1, 2), output_hidden_states=True)
        states = outputs.hidden_states[-1].numpy()
    patches = states[:, 1:] if tower == "clip" else states
    wanted = {"class": states[:, 0], "mean": patches.mean(axis=1), "grid": patches.reshape(3, -1)}[pooling]
    encoder = TowerEncoder.from_pretrained(folder, pooling=pooling)
    assert np.allclose(np.asarray(encoder(np.zeros((3, 1), np.int32), images)), wanted, atol=2e-5)
    assert encoder.describe()["pooling"] == pooling


def test_a_tower_is_sampled_and_certified(towers):
    encoder = TowerEncoder.from_pretrained(towers["siglip"][0])
    images = np.random.default_rng(0).random((2, 16, 16, 3)).astype(np.float32)
    smoothing = hrs.HybridSmoothing(None, 0.05)
    law = hrs.sample_features(encoder, np.zeros((2, 1), np.int32), images, smoothing, 500, jax.random.key(0))
    assert np.all(hrs.certify_features(law, smoothing, 0.01).radius(0.5) > 0)


def test_a_checkpoint_without_a_tower_and_a_tower_without_a_class_token_are_refused(towers, tmp_path):
    with pytest.raises(ValueError, match="class token of a CLIP tower, got a Siglip"):
        TowerEncoder.from_pretrained(towers["siglip"][0], pooling="class")
    with pytest.raises(ValueError, match="pooling must be"):
        TowerEncoder.from_pretrained(towers["siglip"][0], pooling="max")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 32}
    text = transformers.Qwen2Config(**sizes, num_attention_heads=1, num_key_value_heads=1)
    transformers.Qwen2ForCausalLM(text).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no vision tower"):
        TowerEncoder.from_pretrained(tmp_path)
