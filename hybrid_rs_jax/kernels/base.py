"""What every discrete smoothing kernel owes: the noise that is drawn and the likelihood ratio that is certified."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Bool, Int, Key

from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio

__all__ = ["DiscreteKernel"]


@runtime_checkable
class DiscreteKernel(Protocol):
    """A product kernel over token positions. One object owns the sampler and the ratio, so they cannot differ."""

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
