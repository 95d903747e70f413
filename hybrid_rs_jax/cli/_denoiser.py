"""`--denoiser`: a denoiser between the noise and the classifier of a run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from hybrid_rs_jax.errors import BadInputError, library_sentences

if TYPE_CHECKING:
    from hybrid_rs_jax.classifiers import Denoised
    from hybrid_rs_jax.cli._sources import Source
    from hybrid_rs_jax.kernels import HybridSmoothing
    from hybrid_rs_jax.models import Denoiser

__all__ = ["DenoiserName", "before_guard", "denoised_source", "open_denoiser"]

#: The denoiser that the package brings along.
DEMO_DENOISER = "demo-fashion"
DenoiserName = Annotated[str, Parameter(metavar=f"PATH|{DEMO_DENOISER}")]


def open_denoiser(name: str | None, sigma: float | None, dtype: str | None = None) -> Denoiser | None:
    """The denoiser of the flag; None where it was not given.

    Args:
      name: what the flag says.
      sigma: of the pixel noise.
      dtype: in which the classifier behind it computes, and so it does; None for float32, as always for the demo's.

    Raises:
      BadInputError: if it cannot be opened, or there is no pixel noise or one that it does not know.
    """
    if name is None:
        return None
    if sigma is None:
        raise BadInputError("--denoiser needs pixel noise: give --sigma.")
    from hybrid_rs_jax.models.denoiser import fashion_denoiser, load_denoiser

    with library_sentences():
        denoiser = fashion_denoiser() if name == DEMO_DENOISER else load_denoiser(name, dtype=dtype or "float32")
        denoiser.check_sigma(sigma)
    return denoiser


def denoised_source(source: Source, denoiser: Denoiser | None, smoothing: HybridSmoothing) -> Source:
    """The source with the classifier for these draws: behind the denoiser, or one that depends on the noise by itself.

    Raises:
      BadInputError: if the denoiser cannot take the pictures, or the classifier was made for other noise.
    """
    from hybrid_rs_jax.classifiers.base import for_smoothing
    from hybrid_rs_jax.cli._sources import first_readable

    if denoiser is None:
        with library_sentences():
            bound = for_smoothing(source.classifier, smoothing)
        if bound is source.classifier:
            return source
        return dataclasses.replace(source, classifier=bound, model={**source.model, **bound.describe()})
    classifier = _behind(denoiser, source.classifier, smoothing.sigma, first_readable(source.inputs).image.shape)
    # what the header says of a classifier of the user's own has the digest of its source, too
    model = classifier.describe() | {"classifier": source.model}
    return dataclasses.replace(
        source, classifier=classifier, model=model, sigma_unit=f"{source.sigma_unit}; denoised behind the noise"
    )


def before_guard(denoiser: Denoiser, guard: Any, sigma: float) -> Denoised:
    """A vision-language guard behind the denoiser.

    Raises:
      BadInputError: if the denoiser cannot take its pictures.
    """
    return _behind(denoiser, guard, sigma, (*guard.image_size, 3))


def _behind(denoiser: Denoiser, classifier: Any, sigma: float | None, shape: tuple[int, ...]) -> Denoised:
    """Pictures are resized where the denoiser was trained on others."""
    from hybrid_rs_jax.classifiers import Denoised

    with library_sentences():
        size = None if denoiser.size == tuple(shape[:2]) else denoiser.size
        made = Denoised(classifier, denoiser, sigma, size=size)
        made.check_pictures(tuple(shape))
    return made
