"""The errors that a user meets: each is one sentence, shown without a traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["BadInputError", "LedgerError", "UnreadableInputError", "library_sentences"]


class BadInputError(ValueError):
    """An input that cannot be used; its text is one full sentence that says what and what would be legal."""


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
