"""Smoothing kernels: each object owns the noise that is drawn and the likelihood ratio that is certified."""

from hybrid_rs_jax.kernels.absorbing import AbsorbingKernel
from hybrid_rs_jax.kernels.base import DiscreteKernel
from hybrid_rs_jax.kernels.categorical import CategoricalKernel
from hybrid_rs_jax.kernels.smoothing import HybridSmoothing
from hybrid_rs_jax.kernels.uniform import UniformKernel

__all__ = ["AbsorbingKernel", "CategoricalKernel", "DiscreteKernel", "HybridSmoothing", "UniformKernel"]
