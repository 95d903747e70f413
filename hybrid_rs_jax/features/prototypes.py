"""A head on features: the class whose prototype is nearest."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from hybrid_rs_jax._checks import check_whole
from hybrid_rs_jax.features.units import unit_features

__all__ = ["PrototypeHead"]


@dataclasses.dataclass(frozen=True, eq=False)
class PrototypeHead:
    """Decides for the class whose prototype makes the smallest angle with the feature.

    Attributes:
      prototypes: one unit vector per class, float64[classes, features]; given ones are divided by their lengths.

    Raises:
      ValueError: if there are fewer than 2, or one is zero or not finite.

    >>> PrototypeHead([[1.0, 0.0], [0.0, 2.0]])([[0.3, 0.4]]).tolist()
    [1]
    """

    prototypes: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "prototypes", unit_features(self.prototypes))
        if len(self.prototypes) < 2:
            raise ValueError(f"prototypes must have at least 2 rows, one for each class, got {len(self.prototypes)}.")

    @classmethod
    def of(cls, features: Any, labels: Any, classes: int) -> PrototypeHead:
        """The mean direction of each class.

        Args:
          features: floats [inputs, features]; labels: integers [inputs] in 0..classes-1, each class at least once.
          classes: their number, at least 2.
        """
        classes = check_whole("classes", classes, 2)
        unit, label = unit_features(features), np.asarray(labels)
        sums = np.stack([unit[label == k].sum(axis=0) for k in range(classes)])
        return cls(sums)

    def __call__(self, features: Any) -> Int64[np.ndarray, " inputs"]:
        """The class of each feature."""
        return self.scores(features).argmax(axis=1).astype(np.int64)

    def scores(self, features: Any) -> Float[np.ndarray, "inputs classes"]:
        """Cosines with the prototypes."""
        return unit_features(features) @ self.prototypes.T
