"""Data sets of `sample`, `pack` and `doctor` as arrays, opened by name."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hybrid_rs_jax._files import kind_of, path_text
from hybrid_rs_jax._tables import SUFFIXES
from hybrid_rs_jax.cli._doors import ModelOptions
from hybrid_rs_jax.cli.options import GuardOptions, ThreatOptions
from hybrid_rs_jax.data.dataset import Dataset
from hybrid_rs_jax.data.inputs import ArrayInputs, Inputs, load_npz
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError, library_sentences

if TYPE_CHECKING:
    from hybrid_rs_jax.data import Tokenizer

__all__ = ["DEMO_DATA", "OpenedData", "first_readable", "holds_texts", "label_columns", "open_arrays", "open_features"]

#: Positions behind the longest text, where the user does not say how many there are.
ROOM = 8
_T = TypeVar("_T")

#: The held-out inputs of the demo: unsafe ones, and safe ones for false alarms.
DEMO_DATA = ("demo", "demo-safe")
PLAIN_UNIT = "as the pixels of the data, added to the picture that the classifier gets, not clipped"
TEXTS_UNIT = "pixels in [0, 1] at {height}x{width}, added to the picture that the classifier gets, not clipped"
FEATURES_UNIT = "standard deviations of the table's columns, added to the numbers that the model gets"
DEMO_UNIT = "pixels in [0, 1] at 8x8, added to the picture that the classifier gets, not clipped"


@dataclasses.dataclass(frozen=True)
class OpenedData:
    """Inputs as arrays, and what is known of them; fields as in `Source`.

    Attributes:
      decode: the text of token ids; None: they are of the user's own.
      rows: of a table of features, its rows again.
    """

    inputs: Inputs
    vocab_size: int | None
    sigma_unit: str
    described: Mapping[str, object]
    decode: Callable[[np.ndarray], str] | None = None
    pad_token: int = 0
    columns: Mapping[str, Sequence[str | None]] = dataclasses.field(default_factory=dict)
    cardinalities: tuple[int, ...] | None = None
    rows: Callable[..., Any] | None = None


def open_arrays(
    data: str,
    guard: GuardOptions,
    pixel_range: tuple[float, float] | None,
    threat: ThreatOptions,
    tokenizer: str | None = None,
) -> OpenedData:
    """A data set as arrays, for any model that brings no tokenizer of its own."""
    if data in DEMO_DATA:
        return _demo_inputs(threat, safe=data == "demo-safe")
    path = Path(data)
    if holds_texts(data):
        if pixel_range is not None:
            raise BadInputError(
                f"--pixel-range means something to an archive (.npz) only, got --data {path_text(data)}."
            )
        return _texts(data, guard, threat, tokenizer or "words")
    if path.suffix.lower() != ".npz":
        legal = "demo, demo-safe, a NumPy archive (.npz) with tokens and images, or texts and pictures"
        raise BadInputError(f"--data must be {legal} (.csv, .jsonl, .parquet, a folder), got {path_text(data)}.")
    if tokenizer is not None:
        raise BadInputError(f"--tokenizer means something to texts only, and {path_text(data)} holds token ids.")
    with library_sentences():
        arrays = load_npz(path, pixel_range)
    # each input has its own digest in the ledger, so that data may grow between two sessions
    named = {"name": "npz", "file": path.name} | ({} if pixel_range is None else {"pixel_range": list(pixel_range)})
    return OpenedData(arrays, None, PLAIN_UNIT, named, columns=arrays.columns)


def open_features(data: str, own: ModelOptions) -> OpenedData:
    """A table of features."""
    from hybrid_rs_jax.data.fields import Schema, open_table

    if data in DEMO_DATA or not data.lower().endswith(SUFFIXES):
        raise BadInputError(f"--label-column needs a table as --data (.csv, .jsonl, .parquet), got {path_text(data)}.")
    known = None
    if own.schema is not None and own.schema.suffix.lower() == ".json":
        if own.categorical is not None:
            raise BadInputError("--categorical contradicts --schema, which says itself what the columns are.")
        known = Schema.read(own.schema)
    elif own.schema is not None:
        _, known = open_table(own.schema, own.label_column, own.categorical or ())
    inputs, schema = open_table(data, own.label_column, own.categorical or (), known)
    described = {"name": "table", "file": Path(data).name, "columns": schema.describe()}
    return OpenedData(
        inputs,
        None,
        FEATURES_UNIT,
        described,
        columns=inputs.columns,
        cardinalities=schema.cardinalities,
        rows=schema.rows,
    )


def holds_texts(data: str) -> bool:
    """Whether `--data` names a table or a folder of texts and pictures."""
    return data not in DEMO_DATA and (data.lower().endswith(SUFFIXES) or kind_of(Path(data)) == "folder")


def _texts(data: str, guard: GuardOptions, threat: ThreatOptions, tokenizer: str) -> OpenedData:
    """Texts and pictures, encoded by an alphabet of their own."""
    from hybrid_rs_jax.data import Bytes, Subwords, TextInputs, Words, open_data

    texts = open_data(data)
    alphabet: Tokenizer
    if tokenizer.startswith("hf:"):
        alphabet = Subwords.read(tokenizer[3:])
    else:
        alphabet = Bytes() if tokenizer == "bytes" else Words.of(texts.texts)
    if alphabet.vocab_size < 2:
        raise BadInputError(f"{path_text(data)} holds no words, so there is no alphabet; say --tokenizer bytes.")
    length = guard.text_length or _longest(texts.texts, alphabet) + ROOM
    if guard.image_size is not None and not texts.pictures:
        raise BadInputError(f"--image-size means nothing to {path_text(data)}, which has no column of pictures.")
    height, width = guard.image_size or first_readable(texts).image.shape[:2]
    inputs = TextInputs(texts, alphabet, length, (height, width), everywhere=threat.region == "l0")
    described = {
        "name": "texts and pictures",
        "file": Path(data).name,
        "tokenizer": alphabet.describe(),
        "text_length": length,
        "image_size": [height, width] if texts.pictures else None,
    }
    return OpenedData(
        inputs,
        alphabet.vocab_size,
        TEXTS_UNIT.format(height=height, width=width),
        described,
        alphabet.decode,
        alphabet.pad,
        label_columns(texts),
    )


def _longest(texts: Sequence[str], alphabet: Tokenizer) -> int:
    """Most symbols of a text that the alphabet can write; others are skipped when they are read."""
    longest = 0
    for text in texts:
        with contextlib.suppress(ValueError):
            longest = max(longest, len(alphabet.symbols(text)))
    return longest


def label_columns(texts: Dataset) -> dict[str, Sequence[str | None]]:
    """Label and group, where an input has one."""
    both = {"label": texts.labels, "group": texts.groups}
    return {name: values for name, values in both.items() if any(value is not None for value in values)}


def first_readable(inputs: Inputs[_T]) -> _T:
    """An input that shows the shapes of all.

    Raises:
      BadInputError: if none can be used.
    """
    reasons = []
    for index in range(len(inputs.ids)):
        try:
            return inputs.read(index)
        except UnreadableInputError as error:
            reasons.append(str(error))
    if not reasons:
        raise BadInputError("The data hold no inputs.")
    raise BadInputError(f"None of the {len(reasons)} inputs can be used; the first one: {reasons[0]}")


def _demo_inputs(threat: ThreatOptions, safe: bool) -> OpenedData:
    from hybrid_rs_jax.data import demo

    held_out = demo.held_out_safe(10_000) if safe else demo.held_out_unsafe(10_000)
    everywhere = threat.region == "l0"
    eligible = np.ones_like(demo.suffix_mask()) if everywhere else demo.suffix_mask()
    inputs = ArrayInputs(held_out.ids, held_out.tokens, held_out.images, eligible)
    words = hashlib.sha256("\n".join(demo.vocabulary()).encode()).hexdigest()
    name = f"hybrid_rs_jax.data.demo.held_out_{'safe' if safe else 'unsafe'}"
    return OpenedData(inputs, demo.VOCAB_SIZE, DEMO_UNIT, {"name": name, "alphabet_sha256": words}, demo.decode)
