"""Where a margin or a label becomes a vote: here, for the engine, guards, endpoints and the filter at run time.

A NaN is never a vote: `nan > 0` is False, which would read as Safe. What is no finite margin, or no class, ends a run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = [
    "NO_SCORE",
    "columns_text",
    "foreign_label",
    "foreign_margin",
    "refusal",
    "returned_array",
    "votes_from_labels",
    "votes_from_margins",
]

#: Label of a copy whose score is NaN or infinite, in a compiled program, which cannot raise.
NO_SCORE = np.iinfo(np.int32).min


def votes_from_margins(margins: Any) -> np.ndarray:
    """Unsafe where the margin is above 0.

    Args:
      margins: real numbers of any shape.

    Returns:
      bool, of the shape of `margins`.

    Raises:
      ValueError: at the first margin that is not finite, or if they are no real numbers.

    >>> votes_from_margins(np.array([0.5, -1.0, 0.0])).tolist()
    [True, False, False]
    """
    found = returned_array(margins)
    if found.dtype.kind == "c":
        raise ValueError(f"A classifier's margins must be real numbers, got dtype {found.dtype}.")
    values = found if found.dtype.kind == "f" else found.astype(np.float32)  # bfloat16 is no kind of NumPy's own
    _refuse_first(found, foreign_margin(values))
    return np.asarray(values > 0)


def votes_from_labels(labels: Any, classes: int | None = None, place: Callable[[int], str] | None = None) -> np.ndarray:
    """The labels themselves, if each is a class.

    Args:
      labels: bools or integers of any shape: True or 1 is Unsafe; with `classes` 0..classes-1.
      classes: number of classes, None for a binary classifier.
      place: says of a flat position which copy it is, for the message.

    Returns:
      bool, or int32 with `classes`, of the shape of `labels`.

    Raises:
      ValueError: for labels that are neither bools nor integers, and at the first one that is no class.

    >>> votes_from_labels([1, 0, True]).tolist()
    [True, False, True]
    """
    found = returned_array(labels)
    if found.dtype.kind not in "biu" or (classes is not None and found.dtype.kind == "b"):
        wanted = "bools or the integers 0 and 1" if classes is None else "integers, the classes"
        raise ValueError(f"A classifier must return {wanted}, got dtype {found.dtype}.")
    _refuse_first(found, foreign_label(found, classes), classes, place)
    return found.astype(bool if classes is None else np.int32)


def returned_array(returned: Any) -> np.ndarray:
    """What a classifier returned, as an array, unless some of it is missing.

    Raises:
      ValueError: for lists of unequal length, and where a mask hides something: it would come back as what lies under
        the mask.

    >>> returned_array([True, False]).shape
    (2,)
    """
    if np.ma.is_masked(returned):
        raise ValueError("A classifier must decide about each pair, got an array in which some are masked.")
    try:
        return np.asarray(returned)
    except ValueError:
        kind = type(returned).__name__
        raise ValueError(f"A classifier must return an array of decisions, got a {kind} of unequal parts.") from None


def columns_text(shape: tuple[int, ...], classes: int | None) -> str:
    """What a binary classifier can do about a column for each class, for the sentence that refuses it.

    >>> columns_text((8, 3), None)
    '; where it gives a column for each class, say which classes are Unsafe (--unsafe-classes K,K,...)'
    >>> columns_text((8,), None)
    ''
    """
    if classes is not None or len(shape) != 2 or shape[1] < 2:
        return ""
    return "; where it gives a column for each class, say which classes are Unsafe (--unsafe-classes K,K,...)"


def foreign_margin(margins: Any) -> Any:
    """Where a margin is NaN or infinite; NumPy and JAX arrays alike."""
    return ~(abs(margins) < float("inf"))


def foreign_label(labels: Any, classes: int | None) -> Any:
    """Where a label is no class; NumPy and JAX arrays alike."""
    if labels.dtype == bool:
        return labels & False
    return (labels < 0) | (labels >= (2 if classes is None else classes))


def refusal(value: Any, classes: int | None, where: str = "") -> str:
    """The sentence for a margin or label that is no vote."""
    place = f" {where}" if where else ""
    if isinstance(value, float):
        return (
            f"The classifier's margin{place} is {value}: it must be a finite number, so no vote was counted from it; "
            "look at the classifier's weights and its dtype."
        )
    if value == NO_SCORE:
        return (
            f"The classifier's score{place} is no finite number, so no vote was counted from it; look at the "
            "classifier's weights and its dtype."
        )
    return f"A classifier's label must lie in 0..{1 if classes is None else classes - 1}, got {value}{place}."


def _refuse_first(
    found: np.ndarray, bad: Any, classes: int | None = None, place: Callable[[int], str] | None = None
) -> None:
    if not (bad := np.asarray(bad)).any():
        return
    position = int(np.argmax(bad))
    value = found.reshape(-1)[position]
    value = int(value) if found.dtype.kind in "biu" else float(value)
    raise ValueError(refusal(value, classes, "" if place is None else place(position)))
