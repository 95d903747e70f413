"""An encoder and reference directions as a classifier of noisy copies: the label is the bin of the cosine.

So the engine counts laws of scores as it counts votes, in integers. A cosine is computed in float32 (on the host in
float64) and lowered by more than its rounding before it is binned, so that the edge of a bin is never above the cosine
of the feature as the encoder gave it. With F features, each at most 1 after division by the largest one:

    products, sums in any order         at most F + 1 units of 2^-24, relative to |f| |u| (Cauchy-Schwarz)
    the norm, its root, the quotient    at most F/2 + 8 units
    the division, u rounded to float32  at most 4 units

which `2 F + 32` units cover, subnormals included. Copies whose feature is zero or not finite get a label of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hybrid_rs_jax.classifiers.base import Abilities
from hybrid_rs_jax.features.units import checked_features, unit_features
from hybrid_rs_jax.sampling._trial import Program

__all__ = ["Cosines", "rounding_of_cosines"]


def rounding_of_cosines(features: int) -> float:
    """Bound on the rounding of a cosine of so many features in float32."""
    return (2 * features + 32) * 2.0**-24


class Cosines:
    """A classifier with `bins + 1` classes: the bin of the least cosine with one input's directions.

    Args:
      encoder: the encoder, called on the host where `program` is None.
      program: the same as a pure function.
      edges: of the bins of the score `(1 + cosine)/2`.
      features: numbers per feature vector.
      pairs: a copy holds two noisy copies, tokens side by side and pictures one above the other; the cosine is that of
        their features, and directions are not used.
      mesh: where the parameters are put once.
    """

    tie_tolerance = None

    def __init__(
        self, encoder: Any, program: Program | None, edges: np.ndarray, features: int, *, pairs: bool, mesh: Mesh
    ):
        abilities = Abilities.of(encoder)
        self.name, self.on_host = abilities.name, program is None
        self.max_in_flight, self.cancel = abilities.max_in_flight, abilities.cancel
        self.classes = edges.size  # one more than bins
        self.pairs, self._encoder, self._program, self._edges = pairs, encoder, program, edges
        self._directions = np.zeros((1, features), np.float32)
        self._thresholds = _thresholds(edges, rounding_of_cosines(features))
        if program is not None:
            everywhere = NamedSharding(mesh, PartitionSpec())
            self._parameters = jax.device_put(program.parameters, everywhere)
            self.functional = self._functional

    def towards(self, directions: np.ndarray) -> Cosines:
        """Compare with these directions [K, features] from now on."""
        self._directions = unit_features(directions).astype(np.float32)
        return self

    def _functional(self) -> tuple[Callable[..., Any], Any]:
        assert self._program is not None
        apply = _binned(self._program.apply, self.pairs)
        return apply, (self._parameters, self._directions, self._thresholds)

    def __call__(self, tokens: Any, images: Any) -> np.ndarray:
        """Bins of noisy copies, on the host."""
        if not self.pairs:
            unit, directions = self._unit(tokens, images), unit_features(self._directions)
            cosines = (unit @ directions.T).min(axis=1)
        else:
            first, second = (self._unit(*half) for half in _halves(np.asarray(tokens), np.asarray(images)))
            cosines = np.einsum("if,if->i", first, second)
        lowered = cosines - (2 * self._directions.shape[1] + 32) * 2.0**-50 - 2.0**-23  # the directions are float32
        return np.maximum(np.searchsorted(2 * self._edges[:-1] - 1, lowered, side="right") - 1, 0).astype(np.int32)

    def _unit(self, tokens: Any, images: Any) -> np.ndarray:
        found = checked_features(self._encoder(tokens, images), len(tokens))
        if found.shape[1] != self._directions.shape[1]:
            raise ValueError(
                f"An encoder must return vectors of one length, got {found.shape[1]} after {self._directions.shape[1]}."
            )
        return unit_features(found)


def _thresholds(edges: np.ndarray, margin: float) -> np.ndarray:
    """The least float32 cosine that lies in each bin for sure: `2 edge - 1 + margin`, rounded up."""
    exact = 2 * edges[:-1] - 1 + margin
    found = exact.astype(np.float32)
    found = np.where(found.astype(np.float64) < exact + 2.0**-50, np.nextafter(found, np.float32(2)), found)
    found[0] = -2.0  # whatever is left is in the first bin
    return found


@functools.lru_cache(maxsize=64)
def _binned(apply: Callable[..., Any], pairs: bool) -> Callable[..., Any]:
    """The label as a pure function; the same one for the same encoder, so that it compiles once."""

    def labels(parameters: Any, tokens: Any, images: Any) -> Any:
        inner, directions, thresholds = parameters
        if pairs:
            halves = _halves(tokens, images)
            both = apply(inner, *(jnp.concatenate(parts) for parts in zip(*halves, strict=True)))
            first, second = jnp.split(_scaled(both, 2 * len(tokens)), 2)
            cosines = (first * second).sum(axis=1) / (_length(first) * _length(second))
        else:
            feature = _scaled(apply(inner, tokens, images), len(tokens))
            # no matrix product: those are coarser than float32 on some devices
            products = (feature[:, None] * directions[None]).sum(axis=2)
            cosines = products.min(axis=1) / _length(feature)
        bins = jnp.searchsorted(thresholds, cosines, side="right").astype(jnp.int32) - jnp.int32(1)
        usable = jnp.isfinite(cosines)
        return jnp.where(usable, jnp.maximum(bins, jnp.int32(0)), jnp.int32(thresholds.shape[0]))

    return labels


def _scaled(features: Any, pairs: int) -> Any:
    """Features in float32, the largest number of each 1: no square is too small or too large. Zero becomes NaN."""
    if features.ndim != 2 or features.shape[0] != pairs or not jnp.issubdtype(features.dtype, jnp.floating):
        raise ValueError(
            f"An encoder must return one vector of floats per pair, shape [{pairs}, features], got {features.dtype} "
            f"{list(features.shape)}."
        )
    found = features.astype(jnp.float32)
    return found / jnp.abs(found).max(axis=1, keepdims=True)


def _length(features: Any) -> Any:
    return jnp.sqrt((features * features).sum(axis=1))


def _halves(tokens: Any, images: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """The two noisy copies that a doubled input makes."""
    length, height = tokens.shape[1] // 2, images.shape[1] // 2
    return (tokens[:, :length], images[:, :height]), (tokens[:, length:], images[:, height:])
