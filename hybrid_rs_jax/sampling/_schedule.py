"""Which copy of which input goes into which batch: host arithmetic only, no JAX.

Inputs wait in slots; an input whose noisy pictures serve several texts has as many slots, one behind the other, each
decided by itself. A batch takes copies from the slots in the order in which they were filled, across input
boundaries, so it is full as long as there is work; a slot whose input is decided is free for the next one. Whether an
input stops depends on its own votes in the order of their copies, never on how they were batched: what a batch held
beyond the stop is dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

__all__ = ["Batch", "Resolved", "Schedule", "StoppingRule"]

#: Copies that an undecided input gets at least, so that close looks do not scatter a batch over many inputs.
GRAIN = 8
#: Looks of different rules lie so far apart in one sorted array; more than any number of copies.
_APART = 1 << 32


@runtime_checkable
class StoppingRule(Protocol):
    """When an input is decided; every `SamplingPlan` is one, and knows the bounds that hold then besides."""

    @property
    def max_samples(self) -> int: ...

    @property
    def looks(self) -> np.ndarray: ...

    def verdict(self, n: object, successes: object) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Batch:
    """Copies to classify, cut into segments that each end at a look or at the end of the chunk.

    Attributes:
      slot, row, first, count: per segment, int64[S]; copies `first .. first + count - 1` of the input in `slot`.
    """

    slot: np.ndarray
    row: np.ndarray
    first: np.ndarray
    count: np.ndarray

    @property
    def size(self) -> int:
        """Number of copies."""
        return int(self.count.sum())

    def copies(self) -> tuple[np.ndarray, np.ndarray]:
        """Slot int32[size] and copy number uint32[size] of each copy."""
        start = np.repeat(np.cumsum(self.count) - self.count, self.count)
        copy = np.repeat(self.first, self.count) + np.arange(self.size) - start
        return np.repeat(self.slot, self.count).astype(np.int32), copy.astype(np.uint32)

    def split(self, size: int) -> tuple[Batch, Batch | None]:
        """The first `size` copies, at least one, and the rest (None where there is none)."""
        if size >= self.size:
            return self, None
        ends = np.cumsum(self.count)
        cut = int(np.searchsorted(ends, size))  # the segment that holds the last one of them
        left = ends[cut] - size
        head = Batch(self.slot[: cut + 1], self.row[: cut + 1], self.first[: cut + 1], self.count[: cut + 1].copy())
        head.count[-1] -= left
        rest = slice(cut if left else cut + 1, None)
        tail = Batch(self.slot[rest], self.row[rest], self.first[rest].copy(), self.count[rest].copy())
        if left:
            tail.first[0] += head.count[-1]
            tail.count[0] = left
        return head, tail


@dataclasses.dataclass(frozen=True)
class Resolved:
    """Votes of one batch that count, and the inputs that they decide.

    Attributes:
      row, first, count, ties: per accepted segment, int64[S].
      votes: int64[S] successes, or int64[S, C] votes per class.
      finished: rows that are decided now; `verdict`: how.
      classified: copies that were classified for this, those dropped beyond a stop included.
    """

    row: np.ndarray
    first: np.ndarray
    count: np.ndarray
    votes: np.ndarray
    ties: np.ndarray
    finished: np.ndarray
    verdict: np.ndarray
    classified: int


class Schedule:
    """Slots and what is known of the inputs in them.

    Args:
      rules: when an input is decided; several, where that differs from slot to slot.
      slots: number of inputs at work at the same time, times `texts`.
      batch_size: largest number of copies in a batch; of pictures, where they serve several texts.
      texts: slots that share the pictures of an input.
      classes: number of classes, or None for a binary classifier.
      speculate: fill a batch that would not be full with copies that may turn out not to be needed.

    Attributes:
      texts: as given.
    """

    def __init__(
        self,
        rules: StoppingRule | Sequence[StoppingRule],
        slots: int,
        batch_size: int,
        *,
        texts: int = 1,
        classes: int | None = None,
        speculate: bool = True,
    ):
        self._rules = tuple(rules) if isinstance(rules, Sequence) else (rules,)
        looks = [np.asarray(rule.looks, np.int64) for rule in self._rules]
        self._looks = np.concatenate([each + number * _APART for number, each in enumerate(looks)])
        self._last = np.cumsum([each.size for each in looks]) - 1
        self._batch_size, self._speculate, self._classes = batch_size, speculate, classes
        self.texts = texts
        self._rule = np.zeros(slots, np.int64)
        self._row = np.full(slots, -1, np.int64)
        self._assigned = np.zeros(slots, np.int64)
        self._drawn = np.zeros(slots, np.int64)
        self._votes = np.zeros((slots, classes or 1), np.int64)
        self._open = np.zeros(slots, bool)
        self._order = np.zeros(slots, np.int64)
        self._filled = 0

    @property
    def free(self) -> np.ndarray:
        """Places that can take an input: slots, or where pictures serve several texts so many slots each."""
        return np.flatnonzero(~self._open.reshape(-1, self.texts).any(axis=1))

    @property
    def idle(self) -> bool:
        """No input is at work."""
        return not self._open.any()

    def put(self, slot: int, row: int, drawn: int = 0, votes: Any = 0, rule: int = 0) -> None:
        """Begin input `row` in a free slot, or go on after `drawn` copies with these `votes`."""
        self._rule[slot] = rule
        self._row[slot], self._order[slot], self._open[slot] = row, self._filled, True
        self._assigned[slot] = self._drawn[slot] = drawn
        self._votes[slot] = votes
        self._filled += 1

    def next_batch(self, patient: bool = False) -> Batch | None:
        """The next copies to classify; None if there are none, or if `patient` and the batch would not be full."""
        slots = np.flatnonzero(self._open)
        slots = slots[self._assigned[slots] < self._most(slots)]
        slots = slots[np.argsort(self._order[slots], kind="stable")]
        if not slots.size:
            return None
        amount = self._definite(slots)
        if self._pictures(slots, amount)[0].sum() < self._batch_size:
            if patient:
                return None
            if self._speculate:
                amount = self._widen(slots, amount)
        amount = self._fitted(slots, amount)
        slots, amount = slots[amount > 0], amount[amount > 0]
        if not slots.size:
            return None
        first = self._assigned[slots]
        self._assigned[slots] += amount
        return self._cut(slots, first, first + amount)

    def resolve(self, batch: Batch, labels: np.ndarray, ties: np.ndarray) -> Resolved:
        """Count the labels of a batch; batches come back in the order in which they were made."""
        segment = np.repeat(np.arange(batch.slot.size), batch.count)
        votes = self._count(segment, labels, batch.slot.size)
        near = np.bincount(segment[ties], minlength=batch.slot.size)
        # a slot may hold another input by now: what was still under way for the former one is dropped
        alive = (self._row[batch.slot] == batch.row) & self._open[batch.slot]
        lane_start = np.flatnonzero(np.r_[True, batch.slot[1:] != batch.slot[:-1]])
        lane = np.cumsum(np.r_[0, batch.slot[1:] != batch.slot[:-1]])
        running = _within(votes, lane_start, lane) + self._votes[batch.slot]
        end = batch.first + batch.count
        at_look = alive & (self._next_look(batch.slot, end) == end)
        verdict = np.zeros(end.size, np.int8)
        for number, rule in enumerate(self._rules):
            own = at_look & (self._rule[batch.slot] == number)
            verdict[own] = rule.verdict(end[own], running[own, -1])
        stops = (verdict != 0).astype(np.int64)[:, None]
        accepted = alive & (_within(stops, lane_start, lane)[:, 0] - stops[:, 0] == 0)
        self._drawn[batch.slot[accepted]] = end[accepted]  # the last one of a lane stays
        self._votes[batch.slot[accepted]] = running[accepted]
        last = accepted & (verdict != 0)
        self._open[batch.slot[last]] = False
        counted = votes[accepted] if self._classes else votes[accepted, 0]
        return Resolved(
            row=batch.row[accepted],
            first=batch.first[accepted],
            count=batch.count[accepted],
            votes=counted,
            ties=near[accepted],
            finished=batch.row[last],
            verdict=verdict[last],
            classified=batch.size,
        )

    def _look(self, slots: np.ndarray, n: np.ndarray, side: Any = "left") -> np.ndarray:
        """Number, in the array of all looks, of each slot's first look at or (side "right") beyond `n` copies."""
        rule = self._rule[slots]
        return np.minimum(np.searchsorted(self._looks, n + rule * _APART, side), self._last[rule])

    def _next_look(self, slots: np.ndarray, n: np.ndarray, side: Any = "left") -> np.ndarray:
        """Copies at that look."""
        return self._looks[self._look(slots, n, side)] - self._rule[slots] * _APART

    def _most(self, slots: np.ndarray) -> np.ndarray:
        """Copies at each slot's last look."""
        return self._looks[self._last[self._rule[slots]]] - self._rule[slots] * _APART

    def _definite(self, slots: np.ndarray) -> np.ndarray:
        """Copies of each slot up to its next look (a few looks, where they are close); 0 while one is undecided."""
        assigned = self._assigned[slots]
        undecided = self._next_look(slots, self._drawn[slots], "right") <= assigned
        before = assigned < self._next_look(slots, np.zeros_like(assigned))
        target = self._next_look(slots, np.where(before, assigned + 1, assigned + GRAIN))
        return np.where(undecided, 0, target - assigned)

    def _pictures(self, slots: np.ndarray, amount: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each input in these slots: its pictures in all, and the number of the first; and each slot's input."""
        place = slots // self.texts
        begins = np.r_[True, place[1:] != place[:-1]]
        starts, first = np.flatnonzero(begins), self._assigned[slots]
        low = np.minimum.reduceat(np.where(amount > 0, first, _APART), starts)
        high = np.maximum.reduceat(np.where(amount > 0, first + amount, 0), starts)
        return np.maximum(high - low, 0), low, np.cumsum(begins) - 1

    def _fitted(self, slots: np.ndarray, amount: np.ndarray) -> np.ndarray:
        """As many of these copies, input by input, as fit into a batch."""
        pictures, first, owner = self._pictures(slots, amount)
        fitting = np.diff(np.minimum(np.cumsum(pictures), self._batch_size), prepend=0)
        return np.clip((first + fitting)[owner] - self._assigned[slots], 0, amount)

    def _widen(self, slots: np.ndarray, amount: np.ndarray) -> np.ndarray:
        """Share the empty places of a batch evenly among the inputs at work, as far as they may still need copies."""
        room = self._most(slots) - self._assigned[slots] - amount
        place = slots // self.texts
        while (empty := self._batch_size - int(self._pictures(slots, amount)[0].sum())) > 0:
            takers = np.unique(place[room > 0]).size
            if not takers:
                break
            extra = np.minimum(room, -(-empty // takers))
            amount, room = amount + extra, room - extra
        return amount

    def _cut(self, slots: np.ndarray, first: np.ndarray, end: np.ndarray) -> Batch:
        """Cut the chunks `first..end` at the looks inside of them."""
        low = self._look(slots, first, "right")
        pieces = self._look(slots, end) - low + 1
        owner = np.repeat(np.arange(slots.size), pieces)
        number = np.arange(owner.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        is_last = number == pieces[owner] - 1
        ends = np.where(is_last, end[owner], self._looks[low[owner] + number] - self._rule[slots[owner]] * _APART)
        starts = np.where(number == 0, first[owner], np.r_[0, ends[:-1]])
        slot = slots[owner]
        return Batch(slot, self._row[slot], starts, ends - starts)

    def _count(self, segment: np.ndarray, labels: np.ndarray, segments: int) -> np.ndarray:
        """Votes per segment, int64[S, C], or successes, int64[S, 1]."""
        if self._classes is None:
            return np.bincount(segment[labels.astype(bool)], minlength=segments)[:, None]
        if labels.size and not 0 <= labels.min() <= labels.max() < self._classes:
            raise ValueError(
                f"The classifier's labels must lie in 0..{self._classes - 1}, got {labels.min()}..{labels.max()}."
            )
        joint = np.bincount(segment * self._classes + labels, minlength=segments * self._classes)
        return joint.reshape(segments, self._classes)


def _within(values: np.ndarray, lane_start: np.ndarray, lane: np.ndarray) -> np.ndarray:
    """Running sums of `values` [S, C] inside of each lane."""
    total = np.cumsum(values, axis=0)
    return total - (total[lane_start] - values[lane_start])[lane]
