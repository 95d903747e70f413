"""Smoothing kernels: each owns the noise that is drawn and the likelihood ratio that is certified."""

from typing import TYPE_CHECKING

from hybrid_rs_jax._lazy import lazy_names

if TYPE_CHECKING:
    from hybrid_rs_jax.kernels._threefry import run_key
    from hybrid_rs_jax.kernels.absorbing import AbsorbingKernel
    from hybrid_rs_jax.kernels.base import DiscreteKernel
    from hybrid_rs_jax.kernels.categorical import CategoricalKernel
    from hybrid_rs_jax.kernels.conditional import Conditional
    from hybrid_rs_jax.kernels.deletion import DeletionKernel
    from hybrid_rs_jax.kernels.edits import Edits
    from hybrid_rs_jax.kernels.grid import GRID_STEP, off_grid_radius
    from hybrid_rs_jax.kernels.smoothing import HybridSmoothing
    from hybrid_rs_jax.kernels.uniform import UniformKernel

__all__ = [
    "GRID_STEP",
    "AbsorbingKernel",
    "CategoricalKernel",
    "Conditional",
    "DeletionKernel",
    "DiscreteKernel",
    "Edits",
    "HybridSmoothing",
    "UniformKernel",
    "off_grid_radius",
    "run_key",
]

_HOMES = {
    "_threefry": "run_key",
    "absorbing": "AbsorbingKernel",
    "base": "DiscreteKernel",
    "categorical": "CategoricalKernel",
    "conditional": "Conditional",
    "deletion": "DeletionKernel",
    "edits": "Edits",
    "grid": "GRID_STEP off_grid_radius",
    "smoothing": "HybridSmoothing",
    "uniform": "UniformKernel",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
