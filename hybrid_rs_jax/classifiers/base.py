"""What a base classifier is: the thing that is called on every noisy copy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float32, Int32

from hybrid_rs_jax.classifiers._pairs import qualified_name

if TYPE_CHECKING:
    from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["Abilities", "BaseClassifier", "for_smoothing"]


@runtime_checkable
class BaseClassifier(Protocol):
    """A batch of (tokens, picture) pairs in, one decision per pair out.

    Any callable with this signature will do: a function, a jitted function, an object. Nothing needs to be
    inherited or registered, and nothing is assumed about how the decision is made: whatever happens between
    the noise and the decision (decoding, resizing, denoising, a network) is part of the base classifier and
    never weakens a guarantee. A decision must depend on its own pair only; it is the same each time, or random
    and drawn afresh, independently of all others, from a law that depends on the pair alone.

    As for every runtime-checkable protocol, ``isinstance`` only asks whether the object can be called.

    What the sampling engine also understands, where the object has it:

    ``on_host: bool``
        True: the classifier is Python, not JAX. It is then called from worker threads with NumPy arrays, int32
        [b, l] and float32 [b, h, w, c], and returns a NumPy array [b]. False: it is JAX, and is traced into one
        compiled step together with the noise; the run is refused where that would change its decisions. Missing: it
        is tried. What JAX cannot trace, what does not depend on its arguments once traced, and what draws random
        numbers outside of JAX, reads otherwise when traced again or decides otherwise when called (a clock, a counter,
        a global that changes) is called on the host, and a log line says so. What hangs on the rest of the batch
        (batch statistics, a random key that is the same in each call) is refused.
    ``max_in_flight: int``
        For ``on_host``: so many calls at most run at the same time; 1 where it is missing.
    ``cancel()``
        For ``on_host``: give up the calls under way, which raise ``CancelledError`` then; for an interrupted run. Said
        again until they have ended, since one of them may only be about to begin.
    ``classes: int``
        A multi-class classifier: decisions are int32 in 0..classes-1 instead of bool. None or missing: binary.
    ``functional() -> (apply, parameters)``
        The same classifier as a pure function ``apply(parameters, tokens, images)`` and a pytree, so that large
        weights are arguments of the compiled step and not constants in it. ``apply`` is the same hashable object
        on each call, or every run compiles anew. It returns decisions; or, where there is a ``tie_tolerance``,
        the margin. Whoever gives it promises that it is pure.
    ``shared_picture() -> apply``
        For several texts with each picture: ``apply(parameters, tokens [p, k, l], images [p, h, w, c])`` gives [p, k],
        with the parameters of ``functional``; entry [i, j] is what ``functional`` gives for text j and picture i, up to
        rounding. Given by classifiers whose work on a picture is worth sharing: conditional draws of an input with one
        copy number differ in their texts alone, and go through together. None: as if it were missing.
    ``margin(tokens, images) -> float32 [b]`` and ``tie_tolerance: float``
        The real number behind a binary decision, above 0 for True, and the largest change of it by rounding (the
        order of a sum depends on the batch size and on the hardware). Copies with ``|margin| <= tie_tolerance``
        may be decided otherwise in another batch; they are counted apart, as ties, so that a lower bound on the
        score need not rest on them.
    ``for_smoothing(smoothing) -> classifier``
        A classifier that depends on the noise (one behind a denoiser is told its sigma): gives the one for these draws,
        or raises one sentence where they are not the noise that it was made for. Asked once, before the first draw.
    Margins are finite, and decisions are 0 and 1 (or 0..classes-1): anything else ends a run at the first one.

    ``describe() -> dict``
        Name and digest of everything that decisions depend on, JSON-able and without secrets, for the header of a
        run: counts of classifiers that describe themselves differently are never added up.
    """

    def __call__(self, tokens: Int32[Array, "b l"], images: Float32[Array, "b h w c"]) -> Bool[Array, " b"]:
        """Decide for each pair; True is the positive class, Unsafe, whose score is certified."""
        ...


def for_smoothing(classifier: Any, smoothing: HybridSmoothing) -> Any:
    """The classifier for draws of this smoothing: what its `for_smoothing` gives, or where it has none, itself.

    Raises:
      ValueError: if the classifier was made for other noise.
    """
    bind = getattr(classifier, "for_smoothing", None)
    return classifier if bind is None else bind(smoothing)


@dataclasses.dataclass(frozen=True)
class Abilities:
    """What a classifier can do besides being called, looked up once; fields as in `BaseClassifier`.

    Attributes:
      name: what messages call it.
      on_host: None where it does not say.
    """

    name: str
    on_host: bool | None
    max_in_flight: int
    classes: int | None
    tie_tolerance: float | None
    cancel: Callable[[], Any] | None
    functional: Callable[[], tuple[Callable[..., Any], Any]] | None
    shared_picture: Callable[[], Callable[..., Any]] | None
    describe: Callable[[], dict[str, object]] | None

    @classmethod
    def of(cls, classifier: Any) -> Abilities:
        """The abilities of any callable."""
        on_host = getattr(classifier, "on_host", None)
        return cls(
            name=getattr(classifier, "name", None) or qualified_name(classifier),
            on_host=None if on_host is None else bool(on_host),
            max_in_flight=int(getattr(classifier, "max_in_flight", 1)),
            classes=getattr(classifier, "classes", None),
            tie_tolerance=getattr(classifier, "tie_tolerance", None),
            cancel=getattr(classifier, "cancel", None),
            functional=getattr(classifier, "functional", None),
            shared_picture=getattr(classifier, "shared_picture", None),
            describe=getattr(classifier, "describe", None),
        )
