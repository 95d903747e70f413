"""LLaVA-OneVision checkpoints without their weights: sizes, tokenizer, chat template, image processing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from hybrid_rs_jax.data import demo

__all__ = ["ANSWER", "POLICY", "SHAPES", "Words", "checkpoint_files", "config", "words_of"]

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
PAD, UNKNOWN = "<pad>", "<unk>"
#: What an answer of a guard is made of, and a policy of one line.
ANSWER = '{"rating": "Unsafe"}'
POLICY = "Safe or Unsafe?"
#: A turn of the user: its pictures first, then its texts.
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
#: Sizes of decoder and tower: a guard that is trained in minutes, one for benchmarks on a CPU, and LlavaGuard's.
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "text": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": True,
        },
        "tower": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        "rows": 1,
    },
    "small": {
        "text": {
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_theta": 1e6,
            "tie_word_embeddings": True,
            "vocab_size": 4_100,
        },
        "tower": {
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 112,
            "patch_size": 14,
        },
        "rows": 3,
    },
    "0.5b": {
        "text": {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "rope_theta": 1e6,
            "tie_word_embeddings": True,
            "vocab_size": 152_000,
        },
        "tower": _SO400M,
        "rows": 6,
    },
    "7b": {
        "text": {
            "hidden_size": 3584,
            "intermediate_size": 18_944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rope_theta": 1e6,
            "tie_word_embeddings": False,
            "vocab_size": 152_128,
        },
        "tower": _SO400M,
        "rows": 6,
    },
}


class Words:
    """A word-level alphabet: token ids of ordinary words, and of the special tokens behind them.

    Args:
      words: ordinary words, all different, `<pad>` first.
      first_special: id of the first special token; None for the number of words.
    """

    def __init__(self, words: Sequence[str], first_special: int | None = None):
        self.words = [*words, UNKNOWN]
        start = len(self.words) if first_special is None else first_special
        self.words += [f"word{number}" for number in range(len(self.words), start)]
        self.special = {name: start + number for number, name in enumerate(SPECIAL)}
        self.ids = {word: number for number, word in enumerate(self.words)} | self.special

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, text: str) -> list[int]:
        """Token ids, as the tokenizer finds them."""
        pieces = re.split("(" + "|".join(map(re.escape, SPECIAL)) + ")", text)
        parts = [[piece] if piece in self.special else split_words(piece) for piece in pieces]
        return [self.ids.get(word, self.ids[UNKNOWN]) for part in parts for word in part]


def words_of(shape: str) -> Words:
    """The alphabet of a checkpoint of one of the `SHAPES`.

    For the tiny one the demo's words, which keep their ids, and what template, policy and answer need. For the others
    also the words of the package's policies, then fillers. Published sizes have LLaVA-OneVision's special tokens.
    """
    needed = ["user assistant", POLICY, ANSWER]
    if shape != "tiny":
        folder = resources.files("hybrid_rs_jax.classifiers").joinpath("policies")
        needed += sorted(path.read_text(encoding="utf-8") for path in folder.iterdir() if path.name.endswith(".txt"))
    words = list(dict.fromkeys([*demo.vocabulary(), *split_words(" ".join(needed))]))
    return Words(words, {"tiny": None, "small": 4096}.get(shape, 151_643))


def split_words(text: str) -> list[str]:
    """Runs of letters and digits, and runs of other marks."""
    return re.findall(r"\w+|[^\w\s]+", text)


def config(shape: str, words: Words) -> dict[str, Any]:
    """Contents of config.json for one of the `SHAPES`."""
    sizes = SHAPES[shape]
    text = {"model_type": "qwen2", "vocab_size": len(words), **sizes["text"]}
    text |= {"bos_token_id": words.special["<|endoftext|>"], "eos_token_id": words.special["<|im_end|>"]}
    tower = {"model_type": "siglip_vision_model", "vision_use_head": False, **sizes["tower"]}
    return {
        "model_type": "llava_onevision",
        "text_config": text,
        "vision_config": tower,
        "image_token_index": words.special["<image>"],
        "image_grid_pinpoints": pinpoints(shape),
        "vision_aspect_ratio": "anyres_max_9",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": text["tie_word_embeddings"],
    }


def pinpoints(shape: str) -> list[list[int]]:
    """All canvases of up to so many rows and columns of tiles."""
    side, sides = SHAPES[shape]["tower"]["image_size"], range(1, SHAPES[shape]["rows"] + 1)
    return [[side * rows, side * columns] for rows in sides for columns in sides]


def checkpoint_files(shape: str, words: Words) -> dict[str, Any]:
    """Contents of the files beside config.json and the weights, by name."""
    side = SHAPES[shape]["tower"]["image_size"]
    patches = (side // SHAPES[shape]["tower"]["patch_size"]) ** 2
    return {
        "tokenizer.json": _tokenizer(words),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 32_768,
            "unk_token": UNKNOWN,
            "eos_token": "<|im_end|>",
            "pad_token": PAD,
            "chat_template": TEMPLATE,
            "clean_up_tokenization_spaces": False,
        },
        "preprocessor_config.json": {
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "do_resize": True,
            "size": {"height": side, "width": side},
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "image_grid_pinpoints": pinpoints(shape),
        },
        "processor_config.json": {
            "processor_class": "LlavaOnevisionProcessor",
            "image_token": "<image>",
            "num_image_tokens": patches,
            "vision_feature_select_strategy": "full",
        },
        "generation_config.json": {
            "eos_token_id": words.special["<|im_end|>"],
            "pad_token_id": words.ids[PAD],
        },
    }


def _tokenizer(words: Words) -> dict[str, Any]:
    """tokenizer.json: one token per word, as `Words.encode` finds them."""
    added: Iterable[Mapping[str, Any]] = (
        {
            "id": words.ids[name],
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for name in (PAD, UNKNOWN, *SPECIAL)
    )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(added),
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(words.words)},
            "unk_token": UNKNOWN,
        },
    }
