"""What every discrete smoothing kernel owes: the noise that is drawn and the likelihood ratio that is certified."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Bool, Int, Key

from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio

#: A likelihood ratio has 2d + 1 atoms; beyond this a slip of the keyboard would fill the memory.
MAX_BUDGET = 1_000_000

__all__ = ["DiscreteKernel", "check_budget", "check_probability"]


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


def check_probability(name: str, value: float) -> float:
    """Return `value` as a float in [0, 1] or raise one clear sentence."""
    number = float(value)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], got {value}.")
    return number


def check_budget(d: int) -> int:
    """Return `d` as a non-negative int or raise one clear sentence."""
    if isinstance(d, bool) or not (d >= 0 and d == d // 1):
        raise ValueError(f"The discrete budget d must be a non-negative integer, got {d}.")
    if d > MAX_BUDGET:
        raise ValueError(f"The discrete budget d must be at most {MAX_BUDGET}, got {d}.")
    return int(d)
