"""Uniform replacement over categorical fields of different arity."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Array, Bool, Int, Key

from hybrid_rs_jax.kernels.base import check_budget, check_probability
from hybrid_rs_jax.kernels.uniform import check_alphabet, replace_uniformly, uniform_likelihood_ratio
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio, compose_all

__all__ = ["CategoricalKernel"]

#: More candidate sets of attacked fields than this are refused: each one costs a certificate of its own.
MAX_CANDIDATES = 4096


@dataclasses.dataclass(frozen=True)
class CategoricalKernel:
    """Uniform replacement on fields `1..m`, field `l` over its own `K_l` symbols.

    A field of larger arity is the worse one to lose (its channel dominates in the Blackwell order) as long as
    `beta <= (K - 1)/K`, so the worst `d` fields are then those of the largest arities. Where the condition fails, or
    the fields have different `beta`, every distinct multiset of `(K, beta)` is a candidate and the certificate takes
    the worst one.

    Args:
      beta: replacement probability in [0, 1], one for all fields or one per field.
      cardinalities: number of symbols per field, each at least 2. Field values are 0..K-1.

    Raises:
      ValueError: if an argument is out of range, or `d` exceeds the number of fields.

    >>> CategoricalKernel(0.25, (2, 5, 16)).likelihood_ratio(1).atoms
    3
    """

    beta: float | tuple[float, ...]
    cardinalities: tuple[int, ...]

    def __post_init__(self) -> None:
        cardinalities = tuple(int(k) for k in np.atleast_1d(np.asarray(self.cardinalities)))
        if not cardinalities or min(cardinalities) < 2:
            raise ValueError(f"cardinalities must hold integers of at least 2, got {self.cardinalities}.")
        if np.ndim(self.beta) == 0:
            beta: float | tuple[float, ...] = check_probability("beta", float(np.asarray(self.beta)))
        else:
            beta = tuple(check_probability("beta", b) for b in np.asarray(self.beta))
            if len(beta) != len(cardinalities):
                raise ValueError(f"beta must be one number or one per field ({len(cardinalities)}), got {len(beta)}.")
        object.__setattr__(self, "cardinalities", cardinalities)
        object.__setattr__(self, "beta", beta)

    @property
    def fields(self) -> tuple[tuple[int, float], ...]:
        """`(K, beta)` per field."""
        betas = np.broadcast_to(np.asarray(self.beta), (len(self.cardinalities),)).tolist()
        return tuple(zip(self.cardinalities, betas, strict=True))

    def likelihood_ratio(self, d: int) -> LikelihoodRatio:
        """The worst law for `d` changed fields, where one law is the worst.

        Raises:
          ValueError: if several sets of fields are incomparable; `likelihood_ratios` gives them all.
        """
        candidates = self.likelihood_ratios(d)
        if len(candidates) > 1:
            raise ValueError(
                f"No single set of {d} fields is the worst one for these arities and beta = {self.beta}: "
                f"take the minimum over the {len(candidates)} laws of likelihood_ratios({d})."
            )
        return candidates[0]

    def likelihood_ratios(self, d: int) -> tuple[LikelihoodRatio, ...]:
        """Laws of which one is the worst for `d` changed fields."""
        d = check_budget(d, len(self.cardinalities))
        return tuple(_product(attacked) for attacked in self._worst_sets(d))

    def _worst_sets(self, d: int) -> list[tuple[tuple[int, float], ...]]:
        fields = sorted(self.fields, reverse=True)
        betas = {beta for _, beta in fields}
        smallest = fields[-1][0]
        if len(betas) == 1 and max(betas) <= (smallest - 1) / smallest:
            return [tuple(fields[:d])]
        counts = collections.Counter(fields)
        choices = math.prod(min(count, d) + 1 for count in counts.values())
        sets = list(itertools.islice(_multisets(counts, d), MAX_CANDIDATES + 1))
        if len(sets) > MAX_CANDIDATES:
            raise ValueError(
                f"More than {MAX_CANDIDATES} sets of {d} fields (of at most {choices}) are candidates for the worst "
                f"one; choose beta <= (K - 1)/K for the smallest arity K = {smallest}, or a smaller d."
            )
        return sets

    def sample(
        self, key: Key[Array, ""], tokens: Int[Array, "*shape"], eligible: Bool[Array, "*shape"] | None = None
    ) -> Int[Array, "*shape"]:
        """One noisy copy of field values, fields on the last axis; jit and vmap friendly."""
        betas = np.asarray([beta for _, beta in self.fields])
        return replace_uniformly(key, tokens, betas, np.asarray(self.cardinalities), eligible)

    def check_tokens(self, tokens: object) -> None:
        """Raise a ValueError when a value lies outside of its field's 0..K-1."""
        shape = np.asarray(tokens).shape
        if not shape or shape[-1] != len(self.cardinalities):
            raise ValueError(f"Expected {len(self.cardinalities)} fields on the last axis, got shape {shape}.")
        check_alphabet(tokens, np.asarray(self.cardinalities))


@functools.lru_cache(maxsize=4096)
def _product(attacked: tuple[tuple[int, float], ...]) -> LikelihoodRatio:
    """Law of the product of independent fields, equal fields grouped first (2d+1 atoms instead of 3^d)."""
    groups = sorted(collections.Counter(attacked).items())
    return compose_all(uniform_likelihood_ratio(beta, k, count) for (k, beta), count in groups)


def _multisets(counts: collections.Counter[tuple[int, float]], d: int) -> Iterator[tuple[tuple[int, float], ...]]:
    """All distinct multisets of size `d`, each field class used at most as often as it occurs."""
    if d == 0:
        yield ()
        return
    remaining = dict(counts)
    while remaining:
        field, available = remaining.popitem()
        for used in range(1, min(available, d) + 1):
            for rest in _multisets(collections.Counter(remaining), d - used):
                yield (field,) * used + rest
