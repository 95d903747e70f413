"""Any Python callable as a base classifier: a PyTorch or scikit-learn model, a rule, a program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hybrid_rs_jax._checks import check_whole
from hybrid_rs_jax.classifiers._pairs import host_pairs, qualified_name
from hybrid_rs_jax.classifiers._votes import votes_from_labels

__all__ = ["HostClassifier"]


class HostClassifier:
    """A function of NumPy arrays that the engine calls on the host, in pieces of a size that fits it.

    The function gets tokens int32 [b, l] and images float32 [b, h, w, c], the noisy pixels, which may lie outside of
    [0, 1]; it returns b decisions. Its arrays are copies: it may change them. Where the engine calls from several
    threads (`max_in_flight` above 1) the function must allow it. Once in a session it is asked again about 32 copies
    without the rest of their batch, and refused if its answers hang on that.

    Args:
      function: `(tokens, images) -> decisions`, bool or integers 0 and 1, where True or 1 is Unsafe; with `classes`,
        integers in 0..classes-1. A score is refused: whoever writes the function knows its threshold.
      batch_size: most pairs per call of the function, at least 1; None gives it whole batches.
      max_in_flight: most calls at the same time, at least 1.
      name: what a run's header calls it; None takes the function's own name.
      digest: what tells its weights and settings from others, for instance the SHA-256 of the weights file. A run is
        resumed only by a classifier with the same name and digest; None checks the name alone.
      classes: number of classes, at least 2; None for a binary classifier.

    Raises:
      ValueError: for a size, a number of calls or of classes that is out of range.

    >>> import numpy as np
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from hybrid_rs_jax.data import demo
    >>> def features(tokens, images):
    ...     wordy = [["dial" in demo.decode(row).split()] for row in tokens]
    ...     return np.hstack([wordy, images.reshape(len(images), -1)])
    >>> inputs = demo.load_demo()
    >>> tree = DecisionTreeClassifier(random_state=0).fit(features(inputs.tokens, inputs.images), inputs.labels)
    >>> guard = HostClassifier(lambda tokens, images: tree.predict(features(tokens, images)), batch_size=64)
    >>> bool((guard(inputs.tokens, inputs.images) == inputs.labels).all())
    True
    """

    on_host = True

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        batch_size: int | None = None,
        max_in_flight: int = 1,
        name: str | None = None,
        digest: str | None = None,
        classes: int | None = None,
    ):
        self.batch_size = None if batch_size is None else check_whole("batch_size", batch_size, 1)
        self.max_in_flight = check_whole("max_in_flight", max_in_flight, 1)
        self.classes = None if classes is None else check_whole("classes", classes, 2)
        self.name, self.digest = qualified_name(function) if name is None else name, digest
        self._function = function

    def __call__(self, tokens: Any, images: Any) -> np.ndarray:
        """Decide for each pair.

        Args:
          tokens: integers [b, l].
          images: floats [b, h, w, c].

        Returns:
          bool [b], or int32 [b] with `classes`.

        Raises:
          ValueError: shapes or dtypes do not fit, or the function returned something else than b decisions. Any error
            of the function itself is passed on, with a note that says which pairs it was working on.
        """
        tokens, images = host_pairs(tokens, images)
        decisions = np.zeros(len(tokens), bool if self.classes is None else np.int32)
        for piece in self._pieces(len(tokens)):
            try:
                decisions[piece] = self._checked(self._function(tokens[piece].copy(), images[piece].copy()), piece)
            except Exception as error:
                error.add_note(
                    f"The host classifier {self.name} was at pairs {piece.start} to {piece.stop - 1} of a batch of "
                    f"{len(tokens)}."
                )
                raise
        return decisions

    def describe(self) -> dict[str, object]:
        """Name, digest and classes, for a run's header."""
        return {"name": self.name, "digest": self.digest, "classes": self.classes}

    def __repr__(self) -> str:
        return f"HostClassifier({self.name}, batch_size={self.batch_size}, max_in_flight={self.max_in_flight})"

    def _pieces(self, pairs: int) -> Iterator[slice]:
        size = self.batch_size or max(pairs, 1)
        for start in range(0, pairs, size):
            yield slice(start, min(start + size, pairs))

    def _checked(self, returned: Any, piece: slice) -> np.ndarray:
        """What the function returned, if it is one decision per pair."""
        found, wanted = votes_from_labels(returned, self.classes), piece.stop - piece.start
        if found.shape != (wanted,):
            raise ValueError(
                f"The function of a host classifier must return one decision per pair, shape ({wanted},), got shape "
                f"{found.shape}."
            )
        return found
