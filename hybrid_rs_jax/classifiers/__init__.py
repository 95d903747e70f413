"""Base classifiers: the protocol, and the classifiers that the package brings along."""

from hybrid_rs_jax.classifiers.base import BaseClassifier
from hybrid_rs_jax.classifiers.demo_guard import DemoGuard

__all__ = ["BaseClassifier", "DemoGuard"]
