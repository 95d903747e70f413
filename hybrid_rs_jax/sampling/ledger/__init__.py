"""The ledger of a run: Monte Carlo counts that outlive kills, full disks and restarts."""

from hybrid_rs_jax.errors import LedgerError
from hybrid_rs_jax.sampling.ledger.counts import SHARED, CountColumns, CountRow, LedgerCounts, Stream
from hybrid_rs_jax.sampling.ledger.merging import merge
from hybrid_rs_jax.sampling.ledger.store import LEDGER_FILE, LOCK_FILE, Ledger

__all__ = [
    "LEDGER_FILE",
    "LOCK_FILE",
    "SHARED",
    "CountColumns",
    "CountRow",
    "Ledger",
    "LedgerCounts",
    "LedgerError",
    "Stream",
    "merge",
]
