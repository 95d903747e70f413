"""Any model on its data, tried out: what it gets and gives, whether twice the same, what it looks at, how fast."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid_rs_jax._text import counted
from hybrid_rs_jax.data.inputs import Input
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError, library_sentences

if TYPE_CHECKING:
    from hybrid_rs_jax.cli._sources import Source
    from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["Examination", "examine", "timed_rate", "write_copy"]

#: So many inputs are read for shapes and ranges.
_READ = 32
#: A batch is repeated until so many seconds have passed.
_SECONDS = 2.0


@dataclasses.dataclass(frozen=True, eq=False)
class Examination:
    """Noisy copies of one input, and what the model makes of them.

    Attributes:
      tokens, images: the copies, int32[b, l] and float32[b, h, w, c].
      votes: its decisions on them; again: on the same copies, asked a second time.
      on_texts: its decisions on random texts with the clean picture; on_pictures: on random pictures with the clean
        text; None where there is no such part.
    """

    source: Source
    inputs: list[Input]
    refused: list[str]
    tokens: np.ndarray
    images: np.ndarray
    votes: np.ndarray
    again: np.ndarray
    on_texts: np.ndarray | None
    on_pictures: np.ndarray | None

    def lines(self) -> Iterator[tuple[str, str]]:
        """What was found, a name and a sentence each."""
        first = self.inputs[0]
        size = self.source.vocab_size
        alphabet = "" if size is None else f" of {size:,} symbols"
        if self.source.cardinalities:
            alphabet = f", fields of {', '.join(map(str, self.source.cardinalities))} values"
        read = f"{len(self.inputs)} of the first {len(self.inputs) + len(self.refused)} can be used"
        yield "inputs", f"{counted(len(self.source.inputs.ids), 'input')}; {read}"
        if self.refused:
            yield "refused", self.refused[0]
        free = sorted({int(each.eligible.sum()) for each in self.inputs})
        carrying = f"{free[0]}" if len(free) == 1 else f"{free[0]} to {free[-1]}"
        yield "tokens", f"{first.tokens.dtype}[{first.tokens.size}]{alphabet}, {carrying} carry noise"
        yield "pictures", self._pictures(first)
        kinds = f"{self.votes.dtype}[{', '.join(map(str, self.votes.shape))}]"
        yield "answers", f"{kinds}, {self._shares(self.votes)} on {len(self.votes)} noisy copies of input {first.id}"
        yield "determinism", self._determinism()
        yield "looks at", self._dependence()

    def _determinism(self) -> str:
        if not (differing := int((self.votes != self.again).sum())):
            return "asked twice about the same copies it gives the same answers"
        return (
            f"asked twice about the same {len(self.votes)} copies it changes {differing} answers: each must be drawn "
            "afresh, from a law that depends on the copy alone"
        )

    def _pictures(self, first: Input) -> str:
        if not first.image.size:
            return "none: tokens alone carry noise"
        low = min(float(each.image.min()) for each in self.inputs)
        high = max(float(each.image.max()) for each in self.inputs)
        shape = ", ".join(map(str, first.image.shape))
        said = f"{first.image.dtype}[{shape}], from {low:,.3f} to {high:,.3f}"
        if self.source.cardinalities is None and not -0.01 <= low <= high <= 1.01:
            said += "; they are not in [0, 1], so sigma and radii are in this unit of theirs"
        return said

    def _dependence(self) -> str:
        said = []
        for name, votes in (("texts", self.on_texts), ("pictures", self.on_pictures)):
            if votes is not None:
                changes = "changes" if len(np.unique(votes)) > 1 else "does not change"
                said.append(f"with {len(votes)} random {name} the answer {changes} ({self._shares(votes)})")
        every = [self.votes, *(votes for votes in (self.on_texts, self.on_pictures) if votes is not None)]
        if len(np.unique(np.concatenate(every))) == 1:
            said.append("all answers were the same: does the model depend on its input?")
        return "; ".join(said)

    def _shares(self, votes: np.ndarray) -> str:
        if votes.dtype == bool or set(np.unique(votes)) <= {0, 1}:
            return f"{int(votes.sum())} Unsafe"
        numbers, counts = np.unique(votes, return_counts=True)
        return ", ".join(f"{count} of class {number}" for number, count in zip(numbers, counts, strict=True))


def examine(source: Source, smoothing: HybridSmoothing, copies: int) -> Examination:
    """Draw copies of the first input that can be used, and ask the model about them, twice.

    Raises:
      BadInputError: if no input can be used, or the model's answers are none.
    """
    import jax
    import jax.numpy as jnp

    inputs, refused = [], []
    for index in range(min(len(source.inputs.ids), _READ)):
        try:
            inputs.append(source.inputs.read(index))
        except UnreadableInputError as error:
            refused.append(f"{source.inputs.ids[index]}: {error}")
    if not inputs:
        raise BadInputError(f"None of the first {len(refused)} inputs can be used; the first one: {refused[0]}")
    first = inputs[0]
    with library_sentences():
        keys = jax.random.split(jax.random.key(0), copies)
        arrays = tuple(map(jnp.asarray, first.arrays))
        drawn = jax.vmap(lambda key: smoothing.sample(key, *arrays))(keys)
        tokens, images = (np.asarray(part) for part in drawn)
        votes, again = (_asked(source.classifier, tokens, images) for _ in range(2))
        rng = np.random.default_rng(0)
        clean = np.broadcast_to(first.tokens, tokens.shape), np.broadcast_to(first.image, images.shape)
        texts = _random_texts(rng, source, clean[0], first.eligible)
        on_texts = None if texts is None else _asked(source.classifier, texts, clean[1])
        on_pictures = None
        if first.image.size:
            spread = images if source.cardinalities is not None else _random_pictures(rng, images.shape)
            on_pictures = _asked(source.classifier, clean[0], spread.astype(images.dtype))
    return Examination(source, inputs, refused, tokens, images, votes, again, on_texts, on_pictures)


def _random_pictures(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Pictures from dark to bright, each with noise of its own."""
    return np.clip(rng.random((shape[0], 1, 1, 1)) + 0.5 * (rng.random(shape) - 0.5), 0, 1)


