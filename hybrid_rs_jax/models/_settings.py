"""Reading the JSON files of a checkpoint: every field with its type and its range, or one sentence that names it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from hybrid_rs_jax._files import path_text, read_text
from hybrid_rs_jax._json import parse_json

__all__ = ["Fields", "read_json_object"]

_NO_DEFAULT: Any = object()
_LARGEST = 2**31 - 1
_LONGEST_SIDE = 2**14  # of a picture, in pixels
_MOST = 10_000  # entries of a list

#: Fields of config.json that change no logit: bookkeeping, training, sampling of answers, and what older versions of
#: transformers wrote into every section.
_BOOKKEEPING = """
    _attn_implementation_autoset _name_or_path architectures attn_implementation attention_dropout auto_map
    cache_implementation dropout dtype id2label initializer_factor initializer_range label2id model_type
    pretraining_tp problem_type projection_dim task_specific_params tokenizer_class torch_dtype torchscript
    transformers_version unsloth_fixed unsloth_version use_bfloat16 use_cache use_flash_attn vision_use_head
    bos_token_id decoder_start_token_id eos_token_id pad_token_id sep_token_id begin_suppress_tokens suppress_tokens
    bad_words_ids forced_bos_token_id forced_eos_token_id do_sample diversity_penalty early_stopping
    encoder_no_repeat_ngram_size exponential_decay_length_penalty length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states
    output_scores prefix remove_invalid_values repetition_penalty return_dict return_dict_in_generate temperature
    tf_legacy_loss top_k top_p typical_p use_return_dict add_cross_attention chunk_size_feed_forward
    cross_attention_hidden_size finetuning_task is_decoder is_encoder_decoder pruned_heads tie_encoder_decoder
    image_seq_length ignore_index
