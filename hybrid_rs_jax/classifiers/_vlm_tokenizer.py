"""The tokenizer and the chat template of a checkpoint folder, read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["chat_template", "load_tokenizer", "token_ids"]

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a checkpoint; code of the checkpoint is never run.

    Raises:
      ValueError: if transformers is not installed, or the folder holds no tokenizer that it can read.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ValueError(
            "A vision-language guard needs transformers for tokenizer and chat template: "
            'pip install "hybrid-rs-jax[vlm]".'
        ) from error
    if not any((folder / name).is_file() for name in _FILES):
        raise ValueError(f"{folder} holds no tokenizer: expected tokenizer.json beside the weights.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever it stumbles over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(f"The tokenizer in {folder} cannot be read: {reason}.") from error
    if not tokenizer.is_fast:
        raise ValueError(f"The tokenizer in {folder} must be a fast one, with a tokenizer.json.")
    return tokenizer


def chat_template(folder: Path, tokenizer: Any) -> str:
    """The chat template of the checkpoint: the processor's, which knows pictures, before the tokenizer's.

    Raises:
      ValueError: if there is none.
    """
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json"):
        if not (folder / name).is_file():
            continue
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{folder / name} is not valid JSON: {error}.") from error
        if isinstance(content, dict) and isinstance(content.get("chat_template"), str):
            return content["chat_template"]
    if isinstance(tokenizer.chat_template, str):
        return tokenizer.chat_template
    raise ValueError(
        f"{folder} holds no chat template: expected chat_template.jinja, chat_template.json or a tokenizer with one."
    )


def token_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of a whole prompt, with the tokens that the tokenizer begins a text with unless they stand there."""
    begin = tokenizer.bos_token
    return tuple(tokenizer(text, add_special_tokens=not (begin and text.startswith(begin)))["input_ids"])
