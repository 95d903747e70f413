"""Loading: every key layout, tied and sharded files, and one clear error for everything that does not fit."""

import json
import re
import shutil
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from torch_models import clip_config, llama_config, llava_config, onevision_config, pixels, qwen2_config, save, tokens

from hybrid_rs_jax.models import checkpoint, from_config, from_pretrained, load_config
from hybrid_rs_jax.models._safetensors import StoredTensor
from hybrid_rs_jax.models.sharding import named_parameters

SUBSTITUTIONS = {  # from what transformers 5 writes to what others wrote
    "transformers up to 4.51": [(r"^vision_tower\.", "vision_tower.vision_model.")],
    "module names since 4.52": [
        (r"^language_model\.lm_head", "lm_head"),
        (r"^language_model\.model\.", "model.language_model."),
        (r"^vision_tower\.", "model.vision_tower.vision_model."),
        (r"^(multi_modal_projector|image_newline)", r"model.\1"),
    ],
    "module names of 5.x": [
        (r"^language_model\.lm_head", "lm_head"),
        (r"^language_model\.model\.", "model.language_model."),
        (r"^(vision_tower|multi_modal_projector|image_newline)", r"model.\1"),
    ],
    "original repository": [
        (r"^language_model\.lm_head", "lm_head"),
        (r"^language_model\.model\.", "model."),
        (r"^vision_tower\.", "model.vision_tower.vision_tower.vision_model."),
        (r"^multi_modal_projector\.linear_1", "model.mm_projector.0"),
        (r"^multi_modal_projector\.linear_2", "model.mm_projector.2"),
        (r"^image_newline", "model.image_newline"),
    ],
}
CONFIGS = {"onevision": onevision_config(), "llava": llava_config()}


@pytest.fixture(scope="module", params=CONFIGS)
def saved(request, tmp_path_factory):
    """A folder and all its weights as our loader reads them."""
    folder = tmp_path_factory.mktemp("checkpoint")
    save(CONFIGS[request.param], folder)
    return folder, weights(from_pretrained(folder))


@pytest.fixture
def onevision(tmp_path):
    save(CONFIGS["onevision"], tmp_path)
    return tmp_path


def weights(network):
    return {name: np.asarray(leaf[...]) for name, leaf in named_parameters(network).items()}