"""
_INERT = frozenset(_BOOKKEEPING.split())


def read_json_object(path: Path) -> dict[str, object]:
    """The JSON object in a file.

    Raises:
      ValueError: one sentence, if the file cannot be read, is no JSON or is nested too deeply, or holds no object.
    """
    content = parse_json(read_text(path), path_text(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold one JSON object, got {type(content).__name__}.")
    return content


class Fields(Mapping[str, Any]):
    """The fields of one JSON object. A field that is null counts as absent; what is absent has the default.

    Args:
      content: of the object.
      where: what precedes a name in sentences, as in "text_config.".

    >>> Fields({"heads": 4}).integer("heads", 8), Fields({}).integer("heads", 8)
    (4, 8)
    >>> Fields({"heads": "4"}, "text_config.").integer("heads")
    Traceback (most recent call last):
    ...
    ValueError: text_config.heads must be an integer in 1..2147483647, got '4'.
    """

    def __init__(self, content: Mapping[str, Any], where: str = ""):
        self._content = {name: value for name, value in content.items() if value is not None}
        same = content if isinstance(content, Fields) and not where else None
        self._where: str = where if same is None else same._where
        # what was read so far, and the objects inside: shared by all wrappings of one object
        self._read: set[str] = set() if same is None else same._read
        self._inside: dict[str, Fields] = {} if same is None else same._inside
        self._nulls: frozenset[str] = frozenset(content) - self._content.keys() if same is None else same._nulls

    def __getitem__(self, name: str) -> Any:
        return self._content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def __contains__(self, name: object) -> bool:
        self._read.add(str(name))
        return name in self._content

    def is_null(self, name: str) -> bool:
        """Whether the field is there and null, for the few that mean something else when they are absent."""
        return name in self._nulls

    def settle(self, *names: str) -> None:
        """Count fields as read, because the value of another one leaves them without meaning."""
        self._read.update(names)

    def refuse_unread(self, network: str) -> None:
        """Raise one sentence where a field was given that no reader asked for and that may change the function."""
        for name in self._content:
            if name not in self._read | _INERT:
                raise ValueError(
                    f"{self._where}{name} is unknown for {network} and may change what it computes, got "
                    f"{self._content[name]!r:.80}; remove it from config.json if it does not."
                )
        for inner in self._inside.values():
            inner.refuse_unread(network)

    def refuse(self, name: str, legal: str) -> ValueError:
        """The sentence for a field whose value is not legal."""
        value = repr(self._content.get(name)) if name in self._content else "nothing"
        shown = value if len(value) <= 100 else f"{value[:100]}..."
        return ValueError(f"{self._where}{name} must be {legal}, got {shown}.")

    def integer(self, name: str, default: int = _NO_DEFAULT, low: int = 1, high: int = _LARGEST) -> int:
        """A whole number in `low..high`; true, 3.0 and "3" are none."""
        value = self._get(name, default)
        if not _is_integer(value, low, high):
            raise self.refuse(name, f"an integer in {low}..{high}")
        return value

    def number(self, name: str, default: float = _NO_DEFAULT, low: float = 0.0, high: float = 1e18) -> float:
        """A finite number above `low` and at most `high`."""
        value = self._get(name, default)
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or not low < value <= high:
            raise self.refuse(name, f"a number above {low:g} and at most {high:g}")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.refuse(name, "true or false")
        return value

    def text(self, name: str, default: str = _NO_DEFAULT) -> str:
        """A text."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.refuse(name, "a text")
        return value

    def choice(self, name: str, legal: Collection[str], default: str = _NO_DEFAULT) -> str:
        """One of several texts."""
        value = self._get(name, default)
        if not isinstance(value, str) or value not in legal:
            raise self.refuse(name, f"one of {', '.join(legal)}")
        return value

    def only(self, name: str, legal: object, network: str) -> None:
        """Raise one sentence where the field is given and is not the one value that the network implements."""
        self._read.add(name)
        value = self._content.get(name, legal)
        if type(value) is not type(legal) or value != legal:
            raise self.refuse(name, f"{legal!r} for {network}")

    def section(self, name: str) -> Fields | None:
        """An object inside this one; None where it is absent or empty."""
        self._read.add(name)
        value = self._content.get(name)
        if value is None or value == {}:
            return None
        if not isinstance(value, dict):
            raise self.refuse(name, "a JSON object")
        return self._inside.setdefault(name, Fields(value, f"{self._where}{name}."))

    def integers(self, name: str, default: tuple[int, ...] = (), low: int = 1, high: int = _LARGEST) -> tuple[int, ...]:
        """One whole number, or a list of them that is not empty."""
        value = self._get(name, default)
        values = value if isinstance(value, list | tuple) else [value]
        if not values or len(values) > _MOST or not all(_is_integer(entry, low, high) for entry in values):
            raise self.refuse(name, f"an integer in {low}..{high}, or a list of them")
        return tuple(values)

    def pairs(self, name: str, default: Any = _NO_DEFAULT) -> tuple[tuple[int, int], ...]:
        """A list of pairs (height, width) in pixels."""
        value = self._get(name, default)
        if not isinstance(value, list | tuple) or not 0 < len(value) <= _MOST or not all(map(_is_pair, value)):
            raise self.refuse(name, "a list of pairs (height, width)")
        if not all(_is_integer(side, 1, _LONGEST_SIDE) for pair in value for side in pair):
            raise self.refuse(name, f"a list of pairs (height, width) of integers in 1..{_LONGEST_SIDE}")
        return tuple((pair[0], pair[1]) for pair in value)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; none where it is absent."""
        value = self._get(name, ())
        if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
            raise self.refuse(name, "a list of texts")
        return tuple(value)

    def _get(self, name: str, default: Any) -> Any:
        self._read.add(name)
        if name in self._content:
            return self._content[name]
        if default is _NO_DEFAULT:
            return None  # no legal value: each reader refuses it in its own words
        return default


def _is_integer(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_pair(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2
