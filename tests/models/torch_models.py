"""Tiny random PyTorch models of `transformers`, saved to disk: the oracle for the networks and their loading."""

import functools

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is the oracle: pip install hybrid-rs-jax[test]")
transformers = pytest.importorskip("transformers", reason="transformers is the oracle: pip install hybrid-rs-jax[test]")

IMAGE_TOKEN = 90
VOCABULARY = 96
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "rope_theta": 10_000.0,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}
PINPOINTS = [[28 * rows, 28 * columns] for rows in range(1, 5) for columns in range(1, 5)]


def qwen2_config(**changes):
    return transformers.Qwen2Config(**TEXT | changes)


def llama_config(**changes):
    return transformers.LlamaConfig(**TEXT | changes)


def siglip_config(**changes):
    return transformers.SiglipVisionConfig(vision_use_head=False, **VISION | changes)


def clip_config(**changes):
    return transformers.CLIPVisionConfig(**VISION | changes)


def onevision_config(text=None, **changes):
    settings = {"image_token_index": IMAGE_TOKEN, "image_grid_pinpoints": PINPOINTS} | changes
    text = qwen2_config(num_hidden_layers=1) if text is None else text
    return transformers.LlavaOnevisionConfig(vision_config=siglip_config(), text_config=text, **settings)


def llava_config(vision=None, text=None, **changes):
    vision = clip_config() if vision is None else vision
    text = llama_config(num_hidden_layers=1) if text is None else text
    return transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN, **changes)


def mistral_config(**changes):
    return transformers.MistralConfig(**TEXT | {"sliding_window": None} | changes)


def next_config(vision=None, text=None, **changes):
    settings = {"image_token_index": IMAGE_TOKEN, "image_grid_pinpoints": PINPOINTS} | changes
    vision = clip_config() if vision is None else vision
    text = mistral_config(num_hidden_layers=1) if text is None else text
    return transformers.LlavaNextConfig(vision_config=vision, text_config=text, **settings)


def save(config, folder, seed=0, **options):
    """A model with weights large enough that every part matters, saved to the folder."""
    torch.manual_seed(seed)
    model = MODELS[type(config)](config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 0.1 if weight.ndim > 1 else 0.3
            weight.copy_(spread * torch.randn_like(weight) + ("norm" in name and name.endswith("weight")))
    model.save_pretrained(folder, **options)
    return model


MODELS = {
    transformers.Qwen2Config: transformers.Qwen2ForCausalLM,
    transformers.LlamaConfig: transformers.LlamaForCausalLM,
    transformers.MistralConfig: transformers.MistralForCausalLM,
    transformers.SiglipVisionConfig: transformers.SiglipVisionModel,
    transformers.CLIPVisionConfig: transformers.CLIPVisionModel,
    transformers.LlavaOnevisionConfig: transformers.LlavaOnevisionForConditionalGeneration,
    transformers.LlavaConfig: transformers.LlavaForConditionalGeneration,
    transformers.LlavaNextConfig: transformers.LlavaNextForConditionalGeneration,
    transformers.Qwen2_5_VLConfig: transformers.Qwen2_5_VLForConditionalGeneration,
    transformers.Gemma3Config: transformers.Gemma3ForConditionalGeneration,
}


@jax.jit
def hidden(decoder, embeddings, prefix=None):
    """Our decoder, compiled once for all cases of a shape."""
    return decoder.hidden(embeddings, prefix)


@jax.jit
def logits(model, ids, images):
    """Our network, compiled once for all cases of a shape."""
    return model(ids, images)


def tensor(array):
    """A torch tensor; integers become int64, pictures channels-first."""
    array = np.asarray(array)
    if array.ndim >= 4:
        array = np.moveaxis(array, -1, -3)
    return torch.tensor(np.ascontiguousarray(array)).to(torch.int64 if array.dtype.kind == "i" else torch.float32)


def without_gradients(function):
    @functools.wraps(function)
    def call(*args, **options):
        with torch.no_grad():
            return function(*args, **options)

    return call


def tokens(batch, length, seed=0, image_tokens=0, start=2):
    """Random token ids with a block of placeholders."""
    ids = np.random.default_rng(seed).integers(0, IMAGE_TOKEN, (batch, length)).astype(np.int32)
    ids[:, start : start + image_tokens] = IMAGE_TOKEN
    return ids


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, 28, 28, 3)).astype(np.float32)
