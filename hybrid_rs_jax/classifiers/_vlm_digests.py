"""What identifies a checkpoint and a text, for the header of a run."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["checkpoint_digest", "text_digest"]

#: Files whose bytes decide what the network computes; tokenizer and template enter through their effects.
_PATTERNS = ("config.json", "*.safetensors", "*preprocessor_config.json", "processor_config.json", "tokenizer*")


def checkpoint_digest(folder: Path) -> str:
    """SHA-256 over names and whole contents of weights, config.json, image processing and tokenizer.

    The weights are read once more for it, at the speed of the disk: fine-tuned checkpoints have the same headers and
    sizes, so nothing shorter tells them apart.
    """
    whole = hashlib.sha256()
    for path in sorted({path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()}):
        with path.open("rb") as file:
            whole.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def text_digest(*texts: str) -> str:
    """SHA-256 of texts in UTF-8, each with its length."""
    whole = hashlib.sha256()
    for text in texts:
        data = text.encode()
        whole.update(f"{len(data)}\n".encode() + data)
    return whole.hexdigest()
