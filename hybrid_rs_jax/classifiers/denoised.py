"""Denoised smoothing: a base classifier that sees each noisy picture after a denoiser has been over it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from hybrid_rs_jax._jax import applied
from hybrid_rs_jax.classifiers._denoising import Placed, noise_gain
from hybrid_rs_jax.classifiers._pairs import host_pairs, qualified_name
from hybrid_rs_jax.data.pictures import fit
from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["Denoised"]


class Denoised:
    """`classifier` behind a denoiser: `(tokens, noisy) -> classifier(tokens, denoiser(noisy, sigma))`.

    The sampler adds exactly the noise that is certified; the denoiser works on what it is given and belongs to the base
    classifier, so a guarantee holds however well or badly it works (method section 12). Noise is added at the certified
    size; with `size` pictures are resized for the denoiser and back, and then go through what the classifier does with
    pictures. All of it is one compiled step where the classifier gives `functional`.

    Whatever draws noise (`sample`, `sample_run`, `SmoothedClassifier`, `attack`) asks for `for_smoothing(smoothing)`
    first, and so refuses noise of another sigma.

    Conditional draws of one input and copy number share their pixel noise and differ in their tokens alone: where the
    classifier gives `functional`, a run denoises each noisy picture once for all of them (`shared_picture`).

    Args:
      classifier: any base classifier, on the devices or on the host, binary or with several classes.
      denoiser: `(images, sigma) -> images` in the units of the pixels, as `hrs.models.load_denoiser` gives it. One of
        grey pictures takes each channel of others by itself.
      sigma: the pixel noise that it is told to expect; None: that of the smoothing, which `for_smoothing` fills in.
      size: height and width that the denoiser takes; None: those of the pictures.

    Raises:
      ValueError: if `sigma` lies outside of the denoiser's range, or an argument cannot be called.

    >>> import numpy as np
    >>> guard = Denoised(lambda tokens, images: images.mean((1, 2, 3)) > 0.5, lambda images, sigma: images, sigma=0.5)
    >>> guard(np.zeros((1, 4), np.int32), np.ones((1, 8, 8, 1), np.float32)).tolist()
    [True]
    """

    def __init__(self, classifier: Any, denoiser: Any, sigma: float | None = None, *, size: Any = None):
        for name, value in (("classifier", classifier), ("denoiser", denoiser)):
            if not callable(value):
                raise ValueError(f"{name} must be callable, got {type(value).__name__}.")
        self.classifier, self.denoiser = classifier, denoiser
        self.size = None if size is None else _checked_size(size)
        self.sigma = None if sigma is None else _checked_sigma(denoiser, sigma)

    def __call__(self, tokens: Any, images: Any) -> Any:
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
        placed, before = self._placed
        return _Apply(classify, placed), (behind, before, self._told)

    @property
    def shared_picture(self) -> Callable[[], Callable[..., Any]] | None:
        """Gives `functional` for several texts with each picture, denoised once; None where that is None."""
        return None if self.functional is None else self._shared_picture

    def _shared_picture(self) -> Callable[..., Any]:
        give = getattr(self.classifier, "shared_picture", None)
        return _Apply(_Repeated(self.classifier.functional()[0]) if give is None else give(), self._placed[0])

    def embedded(self) -> tuple[Callable[..., Any], Any, Array]:
        """Margin of embeddings, parameters and table, for attacks by gradients, which go through the denoiser."""
        classify, behind, table = self.classifier.embedded()
        placed, before = self._placed
        return _Apply(classify, placed), (behind, before, self._told), table

    def decide(self, pairs: Sequence[tuple[Any, np.ndarray | None]]) -> np.ndarray:
        """`decide` of a classifier that has one, for pairs of a text and a picture, either of which may be None."""
        height, width = self.classifier.image_size
        shown = [number for number, (_, image) in enumerate(pairs) if image is not None]
        decided = list(pairs)
        if shown:
            clean = self._clean(np.stack([fit(np.asarray(pairs[i][1], np.float32), height, width) for i in shown]))
            for number, image in zip(shown, clean, strict=True):
                decided[number] = (pairs[number][0], image)
        return np.asarray(self.classifier.decide(decided))

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
        if self.sigma is not None:
            return self
        return Denoised(self.classifier, self.denoiser, smoothing.sigma, size=self.size)

    def check_pictures(self, shape: tuple[int, ...]) -> None:
        """Raise one sentence if the denoiser cannot take pictures [H, W, C], or the noise that is left in them.

        Raises:
          ValueError: one sentence.
        """
        height, width, channels = shape
        if (check := getattr(self.denoiser, "check_images", None)) is not None:
            sides = self.size or (height, width)
            check((1, *sides, 1 if self._channels == 1 else channels))
        if self.sigma is not None:
            _checked_sigma(self.denoiser, self._sigma_left(height, width))

    def cancel(self) -> None:
        """Give up the calls under way, where the classifier can."""
        if (cancel := getattr(self.classifier, "cancel", None)) is not None:
            cancel()

    def describe(self) -> dict[str, object]:
        """Classifier, denoiser, sigma and what the denoiser is told, for a run's header.

        `time` is the time step of the denoiser's schedule, to three digits; absent where it has none, or the pictures
        are resized and their own size is not known.
        """
        sides: Any = (1, 1) if self.size is None else getattr(self.classifier, "image_size", None)
        tell = None if self.sigma is None or sides is None else getattr(self.denoiser, "time", None)
        return {
            "name": "hybrid_rs_jax.classifiers.Denoised",
            "sigma": self.sigma,
            **({} if tell is None else {"time": round(tell(self._sigma_left(*sides)), 3)}),
            **({} if self.size is None else {"denoised_at": list(self.size)}),
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
    def mesh(self) -> Any:
        """Devices that the classifier is spread over; None where it does not say."""
        return getattr(self.classifier, "mesh", None)

    @property
    def served_model(self) -> Any:
        """The model behind a chat endpoint; other classifiers have no such attribute."""
        return self.classifier.served_model

    @property
    def tie_tolerance(self) -> float | None:
        """That of the classifier; what rounding does in the denoiser comes on top and is not part of it."""
        return getattr(self.classifier, "tie_tolerance", None)

    def __repr__(self) -> str:
        sigma = "that of the smoothing" if self.sigma is None else f"{self.sigma:g}"
        return f"Denoised({self.classifier!r}, {self.denoiser!r}, sigma={sigma})"

    def _through(self, decide: Callable[..., Any], tokens: Any, images: Any) -> Any:
        self._known_sigma()
        if not self.on_host:
            return decide(tokens, self._cleaned(jnp.asarray(images)))
        tokens, images = host_pairs(tokens, images)
        return decide(tokens, self._clean(images) if len(images) else images)

    def _clean(self, images: Float32[np.ndarray, "b h w c"]) -> Float32[np.ndarray, "b h w c"]:
        """Denoised pictures; few sizes, or every batch that is not full would compile a program of its own."""
        padding = (1 << (len(images) - 1).bit_length()) - len(images)
        padded = np.concatenate([images, np.repeat(images[-1:], padding, axis=0)])
        return np.array(self._cleaned(jnp.asarray(padded)))[: len(images)]

    def _cleaned(self, images: Array) -> Array:
        placed, parameters = self._placed
        # a plain function is called as it is: nothing says that it can be traced
        call = applied if placed.sigma is None else Placed.__call__
        return call(placed, parameters, images, self._told)

    @functools.cached_property
    def _placed(self) -> tuple[Placed, Any]:
        if (functional := getattr(self.denoiser, "functional", None)) is None:
            return Placed(_Call(self.denoiser), self._channels, self.size, self._known_sigma()), ()
        denoise, parameters = functional()
        return Placed(denoise, self._channels, self.size), parameters

    @property
    def _channels(self) -> int | None:
        return getattr(getattr(self.denoiser, "config", None), "picture_channels", None)

    @property
    def _told(self) -> np.ndarray:
        return np.array(self._known_sigma(), np.float32)

    def _sigma_left(self, height: int, width: int) -> float:
        """Standard deviation of the noise in a pixel of what the denoiser gets, for pictures of these sides."""
        sigma = self._known_sigma()
        return sigma if self.size is None else sigma * noise_gain((height, width), self.size)

    def _known_sigma(self) -> float:
        if self.sigma is None:
            raise ValueError(
                "sigma of a denoised classifier must be known before it is called: give Denoised(..., sigma=...), or "
                "take for_smoothing(smoothing)."
            )
        return self.sigma


@dataclasses.dataclass(frozen=True)
class _Apply:
    """Both as one function of their parameters and sigma; equal where both are, so that it is compiled once."""

    classify: Callable[..., Any]
    denoise: Placed

    def __call__(self, parameters: tuple[Any, Any, Array], tokens: Array, images: Array) -> Any:
        behind, before, sigma = parameters
        return self.classify(behind, tokens, self.denoise(before, images, sigma))


@dataclasses.dataclass(frozen=True)
class _Repeated:
    """A classifier of pairs for several texts with each picture, which is repeated."""

    classify: Callable[..., Any]

    def __call__(self, parameters: Any, tokens: Array, images: Array) -> Any:
        pictures, texts, length = tokens.shape
        spread = jnp.repeat(images, texts, axis=0, total_repeat_length=pictures * texts)
        return self.classify(parameters, tokens.reshape(-1, length), spread).reshape(pictures, texts)


@dataclasses.dataclass(frozen=True)
class _Call:
    """A denoiser that is a plain function, without parameters; equal for the same function."""

    function: Callable[..., Any]

    def __call__(self, parameters: tuple[()], images: Array, sigma: Any) -> Any:
        return self.function(images, sigma)


def _described(part: Any) -> dict[str, object]:
    describe = getattr(part, "describe", None)
    return {"name": qualified_name(part)} if describe is None else dict(describe())


def _checked_size(size: Any) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, list | tuple) else ()
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        raise ValueError(f"size must be a height and a width of at least 1 pixel, got {size!r:.80}.")
    return sides


def _checked_sigma(denoiser: Any, sigma: float) -> float:
    """`sigma`, if it is a number that the denoiser can take."""
    sigma = float(sigma)
    if not (0 < sigma < float("inf")):
        raise ValueError(f"sigma must be positive and finite, got {sigma:g}.")
    if (check := getattr(denoiser, "check_sigma", None)) is not None:
        check(sigma)
    return sigma
