"""Settings of a guard, checked before any weight is read, and the checkpoint's own files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from hybrid_rs_jax.classifiers._vlm_alphabet import Alphabet, ordinary_tokens
from hybrid_rs_jax.classifiers._vlm_labels import label_words
from hybrid_rs_jax.classifiers._vlm_prompt import TEMPLATES, read_policy
from hybrid_rs_jax.classifiers._vlm_tokenizer import chat_template, load_tokenizer
from hybrid_rs_jax.models import load_config
from hybrid_rs_jax.models._hub import checkpoint_folder
from hybrid_rs_jax.models.checkpoint import ARCHITECTURES
from hybrid_rs_jax.models.image_processing import ImagePreprocessor

__all__ = ["DECISIONS", "THREATS", "CheckpointFiles", "GuardSettings", "dtype_name", "open_checkpoint"]

DECISIONS = ("logit_mass", "generate")
THREATS = ("suffix", "l0")
_FAMILIES = ("llava_onevision", "llava")


@dataclasses.dataclass(frozen=True)
class GuardSettings:
    """What a user chooses; see `VlmGuard.from_pretrained`."""

    policy: str
    template: str
    decision: str
    threat: str
    text_length: int
    image_size: tuple[int, int] | None
    labels: tuple[str, str]
    answer: str
    dtype: str
    uint8: bool
    share_image: bool
    generated_tokens: int

    def __post_init__(self) -> None:
        for name, legal in (("template", TEMPLATES), ("decision", DECISIONS), ("threat", THREATS)):
            if getattr(self, name) not in legal:
                raise ValueError(f"{name} must be {' or '.join(legal)}, got {getattr(self, name)!r}.")
        for name in ("text_length", "generated_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.image_size is not None and min(self.image_size) < 1:
            raise ValueError(f"image_size must be a height and a width of at least 1, got {self.image_size}.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype must be float32 or bfloat16, got {self.dtype}.")
        label_words(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class CheckpointFiles:
    """All of a checkpoint but its weights."""

    folder: Path
    config: dict[str, Any]
    sizes: Any
    tokenizer: Any
    template: str
    preprocessor: ImagePreprocessor
    policy: tuple[str, str]
    alphabet: Alphabet

    @property
    def image_token(self) -> int:
        """Id of the picture's placeholder."""
        return self.sizes.image_token_id

    @property
    def positions(self) -> int | None:
        """Positions that the decoder was made for, where config.json says it."""
        return (self.config.get("text_config") or {}).get("max_position_embeddings")


def open_checkpoint(source: str | os.PathLike[str], policy: str, alphabet: Sequence[int] | None) -> CheckpointFiles:
    """Read what can be wrong before weights are read, which may take minutes.

    Raises:
      ValueError: for a folder without one of the files, another architecture, or a bad policy or alphabet.
    """
    folder = checkpoint_folder(source)
    config = load_config(folder)
    kind = config.get("model_type")
    if kind not in _FAMILIES:
        raise ValueError(f"model_type must be {' or '.join(_FAMILIES)} for a guard, got {kind} in {folder}.")
    sizes = ARCHITECTURES[kind].read_config(config)
    tokenizer = load_tokenizer(folder)
    rows = sizes.text.vocab_size
    tokens = ordinary_tokens(tokenizer, rows, sizes.image_token_id) if alphabet is None else alphabet
    return CheckpointFiles(
        folder,
        config,
        sizes,
        tokenizer,
        chat_template(folder, tokenizer),
        ImagePreprocessor.from_pretrained(folder),
        read_policy(policy),
        Alphabet(tokens, rows),
    )


def dtype_name(dtype: Any) -> str:
    """The name of a dtype that is given as a name or as a type; what is no dtype comes back as text."""
    try:
        return str(jnp.dtype(dtype))
    except TypeError:
        return str(dtype)
