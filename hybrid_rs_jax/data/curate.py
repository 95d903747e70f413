"""The interaction-only filter: keep inputs that are unsafe only as a pair of text and image."""

from __future__ import annotations

import enum
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from hybrid_rs_jax.data._journal import Journal
from hybrid_rs_jax.data.samples import Sample, Samples, Unreadable

__all__ = ["Curation", "Decide", "NoiseAlone", "Outcome", "curate"]

#: A text (or its symbols, where `decide` knows them) or None for no text, and an image or None; never both None.
Pair = tuple[str | np.ndarray | None, np.ndarray | None]
#: Decisions for a batch of pairs, True = Unsafe. How a missing half is put to the model is the caller's affair.
Decide = Callable[[Sequence[Pair]], Sequence[bool] | np.ndarray]


class Outcome(enum.StrEnum):
    """What became of an input; those that are not kept are named after the first question that they failed."""

    KEPT = "kept"
    TEXT_UNSAFE = "text alone is unsafe"
    IMAGE_UNSAFE = "image alone is unsafe"
    PAIR_SAFE = "text and image together are safe"
    NOISE_UNSAFE = "noise alone is unsafe"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class NoiseAlone:
    """Draws the pair that asks whether noise by itself looks unsafe: a deterministic one per input.

    The image is Gaussian noise about mid-grey, of the input's size and not clipped; the text is as many random words
    as the input has, from `words`, or no text where there are none.

    Args:
      sigma: standard deviation of the pixels, above 0.
      seed: of all draws; each input's noise depends on the seed and its id alone.
      words: to draw from, each one equally likely.

    Raises:
      ValueError: if sigma is not positive.
    """

    sigma: float = 0.5
    seed: int = 0
    words: Sequence[str] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.sigma < np.inf:
            raise ValueError(f"sigma must be positive and finite, got {self.sigma}.")

    def __call__(self, sample: Sample) -> Pair:
        digest = hashlib.sha256(f"{self.seed}\n{sample.id}".encode()).digest()
        rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
        image = np.float32(0.5) + np.float32(self.sigma) * rng.standard_normal(sample.image.shape, np.float32)
        count = max(len(sample.text.split()), 1)
        text = " ".join(self.words[i] for i in rng.integers(len(self.words), size=count)) if self.words else None
        return text, image


@dataclass(frozen=True)
class Curation:
    """The outcome of every input, in the order of the data, and the reasons of the unreadable ones."""

    outcomes: dict[str, Outcome]
    reasons: dict[str, str]

    @property
    def kept(self) -> tuple[str, ...]:
        """Ids of the interaction-only inputs."""
        return tuple(name for name, outcome in self.outcomes.items() if outcome is Outcome.KEPT)

    @property
    def counts(self) -> dict[Outcome, int]:
        """Number of inputs per outcome, zeros included."""
        found = Counter(self.outcomes.values())
        return {outcome: found[outcome] for outcome in Outcome}

    def report(self) -> str:
        """How many inputs were kept, and how many were dropped why, one line each."""
        total = len(self.outcomes)
        lines = [f"{total} inputs, {len(self.kept)} of them interaction-only"]
        for outcome, count in self.counts.items():
            if outcome is not Outcome.KEPT:
                lines.append(f"  dropped {count}: {outcome}")
        return "\n".join(lines)


