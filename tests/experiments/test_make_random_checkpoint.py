"""Random checkpoints of true sizes: loadable here and elsewhere, the same for one seed, and as large as they say."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from hybrid_rs_jax.models import LlavaOnevision, from_pretrained
from hybrid_rs_jax.models.save import stored_tensors
from hybrid_rs_jax.models.sharding import named_parameters

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import _onevision
import make_random_checkpoint as script


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("random") / "tiny"
    assert script.main(["--shape", "tiny", "--out", str(folder)]) == 0
    return folder


def test_our_loader_takes_it_and_weights_have_the_promised_spread(tiny):
    parameters = {name: np.asarray(value[...]) for name, value in named_parameters(from_pretrained(tiny)).items()}
    kernel = parameters["language_model.layers.0.mlp.down_proj.kernel"]
    assert kernel.std() * math.sqrt(len(kernel)) == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(parameters["language_model.norm.scale"], 1)
    np.testing.assert_array_equal(parameters["projector.linear_1.bias"], 0)
    newline = parameters["image_newline"]
    assert newline.std() * math.sqrt(newline.size) == pytest.approx(1, abs=0.3)


def test_transformers_takes_network_tokenizer_and_processor(tiny):
    pytest.importorskip("torch", reason="transformers needs PyTorch for the network")
    transformers = pytest.importorskip("transformers")
    model = transformers.LlavaOnevisionForConditionalGeneration
    found = model.from_pretrained(tiny, output_loading_info=True)[1]
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    text = f"<|im_start|>user\n<image>\n{_onevision.POLICY} dial seven xylophone<|im_end|>"
    assert tokenizer(text)["input_ids"] == _onevision.words_of("tiny").encode(text)


def test_one_seed_gives_one_checkpoint(tiny, tmp_path):
    for name, seed in (("same", "0"), ("other", "1")):
        assert script.main(["--shape", "tiny", "--seed", seed, "--out", str(tmp_path / name)]) == 0
    files = [folder / "model.safetensors" for folder in (tiny, tmp_path / "same", tmp_path / "other")]
    first, same, other = (file.read_bytes() for file in files)
    assert first == same != other


def test_large_tensors_are_drawn_in_parts(monkeypatch):
    monkeypatch.setattr(script, "BLOCK", 1000)
    parts = list(script.draw("some.weight", (77, 40), np.random.default_rng(0)))
    assert [part.shape for part in parts] == [(25, 40)] * 3 + [(2, 40)]
    whole = np.concatenate(parts).astype(np.float32)
    assert whole.std() * math.sqrt(40) == pytest.approx(1, abs=0.06)


def test_a_checkpoint_in_shards_holds_the_same_weights(tiny, tmp_path):
    script.write_checkpoint("tiny", tmp_path, shard_bytes=100_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    found, expected = (named_parameters(from_pretrained(folder)) for folder in (tmp_path, tiny))
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name][...], expected[name][...])


@pytest.mark.parametrize(
    ("shape", "decoder"),
    # weights of Qwen2 0.5B and 7B as published, and the 64 rows that LLaVA-OneVision adds to each embedding
    [
        ("0.5b", 494_032_768 + 64 * 896),
        pytest.param("7b", 7_615_616_512 + 2 * 64 * 3584, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_published_shapes_have_the_tensors_of_the_published_networks(shape, decoder):
    torch = pytest.importorskip("torch", reason="transformers needs PyTorch for the network")
    transformers = pytest.importorskip("transformers")
    words = _onevision.words_of(shape)
    config = _onevision.config(shape, words)
    assert config["image_token_index"] == 151_646
    assert len(words) <= config["text_config"]["vocab_size"]

    settings = LlavaOnevision.read_config(config)
    ours = stored_tensors(nnx.eval_shape(lambda: LlavaOnevision(settings, rngs=nnx.Rngs(0))))
    sizes = {name: math.prod(shape) for name, (shape, _) in ours.items()}
    assert sum(size for name, size in sizes.items() if name.startswith("language_model.")) == decoder
    with torch.device("meta"):
        reference = transformers.LlavaOnevisionForConditionalGeneration(
            transformers.LlavaOnevisionConfig.from_dict(config)
        )
    theirs = [tuple(parameter.shape) for parameter in reference.parameters()]
    assert sorted(shape for shape, _ in ours.values()) == sorted(theirs)
    assert (settings.vision.grid, len(settings.grid_pinpoints)) == (27, 36)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--seed", "-1"], "--seed must lie in 0..2147483647, got -1."),
        ([], "already exists and is not empty; choose another name for the folder."),
    ],
)
def test_bad_input_ends_with_one_sentence(flags, sentence, tmp_path, capsys):
    out = tmp_path / "out"
    if not flags:
        out.mkdir()
        (out / "something").touch()
    assert script.main(["--shape", "tiny", "--out", str(out), *flags]) == 2
    assert capsys.readouterr().err.endswith(f"{sentence}\n")


def test_files_beside_the_weights_are_json(tiny):
    for path in tiny.glob("*.json"):
        assert isinstance(json.loads(path.read_text()), dict)
