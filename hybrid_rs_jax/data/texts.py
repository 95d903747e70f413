"""Texts as token ids for any classifier: an alphabet of words or bytes, and inputs that are encoded one at a time."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from hybrid_rs_jax.data.dataset import Dataset
from hybrid_rs_jax.data.inputs import Input
from hybrid_rs_jax.data.pictures import fit
from hybrid_rs_jax.errors import UnreadableInputError

__all__ = ["Bytes", "TextInputs", "Tokenizer", "Words"]


@runtime_checkable
class Tokenizer(Protocol):
    """An alphabet of symbols, one of which is PAD: no symbol."""

    @property
    def vocab_size(self) -> int:
        """Symbols, PAD included."""
        ...

    @property
    def pad(self) -> int:
        """The symbol that is none."""
        ...

    def symbols(self, text: str) -> list[int]:
        """The symbols of a text, without PADs.

        Raises:
          ValueError: if the text does not consist of symbols.
        """
        ...

    def decode(self, tokens: np.ndarray) -> str:
        """The text of symbols, attacked or noisy ones, too; PADs are left out."""
        ...

    def describe(self) -> Mapping[str, object]:
        """What a run's header says of it."""
        ...


@dataclasses.dataclass(frozen=True)
class Words:
    """Words between blanks; the alphabet is the words of a data set, and an attacker's words are among them.

    Args:
      words: all different, without blanks; the symbol of words[i] is i + 1, and 0 is PAD.

    >>> words = Words.of(["dial seven", "now dial"])
    >>> words.symbols("dial now"), words.decode(np.array([1, 0, 2, 0]))
    ([1, 2], 'dial now')
    """

    words: tuple[str, ...]
    _numbers: dict[str, int] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_numbers", {word: number for number, word in enumerate(self.words, 1)})

    @classmethod
    def of(cls, texts: Iterable[str]) -> Words:
        """The alphabet of some texts, in order."""
        return cls(tuple(sorted({word for text in texts for word in text.split()})))

    @property
    def vocab_size(self) -> int:
        """Words and PAD."""
        return len(self.words) + 1

    @property
    def pad(self) -> int:
        """The symbol that is no word."""
        return 0

    def symbols(self, text: str) -> list[int]:
        """The numbers of the words."""
        unknown = [word for word in text.split() if word not in self._numbers]
        if unknown:
            raise ValueError(f"The word {unknown[0]!r:.80} is not among the {len(self.words):,} of the alphabet")
        return [self._numbers[word] for word in text.split()]

    def decode(self, tokens: np.ndarray) -> str:
        """The words with one blank between them."""
        return " ".join(self.words[token - 1] for token in np.asarray(tokens).tolist() if token)

    def describe(self) -> Mapping[str, object]:
        """The vocabulary, as one text, and its digest."""
        whole = " ".join(self.words)
        return {"name": "words", "vocabulary": whole, "sha256": hashlib.sha256(whole.encode()).hexdigest()}


@dataclasses.dataclass(frozen=True)
class Bytes:
    """The bytes of UTF-8, and PAD; noisy bytes that are no text become the replacement character.

    >>> Bytes().symbols("né"), Bytes().decode(np.array([110, 256, 195, 169]))
    ([110, 195, 169], 'né')
    """

    @property
    def vocab_size(self) -> int:
        """256 bytes and PAD."""
        return 257

    @property
    def pad(self) -> int:
        """The symbol that is no byte."""
        return 256

    def symbols(self, text: str) -> list[int]:
        """The bytes."""
        return list(text.encode())

    def decode(self, tokens: np.ndarray) -> str:
        """The text."""
        return bytes(token for token in np.asarray(tokens).tolist() if token < 256).decode("utf-8", "replace")

    def describe(self) -> Mapping[str, object]:
        """Name of the alphabet."""
        return {"name": "bytes"}


@dataclasses.dataclass(frozen=True)
class TextInputs:
    """A data set of texts and pictures as arrays: the text, then PADs; the picture at one size, or without channels.

    Args:
      data: texts and pictures.
      tokenizer: the alphabet.
      length: positions of the text, PADs included.
      image_size: height and width; pictures of another size are stretched.
      everywhere: all positions carry noise; otherwise those behind the text.
    """

    data: Dataset
    tokenizer: Tokenizer
    length: int
    image_size: tuple[int, int]
    everywhere: bool = False

    @property
    def ids(self) -> Sequence[str]:
        """Names from the index."""
        return self.data.ids

    @property
    def eligible(self) -> np.ndarray:
        """Positions with noise: bool[L] where they are the same for all inputs, else an empty bool[0, L]."""
        return np.ones(self.length, bool) if self.everywhere else np.zeros((0, self.length), bool)

    def read(self, index: int) -> Input:
        """One input.

        Raises:
          UnreadableInputError: if the picture cannot be read, or the text is too long.
        """
        raw = self.data.read(index)
        try:
            symbols = self.tokenizer.symbols(raw.text)
        except ValueError as error:
            raise UnreadableInputError(f"{error}.") from error
        if len(symbols) > self.length:
            raise UnreadableInputError(
                f"The text has {len(symbols)} symbols, and text_length has room for {self.length}."
            )
        tokens = np.full(self.length, self.tokenizer.pad, np.int32)
        tokens[: len(symbols)] = symbols
        eligible = np.ones(self.length, bool)
        eligible[: 0 if self.everywhere else len(symbols)] = False
        image = fit(raw.image, *self.image_size) if raw.image.size else raw.image
        return Input(tokens, image, eligible, raw.id)
