"""The smoothing distribution: a discrete kernel and a Gaussian, independent of each other."""

from __future__ import annotations

import dataclasses

import jax
from jaxtyping import Array, Bool, Float, Int, Key

from hybrid_rs_jax._checks import check_budget, check_sigma
from hybrid_rs_jax.kernels.base import DiscreteKernel
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio, identity, singular

__all__ = ["HybridSmoothing"]


@dataclasses.dataclass(frozen=True)
class HybridSmoothing:
    """`Z1 ~ p1(.|x1)` on tokens, independent of `Z2 ~ N(x2, sigma^2 I)` on pixels (paper section 4).

    Args:
      discrete: the token kernel, or None: tokens carry no noise, so no token change is certified (image-only).
      sigma: standard deviation of the pixel noise, positive, in units of the pixels; or None: pixels carry no noise,
        so no pixel change is certified (text-only).

    Raises:
      ValueError: if sigma lies outside of 1e-12..1e12, or both parts are absent.

    >>> from hybrid_rs_jax.kernels import UniformKernel
    >>> HybridSmoothing(UniformKernel(0.25, 32_000), sigma=0.5).sigma
    0.5
    """

    discrete: DiscreteKernel | None
    sigma: float | None

    def __post_init__(self) -> None:
        if self.discrete is None and self.sigma is None:
            raise ValueError("HybridSmoothing needs a discrete kernel, a sigma, or both; got neither.")
        if self.sigma is not None:
            object.__setattr__(self, "sigma", check_sigma(self.sigma))

    def likelihood_ratios(self, d: int) -> tuple[LikelihoodRatio, ...]:
        """Candidate laws of the discrete log ratio at budget `d`; the certificate takes the worst."""
        if self.discrete is not None:
            return self.discrete.likelihood_ratios(d)
        return (identity() if check_budget(d) == 0 else singular(),)

    def sample(
        self,
        key: Key[Array, ""],
        tokens: Int[Array, "length"],
        image: Float[Array, "*pixels"],
        eligible: Bool[Array, "length"] | None = None,
    ) -> tuple[Int[Array, "length"], Float[Array, "*pixels"]]:
        """One noisy copy of one input; jit and vmap friendly.

        Pixel noise is drawn in the dtype of `image`; float32 normals stop at 5.42 standard deviations, far beyond what
        any Monte Carlo count resolves.
        """
        key_tokens, key_image = jax.random.split(key)
        if self.discrete is not None:
            tokens = self.discrete.sample(key_tokens, tokens, eligible)
        if self.sigma is not None:
            noise = jax.random.normal(key_image, image.shape, dtype=image.dtype)
            image = image + image.dtype.type(self.sigma) * noise
        return tokens, image
