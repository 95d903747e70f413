"""Base classifiers: the protocol, and the classifiers that the package brings along.

Names are imported when they are first used (PEP 562): a classifier that is not used needs none of its packages.
"""

from typing import TYPE_CHECKING

from hybrid_rs_jax._lazy import lazy_names

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
    from hybrid_rs_jax.classifiers.denoised import Denoised
    from hybrid_rs_jax.classifiers.host import HostClassifier
    from hybrid_rs_jax.classifiers.onnx import OnnxClassifier
    from hybrid_rs_jax.classifiers.own import own_classifier
    from hybrid_rs_jax.classifiers.tabular import TabularClassifier
    from hybrid_rs_jax.classifiers.vlm import VlmGuard
    from hybrid_rs_jax.classifiers.wire import WireClassifier

__all__ = [
    "BaseClassifier",
    "ChatClassifier",
    "ChatError",
    "ChatStatistics",
    "DemoGuard",
    "Denoised",
    "FirstTokenDecision",
    "HostClassifier",
    "OnnxClassifier",
    "TabularClassifier",
    "TextDecision",
    "VlmGuard",
    "WireClassifier",
    "own_classifier",
]

_HOMES = {
    "base": "BaseClassifier",
    "chat": "ChatClassifier ChatError ChatStatistics FirstTokenDecision TextDecision",
    "demo_guard": "DemoGuard",
    "denoised": "Denoised",
    "host": "HostClassifier",
    "onnx": "OnnxClassifier",
    "own": "own_classifier",
    "tabular": "TabularClassifier",
    "vlm": "VlmGuard",
    "wire": "WireClassifier",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
