"""The noise alphabet: symbols 0..V-1 that the kernels draw, and the tokens that they stand for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

__all__ = ["PAD", "Alphabet", "ordinary_tokens"]

#: The symbol of an empty position. It stands for no token: the network is shown the text without it.
PAD = 0


class Alphabet:
    """PAD and a set of tokens, numbered 0..V-1 as the kernels need it.

    Args:
      tokens: ids of the tokens, all different; symbol `s` of 1..V-1 stands for the s-th of them in rising order.
      rows: rows of the network's embedding; ids lie below.

    Raises:
      ValueError: for an id out of range, or one that appears twice.
    """

    def __init__(self, tokens: Iterable[int], rows: int):
        ids = np.sort(np.asarray(list(tokens), np.int64))
        if not ids.size:
            raise ValueError("alphabet must hold at least one token, got none.")
        if ids[0] < 0 or ids[-1] >= rows:
            raise ValueError(f"alphabet must hold token ids in 0..{rows - 1}, got {ids[0]}..{ids[-1]}.")
        if (repeated := ids[1:][ids[1:] == ids[:-1]]).size:
            raise ValueError(f"alphabet must hold each token once, got {repeated[0]} twice.")
        #: Token id of each symbol, int32[V]; that of PAD is never shown.
        self.table = np.concatenate([[0], ids]).astype(np.int32)
        self._symbol = {int(token): number for number, token in enumerate(ids, start=1)}

    def __len__(self) -> int:
        return len(self.table)

    @property
    def digest(self) -> str:
        """SHA-256 of the tokens' ids: what symbol numbers mean."""
        return hashlib.sha256(self.table[1:].astype("<i4").tobytes()).hexdigest()

    def symbols(self, tokens: Sequence[int], tokenizer: Any) -> np.ndarray:
        """Symbols of tokens, int32.

        Raises:
          ValueError: for a token outside of the alphabet, which no certificate would cover.
        """
        outside = [token for token in tokens if token not in self._symbol]
        if outside:
            shown = tokenizer.convert_ids_to_tokens(int(outside[0]))
            raise ValueError(
                f"Its text holds the token {shown!r} (id {outside[0]}), which is not in the noise alphabet."
            )
        return np.array([self._symbol[token] for token in tokens], np.int32)

    def tokens(self, symbols: np.ndarray) -> list[int]:
        """Token ids of symbols, PADs left out."""
        return self.table[symbols[symbols != PAD]].tolist()


def ordinary_tokens(tokenizer: Any, rows: int, image_token: int) -> list[int]:
    """All tokens of a tokenizer that a user's text can hold: no special tokens, no picture's placeholder."""
    special = {*tokenizer.all_special_ids, image_token}
    special |= {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return sorted({number for number in tokenizer.get_vocab().values() if number < rows} - special)
