"""Packages that only part of the users need: each is an extra, and a missing one is one sentence with the command."""

from __future__ import annotations

import importlib
from types import ModuleType

from hybrid_rs_jax.errors import BadInputError

__all__ = ["need"]


def need(module: str, extra: str, what: str) -> ModuleType:
    """The module, imported.

    Args:
      module: its name.
      extra: the extra of this package that brings it.
      what: who needs it, the subject of the sentence, in the plural.

    Raises:
      BadInputError: if it is not installed.

    >>> need("json", "none", "These examples").loads("[1]")
    [1]
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise BadInputError(f'{what} need {package}: pip install "hybrid-rs-jax[{extra}]".') from error
