"""An encoder behind a denoiser and before a mapper: the Gaussian smoothness booster of the second paper."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hybrid_rs_jax.classifiers import Denoised
from hybrid_rs_jax.classifiers._pairs import qualified_name
from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["Boosted"]


class Boosted:
    """`f'(x) = f(P(x)) + M(f(P(x)), sigma)` (Eq. 14): all of it is the encoder, so no certificate depends on it.

    What its features are compared with is the feature of the plain encoder at the clean input, as in Eq. 15.

    Args:
      encoder: any encoder, on the devices or on the host.
      sigma: the pixel noise that both are told to expect; None: that of the smoothing.
      denoiser: `(images, sigma) -> images`, as `hrs.models.load_denoiser` gives it; None: pictures stay noisy.
      mapper: `(features, sigma) -> features`, as `hrs.models.booster.load_mapper` gives it; None: features stay.
      size: height and width that the denoiser takes; None: those of the pictures.

    Raises:
      ValueError: if there is neither, or `sigma` lies outside of the denoiser's range.

    >>> flat = lambda tokens, images: images.reshape(len(images), -1)
    >>> encoder = Boosted(flat, 0.5, mapper=lambda features, sigma: features + sigma)
    >>> encoder(np.zeros((1, 1), np.int32), np.zeros((1, 1, 2, 1), np.float32)).tolist()
    [[0.5, 0.5]]
    """

    def __init__(
        self,
        encoder: Any,
        sigma: float | None = None,
        *,
        denoiser: Any = None,
        mapper: Any = None,
        size: tuple[int, int] | None = None,
    ):
        if denoiser is None and mapper is None:
            raise ValueError("A boosted encoder needs a denoiser, a mapper, or both.")
        self.plain, self.sigma, self.denoiser, self.mapper, self.size = encoder, sigma, denoiser, mapper, size
        self._before: Any = encoder if denoiser is None else Denoised(encoder, denoiser, sigma, size=size)

    def __call__(self, tokens: Any, images: Any) -> Float[Array, "b f"] | np.ndarray:
        """Features of noisy pairs.

        Raises:
          ValueError: if `sigma` was left to a smoothing and none has been named, or features do not fit the mapper.
        """
        if self.mapper is None:
            return self._before(tokens, images)
        mapped = self.mapper(self._before(tokens, images), self._known_sigma())
        return np.asarray(mapped) if self.on_host else mapped

    @property
    def functional(self) -> Callable[[], tuple[Callable[..., Any], Any]] | None:
        """Gives `apply(parameters, tokens, images)` and the parameters of all; None where a part has none."""
        parts = [part for part in (self._before, self.mapper) if part is not None]
        return None if any(getattr(part, "functional", None) is None for part in parts) else self._functional

    def _functional(self) -> tuple[Callable[..., Any], Any]:
        if self.mapper is None:
            return self._before.functional()
        (encode, inner), (refine, outer) = self._before.functional(), self.mapper.functional()
        return _Apply(encode, refine), (inner, outer, np.array(self._known_sigma(), np.float32))

    def for_smoothing(self, smoothing: HybridSmoothing) -> Boosted:
        """The encoder for draws of this smoothing, with its sigma.

        Raises:
          ValueError: if there is no pixel noise, or noise of another sigma.
        """
        if smoothing.sigma is None:
            raise ValueError("A boosted encoder needs pixel noise, but the smoothing has none (sigma is None).")
        if self.sigma is not None and float(smoothing.sigma) != self.sigma:
            raise ValueError(
                f"sigma of the smoothing must be {self.sigma:g}, which the encoder was told to expect, got "
                f"{smoothing.sigma:g}."
            )
        if self.sigma is not None:
            return self
        sigma = float(smoothing.sigma)
        return Boosted(self.plain, sigma, denoiser=self.denoiser, mapper=self.mapper, size=self.size)

    def cancel(self) -> None:
        """Give up the calls under way, where the encoder can."""
        if (cancel := getattr(self.plain, "cancel", None)) is not None:
            cancel()

    def describe(self) -> dict[str, object]:
        """Encoder, denoiser, mapper and sigma, for a run's header."""
        parts = {"encoder": self.plain, "denoiser": self.denoiser, "mapper": self.mapper}
        return {
            "name": "hybrid_rs_jax.features.Boosted",
            "sigma": self.sigma,
            "clean_reference": "the plain encoder",
            **({} if self.size is None else {"denoised_at": list(self.size)}),
            **{name: _described(part) for name, part in parts.items() if part is not None},
        }

    @property
    def on_host(self) -> bool | None:
        """Whether the encoder is Python (None: it does not say)."""
        return getattr(self.plain, "on_host", None)

    @property
    def max_in_flight(self) -> int:
        """Calls that the encoder allows at the same time."""
        return int(getattr(self.plain, "max_in_flight", 1))

    def _known_sigma(self) -> float:
        if self.sigma is None:
            raise ValueError("sigma of a boosted encoder must be known before it is called: give Boosted(..., sigma).")
        return self.sigma


@dataclasses.dataclass(frozen=True)
class _Apply:
    """Encoder and mapper as one function; equal where both are, so that it is compiled once."""

    encode: Callable[..., Any]
    refine: Callable[..., Any]

    def __call__(self, parameters: tuple[Any, Any, Array], tokens: Array, images: Array) -> Any:
        inner, outer, sigma = parameters
        return self.refine(outer, self.encode(inner, tokens, images), jnp.asarray(sigma))


def _described(part: Any) -> dict[str, object]:
    describe = getattr(part, "describe", None)
    return {"name": qualified_name(part)} if describe is None else dict(describe())
