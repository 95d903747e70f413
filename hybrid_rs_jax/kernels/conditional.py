"""Conditional draws: the same deployed noise, sampled with the attacked positions always resampled.

The Neyman-Pearson argument bounds the attacked score `E_Q f` from the score under ANY law that we can draw from. The
clean smoothing law is one, and pays: of its draws only a share `beta^d` has all `d` attacked positions replaced. Here
the positions S that an attack may change are resampled in every draw, uniformly over the whole alphabet, the clean
symbol included (masked; deleted); everything else carries its ordinary noise. The score `q` of these draws bounds the
score of every attack inside S, of the classifier that is deployed as before (method section 8).
"""

from __future__ import annotations

import collections
import dataclasses
import decimal
import functools
from decimal import Decimal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from hybrid_rs_jax._checks import check_budget, check_budgets, check_mask
from hybrid_rs_jax.kernels._threefry import TOKEN_HITS, TOKEN_SYMBOLS, Words, key_words, random_words
from hybrid_rs_jax.kernels._trinomial import log_binomial_power
from hybrid_rs_jax.kernels.absorbing import AbsorbingKernel, MaskingNoise
from hybrid_rs_jax.kernels.categorical import CategoricalKernel
from hybrid_rs_jax.kernels.deletion import DeletingNoise, DeletionKernel, edit_ratio
from hybrid_rs_jax.kernels.edits import Edits
from hybrid_rs_jax.kernels.uniform import ReplacingNoise, UniformKernel, below
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio, compose_all, identity

__all__ = ["Conditional", "ForcedNoise", "check_forced", "conditional_ratio"]

Kernel = UniformKernel | AbsorbingKernel | CategoricalKernel | DeletionKernel


@dataclasses.dataclass(frozen=True)
class Conditional:
    """A kernel whose draws are conditional: positions in `forced` are always resampled (masked, deleted).

    The deployed noise is that of `kernel`, and so is what is certified; only the draws differ. A score `q` from draws
    with the d positions of S forced takes the place of `p_A` at the budget d, and of no other: one score is never
    broadcast over several budgets. Positions outside of S are not covered. For "any d of L positions" every set of d
    is drawn, and the least of the bounds counts, without a split of alpha over the sets.

    Laws, for `0 < beta < 1`:

    - uniform kernel, d + 1 atoms `j = 0..d`, no singular mass:
      `p_j = C(d,j) V^-j (1-1/V)^(d-j)`, `q_j = C(d,j) (1-beta)^j beta^(d-j)`,
      `l_j = j log((1-beta) V) + (d-j) log(beta V/(V-1))`;
    - absorbing kernel, one atom: `p = 1`, `q = beta^d`, the rest of `q` singular;
    - categorical kernel: the uniform lists of the fields in S, composed; the worst sets are those of the kernel itself,
      for the two corners `(1 - 1/K, beta)` and `(1/K, 1 - beta)` move with `K` to the same sides;
    - deletion kernel, `Edits(a, k, b)`: the positions of a set of `a + b` tokens are deleted; one atom, `p = 1`,
      `q = p_delete^(a+k+b)`. With `nested` all smaller sets are drawn, too, the empty one included, and
      `q = p_delete^(a+k)`: a member of S that the attack leaves in its place costs a factor otherwise.

    Args:
      kernel: the kernel of the deployed noise.
      nested: deletion only: draws are held for every subset of the forced positions as well.

    Raises:
      ValueError: if conditional draws are not defined for the kernel.

    >>> Conditional(UniformKernel(0.25, 32_000)).likelihood_ratio(2).atoms
    3
    """

    kernel: Kernel
    nested: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.kernel, Kernel):
            known = "uniform, absorbing, categorical or deletion"
            raise ValueError(f"kernel must be a {known} kernel, got {self.kernel!r}.")
        if self.nested and not isinstance(self.kernel, DeletionKernel):
            raise ValueError(f"nested has a meaning for the deletion kernel only, got {type(self.kernel).__name__}.")

    @property
    def cardinalities(self) -> tuple[int, ...] | None:
        """Symbols per field of a categorical kernel."""
        return getattr(self.kernel, "cardinalities", None)

    def forced_sizes(self, d: int | Edits) -> range:
        """Sizes of the sets of forced positions whose draws the bound at a budget needs, before the text's own end."""
        if isinstance(self.kernel, DeletionKernel):
            size = Edits.of(d).removed
            return range(0 if self.nested else size, size + 1)
        size = check_budget(d)
        size = size if self.cardinalities is None else min(size, len(self.cardinalities))
        return range(size, size + 1)

    def likelihood_ratio(self, d: int | Edits) -> LikelihoodRatio:
        """The law between draws with d positions forced and any attack on them, where one law is the worst.

        Raises:
          ValueError: if several sets of fields are incomparable; `likelihood_ratios` gives them all.
        """
        candidates = self.likelihood_ratios(d)
        if len(candidates) > 1:
            raise ValueError(
                f"No single set of {d} fields is the worst one for the arities and beta of {self.kernel}: "
                f"take the minimum over the {len(candidates)} laws of likelihood_ratios({d})."
            )
        return candidates[0]

    def likelihood_ratios(self, d: int | Edits) -> tuple[LikelihoodRatio, ...]:
        """Candidates of which one is the worst; several only for categorical fields."""
        kernel = self.kernel
        if isinstance(kernel, DeletionKernel):
            edits = Edits.of(d)
            spared = 0 if self.nested else edits.deleted
            return (edit_ratio(kernel.p_delete, 0, edits.added + spared),)
        d = check_budget(d)
        if isinstance(kernel, UniformKernel):
            return (conditional_ratio(kernel.beta, kernel.vocab_size, d),)
        if isinstance(kernel, AbsorbingKernel):
            return (edit_ratio(kernel.beta, 0, d),)
        return tuple(_product(attacked) for attacked in kernel.worst_sets(min(d, len(kernel.cardinalities))))

    def check_budgets(self, budgets: object) -> tuple[int | Edits, ...]:
        """Budgets of a certificate, those of the kernel."""
        own = self.kernel.check_budgets if isinstance(self.kernel, DeletionKernel) else check_budgets
        return own(budgets)

    def sample(
        self,
        key: Key[Array, ""],
        tokens: Int[Array, "*shape"],
        eligible: Bool[Array, "*shape"] | None = None,
        forced: Bool[Array, "*shape"] | None = None,
    ) -> Int[Array, "*shape"]:
        """One noisy copy; jit and vmap friendly.

        With the same key the noise of the other positions is the same whatever is forced, so that copies of several
        sets share it. Without `forced` it is a copy of the deployed noise.

        Args:
          key: JAX key of the copy.
          tokens: clean tokens.
          eligible: positions that carry noise; None: all.
          forced: positions that are always resampled (masked, deleted), eligible ones; see `check_forced`.
        """
        return self.noise()(key_words(key), tokens, eligible, forced)

    def noise(self) -> ForcedNoise:
        """The sampler with its numbers, for a compiled program."""
        return ForcedNoise(self.kernel.noise())

    def check_tokens(self, tokens: object) -> None:
        """Raise a ValueError when a token lies outside of the kernel's alphabet."""
        self.kernel.check_tokens(tokens)


