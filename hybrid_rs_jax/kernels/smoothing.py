"""The smoothing distribution: a discrete kernel and a Gaussian, independent of each other."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from hybrid_rs_jax._checks import check_budget, check_budgets, check_sigma
from hybrid_rs_jax.kernels import grid
from hybrid_rs_jax.kernels._threefry import Words, key_words
from hybrid_rs_jax.kernels._traced import Number, is_traced
from hybrid_rs_jax.kernels.base import DiscreteKernel, token_noise
from hybrid_rs_jax.kernels.conditional import Conditional
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio, identity, singular

__all__ = ["HybridNoise", "HybridSmoothing"]


@dataclasses.dataclass(frozen=True)
class HybridSmoothing:
    """`Z1 ~ p1(.|x1)` on tokens, independent of `Z2 ~ N(x2, sigma^2 I)` on pixels (paper section 4).

    Pixel noise is drawn on a grid: pixels are multiples of `step`, and so is the noise, a rounded normal (method,
    section 13). Functions of a clean probability alone are about the ideal Gaussian; what the grid leaves over,
    `total_variation`, enters where draws do, in a run and its certificates.

    Args:
      discrete: the token kernel, or None: tokens carry no noise, so no token change is certified (image-only).
      sigma: standard deviation of the pixel noise, positive, in units of the pixels; or None: pixels carry no noise,
        so no pixel change is certified (text-only).
      step: grid of the pixels, positive, in their units; None takes that of 8-bit pictures in [0, 1], 1/255. For
        other numbers choose it well below sigma, `sigma / 1024` for instance.

    Raises:
      ValueError: if sigma or step lies outside of 1e-12..1e12, both parts are absent, or a step has no sigma.

    >>> from hybrid_rs_jax.kernels import UniformKernel
    >>> HybridSmoothing(UniformKernel(0.25, 32_000), sigma=0.5).sigma
    0.5
    """

    discrete: DiscreteKernel | None
    sigma: Number | None
    step: float | None = None

    def __post_init__(self) -> None:
        if self.discrete is None and self.sigma is None:
            raise ValueError("HybridSmoothing needs a discrete kernel, a sigma, or both; got neither.")
        if self.sigma is None and self.step is not None:
            raise ValueError(f"step is the grid of the pixel noise and needs a sigma, got step = {self.step} alone.")
        for name in ("sigma", "step"):
            if (value := getattr(self, name)) is not None and not is_traced(value):
                object.__setattr__(self, name, check_sigma(value, name))

    @property
    def grid_step(self) -> float | None:
        """The step that is drawn with: `step`, or 1/255 where none is given; None without pixel noise."""
        if self.sigma is None:
            return None
        return grid.GRID_STEP if self.step is None else self.step

    def total_variation(self, pixels: int) -> float:
        """`delta`: how far the noise of `pixels` pixels as drawn is from the certified law, rounded up; 0 without it.

        Raises:
          ValueError: if sigma is more than 2^16 steps.
        """
        if self.sigma is None or self.grid_step is None:
            return 0.0
        return grid.total_variation(self.sigma, self.grid_step, pixels)

    def likelihood_ratios(self, d: Any) -> tuple[LikelihoodRatio, ...]:
        """Candidate laws of the discrete log ratio at budget `d`; the certificate takes the worst."""
        if self.discrete is not None:
            return self.discrete.likelihood_ratios(d)
        return (identity() if check_budget(d) == 0 else singular(),)

    @property
    def conditional(self) -> bool:
        """Are draws conditional? Then a score belongs to one budget (see `Conditional`)."""
        return isinstance(self.discrete, Conditional)

    def forcing(self) -> HybridSmoothing:
        """The same smoothing with a sampler that can force positions; see `Conditional`.

        Raises:
          ValueError: if tokens carry no noise, or conditional draws are not defined for the kernel.
        """
        if self.conditional:
            return self
        if self.discrete is None:
            raise ValueError("forced positions need token noise, got a smoothing without a discrete kernel.")
        return dataclasses.replace(self, discrete=Conditional(self.discrete))  # type: ignore[arg-type]

    def check_budgets(self, budgets: object) -> tuple[Any, ...]:
        """Budgets of a certificate or table: increasing numbers of tokens, or what the kernel takes instead.

        Raises:
          ValueError: if they are none.
        """
        own = getattr(self.discrete, "check_budgets", check_budgets)
        return tuple(own(budgets))

    def noise(self, dtype: Any) -> HybridNoise:
        """The sampler with its numbers, for a compiled program; pixels come in `dtype`.

        Raises:
          ValueError: if sigma is more than 2^16 steps.
        """
        pixels = None
        if self.sigma is not None and self.grid_step is not None:
            pixels = grid.pixel_noise(self.sigma, self.grid_step, np.dtype(dtype))
        return HybridNoise(None if self.discrete is None else token_noise(self.discrete), pixels)

    def sample(
        self,
        key: Key[Array, ""],
        tokens: Int[Array, "length"],
        image: Float[Array, "*pixels"],
        eligible: Bool[Array, "length"] | None = None,
    ) -> tuple[Int[Array, "length"], Float[Array, "*pixels"]]:
        """One noisy copy of one input; jit and vmap friendly.

        Where pixels carry noise each is rounded to the grid first (in its own dtype: round float16 and bfloat16
        pictures beforehand) and the noisy ones are `step` times an integer, in the dtype of `image`.
        """
        noise = self.noise(image.dtype)
        stored = image if noise.pixels is None else grid.to_levels(jnp.asarray(image), noise.pixels)
        return noise(key_words(key), tokens, stored, eligible)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HybridNoise:
    """What a compiled program draws with: a pytree of numbers, so that other numbers need no other program.

    Attributes:
      tokens: the kernel's sampler, or None.
      pixels: the table of the pixel noise, or None.
    """

    tokens: Any
    pixels: grid.PixelNoise | None

    def __call__(
        self,
        words: Words,
        tokens: Int[Array, "length"],
        image: Any,
        eligible: Bool[Array, "length"] | None,
        forced: Bool[Array, "length"] | None = None,
    ) -> tuple[Int[Array, "length"], Float[Array, "*pixels"]]:
        """One noisy copy under the key `words`; `image` holds levels where pixels carry noise, else pixels.

        Positions in `forced` are always resampled, by a sampler of `Conditional`.
        """
        if forced is not None:
            tokens = self.tokens(words, tokens, eligible, forced)
        elif self.tokens is not None:
            tokens = self.tokens(words, tokens, eligible)
        return tokens, image if self.pixels is None else grid.noisy_pixels(words, image, self.pixels)
