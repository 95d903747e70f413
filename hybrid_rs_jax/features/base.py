"""What an encoder is: the thing whose features are smoothed."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float, Float32, Int32

__all__ = ["Encoder"]


@runtime_checkable
class Encoder(Protocol):
    """A batch of (tokens, picture) pairs in, one feature vector per pair out.

    Any callable with this signature will do, as for `BaseClassifier`, and what it may have besides is the same:
    ``on_host``, ``max_in_flight``, ``functional()``, ``describe()``, ``cancel()`` and ``for_smoothing(smoothing)``.
    Only the direction of a feature counts: it is divided by its length, which must be finite and not zero. A feature
    must depend on its own pair only. Where there is an encoder ``plain``, its feature of the clean input is the
    reference "clean": one that expects noise is not asked about a picture without.

    For a grid of patch features return one long vector: the certified cosine is that of the whole grid as one unit
    vector, not one for each patch.
    """

    def __call__(self, tokens: Int32[Array, "b l"], images: Float32[Array, "b h w c"]) -> Float[Array, "b f"]:
        """Encode each pair."""
        ...
