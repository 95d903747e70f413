"""Silence by request: no sentences and no progress; tables, files and errors stay."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

__all__ = ["is_quiet", "quietly"]

_quiet = contextvars.ContextVar("quiet", default=False)


def is_quiet() -> bool:
    """Whether sentences and progress are left out."""
    return _quiet.get()


@contextlib.contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Within, no sentence is printed and no progress shown, if `quiet`."""
    before = _quiet.set(quiet)
    try:
        yield
    finally:
        _quiet.reset(before)
