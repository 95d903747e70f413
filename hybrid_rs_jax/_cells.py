"""Cells of tables as values: whole numbers, and labels that may be missing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

import numpy as np

__all__ = ["label_text", "plain_integers", "whole_number"]

_WHOLE = re.compile(r"([+-]?[0-9]{1,40})(?:\.0*)?")
#: Cells joined by commas, and the digits that surely fit into 64 bits.
_DIGITS, _SAFE_DIGITS = re.compile(r"[0-9][0-9,]*[0-9]|[0-9]"), 18


def plain_integers(cells: Sequence[object]) -> np.ndarray | None:
    """A column of texts that are digits and nothing else, all at once; None where a cell is anything else."""
    try:
        text = ",".join(cells)  # type: ignore[arg-type]
    except TypeError:
        return None
    if not _DIGITS.fullmatch(text) or ",," in text or max(map(len, cells)) > _SAFE_DIGITS:  # type: ignore[arg-type]
        return None
    numbers = np.fromstring(text, np.int64, sep=",")
    return numbers if len(numbers) == len(cells) else None


def whole_number(cell: object) -> int | None:
    """The integer that a cell holds, `99.0` included; None where it holds none.

    >>> whole_number(" 12 "), whole_number("99.0"), whole_number(3.0), whole_number("1e3"), whole_number(True)
    (12, 99, 3, None, None)
    """
    if isinstance(cell, str):
        match = _WHOLE.fullmatch(cell.strip())
        return int(match[1]) if match else None
    if isinstance(cell, float):
        return int(cell) if cell.is_integer() and abs(cell) <= 2**53 else None
    return cell if isinstance(cell, int) and not isinstance(cell, bool) else None


def label_text(cell: object) -> str | None:
    """A label as a text; None for what is missing, empty, null or not a number."""
    if isinstance(cell, str):
        return None if cell.strip().lower() in ("", "nan") else cell
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    number = whole_number(cell)
    return json.dumps(cell, default=str) if number is None else str(number)
