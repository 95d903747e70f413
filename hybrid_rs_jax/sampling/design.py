"""Which draws a run takes for each budget: ordinary ones, conditional ones, or both, fixed before the first draw.

Conditional draws of a budget d resample a set S of positions. Where the attacker may choose among more than d positions
there is a family of sets such that every choice lies in one of them; each set has draws of its own, and the weakest
counts, at no cost in alpha (method section 8).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from hybrid_rs_jax.certificate.certify import certified_counts
from hybrid_rs_jax.certificate.samples import Sample
from hybrid_rs_jax.confidence import FixedSample, SamplingPlan
from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.sampling.ledger import SHARED, Stream

__all__ = [
    "DRAWS",
    "Design",
    "Draws",
    "StreamGroup",
    "Part",
    "covering",
    "design_draws",
    "forced_mask",
    "target_design",
]

Draws = Literal["ordinary", "conditional", "both"]
DRAWS: tuple[Draws, ...] = ("ordinary", "conditional", "both")
#: With both kinds: part of alpha for ordinary draws, and of the copies for each budget's conditional ones.
_ORDINARY_SHARE, _PART_OF_COPIES = 0.5, 1 / 40
#: A family of more sets is not drawn.
MOST_SETS = 20_000
#: Blocks with so many positions more than the budget are tried, and one of all positions.
_WIDER = 6

Set = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class StreamGroup:
    """Streams of one plan.

    Attributes:
      plan: when a stream is decided.
      sets: of conditional draws, the sets of places that are resampled, one stream each; None: ordinary draws.
    """

    plan: SamplingPlan
    sets: tuple[Set, ...] | None = None

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams, of every input."""
        return (SHARED,) if self.sets is None else tuple(Stream("forced", places) for places in self.sets)


@dataclasses.dataclass(frozen=True)
class Part:
    """One sample of a design: so many draws of each of its sets."""

    sample: Sample
    draws: int
    sets: tuple[Set, ...] | None = None

    @property
    def copies(self) -> int:
        """Draws per input."""
        return self.draws * self.sample.sets


