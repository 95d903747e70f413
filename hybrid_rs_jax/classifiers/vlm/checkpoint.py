"""All of a vision-language checkpoint but its weights: read first, since what can be wrong is seen in no time."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

from hybrid_rs_jax._files import kind_of
from hybrid_rs_jax.classifiers.vlm.prompt import Alphabet, PromptLayout, Tokens, lay_out, ordinary_tokens
from hybrid_rs_jax.classifiers.vlm.settings import GuardSettings, Policy
from hybrid_rs_jax.classifiers.vlm.tokenizer import chat_template, load_tokenizer
from hybrid_rs_jax.models import ImagePreprocessor, load_config, load_preprocessor
from hybrid_rs_jax.models._hub import checkpoint_folder
from hybrid_rs_jax.models._settings import Fields
from hybrid_rs_jax.models.checkpoint import ARCHITECTURES

__all__ = ["Checkpoint"]

_FAMILIES = ("llava_onevision", "llava_next", "llava", "qwen2_5_vl", "gemma3", "shieldgemma2")
# Files whose bytes decide what the network computes; tokenizer and template enter through their effects.
_DIGESTED = ("config.json", "*.safetensors", "*preprocessor_config.json", "processor_config.json", "tokenizer*")


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """All of a checkpoint but its weights."""

    folder: Path
    sizes: Any
    tokens: Tokens
    template: str
    preprocessor: ImagePreprocessor
    policy: Policy
    alphabet: Alphabet

    @classmethod
    def open(cls, source: str | os.PathLike[str], settings: GuardSettings) -> Checkpoint:
        """Read what can be wrong before weights are read, which may take minutes.

        Raises:
          ValueError: for a folder without one of the files, another architecture, or a bad policy or alphabet.
        """
        folder = checkpoint_folder(source)
        config = load_config(folder)
        sizes = ARCHITECTURES[Fields(config).choice("model_type", _FAMILIES)].read_config(config)
        policy, preprocessor = settings.read_policy(), load_preprocessor(folder)
        tokenizer = load_tokenizer(folder, sizes.decoder if sizes.image_token_id < 0 else None)
        tokens, rows = Tokens(tokenizer, sizes.image_token_id, getattr(sizes, "frame", None)), sizes.text.vocab_size
        alphabet = Alphabet(ordinary_tokens(tokens, rows) if settings.alphabet is None else settings.alphabet, rows)
        return cls(folder, sizes, tokens, chat_template(folder, tokenizer), preprocessor, policy, alphabet)

    def layout(self, settings: GuardSettings, with_image: bool = True) -> PromptLayout:
        """Prompt, labels and image processing.

        Raises:
          ValueError: if template, labels or pictures do not fit the checkpoint.
        """
        pixels, vision = None, self.sizes.vision
        if with_image:
            processor = self.preprocessor if settings.views == "checkpoint" else self.preprocessor.base_view()
            pixels = processor.plan(*(settings.image_size or (vision.image_size,) * 2))
            if not vision.takes(pixels.view_size):
                raise ValueError(
                    f"The image processing in {self.folder} makes views of {pixels.view_size[0]} x "
                    f"{pixels.view_size[1]} pixels, but the vision tower takes {vision.legal}."
                )
        return lay_out(self.tokens, self.template, self.policy.text, settings, pixels)

    def digest(self) -> str:
        """SHA-256 over names and whole contents of weights, config.json, image processing and tokenizer.

        The weights are read once more for it, at the speed of the disk: fine-tuned checkpoints have the same headers
        and sizes, so nothing shorter tells them apart.
        """
        whole = hashlib.sha256()
        for path in sorted({path for name in _DIGESTED for path in self.folder.glob(name) if kind_of(path) == "file"}):
            with path.open("rb") as file:
                whole.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return whole.hexdigest()
