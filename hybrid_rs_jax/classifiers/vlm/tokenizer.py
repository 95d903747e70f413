"""Tokenizer and chat template of a checkpoint, from its files; code of the checkpoint is never run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid_rs_jax._files import kind_of, read_text
from hybrid_rs_jax.models._settings import read_json_object

__all__ = ["chat_template", "first_line", "load_tokenizer"]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_TEMPLATE_FILES = ("chat_template.json", "processor_config.json")


def load_tokenizer(folder: Path, model_type: str | None = None) -> Any:
    """The fast tokenizer of a checkpoint; code of the checkpoint is never run.

    Args:
      folder: of the checkpoint.
      model_type: "qwen2" or "llama", where config.json is not one of transformers; None to have it looked up there.

    Raises:
      ValueError: if transformers is not installed, or the folder holds no tokenizer that it can read.
    """
    try:
        from transformers import AutoConfig, AutoTokenizer
    except ImportError as error:
        raise ValueError(
            "A vision-language guard needs transformers for tokenizer and chat template: "
            'pip install "hybrid-rs-jax[vlm]".'
        ) from error
    if not any(kind_of(folder / name) == "file" for name in _TOKENIZER_FILES):
        raise ValueError(f"{folder} holds no tokenizer: expected tokenizer.json beside the weights.")
    try:
        named = {} if model_type is None else {"config": AutoConfig.for_model(model_type)}
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **named)
    except Exception as error:  # transformers raises whatever it stumbles over
        raise ValueError(f"The tokenizer in {folder} cannot be read: {first_line(error)}.") from error
    if not tokenizer.is_fast:
        raise ValueError(f"The tokenizer in {folder} must be a fast one, with a tokenizer.json.")
    return tokenizer


def chat_template(folder: Path, tokenizer: Any) -> str:
    """The chat template of the checkpoint: the processor's, which knows pictures, before the tokenizer's.

    Of several named templates, as a list or as an object, that of the name "default" is taken.

    Raises:
      ValueError: if there is none.
    """
    found: list[object] = []
    if kind_of(folder / "chat_template.jinja") == "file":
        return read_text(folder / "chat_template.jinja")
    for name in _TEMPLATE_FILES:
        if kind_of(folder / name) == "file":
            found.append(read_json_object(folder / name).get("chat_template"))
    for given in (*found, tokenizer.chat_template):
        if isinstance(given, str) and given:
            return given
        if isinstance(default := _named(given).get("default"), str) and default:
            return default
    others = sorted({name for given in (*found, tokenizer.chat_template) for name in _named(given)})
    only = f", got those named {', '.join(others)}" if others else ""
    raise ValueError(
        f"{folder} holds no chat template: expected chat_template.jinja, chat_template.json or a tokenizer with one "
        f'(of several, the one named "default"){only}.'
    )


def _named(given: object) -> Mapping[str, object]:
    """Several named templates as a mapping, whichever way they are written; none where these are not such."""
    if isinstance(given, Mapping):
        return {name: template for name, template in given.items() if isinstance(name, str)}
    entries = [entry for entry in given if isinstance(entry, Mapping)] if isinstance(given, list | tuple) else []
    return {entry["name"]: entry.get("template") for entry in entries if isinstance(entry.get("name"), str)}


def first_line(error: Exception) -> str:
    """What an error says, without what follows its first line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
