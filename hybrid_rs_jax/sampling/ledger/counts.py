"""What a ledger holds, typed: a stream of draws, the counts of a range of them, and the sums in columns."""

from __future__ import annotations

import array
import collections
import dataclasses
import operator
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

__all__ = ["MOST_DRAWS", "MOST_INPUTS", "SHARED", "CountColumns", "CountRow", "LedgerCounts", "Stream", "columns"]

MOST_INPUTS = 2**31
#: Keeps every sum of counts far inside of 64 bits.
MOST_DRAWS = 2**40
#: The numbers of each kind of stream: how many there may be (least, most), and what they may be (least, most).
_NUMBERS = {
    "shared": (0, 0, 0, 0),
    "budget": (1, 1, 0, 1000),
    "forced": (0, 2**20, 0, 2**31 - 1),
    "law": (1, 1, 1, 2**20),
}
_NAME = re.compile(r"([a-z]+)(?::((?:0|[1-9][0-9]{0,9})(?:,(?:0|[1-9][0-9]{0,9}))*)?)?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Stream:
    """Which draws of an input are counted together: all of one law of the noise, and counted in one way.

    Draw `s` of a stream is drawn once; two streams of an input have nothing to do with each other.

    Args:
      kind: "shared", ordinary draws that serve all budgets; "budget", noise on the first d eligible positions alone
        (runs of version 0.1); "forced", draws whose positions in a set are always resampled; "law", ordinary draws
        of a score in [0, 1], counted in bins.
      numbers: none; (d,); places among the eligible positions of the input, increasing, 0 the first; (number of bins,).

    Raises:
      ValueError: if the kind is not one of these, or a number is out of range.

    >>> str(Stream("forced", (0, 1, 2))), Stream.parse("budget:3")
    ('forced:0,1,2', Stream(kind='budget', numbers=(3,)))
    """

    kind: str
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in _NUMBERS:
            raise ValueError(f"The kind of a stream must be one of {', '.join(_NUMBERS)}, got {self.kind!r}.")
        fewest, most, low, high = _NUMBERS[self.kind]
        object.__setattr__(self, "numbers", tuple(operator.index(number) for number in self.numbers))
        if not fewest <= len(self.numbers) <= most or any(not low <= number <= high for number in self.numbers):
            raise ValueError(
                f"A stream of kind {self.kind} must have {fewest}..{most} numbers in {low}..{high}, got {self.numbers}."
            )
        if any(after <= before for before, after in zip(self.numbers, self.numbers[1:], strict=False)):
            raise ValueError(f"The positions of a forced stream must increase, got {self.numbers}.")

    def __str__(self) -> str:
        numbers = ",".join(map(str, self.numbers))
        return self.kind if self.kind == "shared" else f"{self.kind}:{numbers}"

    @classmethod
    def parse(cls, text: str) -> Stream:
        """The stream whose `str` this is.

        Raises:
          ValueError: if it is that of none.
        """
        found = _NAME.fullmatch(text)
        if found is None:
            raise ValueError(f"A stream must look like shared, budget:3, forced:0,1,2 or law:1024, got {text!r}.")
        stream = cls(found[1], tuple(int(number) for number in found[2].split(",")) if found[2] else ())
        if str(stream) != text:
            raise ValueError(f"A stream must look like {stream}, got {text!r}.")
        return stream

    @property
    def bins(self) -> int | None:
        """Bins of a law; None for draws that a classifier decides."""
        return self.numbers[0] if self.kind == "law" else None


SHARED = Stream("shared")


@dataclasses.dataclass(frozen=True, slots=True)
class CountRow:
    """Counts of the draws `first..first + draws - 1` of one input and stream.

    Args:
      index: key of the input, 0..2**31 - 1.
      stream: which draws.
      first: number of the first draw, at least 0.
      draws: how many, at least 1; all numbers lie below 2**40.
      counts: K integers that add up to at most `draws`: (draws called unsafe,), or votes per class, or draws per bin
        (which add up to `draws`).
      ties: of them, draws whose margin was at rounding level, 0..draws.

    Raises:
      ValueError: if a number is no integer or out of range.
    """

    index: int
    stream: Stream
    first: int
    draws: int
    counts: tuple[int, ...]
    ties: int = 0

    def __post_init__(self) -> None:
        try:
            for name in ("index", "first", "draws", "ties"):
                object.__setattr__(self, name, operator.index(getattr(self, name)))
            object.__setattr__(self, "counts", tuple(map(operator.index, self.counts)))
        except TypeError as error:
            raise ValueError(f"index, first, draws, ties and counts must be integers, got {self} ({error}).") from error
        for name, least, most in (
            ("index", 0, MOST_INPUTS - 1),
            ("first", 0, MOST_DRAWS - 1),
            ("draws", 1, MOST_DRAWS - self.first),
            ("ties", 0, self.draws),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be in {least}..{most}, got {getattr(self, name)}.")
        if not self.counts or min(self.counts) < 0 or sum(self.counts) > self.draws:
            raise ValueError(
                f"counts must be at least 0 and add up to at most the {self.draws} draws, got {list(self.counts)}."
            )
        if (bins := self.stream.bins) is not None and (len(self.counts), sum(self.counts)) != (bins, self.draws):
            raise ValueError(
                f"counts of {self.stream} must be {bins} integers that add up to the {self.draws} draws, got "
                f"{len(self.counts)} that add up to {sum(self.counts)}."
            )

    @property
    def end(self) -> int:
        """The number after the last draw."""
        return self.first + self.draws

    def __add__(self, later: CountRow) -> CountRow:
        """The range and the one that follows it, as one."""
        if (later.index, later.stream, later.first) != (self.index, self.stream, self.end):
            raise ValueError(f"{later} does not follow {self}.")
        counts = tuple(map(operator.add, self.counts, later.counts))
        return dataclasses.replace(self, draws=self.draws + later.draws, counts=counts, ties=self.ties + later.ties)


@dataclasses.dataclass(frozen=True)
class CountColumns:
    """Total counts of one stream, one row per input that has draws of it, by index.

    Attributes:
      index, draws, ties: int64[R].
      counts: int64[R, K].
      contiguous: bool[R], whether the draws are 0..draws - 1, with no gap.
    """

    index: np.ndarray
    draws: np.ndarray
    counts: np.ndarray
    ties: np.ndarray
    contiguous: np.ndarray


@dataclasses.dataclass(frozen=True)
class LedgerCounts:
    """What a run has counted, at one moment.

    Attributes:
      ids: name of each input that is not skipped, by index; in the order of the indices.
      streams: the columns of each stream; without the inputs that were skipped.
      skipped: (id, reason) of the inputs that the run gave up.
    """

    ids: Mapping[int, str]
    streams: Mapping[Stream, CountColumns]
    skipped: Sequence[tuple[str, str]]

    @property
    def draws(self) -> int:
        """All draws, over all streams."""
        return sum(int(table.draws.sum()) for table in self.streams.values())

    @property
    def ties(self) -> int:
        """All ties, over all streams."""
        return sum(int(table.ties.sum()) for table in self.streams.values())

    @property
    def undrawn(self) -> list[str]:
        """Names of the inputs that have no draws yet."""
        drawn = {index for table in self.streams.values() for index in table.index.tolist()}
        return [name for index, name in self.ids.items() if index not in drawn]


def columns(rows: Iterable[tuple[int, str, int, int, str, int]]) -> dict[Stream, CountColumns]:
    """Sums of ranges that do not overlap.

    Args:
      rows: (index, stream, first, draws, counts, ties) each, `stream` and `counts` as their texts (counts in JSON);
        by index and first draw within a stream.
    """
    numbers: dict[str, array.array[int]] = collections.defaultdict(lambda: array.array("q"))
    counts: dict[str, array.array[int]] = collections.defaultdict(lambda: array.array("q"))
    for index, stream, first, draws, text, ties in rows:
        numbers[stream].extend((index, first, draws, ties))
        counts[stream].extend(map(int, text[1:-1].split(",")))
    return {
        Stream.parse(name): _sums(np.array(numbers[name]).reshape(-1, 4), np.array(counts[name]))
        for name in sorted(numbers)
    }


def _sums(numbers: np.ndarray, counts: np.ndarray) -> CountColumns:
    index, first, draws, ties = numbers.T
    counts = counts.reshape(index.size, -1)
    starts = np.flatnonzero(np.r_[True, index[1:] != index[:-1]])
    ends = np.r_[starts[1:], index.size] - 1
    total = np.add.reduceat(draws, starts)
    return CountColumns(
        index=index[starts],
        draws=total,
        counts=np.add.reduceat(counts, starts, axis=0),
        ties=np.add.reduceat(ties, starts),
        # ranges never overlap, so nothing is missing where they reach from 0 exactly as far as there are draws
        contiguous=(first[starts] == 0) & ((first + draws)[ends] == total),
    )
