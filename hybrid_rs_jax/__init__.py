"""Certified robustness of multimodal classifiers by hybrid randomized smoothing, in JAX.

import hybrid_rs_jax as hrs

smoothing = hrs.HybridSmoothing(hrs.UniformKernel(beta=0.25, vocab_size=32_000), sigma=0.5)
certificate = hrs.certify(counts=[9_998], n=10_000, smoothing=smoothing, tau=4.6e-5, alpha=0.01)
certificate.radius  # one certified pixel radius per token budget 0..8
"""

from hybrid_rs_jax._version import __version__
from hybrid_rs_jax.certificate import (
    Certificate,
    FrontierTable,
    certified_budget,
    certified_radius,
    certify,
    core,
    frontier_table,
    largest_probability,
    required_probability,
    required_samples,
    worst_case_probability,
)
from hybrid_rs_jax.classifiers.base import BaseClassifier
from hybrid_rs_jax.confidence import clopper_pearson, detection_threshold
from hybrid_rs_jax.kernels import AbsorbingKernel, CategoricalKernel, HybridSmoothing, UniformKernel
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio
from hybrid_rs_jax.sampling import sample_counts

__all__ = [
    "AbsorbingKernel",
    "BaseClassifier",
    "CategoricalKernel",
    "Certificate",
    "FrontierTable",
    "HybridSmoothing",
    "LikelihoodRatio",
    "UniformKernel",
    "__version__",
    "certified_budget",
    "certified_radius",
    "certify",
    "clopper_pearson",
    "core",
    "detection_threshold",
    "frontier_table",
    "largest_probability",
    "required_probability",
    "required_samples",
    "sample_counts",
    "worst_case_probability",
]
