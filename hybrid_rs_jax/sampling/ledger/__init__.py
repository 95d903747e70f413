"""The ledger of a run: Monte Carlo counts that outlive kills, full disks and restarts.

Names are imported when they are first used: whoever names a stream of draws needs no database.
"""

from typing import TYPE_CHECKING

from hybrid_rs_jax._lazy import lazy_names
from hybrid_rs_jax.errors import LedgerError

if TYPE_CHECKING:
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

_HOMES = {
    "counts": "SHARED CountColumns CountRow LedgerCounts Stream",
    "merging": "merge",
    "store": "LEDGER_FILE LOCK_FILE Ledger",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
