"""Checkpoints in the layout of the original LLaVA code: the same guard as after a conversion, or one sentence."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from vlm_checkpoint import IMAGE, POLICY, SIDE, make_checkpoint, picture, tokenizers, transformers

from hybrid_rs_jax.classifiers import VlmGuard
from hybrid_rs_jax.models import _original_llava

PLAIN_TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n{{ turn['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMES = (
    (r"^language_model\.lm_head", "lm_head"),
    (r"^language_model\.model\.", "model."),
    (r"^vision_tower\.(vision_model\.)?", "model.vision_tower.vision_tower.vision_model."),
    (r"^multi_modal_projector\.linear_1", "model.mm_projector.0"),
    (r"^multi_modal_projector\.linear_2", "model.mm_projector.2"),
    (r"^image_newline", "model.image_newline"),
)
TINY = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY |= {"image_size": SIDE, "patch_size": 7}
TEXTS = ["open the door", "what is on the other side, user?", "a", ""]


def original(source, folder, family, known_placeholder):
    """The same weights under the names of the original code, with its config, and no file about pictures."""
    folder.mkdir()
    tensors = load_file(source / "model.safetensors")
    for pattern, replacement in NAMES:
        tensors = {re.sub(pattern, replacement, name): value for name, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    flat = {name: value for name, value in config["text_config"].items() if name != "model_type"}
    flat |= {"mm_projector_type": "mlp2x_gelu", "tie_word_embeddings": False, "mm_hidden_size": 24}
    # parts of another model, as published files have them: they mean nothing
    flat |= {"vision_config": {"model_type": "clip_vision_model", "hidden_size": 7}, "text_config": {"model_type": "x"}}
    if family == "onevision":
        flat |= {"architectures": ["LlavaQwenForCausalLM"], "mm_vision_tower": "some/siglip-so400m-patch14-384"}
        flat |= {"image_aspect_ratio": "anyres_max_9", "image_grid_pinpoints": "(1x1),...,(2x2)"}
        flat |= {"mm_patch_merge_type": "spatial_unpad", "model_type": "llava"}
    elif family == "next":
        flat |= {"architectures": ["LlavaMistralForCausalLM"], "mm_vision_tower": "some/clip-vit-large-patch14-336"}
        flat |= {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[28, 28], [56, 28], [28, 56], [56, 56]]}
        flat |= {"mm_patch_merge_type": "spatial_unpad", "model_type": "llava_mistral", "sliding_window": None}
        flat |= {"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch"}
    else:
        flat |= {"architectures": ["LlavaLlamaForCausalLM"], "mm_vision_tower": "some/clip-vit-large-patch14-336"}
        flat |= {"model_type": "llava_llama", "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch"}
    (folder / "config.json").write_text(json.dumps(flat))
    for path in source.glob("*token*"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "chat_template.jinja").write_text(PLAIN_TEMPLATE)
    if not known_placeholder:
        forget_placeholder(folder)
    return folder


def forget_placeholder(folder):
    """A tokenizer to which <image> is a text like any other; ids of all tokens stay."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [entry for entry in content["added_tokens"] if entry["content"] != IMAGE]
    vocabulary = content["model"]["vocab"]
    vocabulary["<unused>"] = vocabulary.pop(IMAGE)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    model = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    specials = {"eos_token": "<|endoftext|>", "extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    transformers.PreTrainedTokenizerFast(tokenizer_object=model, **specials).save_pretrained(folder)


@pytest.fixture(autouse=True)
def _tiny_towers(monkeypatch):
    towers = {
        "siglip-so400m-patch14-384": {"model_type": "siglip_vision_model", **TINY},
        "clip-vit-large-patch14-336": {"model_type": "clip_vision_model", **TINY},
    }
    monkeypatch.setattr(_original_llava, "TOWERS", towers)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "short.txt"
    path.write_text(POLICY)
    return path


def margins(guard):
    rows = [guard.encode(text, picture(guard.image_size[0], guard.image_size[1], n)) for n, text in enumerate(TEXTS)]
    return np.asarray(guard.margin(np.stack([row.tokens for row in rows]), np.stack([row.image for row in rows])))


@pytest.mark.parametrize("known_placeholder", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", ["onevision", "next", "llava"])
def test_a_guard_of_the_original_layout_is_that_of_the_converted_one(family, known_placeholder, policy, tmp_path):
    source = tmp_path / "converted"
    source.mkdir()
    make_checkpoint(source, family, template=PLAIN_TEMPLATE)
    if family != "onevision":  # the original code processes pictures as CLIP does
        settings = json.loads((source / "preprocessor_config.json").read_text())
        settings |= {"image_mean": [0.48145466, 0.4578275, 0.40821073]}
        settings |= {"image_std": [0.26862954, 0.26130258, 0.27577711]}
        (source / "preprocessor_config.json").write_text(json.dumps(settings))
    folder = original(source, tmp_path / "original", family, known_placeholder)
    chosen = {"policy": policy, "text_length": 24, "image_size": (SIDE, 2 * SIDE)}
    found, expected = VlmGuard.from_pretrained(folder, **chosen), VlmGuard.from_pretrained(source, **chosen)
    assert (found.prompt.layout.tokens.image_token < 0) != known_placeholder
    np.testing.assert_allclose(margins(found), margins(expected), rtol=0, atol=1e-5)
    assert np.ptp(margins(expected)) > 0.01
    with pytest.raises(ValueError, match=r"^Its text holds the token '<image>'"):
        found.encode(f"look: {IMAGE}", picture())
    with pytest.raises(ValueError, match=r"^Its text holds the token '<image>'"):
        found.encode("look", picture(), f" {IMAGE}")
    assert found.decide([(TEXTS[0], None)]).shape == (1,)


def test_a_checkpoint_whose_tower_lies_elsewhere_says_so_in_one_short_sentence(policy, tmp_path):
    source = tmp_path / "converted"
    source.mkdir()
    make_checkpoint(source, template=PLAIN_TEMPLATE)
    folder = original(source, tmp_path / "original", "onevision", True)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if ".vision_tower." not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"holds no vision tower, which must be merged[^\n]*; and \d+ more\.$"
    ) as fault:
        VlmGuard.from_pretrained(folder, policy=policy)
    assert len(str(fault.value)) < 1000
