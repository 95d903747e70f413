"""One writer at a time: a lock that the system releases when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from hybrid_rs_jax.sampling._ledger_errors import LedgerError, writing

__all__ = ["LOCK_FILE", "WriterLock"]

LOCK_FILE = "ledger.lock"


class WriterLock:
    """An exclusive lock on `folder`, held from construction until `release`; it leaves no file behind.

    Raises:
      LedgerError: if another process holds it (named by its process id), or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._handle: int | None = None
        while self._handle is None:
            with writing(self._path):
                handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._take(handle)
                # the former holder may have removed the file between our opening and our locking it
                if _same_file(handle, self._path):
                    self._handle = handle
            finally:
                if self._handle is None:
                    os.close(handle)
        with contextlib.suppress(OSError):  # the number is a courtesy: on a full disk the lock still holds
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, str(os.getpid()).encode(), 0)

    def _take(self, handle: int) -> None:
        import fcntl  # POSIX only; reading a ledger works everywhere

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            number = os.pread(handle, 20, 0).decode(errors="replace")
            who = f"process {number}" if number.isdigit() else "another process"
            raise LedgerError(
                f"{self._path.parent} is being written by {who}; wait until that ends, or stop it, and use --resume."
            ) from error
        except OSError as error:
            raise LedgerError(
                f"{self._path} cannot be locked ({error.strerror}); use a folder on a local disk."
            ) from error

    def release(self) -> None:
        """Remove the file, then let go of it; a second call does nothing."""
        if self._handle is None:
            return
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._handle)
        self._handle = None


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
