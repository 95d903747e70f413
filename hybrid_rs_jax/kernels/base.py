"""What every discrete smoothing kernel owes: the noise that is drawn and the likelihood ratio that is certified."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from hybrid_rs_jax._checks import check_probability
from hybrid_rs_jax.kernels._threefry import TOKEN_HITS, Words, key_words, random_words, typed_key
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio

__all__ = [
    "DiscreteKernel",
    "TokenNoise",
    "drawn_probability",
    "hit_limits",
    "hits",
    "sample_tokens",
    "token_noise",
]


@runtime_checkable
class DiscreteKernel(Protocol):
    """A product kernel over token positions. One object owns the sampler and the ratio, so they cannot differ.

    A kernel that also has `noise() -> TokenNoise` gives its numbers to compiled programs as arguments, so that a sweep
    over them compiles once; without it the kernel itself, which must be hashable, is a constant of the program.
    """

    def likelihood_ratio(self, d: int) -> LikelihoodRatio:
        """The law of `log(q/p)` for the worst change of exactly `d` positions.

        Changing exactly `d` is the worst of "at most d": every further position multiplies the ratio by an
        independent factor of mean at most one, which only lowers the trade-off function.
        """
        ...

    def likelihood_ratios(self, d: int) -> tuple[LikelihoodRatio, ...]:
        """Candidates of which one is the worst; the certificate takes the minimum over them."""
        ...

    def sample(
        self, key: Key[Array, ""], tokens: Int[Array, "*shape"], eligible: Bool[Array, "*shape"] | None = None
    ) -> Int[Array, "*shape"]:
        """One noisy copy of `tokens`; positions that are not `eligible` stay as they are."""
        ...

    def check_tokens(self, tokens: object) -> None:
        """Raise a ValueError when a token lies outside of the alphabet that the noise draws from."""
        ...


@runtime_checkable
class TokenNoise(Protocol):
    """The sampler of a kernel as a pytree of its numbers, for use inside of a compiled program."""

    def __call__(
        self, words: Words, tokens: Int[Array, "*shape"], eligible: Bool[Array, "*shape"] | None
    ) -> Int[Array, "*shape"]:
        """One noisy copy under the key `words`."""
        ...


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Constant:
    """A kernel that has no `noise`, as a constant."""

    kernel: DiscreteKernel

    def __call__(self, words: Words, tokens: Any, eligible: Any) -> Any:
        return self.kernel.sample(typed_key(words), tokens, eligible)


def token_noise(kernel: DiscreteKernel) -> TokenNoise:
    """The sampler of any kernel."""
    own = getattr(kernel, "noise", None)
    return _Constant(kernel) if own is None else own()


def sample_tokens(noise: TokenNoise, key: Key[Array, ""], tokens: Any, eligible: Any) -> Any:
    """One noisy copy under a JAX key."""
    return noise(key_words(key), tokens, eligible)


def hit_limits(probability: float | np.ndarray) -> tuple[Any, Any]:
    """`(last, any)`: a uniform 32-bit word `w` hits if `w <= last` and `any`, with exactly the drawn probability."""
    threshold = np.rint(np.asarray(probability, np.float64) * 2.0**32).astype(np.uint64)
    return (np.maximum(threshold, 1) - 1).astype(np.uint32), threshold > 0


def hits(words: Words, shape: tuple[int, ...], last: Any, possible: Any) -> tuple[Bool[Array, "*shape"], Any]:
    """Independent events for the positions of `shape`, and a second uniform word for each."""
    first, second = random_words(words, TOKEN_HITS, shape)
    return (first <= jnp.asarray(last)) & jnp.asarray(possible), second


def drawn_probability(name: str, value: float) -> float:
    """`value` as it is drawn: the nearest multiple of 2^-32, so that the ratio is that of the draws.

    Raises:
      ValueError: if it lies outside of [0, 1].

    >>> drawn_probability("beta", 0.25)
    0.25
    """
    return float(np.rint(float(check_probability(name, value)) * 2.0**32) * 2.0**-32)