def rewrite(source, target, change):
    """A copy of a checkpoint whose tensors went through `change`."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    tensors = change(load_file(source / "model.safetensors"))
    (target / "model.safetensors").unlink()
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


def renamed(substitutions):
    def change(tensors):
        for pattern, replacement in substitutions:
            tensors = {re.sub(pattern, replacement, name): value for name, value in tensors.items()}
        return tensors

    return change


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("layout", SUBSTITUTIONS)
def test_every_key_layout_gives_the_same_weights(saved, layout, tmp_path):
    folder, expected = saved
    found = weights(from_pretrained(rewrite(folder, tmp_path, renamed(SUBSTITUTIONS[layout]))))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert value.std() > 0.05, name


def test_tensors_that_no_feature_needs_are_skipped(saved, tmp_path):
    folder, expected = saved
    extra = {
        "vision_tower.vision_model.head.probe": np.ones((1, 1, 24), np.float32),
        "vision_tower.vision_model.embeddings.position_ids": np.arange(16)[None],
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
    }
    found = weights(from_pretrained(rewrite(folder, tmp_path, lambda tensors: tensors | extra)))
    assert found.keys() == expected.keys()


def test_shards_give_the_same_weights_as_one_file(saved, tmp_path):
    _, expected = saved
    save(CONFIGS["onevision" if "image_newline" in expected else "llava"], tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) >= 2
    found = weights(from_pretrained(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("config", [qwen2_config(), llama_config()], ids=["qwen2", "llama"])
def test_without_an_output_layer_the_embedding_is_used_unless_config_json_unties_it(config, tmp_path):
    save(config, tmp_path / "full")
    drop = lambda tensors: {name: value for name, value in tensors.items() if name != "lm_head.weight"}
    headless = rewrite(tmp_path / "full", tmp_path / "tied", drop)
    with pytest.raises(ValueError, match=r"lm_head\.kernel is missing although config\.json does not tie it"):
        from_pretrained(headless)
    edit_config(headless, tie_word_embeddings=None)
    model = from_pretrained(headless)
    assert not hasattr(model, "lm_head")
    hidden = jnp.ones((1, 32))
    np.testing.assert_allclose(model.logits(hidden), hidden @ model.embed_tokens.embedding[...].T, rtol=0, atol=1e-6)


@pytest.mark.parametrize("place", ["top", "text"])
def test_a_stored_output_layer_must_equal_the_embedding_that_it_is_tied_to(onevision, tmp_path, place):
    if place == "top":
        edit_config(onevision, tie_word_embeddings=True)
    else:
        text = json.loads((onevision / "config.json").read_text())["text_config"]
        edit_config(onevision, text_config=text | {"tie_word_embeddings": True})
    with pytest.raises(ValueError, match=r": language_model\.lm_head\.weight differs from the embedding [^\n]*\.$"):
        from_pretrained(onevision)

    def tie(tensors):
        return tensors | {"language_model.lm_head.weight": tensors["language_model.model.embed_tokens.weight"]}

    model = from_pretrained(rewrite(onevision, tmp_path / "equal", tie))
    assert not hasattr(model.language_model, "lm_head")


def test_all_faults_come_in_one_error(onevision, tmp_path):
    def spoil(tensors):
        del tensors["language_model.model.norm.weight"], tensors["image_newline"]
        tensors["multi_modal_projector.linear_3.weight"] = np.ones((2, 2), np.float32)
        tensors["vision_tower.embeddings.patch_embedding.weight"] = np.ones((24, 3, 14, 7), np.float32)
        tensors["language_model.model.layers.0.mlp.up_proj.weight"] = np.ones((32, 48), np.float32)
        tensors["multi_modal_projector.linear_1.bias"] = np.ones(32, np.int8)
        tensors["model.multi_modal_projector.linear_2.bias"] = tensors["multi_modal_projector.linear_2.bias"]
        return tensors

    with pytest.raises(ValueError, match=r"^[^\n]*\.$") as caught:
        from_pretrained(rewrite(onevision, tmp_path / "spoilt", spoil))
    sentence = str(caught.value)
    assert "does not fit llava_onevision" in sentence
    for fault in (
        "language_model.norm.scale is missing",
        "image_newline is missing",
        "multi_modal_projector.linear_3.weight is unknown",
        "vision_tower.embeddings.patch_embedding.weight has shape [24, 3, 14, 7], not [24, 3, 7, 7]",
        "language_model.model.layers.0.mlp.up_proj.weight has shape [32, 48], not [48, 32]",
        "multi_modal_projector.linear_1.bias has dtype I8, which is no float of 16 bits or more",
        "multi_modal_projector.linear_2.bias fills projector.linear_2.bias a second time",
    ):
        assert fault in sentence
    assert sentence.count(";") == 6


def test_sizes_are_compared_before_memory_is_taken(onevision, monkeypatch):
    """A config.json that asks for more than the files hold costs a sentence: no weight is read, no array made."""
    text = json.loads((onevision / "config.json").read_text())["text_config"]
    edit_config(onevision, text_config=text | {"vocab_size": 2**24})
    monkeypatch.setattr(StoredTensor, "read", lambda *_: pytest.fail("a weight was read"))
    monkeypatch.setattr(checkpoint, "_load", lambda *_: pytest.fail("memory was taken"))
    with pytest.raises(ValueError, match=r"^[^\n]* does not fit llava_onevision: [^\n]*\[16777216, [^\n]*\.$"):
        from_pretrained(onevision)


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_a_file_that_is_cut_off_is_refused(onevision, keep):
    path = onevision / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"^[^\n]*model\.safetensors [^\n]*cut off[^\n]*\.$"):
        from_pretrained(onevision)


def header(entries):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 4) + b"{{{{" + bytes(64),
        header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 12]}}),
        header({"a": {"dtype": "F32", "shape": [4]}}),
        header(["a"]),
    ],
    ids=["no-json", "wrong-size", "no-offsets", "list"],
)
def test_a_broken_header_is_refused(onevision, content):
    (onevision / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"^[^\n]*model\.safetensors is no safetensors file [^\n]*\.$"):
        from_pretrained(onevision)


def test_missing_shards_are_named(tmp_path):
    save(llava_config(), tmp_path, max_shard_size="30KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    shards[0].unlink()
    shards[2].unlink()
    with pytest.raises(ValueError, match=rf"lacks 2 of {len(shards)} shards: {shards[0].name}, {shards[2].name}\.$"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "[" * 100_000,
        "{}",
        '{"weight_map": 3}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "../a"}}',
        '{"weight_map": {"a": "b\\u0000"}}',
        '{"weight_map": {}}',
    ],
)
def test_an_index_that_is_none_is_refused(content, tmp_path):
    save(llava_config(), tmp_path, max_shard_size="30KB")
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"^[^\n]*(is no index of a sharded checkpoint|JSON)[^\n]*\.$"):
        from_pretrained(tmp_path)


def test_a_checkpoint_of_pickles_is_refused(onevision):
    (onevision / "model.safetensors").rename(onevision / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin must be converted to safetensors first\.$"):
        from_pretrained(onevision)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"[^\n]* holds no config\.json\."),
        ("{", r"[^\n]*config\.json is not legal JSON: [^\n]*\."),
        ("[" * 100_000, r"[^\n]*config\.json is not legal JSON: it is nested too deeply\."),
        ("[]", r"[^\n]*config\.json must hold one JSON object, got list\."),
        (
            '{"model_type": "bert"}',
            r"model_type must be one of llava_onevision, [^\n]*qwen2, llama, [^\n]*, got 'bert'\.",
        ),
        ("{}", r"model_type must be one of [^\n]*, got nothing\."),
        (
            '{"model_type": "llama", "quantization_config": {"bits": 4}}',
            r"[^\n]* is of a quantised checkpoint; [^\n]*\.",
        ),
    ],
)
def test_a_bad_config_gives_one_sentence(onevision, content, sentence):
    path = onevision / "config.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        from_pretrained(onevision)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"text_config": {"model_type": "gemma"}},
            r"text_config\.model_type must be one of [^\n]*, got 'gemma'\.",
        ),
        (
            {"vision_config": {"model_type": "vit"}},
            r"vision_config\.model_type must be one of siglip_vision_model, [^\n]*got 'vit'\.",
        ),
        ({"vision_feature_layer": -6}, r"vision_feature_layer must lie in -4\.\.3, got \[-6\]\."),
        (
            {"vision_feature_select_strategy": "cls"},
            r"vision_feature_select_strategy must be one of [^\n]*'cls'\.",
        ),
        ({"vision_aspect_ratio": "pad"}, r"vision_aspect_ratio must be 'anyres' or 'anyres_max_N', got 'pad'\."),
        ({"image_grid_pinpoints": [[28, 30]]}, r"image_grid_pinpoints must be pairs [^\n]*, got \(28, 30\)\."),
        ({"projector_hidden_act": "tanh"}, r"The activation must be one of [^\n]*, got tanh\."),
    ],
)
def test_parts_that_are_not_supported_give_one_sentence(onevision, change, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        from_config(load_config(onevision) | change)


@pytest.mark.parametrize("name", ["./no/such/folder", "/no/such/folder", "no-such-folder", "a/b/c"])
def test_a_folder_that_does_not_exist_is_named(name):
    with pytest.raises(ValueError, match=rf"^{re.escape(name)} is no folder; [^\n]*\.$"):
        from_pretrained(name)


def test_a_hub_id_without_a_network_says_what_to_do(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"^some/guard could not be fetched [^\n]*`hf download some/guard`[^\n]*\.$"):
        from_pretrained("some/guard")


@pytest.mark.parametrize(
    ("error", "advice"), [("GatedRepoError", "ask for access"), ("RepositoryNotFoundError", "check the id")]
)
def test_a_refusal_of_the_hub_says_what_to_do(monkeypatch, error, advice):
    hub = pytest.importorskip("huggingface_hub")

    def refuse(*_, **__):
        cls = getattr(hub.errors, error)
        raise cls.__new__(cls)

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match=rf"^[^\n]*some/guard[^\n]*{advice}[^\n]*\.$"):
        from_pretrained("some/guard")


def test_config_json_without_parts_means_the_published_sizes():
    onevision = from_settings({"model_type": "llava_onevision"})
    assert (onevision.vision.grid, onevision.vision.num_layers, onevision.text.hidden_size) == (27, 26, 4096)
    llava = from_settings({"model_type": "llava", "text_config": {"model_type": "llama"}})
    assert (llava.vision.grid, llava.vision.states, llava.text.num_layers) == (24, (23,), 32)
    assert onevision.grid_pinpoints[-1] == (2304, 2304)


def from_settings(config):
    from hybrid_rs_jax.models.checkpoint import ARCHITECTURES

    return ARCHITECTURES[config["model_type"]].read_config(config)


def test_a_network_from_config_runs_without_a_checkpoint(onevision):
    config = load_config(onevision)
    network = from_config(config)
    ids = tokens(1, 40, image_tokens=network.image_tokens((28, 28)))
    logits = jax.jit(lambda network, ids, images: network(ids, images, (28, 28)))(network, ids, pixels(1, 1))
    assert logits.shape == (1, 40, 96)
    assert np.isfinite(logits).all()


def test_a_loaded_weight_does_not_follow_its_file(tmp_path):
    save(clip_config(), tmp_path)
    model = from_pretrained(tmp_path)
    before = weights(model)
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-4096:] = bytes(4096)
    with path.open("r+b") as file:
        file.write(data)
    jax.tree.map(np.testing.assert_array_equal, weights(model), before)
