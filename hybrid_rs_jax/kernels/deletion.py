"""Deletion noise: tokens vanish and the rest closes up, so that insertions anywhere are certified."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from hybrid_rs_jax._checks import check_budget, check_tokens, check_whole
from hybrid_rs_jax.kernels._threefry import Words
from hybrid_rs_jax.kernels.base import drawn_probability, hit_limits, hits, sample_tokens
from hybrid_rs_jax.kernels.edits import Edits
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio, identity, singular

__all__ = ["DeletingNoise", "DeletionKernel", "edit_ratio"]


@dataclasses.dataclass(frozen=True)
class DeletionKernel:
    """Delete each token with probability `p_delete`, independently; what is left closes up (method section 9).

    With `a` substitutions, `k` insertions and `b` deletions at most, and ordinary draws,

        g(x_adv) >= p^(a+k) Phi(Phi^-1(1 - (1 - p_A) / p^(a+b)) - rho),

    which is the certificate of one atom: clean mass `p^(a+b)`, adversarial mass `p^(a+k)`, the rest singular. No part
    of the text need be trusted, and the filter need not know where an attack begins.

    PADs are no tokens: they are never counted, and all of them go, with the deleted tokens; the array is closed up and
    padded behind after the noise, so that nothing shows how long the text was. Positions that are not eligible (a
    template, image tokens) are kept, in their order. An empty text is a legal outcome. Nothing may be cut before the
    noise: reserve length for the attacked text.

    Args:
      p_delete: deletion probability, in [0, 1]; kept as it is drawn, a multiple of 2^-32.
      pad_token: the id of PAD.

    Raises:
      ValueError: if an argument is out of range.

    >>> DeletionKernel(0.75).likelihood_ratio(2).q_inf  # two insertions
    0.4375
    """

    p_delete: float
    pad_token: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "p_delete", drawn_probability("p_delete", self.p_delete))
        object.__setattr__(self, "pad_token", check_whole("pad_token", self.pad_token, -(2**31), 2**31 - 1))

    def likelihood_ratio(self, d: int | Edits) -> LikelihoodRatio:
        """The law for a budget of ordinary draws; a number means that many insertions.

        Args:
          d: a non-negative integer, or `Edits`.

        Raises:
          ValueError: if it is neither.
        """
        edits = Edits.of(d)
        return edit_ratio(self.p_delete, edits.removed, edits.added)

    def likelihood_ratios(self, d: int | Edits) -> tuple[LikelihoodRatio, ...]:
        """One candidate: all edits of a budget have the same law."""
        return (self.likelihood_ratio(d),)

    def check_budgets(self, budgets: object) -> tuple[int | Edits, ...]:
        """Budgets of a certificate: numbers of insertions or `Edits`, each covering the one before.

        Raises:
          ValueError: if they do not.
        """
        try:
            given: tuple[Any, ...] = tuple(budgets)  # type: ignore[arg-type]
        except TypeError:
            raise ValueError(f"budgets must be a sequence such as range(4) or [Edits(1)], got {budgets!r}.") from None
        edits = [Edits.of(budget) for budget in given]
        nested = all(late != early and late.covers(early) for early, late in itertools.pairwise(edits))
        if not given or not nested:
            raise ValueError(f"budgets must not be empty, and each must cover the one before, got {list(given)}.")
        return tuple(d if isinstance(d, Edits) else check_budget(d) for d in given)

    def sample(
        self, key: Key[Array, ""], tokens: Int[Array, "*shape"], eligible: Bool[Array, "*shape"] | None = None
    ) -> Int[Array, "*shape"]:
        """One noisy copy, tokens on the last axis; jit and vmap friendly. Only `eligible` tokens are deleted."""
        return sample_tokens(self.noise(), key, tokens, eligible)

    def noise(self) -> DeletingNoise:
        """The sampler with its numbers, for a compiled program."""
        return DeletingNoise(*hit_limits(self.p_delete), np.int32(self.pad_token))

    def check_tokens(self, tokens: object) -> None:
        """Every integer token is covered: deletion draws from no alphabet."""
        check_tokens(tokens)


def edit_ratio(p_delete: float, removed: int, added: int) -> LikelihoodRatio:
    """The law of a script: `removed` positions deleted on the clean side, `added` ones on the attacked side.

    One atom of clean mass `p^removed` and adversarial mass `p^added`, the rest singular.
    """
    if p_delete == 1.0 or removed == added == 0:
        return identity()
    if p_delete == 0.0:
        return singular()
    log_p, log_q = removed * math.log(p_delete), added * math.log(p_delete)
    ratio = (added - removed) * math.log(p_delete)
    log_ratio, atom_p, atom_q = (np.full(1, x) for x in (ratio, log_p, log_q))
    return LikelihoodRatio(log_ratio, atom_p, atom_q, -math.expm1(log_p), -math.expm1(log_q), 3.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DeletingNoise:
    """Deletes a token where a word is at most `last`, if `possible`, and closes up.

    Attributes:
      last, possible: hit limits; see `hit_limits`.
      pad_token: id of PAD, int32.
    """

    last: Any
    possible: Any
    pad_token: Any

    def __call__(
        self,
        words: Words,
        tokens: Int[Array, "*shape"],
        eligible: Bool[Array, "*shape"] | None,
        forced: Bool[Array, "*shape"] | None = None,
    ) -> Int[Array, "*shape"]:
        """One noisy copy; tokens at `forced` positions always go."""
        gone, _ = hits(words, tokens.shape, self.last, self.possible)
        if eligible is not None:
            gone = gone & eligible
        if forced is not None:
            gone = gone | forced
        pad = jnp.asarray(self.pad_token).astype(tokens.dtype)
        kept = ~gone & (tokens != pad)
        # a stable sort brings what is kept to the front, in its order
        order = jnp.argsort(~kept, axis=-1, stable=True)
        front = jnp.take_along_axis(tokens, order, axis=-1)
        number = jnp.sum(kept, axis=-1, keepdims=True)
        return jnp.where(jnp.arange(tokens.shape[-1]) < number, front, pad)
