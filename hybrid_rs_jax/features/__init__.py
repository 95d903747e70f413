"""Encoders: what turns a (tokens, picture) pair into a feature vector, and the ones that the package brings along.

Names are imported when they are first used (PEP 562).
"""

from typing import TYPE_CHECKING

from hybrid_rs_jax._lazy import lazy_names

if TYPE_CHECKING:
    from hybrid_rs_jax.features.base import Encoder
    from hybrid_rs_jax.features.boosted import Boosted
    from hybrid_rs_jax.features.demo import DemoEncoder
    from hybrid_rs_jax.features.guard import GuardEncoder, GuardTower
    from hybrid_rs_jax.features.host import HostEncoder
    from hybrid_rs_jax.features.prototypes import PrototypeHead
    from hybrid_rs_jax.features.tower import TowerEncoder
    from hybrid_rs_jax.features.units import unit_features

__all__ = [
    "Boosted",
    "DemoEncoder",
    "Encoder",
    "GuardEncoder",
    "GuardTower",
    "HostEncoder",
    "PrototypeHead",
    "TowerEncoder",
    "unit_features",
]

_HOMES = {
    "base": "Encoder",
    "boosted": "Boosted",
    "demo": "DemoEncoder",
    "guard": "GuardEncoder GuardTower",
    "host": "HostEncoder",
    "prototypes": "PrototypeHead",
    "tower": "TowerEncoder",
    "units": "unit_features",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
