"""JSON of others: strict, and refused in one sentence."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from typing import NoReturn

from hybrid_rs_jax.errors import BadInputError

__all__ = ["parse_json"]

# digits; the greatest float64 has 309
_LONGEST_INTEGER = 308


def parse_json(text: str, what: str, constant: Callable[[str], object] | None = None) -> object:
    """The value of a JSON text; the only door through which JSON of others comes in.

    Refused is all that is no JSON by the standard, and what could only be read by luck: a key that occurs twice, a
    number beyond float64, nesting beyond Python's stack, half of a Unicode surrogate pair (no file can hold it).

    Args:
      text: the whole text.
      what: how a sentence begins, as in "counts.jsonl, line 2".
      constant: what to make of the words NaN, Infinity and -Infinity; None refuses them.

    Raises:
      BadInputError: "... is not legal JSON: ...", for each of these reasons.

    >>> parse_json('{"n": 3}', "run.json")
    {'n': 3}
    """
    decoder = _DECODER if constant is None else _strict_decoder(parse_constant=constant)
    try:
        value = decoder.decode(text)
        if "\\ud" in text or "\\uD" in text:  # a text of a file holds surrogates in no other way
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        reason = f"{error.msg[:1].lower()}{error.msg[1:]} at {where}" if text.strip() else "it is empty"
    except UnicodeEncodeError:
        reason = "it holds half of a Unicode surrogate pair"
    except RecursionError:
        reason = "it is nested too deeply"
    except _Unfit as error:
        reason = str(error)
    else:
        return value
    raise BadInputError(f"{what} is not legal JSON: {reason}.")


class _Unfit(ValueError):
    """Legal to Python's parser, not to us; the text is the reason."""


def _refuse(constant: str) -> NoReturn:
    raise _Unfit(f"{constant} is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _Unfit(f"the number {digits:.40} is too large")
    return value


def _bounded(digits: str) -> int:
    if len(digits) > _LONGEST_INTEGER:
        raise _Unfit(f"the number {digits:.40}... is too large")
    return int(digits)


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise _Unfit(f"the key {twin!r:.80} occurs twice in one object")
    return found


_strict_decoder = functools.partial(
    json.JSONDecoder, parse_float=_finite, parse_int=_bounded, object_pairs_hook=_without_twins
)
_DECODER = _strict_decoder(parse_constant=_refuse)
