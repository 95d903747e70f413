"""An estimator of rows of a table as a base classifier of fields and numbers."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from hybrid_rs_jax.classifiers.host import HostClassifier
from hybrid_rs_jax.classifiers.own import own_classifier

__all__ = ["RowSchema", "TabularClassifier"]


@runtime_checkable
class RowSchema(Protocol):
    """Turns noisy fields and numbers into rows again: `hybrid_rs_jax.data.Schema` is one."""

    def rows(self, tokens: np.ndarray, images: np.ndarray, named: bool) -> Any:
        """A data frame (`named`), or an array with a row per input."""
        ...

    def describe(self) -> list[dict[str, object]]:
        """An object per column, as JSON has it."""
        ...


class TabularClassifier(HostClassifier):
    """An estimator with `predict` (scikit-learn's way) that gets rows of the table it was fitted on.

    Categorical columns are fields, symbols 0, 1, ... of a categorical kernel; numeric ones are standardised numbers
    with Gaussian noise. Both become columns again, in the table's own order, values and units, before the estimator
    sees them. A missing field that is a value of its own stays one.

    Args:
      estimator: fitted; of two classes the second of `classes_` is Unsafe, more are certified as classes.
      schema: of `hybrid_rs_jax.data.open_table`, which makes the inputs too.
      threshold: a probability of the second class above it is Unsafe; None: what `predict` says.

    Raises:
      ValueError: for what is no estimator, or a threshold that means nothing to it.

    >>> from types import SimpleNamespace
    >>> from hybrid_rs_jax.data import Schema
    >>> schema = Schema(("age", "work"), {"work": ("desk", "field")}, {"age": (40.0, 10.0)}, {})
    >>> old = SimpleNamespace(predict=lambda rows: [row[0] > 55 and row[1] == "desk" for row in rows])
    >>> ages = np.array([2.0, 2.0], np.float32).reshape(2, 1, 1, 1)  # in standard deviations: 60
    >>> TabularClassifier(old, schema)(np.array([[0], [1]]), ages).tolist()
    [True, False]
    """

    def __init__(self, estimator: Any, schema: RowSchema, *, threshold: float | None = None):
        if not hasattr(estimator, "predict"):
            raise ValueError(f"estimator must have a method predict, got {estimator!r:.80}.")
        own = own_classifier(estimator, threshold=threshold, rows=schema.rows)
        super().__init__(own, name=own.name, digest=own.digest, classes=own.classes)
        self._own, self.schema = own, schema

    def describe(self) -> dict[str, object]:
        """As the estimator, with the columns."""
        return {**self._own.describe(), "columns": self.schema.describe()}
