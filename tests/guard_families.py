"""Tiny random guards of Qwen2.5-VL and Gemma 3 on disk, with tokenizer, chat template and image processing."""

import json

from vlm_checkpoint import CORPUS, SPECIAL, save_random, tokenizers, transformers

QWEN_PATCH, GEMMA_SIDE = 4, 28
QWEN = ["<|image_pad|>", "<|vision_start|>", "<|vision_end|>"]
GEMMA = ["<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<image_soft_token>", "<end_of_image>", "<bos>"]
QWEN_TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n{% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}<start_of_turn>{{ turn['role'] }}\n{% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<start_of_image>{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}"
    "{% if request_categories %} {{ request_categories }}{% endif %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
WORDS = [
    "User Safety: safe",
    "User Safety: unsafe",
    '{\n    "rating": "Safe"',
    '{\n    "rating": "Unsafe"',
    "Yes",
    "No",
]


def tokenizer(folder, template, names, **named):
    """A byte-level BPE tokenizer that knows the answers of all guards as whole tokens."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=460,
        special_tokens=[*SPECIAL[:3], *names],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator([*CORPUS, *WORDS * 20], trainer)
    extra = [*SPECIAL[1:3], *(name for name in names if name not in named.values())]
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, eos_token=SPECIAL[0], pad_token=SPECIAL[0], extra_special_tokens=extra, **named
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return fast


def make_qwen(folder):
    """Weights that matter; returns the torch model."""
    words = tokenizer(folder, QWEN_TEMPLATE, QWEN)
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "vocab_size": 464, "max_position_embeddings": 4096}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}}
    vision = {"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "patch_size": QWEN_PATCH}
    vision |= {"window_size": 16, "fullatt_block_indexes": [1], "out_hidden_size": 32}
    names = dict(zip(("image_token_id", "vision_start_token_id", "vision_end_token_id"), QWEN, strict=True))
    special = {name: words.convert_tokens_to_ids(token) for name, token in names.items()}
    config = transformers.Qwen2_5_VLConfig(vision_config=vision, text_config=text, **special)
    processing = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": QWEN_PATCH, "merge_size": 2}
    processing |= {"min_pixels": 256, "max_pixels": 4096, "temporal_patch_size": 2}
    return _saved(transformers.Qwen2_5_VLForConditionalGeneration, config, folder, processing)


def make_gemma(folder):
    """Weights that matter; returns the torch model."""
    words = tokenizer(folder, GEMMA_TEMPLATE, GEMMA, bos_token="<bos>")
    text = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    text |= {"head_dim": 8, "vocab_size": 464, "query_pre_attn_scalar": 8, "sliding_window": 20, "num_hidden_layers": 2}
    text |= {"layer_types": ["sliding_attention", "full_attention"], "max_position_embeddings": 4096}
    vision = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": GEMMA_SIDE, "patch_size": 7, "vision_use_head": False}
    names = {"image_token_index": "<image_soft_token>", "boi_token_index": "<start_of_image>"}
    names |= {"eoi_token_index": "<end_of_image>"}
    special = {name: words.convert_tokens_to_ids(token) for name, token in names.items()}
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**vision),
        text_config=transformers.Gemma3TextConfig(**text),
        mm_tokens_per_image=4,
        **special,
    )
    processing = {"image_processor_type": "Gemma3ImageProcessor", "do_pan_and_scan": None, "resample": 2}
    processing |= {"size": {"height": GEMMA_SIDE, "width": GEMMA_SIDE}}
    return _saved(transformers.Gemma3ForConditionalGeneration, config, folder, processing)


def _saved(model, config, folder, processing):
    (folder / "preprocessor_config.json").write_text(json.dumps(processing))
    return save_random(model, config, folder)