def check_forced(forced: object, eligible: np.ndarray) -> np.ndarray:
    """The mask of forced positions for each input, bool[inputs, length]; all of them must be eligible.

    Args:
      forced: bool[length] or bool[inputs, length].
      eligible: bool[inputs, length].

    Raises:
      ValueError: if a shape does not fit, or a forced position carries no noise.
    """
    mask = check_mask("forced", forced, eligible.shape)
    if np.any(outside := mask & ~eligible):
        row, position = np.argwhere(outside)[0]
        raise ValueError(f"forced must hold eligible positions only, got position {position} of input {row}.")
    return mask


@functools.lru_cache(maxsize=4096)
def conditional_ratio(beta: float, vocab_size: int, d: int) -> LikelihoodRatio:
    """The d + 1 atoms of the uniform kernel with d positions resampled over all V symbols, sorted by ratio.

    Masses and ratios come from decimal arithmetic of 36 digits, so each is the exact one to the last bit.
    """
    if d == 0:
        return identity()
    with decimal.localcontext(decimal.Context(prec=36)):
        hit = 1 / Decimal(vocab_size)
        miss = 1 - hit
        replace = Decimal(beta)
        # log ratio of a position that shows the attacker's symbol, and of one that shows another
        ratios = [(1 - replace) / hit, replace / miss]
        logs = [x.ln() if x else None for x in ratios]
    log_p = log_binomial_power(miss, hit, d)
    if logs[0] is None or logs[1] is None:  # all positions show the same: one atom, and clean mass on the others
        only = 0 if logs[0] is None else d
        p_0 = float(-np.expm1(log_p[only]))
        return LikelihoodRatio(-log_p[[only]], log_p[[only]], np.zeros(1), p_0, 0.0, 2.0)
    log_q = log_binomial_power(replace, 1 - replace, d)
    with decimal.localcontext(decimal.Context(prec=36)):
        log_ratio = np.array([float(j * logs[0] + (d - j) * logs[1]) for j in range(d + 1)])
    if log_ratio[0] > log_ratio[-1]:
        log_ratio, log_p, log_q = log_ratio[::-1], log_p[::-1], log_q[::-1]
    return LikelihoodRatio(log_ratio, log_p, log_q, 0.0, 0.0, 1.0)


@functools.lru_cache(maxsize=4096)
def _product(attacked: tuple[tuple[int, float], ...]) -> LikelihoodRatio:
    """The law of forced fields `(K, beta)`, equal fields grouped first."""
    groups = sorted(collections.Counter(attacked).items())
    return compose_all(conditional_ratio(beta, k, count) for (k, beta), count in groups)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ForcedNoise:
    """A kernel's sampler that also resamples the forced positions."""

    noise: ReplacingNoise | MaskingNoise | DeletingNoise

    def __call__(
        self,
        words: Words,
        tokens: Int[Array, "*shape"],
        eligible: Bool[Array, "*shape"] | None,
        forced: Bool[Array, "*shape"] | None = None,
    ) -> Int[Array, "*shape"]:
        """One noisy copy under the key `words`; `forced` broadcasts against `tokens`."""
        if forced is None:
            return self.noise(words, tokens, eligible)
        if isinstance(self.noise, DeletingNoise):
            return self.noise(words, tokens, eligible, forced)
        ordinary = self.noise(words, tokens, eligible)
        if isinstance(self.noise, MaskingNoise):
            return jnp.where(forced, jnp.asarray(self.noise.mask_token).astype(tokens.dtype), ordinary)
        return jnp.where(forced, self._any_symbol(words, tokens).astype(tokens.dtype), ordinary)

    def _any_symbol(self, words: Words, tokens: Any) -> Any:
        """A symbol of the whole alphabet for each position, from the words that its replacement would have taken."""
        assert isinstance(self.noise, ReplacingNoise)
        size = jnp.broadcast_to(jnp.asarray(self.noise.size), tokens.shape)
        _, top = random_words(words, TOKEN_HITS, tokens.shape)
        return below((top, *random_words(words, TOKEN_SYMBOLS, tokens.shape)), size)
