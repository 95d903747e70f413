"""Base classifiers: the protocol, and the classifiers that the package brings along.

Names are imported when they are first used (PEP 562): a classifier that is not used needs none of its packages.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid_rs_jax.classifiers.base import BaseClassifier
    from hybrid_rs_jax.classifiers.chat import (
        ChatClassifier,
        ChatError,
        ChatStatistics,
        FirstTokenDecision,
        TextDecision,
    )
    from hybrid_rs_jax.classifiers.demo_guard import DemoGuard
    from hybrid_rs_jax.classifiers.host import HostClassifier

__all__ = [
    "BaseClassifier",
    "ChatClassifier",
    "ChatError",
    "ChatStatistics",
    "DemoGuard",
    "FirstTokenDecision",
    "HostClassifier",
    "TextDecision",
]

_HOMES = {
    "base": "BaseClassifier",
    "chat": "ChatClassifier ChatError ChatStatistics FirstTokenDecision TextDecision",
    "demo_guard": "DemoGuard",
    "host": "HostClassifier",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
