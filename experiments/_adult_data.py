"""UCI Adult as arrays: categorical fields as symbols, numeric features standardized, labels as booleans.

Decisions that a certificate depends on:

- The alphabet of a field is the set of its symbols in the training rows, sorted. `?` (missing) is a symbol like any
  other: an attacker may blank a field out or fill it in, and the noise draws it too.
- A test row with a symbol that no training row has lies outside of the alphabet, where no certificate holds. Such rows,
  and rows with a number missing, are left out and counted. The original files have none.
- Numeric features are standardized by mean and standard deviation of the training rows, so the unit of sigma and eps is
  one training standard deviation. Nothing is clipped: capital gains reach 13 of them.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import math
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int32

from hybrid_rs_jax._files import atomic_file
from hybrid_rs_jax.errors import BadInputError

COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship", "race",
    "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country",
)  # fmt: skip
NUMERIC = ("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week")
CATEGORICAL = tuple(name for name in COLUMNS if name not in NUMERIC)
LABELS = {"<=50K": False, ">50K": True}
MISSING = "?"

#: sha256 of the unpacked originals.
DIGESTS = {
    "adult.data": "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    "adult.test": "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
}
ARCHIVE = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/"


@dataclasses.dataclass(frozen=True)
class Rows:
    """N people: `tokens` int32[N, 8] (one symbol per categorical field), `numeric` float64[N, 6], `positive` bool[N].

    `positive` is True for an income above 50K. `left_out` counts rows outside of the alphabet or without a number.
    """

    tokens: Int32[np.ndarray, "n fields"]
    numeric: Float64[np.ndarray, "n features"]
    positive: Bool[np.ndarray, " n"]
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.positive)

    def first(self, rows: int) -> Rows:
        """The first so many rows."""
        return Rows(self.tokens[:rows], self.numeric[:rows], self.positive[:rows], self.left_out)


@dataclasses.dataclass(frozen=True)
class Adult:
    """Training and test rows, the alphabet of each categorical field, and the digests of the two files."""

    train: Rows
    test: Rows
    alphabets: tuple[tuple[str, ...], ...]
    digests: dict[str, str]

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Symbols per categorical field."""
        return tuple(map(len, self.alphabets))

    @property
    def is_original(self) -> bool:
        """Whether both files are the original ones, bit by bit."""
        return self.digests == DIGESTS


def load(folder: Path | None) -> Adult:
    """Read `adult.data` and `adult.test` (plain or .gz) from a folder; None fetches the originals from UCI.

    Raises:
      BadInputError: if a file is missing, cannot be fetched, or does not have the Adult format.
    """
    texts = {name: _fetched(name) if folder is None else _read(folder, name) for name in DIGESTS}
    digests = {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
    train, test = (_records(name, text) for name, text in texts.items())
    alphabets = tuple(tuple(sorted({row[name] for row in train})) for name in CATEGORICAL)
    for name, alphabet in zip(CATEGORICAL, alphabets, strict=True):
        if len(alphabet) < 2:
            raise BadInputError(f"Field {name} must have at least 2 symbols in adult.data, got {list(alphabet)}.")
    rows = [_encoded(records, alphabets) for records in (train, test)]
    for name, part in zip(DIGESTS, rows, strict=True):
        if not len(part):
            raise BadInputError(f"{name} must hold at least one usable row, got none.")
    mean, scale = rows[0].numeric.mean(axis=0), rows[0].numeric.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    standard = [dataclasses.replace(part, numeric=(part.numeric - mean) / scale) for part in rows]
    return Adult(standard[0], standard[1], alphabets, digests)


def _records(name: str, text: bytes) -> list[dict[str, str]]:
    """One dictionary per row; empty lines and the comment on top of `adult.test` are skipped."""
    records = []
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(COLUMNS) + 1:
            raise BadInputError(f"{name}, line {number}: expected {len(COLUMNS) + 1} columns, got {len(cells)}.")
        # labels of the test file end in a dot
        label = cells[-1].removesuffix(".")
        if label not in LABELS:
            raise BadInputError(f"{name}, line {number}: the label must be <=50K or >50K, got {cells[-1]!r}.")
        record = dict(zip((*COLUMNS, "label", "line"), (*cells[:-1], label, f"{name}, line {number}"), strict=True))
        records.append(record)
    return records


def _encoded(records: Sequence[dict[str, str]], alphabets: Sequence[Sequence[str]]) -> Rows:
    """Symbols as indices, numbers as they are; rows outside of the alphabet or without a number are left out."""
    index = [{symbol: k for k, symbol in enumerate(alphabet)} for alphabet in alphabets]
    kept = [
        record
        for record in records
        if all(record[name] in symbols for name, symbols in zip(CATEGORICAL, index, strict=True))
        and all(record[name] != MISSING for name in NUMERIC)
    ]
    tokens = [[symbols[row[name]] for name, symbols in zip(CATEGORICAL, index, strict=True)] for row in kept]
    numeric = [[_number(row, name) for name in NUMERIC] for row in kept]
    return Rows(
        np.array(tokens, np.int32).reshape(-1, len(CATEGORICAL)),
        np.array(numeric, np.float64).reshape(-1, len(NUMERIC)),
        np.array([LABELS[row["label"]] for row in kept], bool),
        len(records) - len(kept),
    )


def _number(record: dict[str, str], name: str) -> float:
    try:
        value = float(record[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInputError(f"{record['line']}: {name} must be a finite number, got {record[name]!r}.")
    return value


def _read(folder: Path, name: str) -> bytes:
    """Content of `name` or `name.gz` in a folder."""
    packed = folder / f"{name}.gz"
    path = packed if packed.is_file() else folder / name
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path == packed else content
    except (OSError, EOFError) as error:
        raise BadInputError(f"--data must be a folder with {name} or {name}.gz; {path} cannot be read.") from error


def _fetched(name: str) -> bytes:
    """The original file, from the user's cache or from UCI; refused unless its digest is right."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hybrid_rs_jax" / "adult"
    path = cache / name
    if path.is_file() and hashlib.sha256(content := path.read_bytes()).hexdigest() == DIGESTS[name]:
        return content
    try:
        with urllib.request.urlopen(ARCHIVE + name, timeout=60) as answer:
            content = answer.read()
    except (OSError, urllib.error.URLError) as error:
        raise BadInputError(f"{ARCHIVE}{name} cannot be fetched ({error}); give a folder with --data.") from error
    if (digest := hashlib.sha256(content).hexdigest()) != DIGESTS[name]:
        raise BadInputError(f"{ARCHIVE}{name} must have the sha256 {DIGESTS[name]}, got {digest}.")
    cache.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, force=True) as temporary:
        temporary.write_bytes(content)
    return content
