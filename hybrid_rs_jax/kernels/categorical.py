"""Uniform replacement over categorical fields of different arity."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import Array, Bool, Int, Key

from hybrid_rs_jax._checks import LARGEST_ALPHABET, check_alphabet, check_budget, check_whole
from hybrid_rs_jax.kernels.base import drawn_probability, hit_limits, sample_tokens
from hybrid_rs_jax.kernels.uniform import ReplacingNoise, uniform_likelihood_ratio
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio, compose_all

__all__ = ["CategoricalKernel"]

#: More candidate sets of attacked fields than this are refused: each one costs a certificate of its own.
MAX_CANDIDATES = 4096


@dataclasses.dataclass(frozen=True)
class CategoricalKernel:
    """Uniform replacement on fields `1..m`, field `l` over its own `K_l` symbols.

    Which `d` fields are the worst to lose? With one `beta` for all fields let `a = beta / (K - 1)`. The trade-off curve
    of one field has the corners `(1 - beta, a)` and `(1 - a, beta)` where `a <= 1 - beta`, that is
    `beta <= (K - 1)/K`, and `(a, 1 - beta)` and `(beta, 1 - a)` otherwise: a larger `K` lowers the curve of the former
    fields, a smaller `K` that of the latter, and products keep this Blackwell order. So at most `d + 1` sets remain:
    for each `j`, the `j` smallest arities that violate the condition and the `d - j` largest that satisfy it. With one
    `beta` per field every distinct multiset of `(K, beta)` is a candidate. The certificate takes the worst candidate.

    A budget beyond the number of fields means all of them.

    Args:
      beta: replacement probability in [0, 1], one for all fields or one per field; kept as drawn, multiples of 2^-32.
      cardinalities: number of symbols per field, each at least 2. Field values are 0..K-1.

    Raises:
      ValueError: if an argument is out of range.

    >>> CategoricalKernel(0.25, (2, 5, 16)).likelihood_ratio(1).atoms
    3
    """

    beta: float | tuple[float, ...]
    cardinalities: tuple[int, ...]

    def __post_init__(self) -> None:
        cardinalities = tuple(np.atleast_1d(np.asarray(self.cardinalities)).tolist())
        if not cardinalities:
            raise ValueError(f"cardinalities must hold one number of symbols per field, got {self.cardinalities}.")
        if np.ndim(self.beta) == 0:
            beta: float | tuple[float, ...] = drawn_probability("beta", float(np.asarray(self.beta)))
        else:
            beta = tuple(drawn_probability("beta", b) for b in np.asarray(self.beta))
            if len(beta) != len(cardinalities):
                raise ValueError(f"beta must be one number or one per field ({len(cardinalities)}), got {len(beta)}.")
        sizes = tuple(check_whole("cardinalities", k, 2, LARGEST_ALPHABET) for k in cardinalities)
        object.__setattr__(self, "cardinalities", sizes)
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
        """Laws of which one is the worst for at most `d` changed fields."""
        d = min(check_budget(d), len(self.cardinalities))
        return tuple(_product(attacked) for attacked in self.worst_sets(d))

    def worst_sets(self, d: int) -> list[tuple[tuple[int, float], ...]]:
        """Sets of `d` fields, `(K, beta)` each, of which one is the worst to lose.

        Raises:
          ValueError: if more than 4,096 remain.
        """
        fields = sorted(self.fields)
        if len({beta for _, beta in fields}) == 1:
            # in rational arithmetic: a field on the wrong side would leave the worst set out
            violating = [(k, beta) for k, beta in fields if Fraction(beta) * k > k - 1]
            satisfying = fields[len(violating) :][::-1]
            feasible = range(max(0, d - len(satisfying)), min(d, len(violating)) + 1)
            return [(*violating[:j], *satisfying[: d - j]) for j in feasible]
        sets = list(itertools.islice(_multisets(sorted(collections.Counter(fields).items()), d), MAX_CANDIDATES + 1))
        if len(sets) > MAX_CANDIDATES:
            raise ValueError(
                f"More than {MAX_CANDIDATES} sets of {d} fields are candidates for the worst one; "
                "choose one beta for all fields, or a smaller d."
            )
        return sets

    def sample(
        self, key: Key[Array, ""], tokens: Int[Array, "*shape"], eligible: Bool[Array, "*shape"] | None = None
    ) -> Int[Array, "*shape"]:
        """One noisy copy of field values, fields on the last axis; jit and vmap friendly."""
        return sample_tokens(self.noise(), key, tokens, eligible)

    def noise(self) -> ReplacingNoise:
        """The sampler with its numbers, one per field, for a compiled program."""
        betas = np.asarray([beta for _, beta in self.fields])
        return ReplacingNoise(*hit_limits(betas), np.asarray(self.cardinalities, np.uint32))

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


def _multisets(counts: list[tuple[tuple[int, float], int]], d: int) -> Iterator[tuple[tuple[int, float], ...]]:
    """All distinct multisets of size `d`, each `(K, beta)` used at most as often as it occurs."""
    if not counts:
        yield ()
        return
    (field, available), *rest = counts
    for used in range(max(0, d - sum(count for _, count in rest)), min(available, d) + 1):
        yield from ((field,) * used + others for others in _multisets(rest, d - used))
