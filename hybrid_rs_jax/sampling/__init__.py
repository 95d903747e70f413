"""Sampling: from a base classifier to counts, exactly, resumably, on all devices.

Names are imported when they are first used: the ledger needs no JAX.
"""

from typing import TYPE_CHECKING

from hybrid_rs_jax._lazy import lazy_names

if TYPE_CHECKING:
    from hybrid_rs_jax.sampling.engine import Draws, data_mesh, sample, sample_counts
    from hybrid_rs_jax.sampling.features import sample_features
    from hybrid_rs_jax.sampling.ledger import Ledger, LedgerError, merge
    from hybrid_rs_jax.sampling.run import InterruptedRun, Progress, sample_run

__all__ = [
    "Draws",
    "InterruptedRun",
    "Ledger",
    "LedgerError",
    "Progress",
    "data_mesh",
    "merge",
    "sample",
    "sample_counts",
    "sample_features",
    "sample_run",
]

_HOMES = {
    "engine": "Draws data_mesh sample sample_counts",
    "features": "sample_features",
    "ledger": "Ledger LedgerError merge",
    "run": "InterruptedRun Progress sample_run",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
