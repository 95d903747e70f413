"""Every failure of a ledger as one sentence that says what is kept and what to do."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

__all__ = ["LedgerError", "reading", "writing"]


class LedgerError(ValueError):
    """A ledger that cannot be read, written or continued; its text is one full sentence that says why."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full disk, a read-only folder or an I/O error while writing: what was committed before is not touched."""
    try:
        yield
    except (sqlite3.DatabaseError, OSError) as error:
        raise LedgerError(
            f"{path} could not be written ({_reason(error)}); everything recorded before is kept, "
            "and --resume continues the run once the cause is gone."
        ) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """A file that is no database, a broken one, or one that the system does not let us read."""
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        raise LedgerError(
            f"{path} could not be read ({_reason(error)}); check the disk and the permissions."
        ) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise damaged(path, _reason(error)) from error


def damaged(path: Path, why: str) -> LedgerError:
    """The error of a file that must not be believed."""
    return LedgerError(
        f"{path} is damaged or is no ledger ({why}); restore it from a copy, or move it away and start the run again."
    )


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).rstrip(".")
