"""config.json is read as transformers reads it, and whatever else stands there is refused in one sentence."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch_models import llama_config, llava_config, onevision_config, qwen2_config, save, tokens, torch, transformers

from hybrid_rs_jax.models import from_pretrained, load_config, load_preprocessor
from hybrid_rs_jax.models._settings import Fields
from hybrid_rs_jax.models.checkpoint import ARCHITECTURES
from hybrid_rs_jax.models.image_processing import ImagePreprocessor

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


PUBLISHED = {
    "llava_next": {
        "ignore_index": -100,
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
        "image_token_index": 32_000,
        "projector_hidden_act": "gelu",
        "text_config": {
            "model_type": "mistral",
            "intermediate_size": 14_336,
            "max_position_embeddings": 32_768,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "sliding_window": None,
            "vocab_size": 32_064,
        },
        "use_image_newline_parameter": True,
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
            "projection_dim": 768,
            "vocab_size": 32_000,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": 32_064,
    },
    "gemma3": {
        "boi_token_index": 255_999,
        "eoi_token_index": 256_000,
        "eos_token_id": [1, 106],
        "image_token_index": 262_144,
        "mm_tokens_per_image": 256,
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10_240,
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "image_size": 896,
            "intermediate_size": 4304,
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "patch_size": 14,
            "vision_use_head": False,
        },
    },
    "qwen2_5_vl": {
        "vision_start_token_id": 151_652,
        "vision_end_token_id": 151_653,
        "vision_token_id": 151_654,
        "image_token_id": 151_655,
        "video_token_id": 151_656,
        "hidden_act": "silu",
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "max_position_embeddings": 128_000,
        "max_window_layers": 28,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "sliding_window": 32_768,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "vocab_size": 152_064,
        "vision_config": {
            "depth": 32,
            "hidden_act": "silu",
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "in_chans": 3,
            "out_hidden_size": 3584,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
            "temporal_patch_size": 2,
        },
    },
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_every_field_of_the_published_configs_is_known(family):
    assert ARCHITECTURES[family].read_config({"model_type": family, **PUBLISHED[family]}).text.num_layers >= 28


# The hub counts 7,567 million for LLaVA-NeXT, with the tower's last layer, which nothing reads
@pytest.mark.slow
@pytest.mark.parametrize(("family", "millions"), [("llava_next", 7_554), ("gemma3", 4_300), ("qwen2_5_vl", 8_292)])
def test_networks_of_the_published_sizes_have_as_many_weights_as_the_guards_that_people_use(family, millions):
    network, config = ARCHITECTURES[family], {"model_type": family, **PUBLISHED[family]}
    shapes = nnx.eval_shape(lambda: network(network.read_config(config), rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(shapes, nnx.Param))) // 10**6 == millions


def linear_beside_default(config):
    config["rope_scaling"] = {"type": "linear", "factor": 4.0}


def scaling_takes_theta_with_it(config):
    config["rope_parameters"]["rope_theta"] = 1e6
    config["rope_scaling"] = {"rope_type": "linear", "factor": 2.0}


def theta_beside_and_inside(config):
    del config["rope_parameters"]
    config |= {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0, "rope_theta": 500.0}}


def original_length_outside(config):
    del config["rope_parameters"]
    config |= {"rope_theta": 1e4, "original_max_position_embeddings": 64, "max_position_embeddings": 4096}
    config["rope_scaling"] = LLAMA3 | {"original_max_position_embeddings": 2048}


def original_length_missing(config):
    del config["rope_parameters"]
    config |= {"rope_theta": 1e4, "max_position_embeddings": 96, "rope_scaling": LLAMA3}


EDITS = [
    linear_beside_default,
    scaling_takes_theta_with_it,
    theta_beside_and_inside,
    original_length_outside,
    original_length_missing,
]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.filterwarnings("ignore")
def test_rotary_settings_are_those_of_transformers(edit, tmp_path):
    save(llama_config(num_hidden_layers=1, max_position_embeddings=4096), tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    plain = from_pretrained(tmp_path)
    edit(content)
    (tmp_path / "config.json").write_text(json.dumps(content))
    ids = tokens(1, 120)
    with torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        expected = theirs(torch.tensor(ids).long()).logits.numpy()
    ours = from_pretrained(tmp_path)
    np.testing.assert_allclose(ours(ours.embed(jnp.asarray(ids))), expected, rtol=0, atol=1e-5)
    assert np.abs(np.asarray(plain(plain.embed(jnp.asarray(ids)))) - expected).max() > 0.01


@pytest.mark.parametrize("kind", ["yarn", "longrope", "dynamic"])
def test_a_scaling_that_is_not_known_is_refused_wherever_it_stands(kind):
    scaling = {"rope_type": kind, "factor": 4.0}
    for beside in (
        {"rope_parameters": {"rope_type": "default"}, "rope_scaling": scaling},
        {"rope_parameters": scaling},
    ):
        with pytest.raises(ValueError, match=rf"^The rotary scaling must be default, linear or llama3, got {kind}\.$"):
            ARCHITECTURES["llama"].read_config(beside)


VALUES = ["-2", "text", "", 3.5, -1, 0, 10**30, 1e300, True, [], {}, [1, [2]], ["a"], {"a": 1}, [[1]], "\ud83d"]


def places(content, path=()):
    """Paths of all fields, those of parts included."""
    for name, value in content.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from places(value, (*path, name))


def changed(content, path, value):
    copied = copy.deepcopy(content)
    inner = copied
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return copied


def assert_read_or_refused(read):
    """Either the value means something, or one sentence says that it does not."""
    try:
        read()
    except ValueError as error:
        sentence = str(error)
        assert sentence.endswith("."), sentence
        assert "\n" not in sentence
        assert len(sentence) < 400


CONFIGS = {
    "onevision": onevision_config(vision_aspect_ratio="anyres_max_9"),
    "llava": llava_config(text=llama_config(rope_parameters=LLAMA3 | {"rope_theta": 1e4})),
    "qwen2": qwen2_config(),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_of_a_config_may_hold_anything(name, tmp_path):
    content = json.loads(CONFIGS[name].to_json_string(use_diff=False))
    content |= {"original_max_position_embeddings": 64, "rope_theta": 1e4, "tie_word_embeddings": False}
    for path in places(content):
        for value in VALUES:
            config = changed(content, path, value)
            assert_read_or_refused(lambda config=config: read_config(config))


def read_config(config):
    return ARCHITECTURES[Fields(config).choice("model_type", ARCHITECTURES)].read_config(config)


ORIGINAL = {
    "architectures": ["LlavaQwenForCausalLM"],
    "model_type": "llava",
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "image_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": "(1x1),...,(6x6)",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "num_hidden_layers": 24,
    "vocab_size": 151_647,
    "rope_theta": 1e6,
}
CLIP = ORIGINAL | {
    "architectures": ["LlavaLlamaForCausalLM"],
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "image_aspect_ratio": "pad",
}


def load(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    return read_config(load_config(folder))


@pytest.mark.parametrize("config", [ORIGINAL, CLIP], ids=["siglip", "clip"])
def test_every_field_of_an_original_config_may_hold_anything(config, tmp_path):
    for name in config:
        for value in VALUES[:-1]:
            assert_read_or_refused(lambda name=name, value=value: load(tmp_path, config | {name: value}))
            assert_read_or_refused(lambda: load_preprocessor(tmp_path))


def test_the_config_of_the_original_repository_is_translated(tmp_path):
    settings = load(tmp_path, ORIGINAL)
    assert (settings.tower, settings.decoder) == ("siglip_vision_model", "qwen2")
    assert (settings.vision.num_layers, settings.vision.states, settings.drop_first) == (26, (26,), False)
    assert (settings.text.hidden_size, settings.text.rotary.theta, settings.tile_limit) == (896, 1e6, 9)
    assert len(settings.grid_pinpoints) == 36
    assert settings.grid_pinpoints[7] == (768, 768)
    plan = load_preprocessor(tmp_path).plan(384, 700)
    assert (plan.grid, plan.view_size) == ((1, 2), (384, 384))

    settings = load(tmp_path, CLIP)
    assert (settings.tower, settings.decoder) == ("clip_vision_model", "llama")
    assert (settings.vision.states, settings.drop_first, settings.vision.grid) == ((23,), True, 24)
    plan = load_preprocessor(tmp_path).plan(100, 50)
    assert (plan.views, plan.view_size) == (1, (336, 336))
    assert plan.settings.border is not None
    assert load(tmp_path, CLIP | {"mm_vision_select_feature": "cls_patch"}).drop_first is False


def test_the_name_of_the_tower_decides_whatever_parts_of_another_model_stand_beside(tmp_path):
    parts = {"text_config": {"model_type": "llama"}, "vision_config": {"model_type": "clip_vision_model"}}
    assert load(tmp_path, ORIGINAL | parts) == load(tmp_path, ORIGINAL)


def test_canvases_of_the_original_are_width_by_height(tmp_path):
    for written in ([[384, 768], [1152, 384]], "[[384, 768], [1152, 384]]", "[(384, 768), (1152, 384)]"):
        settings = load(tmp_path, ORIGINAL | {"image_grid_pinpoints": written})
        assert settings.grid_pinpoints == ((768, 384), (384, 1152))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mm_vision_tower": "some/other-tower"}, r"mm_vision_tower must be one of [^\n]*, got some/other-tower\."),
        ({"mm_projector_type": "linear"}, r"mm_projector_type must be one of mlp2x_gelu, got 'linear'\."),
        ({"mm_projector_type": None}, r"mm_projector_type must be one of mlp2x_gelu, got nothing\."),
        ({"mm_use_im_start_end": True}, r"mm_use_im_start_end must be false, got True\."),
        ({"mm_vision_select_feature": "cls"}, r"mm_vision_select_feature must be one of patch, cls_patch, got 'cls'\."),
        ({"mm_patch_merge_type": "flat"}, r"mm_patch_merge_type must be one of spatial_unpad, got 'flat'\."),
        ({"image_aspect_ratio": "stretch"}, r"image_aspect_ratio must be square, pad, anyres [^\n]*, got 'stretch'\."),
        ({"architectures": ["LlavaMixtralForCausalLM"]}, r"The decoder of an original [^\n]*, got mixtral\."),
        ({"image_grid_pinpoints": "(1x1),...,(9999x9999)"}, r"image_grid_pinpoints must be [^\n]*"),
    ],
)
def test_settings_of_the_original_that_are_not_supported_give_one_sentence(change, sentence, tmp_path):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        load(tmp_path, ORIGINAL | change)


PROCESSORS = [
    {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 28},
        "crop_size": {"height": 28, "width": 28},
        "do_center_crop": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
    },
    {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "size": {"height": 28, "width": 28},
        "image_grid_pinpoints": [[28, 28], [28, 56]],
        "do_pad": True,
    },
]


@pytest.mark.parametrize("content", PROCESSORS, ids=["clip", "onevision"])
def test_every_field_of_an_image_processor_may_hold_anything(content):
    for path in places(content):
        for value in VALUES:
            config = changed(content, path, value)
            assert_read_or_refused(lambda config=config: ImagePreprocessor.from_config(config).plan(30, 40))
