"""Certified robustness of multimodal classifiers by hybrid randomized smoothing, in JAX."""
