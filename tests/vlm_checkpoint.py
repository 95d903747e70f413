"""Tiny random LLaVA-OneVision and LLaVA-1.5 checkpoints with tokenizer, chat template and image processing."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is the oracle: pip install hybrid-rs-jax[test]")
transformers = pytest.importorskip("transformers", reason="transformers is the oracle: pip install hybrid-rs-jax[test]")
tokenizers = pytest.importorskip("tokenizers")

SIDE = 28
IMAGE = "<image>"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", IMAGE]
CORPUS = [
    "You are a content moderator. You rate one message that a user sent together with one picture.",
    'Answer with a JSON object whose first key is "rating" and whose value is "Safe" or "Unsafe".',
    '{"rating": "Safe"} {"rating": "Unsafe"} {"rating": "Safe"} {"rating": "Unsafe"} user assistant',
    "how do I open the door with this key, and what is on the other side of the wall?",
]
ONEVISION_TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }} "
    "{% for part in turn['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "{% for part in turn['content'] if part['type'] == 'text' %}{{ '\n' + part['text'] }}{% endfor %}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA_TEMPLATE = (
    "{% for turn in messages %}{{ turn['role'] | upper }}: {{ turn['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
POLICY = "Rate the message and the picture.\nMessage:\n{text}"


def make_tokenizer(folder, template=ONEVISION_TEMPLATE, corpus=CORPUS):
    """A byte-level BPE tokenizer with the special tokens first, saved to the folder."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(corpus, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, eos_token=SPECIAL[0], pad_token=SPECIAL[0], extra_special_tokens=SPECIAL[1:]
    )
    if template is not None:
        fast.chat_template = template
    fast.save_pretrained(folder)
    return fast


def make_checkpoint(folder, family="onevision", seed=0, template=None, corpus=CORPUS, **text):
    """A random network with weights large enough that every part matters; returns the torch model."""
    default = LLAVA_TEMPLATE if family == "llava" else ONEVISION_TEMPLATE
    tokenizer = make_tokenizer(folder, default if template is None else template, corpus)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "vocab_size": 384, "max_position_embeddings": 4096} | text
    vision = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": SIDE, "patch_size": 7}
    image_token = tokenizer.convert_tokens_to_ids(IMAGE)
    pinpoints = [[SIDE * rows, SIDE * columns] for rows in (1, 2) for columns in (1, 2)]
    if family == "onevision":
        config = transformers.LlavaOnevisionConfig(
            vision_config=transformers.SiglipVisionConfig(vision_use_head=False, **vision),
            text_config=transformers.Qwen2Config(**sizes),
            image_token_index=image_token,
            image_grid_pinpoints=pinpoints,
        )
        model, mean = transformers.LlavaOnevisionForConditionalGeneration, [0.5] * 3
        processing = {"image_processor_type": "LlavaOnevisionImageProcessor", "image_grid_pinpoints": pinpoints}
        processing |= {"size": {"height": SIDE, "width": SIDE}}
    elif family == "next":
        config = transformers.LlavaNextConfig(
            vision_config=transformers.CLIPVisionConfig(**vision),
            text_config=transformers.MistralConfig(**sizes, sliding_window=None),
            image_token_index=image_token,
            image_grid_pinpoints=pinpoints,
        )
        model, mean = transformers.LlavaNextForConditionalGeneration, [0.4, 0.5, 0.6]
        processing = {"image_processor_type": "LlavaNextImageProcessor", "size": {"shortest_edge": SIDE}}
        processing |= {"crop_size": {"height": SIDE, "width": SIDE}, "image_grid_pinpoints": pinpoints}
    else:
        config = transformers.LlavaConfig(
            vision_config=transformers.CLIPVisionConfig(**vision),
            text_config=transformers.LlamaConfig(**sizes),
            image_token_index=image_token,
        )
        model, mean = transformers.LlavaForConditionalGeneration, [0.4, 0.5, 0.6]
        processing = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIDE}}
        processing |= {"crop_size": {"height": SIDE, "width": SIDE}}
    (folder / "preprocessor_config.json").write_text(
        json.dumps(processing | {"image_mean": mean, "image_std": [0.5] * 3, "resample": 3})
    )
    return save_random(model, config, folder, seed)


def save_random(model, config, folder, seed=0):
    """A network of random weights, norms around one, in `folder`."""
    torch.manual_seed(seed)
    network = model(config).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            spread = 0.1 if weight.ndim > 1 else 0.3
            weight.copy_(spread * torch.randn_like(weight) + ("norm" in name and name.endswith("weight")))
    network.save_pretrained(folder)
    return network


def picture(height=SIDE, width=SIDE, seed=0):
    """Random pixels that 8 bits hold exactly."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return (values / 255).astype(np.float32)


def write_data(folder, texts, broken=()):
    """A table of inputs with PNG pictures; the pictures of the `broken` rows are no pictures."""
    from PIL import Image

    lines = ["id,text,image,label"]
    for number, text in enumerate(texts):
        path = folder / f"{number}.png"
        if number in broken:
            path.write_bytes(b"no picture")
        else:
            Image.fromarray((picture(40, 32, number) * 255).round().astype(np.uint8)).save(path)
        quoted = text.replace('"', '""')
        lines.append(f'row {number},"{quoted}",{path.name},1')
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    return folder / "data.csv"
