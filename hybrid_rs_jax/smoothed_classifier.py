"""The smoothed classifier at run time: a filter that asks about fresh noisy copies."""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from hybrid_rs_jax._checks import MOST_FLAGS, check_probability, check_whole
from hybrid_rs_jax._text import at_least_text, setting_text, up_text
from hybrid_rs_jax.classifiers._pairs import qualified_name
from hybrid_rs_jax.classifiers.base import BaseClassifier, for_smoothing
from hybrid_rs_jax.confidence import Verdict, detection_threshold, miss_probability_at
from hybrid_rs_jax.data.inputs import Input
from hybrid_rs_jax.kernels import HybridSmoothing, run_key
from hybrid_rs_jax.sampling import sample
from hybrid_rs_jax.sampling.engine import Row, check_inputs, stream

__all__ = ["Prediction", "SmoothedClassifier"]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Decisions on B inputs.

    Attributes:
      unsafe: bool[B], at least `flags` noisy copies were called unsafe.
      copies: int64[B], copies that were asked: all of them, or fewer where enough unsafe ones came up earlier.
      classified: copies classified in all, those of a batch beyond the last one that was needed included.
    """

    unsafe: np.ndarray
    copies: np.ndarray
    classified: int


@dataclasses.dataclass(frozen=True)
class _UntilUnsafe:
    """Stop at the first look with enough unsafe copies: looks at 16, 32, 64, ... copies and at the last one."""

    max_samples: int
    flags: int

    @property
    def looks(self) -> np.ndarray:
        early = 16 * 2 ** np.arange(40, dtype=np.int64)
        return np.append(early[early < self.max_samples], np.int64(self.max_samples))

    def verdict(self, n: Any, successes: Any) -> np.ndarray:
        done = np.where(np.asarray(n) >= self.max_samples, Verdict.EXHAUSTED, Verdict.CONTINUE)
        return np.where(np.asarray(successes) >= self.flags, Verdict.REACHED, done).astype(np.int8)


@dataclasses.dataclass(frozen=True)
class SmoothedClassifier:
    """Flags an input when at least `flags` of its noisy copies are called unsafe (method sections 4 and 10).

    The base classifier and the smoothing distribution must be those of the certificate. An input whose smoothed score
    exceeds `tau` is missed with probability at most `P[Bin(m, tau) < k]`, for one flag `(1 - tau)^m`; the certificate
    says that no attack within the budget brings the score of a certified input down to `tau`.

    Args:
      classifier: the base classifier.
      smoothing: the smoothing distribution.
      eligible: positions that carry token noise, bool[length]; None means all.
      flags: unsafe copies k that flag an input, at least 1.
      batch_size: noisy copies per step; None: as many as memory holds.
      mesh: devices, see `data_mesh`.
      copies: noisy copies m that `detect` asks about, at least `flags`; the default fits the default `tau` = 4.6e-5.

    >>> import jax, numpy as np
    >>> from hybrid_rs_jax import HybridSmoothing
    >>> filter = SmoothedClassifier(lambda tokens, images: images.mean((1, 2, 3)) > 0, HybridSmoothing(None, 0.25))
    >>> tokens, images = np.zeros((2, 1), np.int32), np.stack([np.full((8, 8, 1), x, np.float32) for x in (-1, 1)])
    >>> filter.predict(tokens, images, 100, jax.random.key(0)).unsafe.tolist()
    [False, True]
    """

    classifier: BaseClassifier
    smoothing: HybridSmoothing
    eligible: np.ndarray | None = None
    flags: int = 1
    batch_size: int | None = None
    mesh: Mesh | None = None
    copies: int = 100_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "flags", check_whole("flags", self.flags, 1, MOST_FLAGS))
        object.__setattr__(self, "classifier", for_smoothing(self.classifier, self.smoothing))
        object.__setattr__(self, "copies", check_whole("copies", self.copies, self.flags))

    def predict(
        self,
        tokens: Int[Array | np.ndarray, "inputs length"],
        images: Float[Array | np.ndarray, "inputs height width channels"],
        m: int,
        key: Key[Array, ""],
    ) -> Prediction:
        """Ask about up to `m` noisy copies of each input; the last unsafe one that is needed ends it.

        Args:
          tokens, images: inputs as they arrive, attacked or not.
          m: noisy copies per input, at least `flags`.
          key: must be new for each call and unknown to the attacker: an attacker who knows the noise is not covered.

        Raises:
          ValueError: if an argument is out of range, or shapes do not fit.
        """
        m = check_whole("m", m, self.flags)
        draws = sample(
            self.classifier,
            tokens,
            images,
            self.smoothing,
            _UntilUnsafe(m, self.flags),
            key,
            eligible=self.eligible,
            batch_size=self.batch_size,
            mesh=self.mesh,
        )
        return Prediction(draws.successes >= self.flags, draws.n, draws.classified)

    def detect(self, text: str, image: Float[Array | np.ndarray, "height width channels"], appended: str = "") -> bool:
        """Whether a text and a picture, attacked or not, are flagged, asked with noise that nobody knows.

        The noise comes fresh from the operating system at each call: 64 secret bits, so that the same input asked twice
        meets other copies, and nobody can prepare for them.

        Args:
          text: as it arrives; where only a suffix carries noise, the part that an attacker cannot touch.
          image: pixels in [0, 1].
          appended: what stands behind the trusted text and may be an attacker's, for guards that tell the two apart.

        Raises:
          ValueError: as `encoded`.
        """
        return dict(self.detect_together([self.encoded(text, image, appended)]))[0]

    def encoded(
        self, text: str, image: Float[Array | np.ndarray, "height width channels"], appended: str = ""
    ) -> Input:
        """The input that `detect` makes of its arguments, checked: what `detect_together` takes.

        Raises:
          ValueError: if the classifier has no `encode(text, image)`, it refuses the text or the picture, or a token or
            pixel is none that the noise covers.
        """
        encode = getattr(self.classifier, "encode", None)
        if encode is None:
            name = qualified_name(self.classifier)
            raise ValueError(f"detect needs a classifier with encode(text, image), got {name}; predict takes arrays.")
        given = encode(text, image, appended) if appended else encode(text, image)
        tokens, pixels = np.asarray(given.tokens), np.asarray(given.image)
        own = given.eligible if self.eligible is None else self.eligible
        mask, _ = check_inputs(tokens[None], pixels[None], self.smoothing, own)
        return Input(tokens, pixels, mask[0])

    def detect_together(self, inputs: Sequence[Input]) -> Iterator[tuple[int, bool]]:
        """Decisions on inputs that share the batches of the classifier, as they come: `(number, flagged)`.

        Each copy of each input has noise of its own, equal inputs included, under a new secret key per call. Compiled
        steps are shared by calls with up to 1, 2, 4, 8, ... inputs of one shape.

        Args:
          inputs: of `encoded`, all of one shape.

        Raises:
          ValueError: if shapes differ, or the classifier's answer is no vote.
        """
        rows = [Row(*given.arrays, index) for index, given in enumerate(inputs)]
        if len({(row.tokens.shape, row.image.shape) for row in rows}) > 1:
            raise ValueError("Inputs that are decided together must have one shape.")
        room = 1 << max(0, len(rows) - 1).bit_length()
        key = run_key(secrets.randbits(64))
        rule = _UntilUnsafe(self.copies, self.flags)
        decided = stream(
            self.classifier, rows, room, self.smoothing, rule, key, batch_size=self.batch_size, mesh=self.mesh
        )
        for resolved in decided:
            flagged = resolved.verdict == Verdict.REACHED
            yield from zip(resolved.finished.tolist(), flagged.tolist(), strict=True)

    def detection_probability(self, m: int, score: float) -> float:
        """Probability that `m` copies flag an input whose smoothed score is `score`: `P[Bin(m, score) >= flags]`."""
        m, score = check_whole("m", m, self.flags), float(check_probability("score", score))
        if self.flags > 1:
            return max(0.0, 1 - miss_probability_at(score, m, self.flags))
        return 1.0 if score == 1 else max(0.0, -math.expm1(m * math.log1p(-score)))

    def guarantee(self, m: int, miss_probability: float = 0.01) -> str:
        """What `predict` with `m` copies promises, in words; certify for the `tau` that it names (rounded up)."""
        tau = detection_threshold(m, miss_probability, self.flags)
        miss = setting_text(miss_probability)
        rule = f"{m} fresh noisy copies" if self.flags == 1 else f"{self.flags} of {m} fresh noisy copies"
        return (
            f"An input whose SMOOTHED score exceeds tau = {up_text(tau)} is flagged by {rule} with "
            f"probability at least {at_least_text(1 - miss_probability, miss_probability)}. Certify for this tau: "
            "given that the certificate of an input is right, no attack within its budgets makes the filter miss it "
            f"with probability more than {miss}; the risk alpha of the certificate comes on top. Each request costs up "
            f"to {m} copies, and an input that is not flagged costs all of them."
        )
