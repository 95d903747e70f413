"""Flax NNX networks and their checkpoints. Nothing here knows of noise or certificates."""

from hybrid_rs_jax.models.demo_guard import DemoGuardConfig, DemoGuardNetwork, load_weights, save_weights

__all__ = ["DemoGuardConfig", "DemoGuardNetwork", "load_weights", "save_weights"]
