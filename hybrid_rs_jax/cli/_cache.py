"""XLA programs that were compiled once are kept in the user's cache folder: a second command starts at once.

Only the command line does this, never the library, and only by the environment of its own process before JAX is
imported: what the user has set stays.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import warnings
from pathlib import Path

__all__ = ["use_cache"]

SWITCH, VARIABLE = "--no-cache", "HYBRID_RS_NO_CACHE"


def use_cache(argv: list[str]) -> list[str]:
    """Point JAX to the cache unless `--no-cache` or the environment says no; the arguments without that switch."""
    rest = [argument for argument in argv if argument != SWITCH]
    wanted = len(rest) == len(argv) and not os.environ.get(VARIABLE)
    if wanted and "jax" not in sys.modules and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(OSError):  # no cache is slower, and nothing else
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_writable_folder())
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
            # an entry that cannot be read or written costs a compilation; it is no news for the user
            warnings.filterwarnings("ignore", message=".*persistent compilation cache.*")
    return rest


def _writable_folder() -> Path:
    """A folder of this version of JAX.

    Raises:
      OSError: if it cannot be made or written.
    """
    base = os.environ.get("XDG_CACHE_HOME") or (
        os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else str(Path.home() / ".cache")
    )
    folder = Path(base or "") / "hybrid_rs_jax" / f"jax-{importlib.metadata.version('jaxlib')}"
    if not folder.is_absolute():
        raise OSError("there is no cache folder")
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(f"{folder} is not writable")
    return folder
