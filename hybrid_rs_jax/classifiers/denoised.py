"""Denoised smoothing: a base classifier that sees each noisy picture after a denoiser has been over it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from hybrid_rs_jax.classifiers._pairs import host_pairs, qualified_name
from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["Denoised"]


class Denoised:
    """`classifier` behind a denoiser: `(tokens, noisy) -> classifier(tokens, denoiser(noisy, sigma))`.

    The sampler adds exactly the noise that is certified; the denoiser works on what it is given and belongs to the base
    classifier, so a guarantee holds however well or badly it works (method section 12). Noise is added to pictures of
    the size that the denoiser takes; a classifier that wants another size resizes behind it, not before.

    Args:
      classifier: any base classifier, on the devices or on the host, binary or with several classes.
      denoiser: `(images, sigma) -> images` in the units of the pixels, as `hrs.models.load_denoiser` gives it.
      sigma: the pixel noise that it is told to expect; None: that of the smoothing, which `for_smoothing` fills in.

    Raises:
      ValueError: if `sigma` lies outside of the denoiser's range, or an argument cannot be called.

    >>> import numpy as np
    >>> guard = Denoised(lambda tokens, images: images.mean((1, 2, 3)) > 0.5, lambda images, sigma: images, sigma=0.5)
    >>> guard(np.zeros((1, 4), np.int32), np.ones((1, 8, 8, 1), np.float32)).tolist()
    [True]
    """

    def __init__(self, classifier: Any, denoiser: Any, sigma: float | None = None):
        for name, value in (("classifier", classifier), ("denoiser", denoiser)):
            if not callable(value):
                raise ValueError(f"{name} must be callable, got {type(value).__name__}.")
        self.classifier, self.denoiser = classifier, denoiser
        self.sigma = None if sigma is None else _checked_sigma(denoiser, sigma)

    def __call__(self, tokens: Any, images: Any) -> Bool[Array, " b"] | np.ndarray:
        """Decide for each pair; arguments and answer are those of the classifier.

        Raises:
          ValueError: if `sigma` was left to a smoothing and none has been named, or the pictures do not fit.
        """
        return self._through(self.classifier, tokens, images)

    def margin(self, tokens: Any, images: Any) -> Any:
        """The real number behind each decision, for a classifier that has one."""
        return self._through(self.classifier.margin, tokens, images)

    @property
    def functional(self) -> Callable[[], tuple[Callable[..., Any], Any]] | None:
        """Gives `apply(parameters, tokens, images)` and the parameters of both; None where the classifier has none."""
        return None if getattr(self.classifier, "functional", None) is None else self._functional

    def _functional(self) -> tuple[Callable[..., Any], Any]:
        classify, behind = self.classifier.functional()
        denoise, before = _functional(self.denoiser)
        return _Apply(classify, denoise, self._known_sigma()), (behind, before)

    def check_smoothing(self, smoothing: HybridSmoothing) -> None:
        """Raise one sentence if the noise of `smoothing` is not the noise that the denoiser is told to expect."""
        if smoothing.sigma is None:
            raise ValueError("A denoised classifier needs pixel noise, but the smoothing has none (sigma is None).")
        if self.sigma is not None and float(smoothing.sigma) != self.sigma:
            raise ValueError(
                f"sigma of the smoothing must be {self.sigma:g}, which the denoiser was told to expect, got "
                f"{smoothing.sigma:g}."
            )
        _checked_sigma(self.denoiser, smoothing.sigma)

    def for_smoothing(self, smoothing: HybridSmoothing) -> Denoised:
        """The classifier for draws of this smoothing, with its sigma.

        Raises:
          ValueError: as `check_smoothing`.
        """
        self.check_smoothing(smoothing)
        return self if self.sigma is not None else Denoised(self.classifier, self.denoiser, smoothing.sigma)

    def cancel(self) -> None:
        """Give up the calls under way, where the classifier can."""
        if (cancel := getattr(self.classifier, "cancel", None)) is not None:
            cancel()

    def describe(self) -> dict[str, Any]:
        """Classifier, denoiser and sigma, for a run's header."""
        return {
            "name": "hybrid_rs_jax.classifiers.Denoised",
            "sigma": self.sigma,
            "classifier": _described(self.classifier),
            "denoiser": _described(self.denoiser),
        }

    @property
    def on_host(self) -> bool | None:
        """Whether the classifier is Python (None: it does not say); the denoiser runs on the devices in either case."""
        return getattr(self.classifier, "on_host", None)

    @property
    def max_in_flight(self) -> int:
        """Calls that the classifier allows at the same time."""
        return int(getattr(self.classifier, "max_in_flight", 1))

    @property
    def classes(self) -> int | None:
        """Number of classes; None: binary."""
        return getattr(self.classifier, "classes", None)

    @property
    def tie_tolerance(self) -> float | None:
        """That of the classifier; what rounding does in the denoiser comes on top and is not part of it."""
        return getattr(self.classifier, "tie_tolerance", None)

    def __repr__(self) -> str:
        sigma = "that of the smoothing" if self.sigma is None else f"{self.sigma:g}"
        return f"Denoised({self.classifier!r}, {self.denoiser!r}, sigma={sigma})"

    def _through(self, decide: Callable[..., Any], tokens: Any, images: Any) -> Any:
        sigma = self._known_sigma()
        if not self.on_host:
            return decide(tokens, self.denoiser(images, sigma))
        tokens, images = host_pairs(tokens, images)
        if not len(images):
            return decide(tokens, images)
        # few sizes, or every batch that is not full would compile a program of its own
        padding = (1 << (len(images) - 1).bit_length()) - len(images)
        padded = np.concatenate([images, np.repeat(images[-1:], padding, axis=0)])
        return decide(tokens, np.array(self.denoiser(padded, sigma))[: len(images)])

    def _known_sigma(self) -> float:
        if self.sigma is None:
            raise ValueError(
                "sigma of a denoised classifier must be known before it is called: give Denoised(..., sigma=...), or "
                "take for_smoothing(smoothing)."
            )
        return self.sigma


@dataclasses.dataclass(frozen=True)
class _Apply:
    """Both as one function of their parameters; equal where both are, so that it is compiled once."""

    classify: Callable[..., Any]
    denoise: Callable[..., Any]
    sigma: float

    def __call__(self, parameters: tuple[Any, Any], tokens: Array, images: Array) -> Any:
        behind, before = parameters
        clean = self.denoise(before, images.astype(jnp.float32), jnp.float32(self.sigma))
        return self.classify(behind, tokens, clean)


class _Call:
    """A function without parameters of its own; equal for the same function."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, parameters: tuple[()], *arguments: Any) -> Any:
        return self._function(*arguments)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Call) and self._function is other._function

    def __hash__(self) -> int:
        return hash((_Call, id(self._function)))


def _functional(part: Any) -> tuple[Callable[..., Any], Any]:
    functional = getattr(part, "functional", None)
    return (_Call(part), ()) if functional is None else functional()


def _described(part: Any) -> dict[str, Any]:
    describe = getattr(part, "describe", None)
    return {"name": qualified_name(part)} if describe is None else dict(describe())


def _checked_sigma(denoiser: Any, sigma: float) -> float:
    """`sigma`, if it is a number that the denoiser can take."""
    sigma = float(sigma)
    if not (0 < sigma < float("inf")):
        raise ValueError(f"sigma must be positive and finite, got {sigma:g}.")
    if (check := getattr(denoiser, "check_sigma", None)) is not None:
        check(sigma)
    return sigma
