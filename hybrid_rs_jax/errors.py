"""The errors that a user meets: each is one sentence, shown without a traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

__all__ = [
    "BadInputError",
    "LedgerError",
    "MissingColumnError",
    "UnreadableInputError",
    "library_sentences",
    "raised_by",
    "who_raised",
]

_RAISED_BY = "This was raised by "


class BadInputError(ValueError):
    """An input that cannot be used; its text is one full sentence that says what and what would be legal."""


class MissingColumnError(BadInputError):
    """A table without a column that it needs; its text says which, and what was found."""

    def advised(self, advice: str) -> BadInputError:
        """The same with what the user can do, behind a semicolon."""
        return BadInputError(f"{str(self).removesuffix('.')}; {advice}")


class LedgerError(BadInputError):
    """A ledger that cannot be read, written or continued; its text says why, and what is kept."""


class UnreadableInputError(ValueError):
    """One input cannot be used; the run skips it, says why in the ledger, and goes on with the rest."""


@contextlib.contextmanager
def library_sentences() -> Iterator[None]:
    """The library refuses bad arguments with a ValueError of one sentence; pass that sentence on to the user.

    Returns:
      A context.

    Raises:
      BadInputError: in the place of a ValueError.

    >>> with library_sentences():
    ...     int("seven")
    Traceback (most recent call last):
    hybrid_rs_jax.errors.BadInputError: invalid literal for int() with base 10: 'seven'
    """
    try:
        yield
    except ValueError as error:
        raise BadInputError(str(error)) from error


@contextlib.contextmanager
def raised_by(whom: str | Callable[[], str]) -> Iterator[None]:
    """Around a call of code that is not ours: its errors stay what they are, with a note that says whose they are.

    Args:
      whom: what was called, as in "the classifier my_filter.classify"; or what says it, asked after an error only.

    Returns:
      A context.

    Raises:
      Exception: what the called code raises.

    >>> try:
    ...     with raised_by("the classifier f"):
    ...         {}["x"]
    ... except KeyError as error:
    ...     print(who_raised(error))
    the classifier f
    """
    try:
        yield
    except Exception as error:
        error.add_note(f"{_RAISED_BY}{whom if isinstance(whom, str) else whom()}.")
        raise


def who_raised(error: BaseException | None) -> str | None:
    """Whose code raised an error or what led to it, by the note of `raised_by`; None: nobody's but ours.

    Args:
      error: what was caught.

    Returns:
      What was called, as `raised_by` was told.

    >>> who_raised(KeyError("x")) is None
    True
    """
    while error is not None:
        for note in getattr(error, "__notes__", ()):
            if note.startswith(_RAISED_BY):
                return str(note.removeprefix(_RAISED_BY).removesuffix("."))
        error = error.__cause__ or error.__context__
    return None