def curate(
    samples: Samples | Iterable[Sample | Unreadable],
    decide: Decide,
    *,
    noise: Callable[[Sample], Pair] | None = None,
    journal: Path | None = None,
    settings: Mapping[str, object] | None = None,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> Curation:
    """Sort inputs by the interaction-only filter (paper, Section 5.2).

    An input is kept when f(text, -) = 0, f(-, image) = 0, f(text, image) = 1 and f(noise) = 0, asked in this order
    until one fails. Only the decisions of `decide` count, never the labels. Batches are kept full across inputs.

    Args:
      samples: inputs with different ids, for instance a `Samples`; at most `batch_size` of them are in memory.
      decide: the base classifier; its decisions must not depend on the batch.
      noise: gives the noise for the last question; by default `NoiseAlone()`.
      journal: a JSON-lines file to which every finished input is appended. If it exists, the inputs in it are not
        asked again (unreadable ones neither): a run that was killed goes on and ends with the same result.
      settings: whatever the decisions depend on (model, policy, resolution, data, noise, ...), written to the journal;
        a journal with other settings is refused.
      batch_size: pairs per call of `decide`, at least 1.
      progress: called with the number of inputs finished so far.

    Raises:
      ValueError: for a batch size below 1, an id that appears twice, or a wrong number of decisions.
      BadInputError: if the journal is broken, has other settings or other inputs, or cannot be written.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    log = Journal(journal, settings or {}, [outcome.value for outcome in Outcome])
    if isinstance(samples, Samples):  # rather now than after days
        log.check_ids({record.id for record in samples.records})
    questions = _questions(noise or NoiseAlone())
    order: dict[str, None] = {}
    waiting = _unfinished(samples, order, log)
    pool: list[tuple[Sample, int]] = []
    while True:
        pool += [(sample, 0) for sample in islice(waiting, batch_size - len(pool))]
        if not pool:
            break
        unsafe = _ask(decide, [questions[stage].pair(sample) for sample, stage in pool])
        finished, pool = _advance(questions, pool, unsafe)
        log.add(finished)
        if progress is not None:
            progress(len(log.entries))
    log.check_ids(order)
    return Curation(
        {name: Outcome(log.entries[name]["outcome"]) for name in order},
        {name: log.entries[name]["reason"] for name in order if "reason" in log.entries[name]},
    )


@dataclass(frozen=True)
class _Question:
    """Which pair to ask about, the decision that lets an input go on, and what it is called when it fails."""

    pair: Callable[[Sample], Pair]
    passes: bool
    failure: Outcome


def _questions(noise: Callable[[Sample], Pair]) -> tuple[_Question, ...]:
    return (
        _Question(lambda sample: (sample.text, None), False, Outcome.TEXT_UNSAFE),
        _Question(lambda sample: (None, sample.image), False, Outcome.IMAGE_UNSAFE),
        _Question(lambda sample: (sample.text, sample.image), True, Outcome.PAIR_SAFE),
        _Question(noise, False, Outcome.NOISE_UNSAFE),
    )


def _unfinished(
    samples: Samples | Iterable[Sample | Unreadable], order: dict[str, None], log: Journal
) -> Iterator[Sample]:
    """Inputs that are not in the journal yet; ids are noted in `order` as they pass."""
    for name, read in _named(samples):
        if name in order:
            raise ValueError(f"id {name!r} appears twice; every id must be different.")
        order[name] = None
        if name in log.entries:
            continue
        sample = read()
        if isinstance(sample, Unreadable):
            log.add([{"id": name, "outcome": Outcome.UNREADABLE.value, "reason": sample.reason}])
        else:
            yield sample


def _named(samples: Samples | Iterable[Sample | Unreadable]) -> Iterator[tuple[str, Callable[[], Sample | Unreadable]]]:
    """Ids, and how to get at the rest: images of a `Samples` are read only if they are needed."""
    if isinstance(samples, Samples):
        for row, record in enumerate(samples.records):
            yield record.id, functools.partial(samples.__getitem__, row)
    else:
        for sample in samples:
            yield sample.id, functools.partial(lambda same: same, sample)


def _ask(decide: Decide, pairs: list[Pair]) -> list[bool]:
    unsafe = np.asarray(decide(pairs))
    if unsafe.shape != (len(pairs),) or unsafe.dtype != np.bool_:
        raise ValueError(
            f"decide must give one boolean for each of {len(pairs)} pairs, got {unsafe.dtype} of shape {unsafe.shape}."
        )
    return unsafe.tolist()


def _advance(
    questions: Sequence[_Question], pool: list[tuple[Sample, int]], unsafe: list[bool]
) -> tuple[list[dict[str, str]], list[tuple[Sample, int]]]:
    """Entries of the inputs that are finished, and the others with their next question."""
    finished, going_on = [], []
    for (sample, stage), decision in zip(pool, unsafe, strict=True):
        if decision != questions[stage].passes:
            finished.append({"id": sample.id, "outcome": questions[stage].failure.value})
        elif stage + 1 == len(questions):
            finished.append({"id": sample.id, "outcome": Outcome.KEPT.value})
        else:
            going_on.append((sample, stage + 1))
    return finished, going_on
