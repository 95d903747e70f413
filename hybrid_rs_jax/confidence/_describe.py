"""A plan back from its description."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hybrid_rs_jax.confidence._fixed import FixedSample
from hybrid_rs_jax.confidence._paths import Boundary
from hybrid_rs_jax.confidence._plan import SamplingPlan
from hybrid_rs_jax.confidence._sequential import SequentialTest
from hybrid_rs_jax.confidence._staged import StagedLooks

__all__ = ["plan_from"]


def plan_from(description: Mapping[str, Any]) -> SamplingPlan:
    """The plan that `describe` described, equal to the original.

    Args:
      description: what `SamplingPlan.describe` returned, also after a round trip through JSON.

    Returns:
      The plan, checked as its own class checks it.

    Raises:
      ValueError: if the description names no known plan, lacks a setting or holds one that is out of range.

    >>> plan_from({"plan": "fixed", "n": 100})
    FixedSample(n=100)
    """
    settings = dict(description)
    kind = settings.pop("plan", None)
    builders: dict[str, Callable[..., SamplingPlan]] = {"fixed": FixedSample, "target": _target, "staged": _staged}
    if not isinstance(kind, str) or kind not in builders:
        raise ValueError(f"plan must be one of {', '.join(map(repr, builders))}, got {kind!r}.")
    try:
        return builders[kind](**settings)
    except TypeError as error:
        raise ValueError(f"plan description of kind {kind!r} must hold exactly its settings, got {error}.") from None


def _target(boundary: Mapping[str, Iterable[int]], **settings: Any) -> SamplingPlan:
    parts = {name: tuple(values) for name, values in boundary.items()}
    return SequentialTest(**settings, boundary=Boundary(**parts))


def _staged(sizes: Iterable[int], weights: Iterable[float], stops: Iterable[Iterable[Sequence[int]]]) -> SamplingPlan:
    runs = tuple(tuple((first, last) for first, last in look) for look in stops)
    return StagedLooks(tuple(sizes), tuple(weights), runs)