def _random_texts(
    rng: np.random.Generator, source: Source, tokens: np.ndarray, eligible: np.ndarray
) -> np.ndarray | None:
    """Random symbols at the positions that carry noise; None where the alphabet is not known."""
    if source.cardinalities:
        return np.stack([rng.integers(0, k, len(tokens), np.int32) for k in source.cardinalities], axis=1)
    if source.vocab_size is None or source.cardinalities is not None or not eligible.any():
        return None
    drawn = rng.integers(0, source.vocab_size, tokens.shape, np.int32)
    return np.where(eligible, drawn, tokens)


def _asked(classifier: Any, tokens: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Answers on a batch; a function of the user's own may raise whatever it likes."""
    try:
        return np.asarray(classifier(np.ascontiguousarray(tokens), np.ascontiguousarray(images)))
    except BadInputError:
        raise
    except Exception as error:
        said = f"{error!s:.300}".rstrip(".") or "no reason given"
        raise BadInputError(f"The model fails on noisy copies: {type(error).__name__}: {said}.") from error


def timed_rate(source: Source, smoothing: HybridSmoothing, batch_size: int) -> tuple[float, float]:
    """Seconds of the first batch of a run, which compiles, and copies per second of those after it."""
    import jax

    from hybrid_rs_jax.cli._data import first_readable
    from hybrid_rs_jax.sampling import sample_counts

    first = first_readable(source.inputs)
    arrays = first.tokens[None], first.image[None]

    def step(seed: int) -> float:
        begin = time.monotonic()
        key = jax.random.key(seed)
        sample_counts(
            source.classifier, *arrays, smoothing, batch_size, key, eligible=first.eligible, batch_size=batch_size
        )
        return time.monotonic() - begin

    with library_sentences():
        compiled, batches, begin = step(0), 0, time.monotonic()
        while batches == 0 or time.monotonic() - begin < _SECONDS:
            step(batches + 1)
            batches += 1
    return compiled, batches * batch_size / max(time.monotonic() - begin, 1e-9)


def write_copy(found: Examination, folder: Path, decode: Any) -> list[Path]:
    """The first noisy copy as the model got it: `copy.png`, and `copy.txt` with the text or the symbols."""
    from hybrid_rs_jax.report.previews import picture_png

    folder.mkdir(parents=True, exist_ok=True)
    tokens = found.tokens[0]
    text = " ".join(map(str, tokens.tolist())) if decode is None else decode(tokens)
    written = [folder / "copy.txt"]
    written[0].write_text(f"{text}\n", encoding="utf-8")
    if (png := picture_png(found.images[0])) is not None:
        written.append(folder / "copy.png")
        written[-1].write_bytes(png)
    return written
