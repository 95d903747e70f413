"""Sampling: from a base classifier to counts, exactly, resumably, on all devices.

Names are imported when they are first used: the ledger needs no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid_rs_jax.sampling._ledger_merge import merge
    from hybrid_rs_jax.sampling.engine import Draws, data_mesh, sample, sample_counts
    from hybrid_rs_jax.sampling.inputs import ArrayInputs, Encoded, Inputs, UnreadableInputError, load_npz
    from hybrid_rs_jax.sampling.ledger import Ledger, LedgerError
    from hybrid_rs_jax.sampling.run import Progress, sample_run

__all__ = [
    "ArrayInputs",
    "Draws",
    "Encoded",
    "Inputs",
    "Ledger",
    "LedgerError",
    "Progress",
    "UnreadableInputError",
    "data_mesh",
    "load_npz",
    "merge",
    "sample",
    "sample_counts",
    "sample_run",
]

_HOMES = {
    "engine": "Draws data_mesh sample sample_counts",
    "inputs": "ArrayInputs Encoded Inputs UnreadableInputError load_npz",
    "_ledger_merge": "merge",
    "ledger": "Ledger LedgerError",
    "run": "Progress sample_run",
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