@dataclasses.dataclass(frozen=True)
class Design:
    """The draws of a run.

    Attributes:
      kind: which draws there are.
      places: most eligible positions of an input; sets name places among them, 0 the first. Places that an input does
        not have are left out of its sets, which keeps the bound.
      budgets: the discrete budgets 0..D.
      parts: the samples, with their shares of alpha.
    """

    kind: Draws
    places: int
    budgets: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What each part is a statement about."""
        return tuple(part.sample for part in self.parts)

    @property
    def copies(self) -> int:
        """Draws per input in all."""
        return sum(part.copies for part in self.parts)

    def groups(self, plan: SamplingPlan | None = None) -> tuple[StreamGroup, ...]:
        """What the engine draws: fixed numbers, or all by one plan."""
        return tuple(StreamGroup(plan or FixedSample(part.draws), part.sets) for part in self.parts)

    def describe(self) -> dict[str, object]:
        """For the header of a run; `of` reads it."""
        parts = [
            {
                "forced": part.sample.forced,
                "covers": part.sample.covers,
                "share": part.sample.share,
                "sets": part.sample.sets,
                "draws": part.draws,
            }
            for part in self.parts
        ]
        return {"kind": self.kind, "places": self.places, "max_budget": self.budgets[-1], "parts": parts}

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Design:
        """The design of a header.

        Raises:
          ValueError: if it is none.
        """
        try:
            places, budgets = int(described["places"]), tuple(range(int(described["max_budget"]) + 1))
            parts = []
            for each in described["parts"]:
                forced, covers = each["forced"], int(each["covers"])
                sets = None if forced is None else _family(places, covers - 1, int(forced), each["sets"] == 1)
                sample = Sample(covers, float(each["share"]), forced, 1 if sets is None else len(sets))
                if sample.sets != each["sets"] or not 0 < covers <= len(budgets):
                    raise ValueError(f"a family of {each['sets']} sets is not that of this package ({sample.sets})")
                parts.append(Part(sample, int(each["draws"]), sets))
            return cls(described["kind"], places, budgets, tuple(parts))
        except (KeyError, TypeError) as error:
            raise ValueError(f"the draws of a run must be described by a design, got {described!r:.200}") from error


def design_draws(
    kind: Draws,
    smoothing: HybridSmoothing,
    copies: int,
    max_budget: int,
    places: int,
    tau: float,
    alpha: float,
    *,
    ordered: bool = False,
    total_variation: float = 0.0,
) -> Design:
    """Spread `copies` draws per input over the budgets 0..D.

    With both kinds most draws are ordinary, at half of alpha, and each budget has a fortieth for conditional ones. For
    each budget the family is taken that certifies the largest radius if all of its draws agree; a budget whose families
    are all too large is left to those of larger budgets.

    Args:
      kind: "conditional" or "both".
      smoothing: the smoothing distribution that is deployed.
      copies: draws per input in all.
      max_budget: D.
      places: most eligible positions of an input.
      tau, alpha: threshold and risk that the draws are meant for.
      ordered: attacks within d change the first d places alone (append): one set for each budget.
      total_variation: distance between the noise that is drawn and the ideal one.

    Raises:
      ValueError: if no budget can be certified with so few draws.
    """
    deployed, budgets = smoothing.forcing(), tuple(range(max_budget + 1))
    both = kind == "both"
    rest = (1 - _ORDINARY_SHARE) if both else 1.0
    each = int(copies * _PART_OF_COPIES) if both else copies // max(min(max_budget, places), 1)
    largest = min(max_budget, places)  # who may change all positions may change any number of them
    risk = alpha * rest / max(largest, 1)
    chosen: dict[int, tuple[int, tuple[Set, ...]]] = {}
    for d in range(1, largest + 1):
        family = _strongest(d, places, ordered, each, deployed, tau, risk, total_variation)
        if family is not None:
            chosen[d] = family
    if not chosen and not both:
        raise ValueError(
            f"samples must be large enough for one budget of d = 1..{max_budget}: {copies} conditional draws in all "
            "certify none of them with this noise, tau and threat, even if all agree."
        )
    # sets of one size are drawn once, for the largest budget that has them: they cover the smaller ones
    last = {size: d for d, (size, _) in chosen.items()}
    share = rest / max(len(last), 1)
    parts = []
    for size, d in last.items():
        sets, together = chosen[d][1], sum(other == size for other, _ in chosen.values())
        covers = len(budgets) if size >= places else d + 1
        parts.append(Part(Sample(covers, share, size, len(sets)), each * together // len(sets), sets))
    if both:
        left = copies - sum(part.copies for part in parts)
        parts.insert(0, Part(Sample(len(budgets), _ORDINARY_SHARE if parts else 1.0), left))
    return Design(kind, places, budgets, tuple(parts))


def target_design(d: int, places: int, copies: int) -> Design:
    """Conditional draws for the one budget d, of the first d places: at most `copies` of them, by a plan of its own."""
    sample = Sample(d + 1, 1.0, d)
    return Design("conditional", places, tuple(range(d + 1)), (Part(sample, copies, _family(places, d, d, True)),))


def _strongest(
    d: int, places: int, ordered: bool, copies: int, deployed: HybridSmoothing, tau: float, risk: float, delta: float
) -> tuple[int, tuple[Set, ...]] | None:
    """Positions per set, and the sets, of the family that certifies a budget farthest if all agree; None: none does."""
    sizes = [d] if ordered else sorted({*range(d, min(d + _WIDER, places) + 1), places})
    families = []
    for size in sizes:
        if _at_least(places, d, size, ordered) <= min(copies, MOST_SETS):
            sets = _family(places, d, size, ordered)
            families += [(size, sets)] if len(sets) <= copies else []
    if not families:
        return None
    agreeing = np.array([[copies // len(sets) for _, sets in families]])
    sizes = [size for size, _ in families]
    radius = certified_counts(agreeing, agreeing, deployed, tau, risk, sizes, total_variation=delta).radius[0]
    best = int(np.argmax(radius))  # of equal ones (no pixel noise) the smallest sets
    return families[best] if radius[best] >= 0 else None


def _at_least(places: int, d: int, size: int, ordered: bool) -> int:
    """A family has at least so many sets: each of them holds `C(size, d)` of the `C(places, d)` choices."""
    if ordered or size >= places:
        return 1
    return -(-math.comb(places, d) // math.comb(size, d))


def _family(places: int, d: int, size: int, ordered: bool) -> tuple[Set, ...]:
    return (tuple(range(min(size, places))),) if ordered else covering(places, d, size)


@functools.lru_cache(maxsize=64)
def covering(places: int, d: int, size: int) -> tuple[Set, ...]:
    """Sets of `size` places such that every `d` of the `places` lie in one of them, by a plain greedy search.

    Raises:
      ValueError: if there would be more than 20,000 sets.

    >>> len(covering(8, 6, 6)), len(covering(8, 2, 4)), covering(3, 1, 8)
    (28, 6, ((0, 1, 2),))
    """
    if size >= places:
        return (tuple(range(places)),)
    if _at_least(places, d, size, False) > MOST_SETS:
        raise ValueError(f"A family must have at most {MOST_SETS} sets; that of {size} of {places} places has more.")
    if size == d:
        return tuple(itertools.combinations(range(places), d))
    uncovered = dict.fromkeys(itertools.combinations(range(places), d))
    blocks = []
    while uncovered:
        block = next(iter(uncovered))
        while len(block) < size:
            free = [place for place in range(places) if place not in block]
            best = max(free, key=lambda place: (_gain(block, place, d, uncovered), -place))
            block = tuple(sorted((*block, best)))
        for choice in itertools.combinations(block, d):
            uncovered.pop(choice, None)
        blocks.append(block)
    return tuple(blocks)


def _gain(block: Set, place: int, d: int, uncovered: Mapping[Set, None]) -> int:
    """Choices that the block covers for the first time with one place more."""
    return sum(tuple(sorted((*others, place))) in uncovered for others in itertools.combinations(block, d - 1))


def forced_mask(eligible: np.ndarray, stream: Stream) -> np.ndarray | None:
    """Positions that are resampled in every draw of a stream, bool[length]; None for ordinary draws.

    Places that the input does not have are left out: with fewer positions the bound holds as it stands.
    """
    if stream.kind != "forced":
        return None
    positions = np.flatnonzero(eligible)
    mask = np.zeros(eligible.shape, bool)
    mask[positions[[place for place in stream.numbers if place < positions.size]]] = True
    return mask
