"""What a base classifier is: the thing that is called on every noisy copy."""

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float32, Int32


@runtime_checkable
class BaseClassifier(Protocol):
    """A batch of (tokens, picture) pairs in, one decision per pair out.

    Any callable with this signature will do: a function, a jitted function, an object. Nothing needs to be
    inherited or registered, and nothing is assumed about how the decision is made: whatever happens between
    the noise and the decision (decoding, resizing, denoising, a network) is part of the base classifier and
    never weakens a guarantee. A decision must depend on its own pair only, and be the same each time.

    As for every runtime-checkable protocol, ``isinstance`` only asks whether the object can be called.
    """

    def __call__(self, tokens: Int32[Array, "b l"], images: Float32[Array, "b h w c"]) -> Bool[Array, " b"]:
        """Decide for each pair; True is the positive class, Unsafe, whose score is certified."""
        ...
