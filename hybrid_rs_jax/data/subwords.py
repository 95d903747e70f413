"""The tokens of a tokenizer.json as an alphabet, for any classifier that gets texts."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_rs_jax._extras import need
from hybrid_rs_jax._files import kind_of, path_text
from hybrid_rs_jax.errors import BadInputError

__all__ = ["Subwords"]

_FILE = "tokenizer.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Subwords:
    """Tokens of a Hugging Face tokenizer that are not special; symbol 0 is PAD, the others follow the tokens' ids.

    What a tokenizer changes on the way (capitals, blanks, characters that it does not know) is changed in the text that
    the classifier gets, noise or not: it is part of the base classifier.

    Args:
      tokenizer: of the package tokenizers, without truncation and padding.
      ids: int64[V - 1], token id of the symbols 1..V-1, rising.
      name: of its folder; sha256: of its file.

    >>> tokenizer = object()  # Subwords.read(folder) takes that of a model
    >>> Subwords(tokenizer, np.arange(3, 8), "mine", "").vocab_size
    6
    """

    tokenizer: Any
    ids: np.ndarray
    name: str
    sha256: str

    @classmethod
    def read(cls, path: str | Path) -> Subwords:
        """The tokenizer of a folder with a tokenizer.json, or of such a file; nothing is downloaded.

        Raises:
          BadInputError: if the package tokenizers is missing, or the file cannot be used; one sentence.
        """
        place = Path(path).expanduser()
        library: Any = need("tokenizers", "vlm", "Tokenizers from a folder (--tokenizer hf:PATH)")
        file = place / _FILE if kind_of(place) == "folder" else place
        if kind_of(file) != "file":
            raise BadInputError(f"--tokenizer hf:{path_text(path)} must be a folder with a {_FILE}, and has none.")
        content = file.read_bytes()
        try:
            found = library.Tokenizer.from_buffer(content)
        except Exception as error:  # the package raises plain exceptions
            reason = str(error).splitlines()[0].rstrip(".")[:200]
            raise BadInputError(f"{path_text(file)} cannot be read as a tokenizer: {reason}.") from error
        found.no_truncation()
        found.no_padding()
        special = {token for token, added in found.get_added_tokens_decoder().items() if added.special}
        ids = np.array(sorted(set(found.get_vocab().values()) - special), np.int64)
        if not ids.size:
            raise BadInputError(f"{path_text(file)} holds no tokens that are not special.")
        return cls(found, ids, file.resolve().parent.name, hashlib.sha256(content).hexdigest())

    @property
    def vocab_size(self) -> int:
        """Tokens and PAD."""
        return len(self.ids) + 1

    @property
    def pad(self) -> int:
        """The symbol that is no token."""
        return 0

    def symbols(self, text: str) -> list[int]:
        """The tokens of a text, without those that a tokenizer puts around it.

        Raises:
          ValueError: if the text holds a special token, which no noise draws.
        """
        tokens = np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
        places = np.searchsorted(self.ids, tokens)
        known = self.ids[np.minimum(places, len(self.ids) - 1)] == tokens
        if not known.all():
            token = int(tokens[~known][0])
            raise ValueError(f"The text holds the special token {self.tokenizer.id_to_token(token)!r:.80}")
        return (places + 1).tolist()

    def decode(self, tokens: np.ndarray) -> str:
        """The text of the tokens."""
        kept = np.asarray(tokens)
        ids = self.ids[kept[kept != 0] - 1].tolist()
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def describe(self) -> Mapping[str, object]:
        """Folder, size and digest."""
        return {"name": "hf", "folder": self.name, "vocab_size": self.vocab_size, "sha256": self.sha256}
