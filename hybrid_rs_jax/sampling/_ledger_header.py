"""Headers of ledgers: canonical JSON with a digest, and a readable list of what differs between two of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from hybrid_rs_jax.sampling._ledger_errors import LedgerError

__all__ = ["Difference", "canonical", "differences", "digest", "difference_text"]

_SHOWN = 70
_ABSENT = object()


class Difference(NamedTuple):
    """One field that two headers do not agree on: its dotted name, the value of the run, the value asked for."""

    name: str
    had: Any
    asked: Any


def canonical(header: Mapping[str, Any]) -> str:
    """The header as JSON with sorted keys: equal headers give equal text.

    Raises:
      LedgerError: if it holds something that JSON has no word for (NaN, an array, an object).
    """
    try:
        return json.dumps(dict(header), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise LedgerError(f"The header of a run must be plain JSON, got one where {error}.") from error


def digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def differences(had: Mapping[str, Any], asked: Mapping[str, Any]) -> list[Difference]:
    """Fields that differ, by dotted name; a field that one side does not have is None there."""
    return [
        Difference(name, *(None if value is _ABSENT else value for value in pair))
        for name, *pair in _unequal("", dict(had), dict(asked))
    ]


def _unequal(name: str, had: Any, asked: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(had, dict) and isinstance(asked, dict):
        for key in sorted(had.keys() | asked.keys()):
            inner = f"{name}.{key}" if name else key
            yield from _unequal(inner, had.get(key, _ABSENT), asked.get(key, _ABSENT))
    elif isinstance(had, list) and isinstance(asked, list) and len(had) == len(asked):
        for index, pair in enumerate(zip(had, asked, strict=True)):
            yield from _unequal(f"{name}[{index}]", *pair)
    elif isinstance(had, bool) != isinstance(asked, bool) or had != asked:  # True equals 1 in Python, not in JSON
        yield name, had, asked


def difference_text(difference: Difference, first: str = "the run has", second: str = "asked is") -> str:
    """One line, such as "smoothing.sigma: the run has 0.25, asked is 0.5"."""
    return f"{difference.name}: {first} {_short(difference.had)}, {second} {_short(difference.asked)}"


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= _SHOWN:
        return text
    size = f" ({len(value)} entries)" if isinstance(value, list) else ""
    return f"{text[: _SHOWN - 3]}...{size}"
