"""Discrete channels: the law of the likelihood ratio of each kernel, in exact rationals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

import numpy as np
from flint import arb, fmpq, fmpz

from oracle.balls import BITS, log_float, precision


@dataclass(frozen=True, eq=False)
class Channel:
    """Law of the likelihood ratio q/p of a discrete kernel: exact rationals, ratios strictly increasing."""

    ratio: tuple[fmpq, ...]
    p: tuple[fmpq, ...]
    q: tuple[fmpq, ...]
    p_0: fmpq
    q_inf: fmpq
    _balls: dict[int, list[tuple[arb, arb, arb]]] = field(default_factory=dict, repr=False)
    _prefixes: dict[str, list[fmpq]] = field(default_factory=dict, repr=False)
    _logs: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def atoms(self, bits: int = BITS) -> list[tuple[arb, arb, arb]]:
        """Balls (log ratio, clean mass, adversarial mass) of every atom."""
        if bits not in self._balls:
            with precision(bits):
                self._balls[bits] = [
                    (arb(r).log(), arb(p), arb(q)) for r, p, q in zip(self.ratio, self.p, self.q, strict=True)
                ]
        return self._balls[bits]

    def masses(self, clean: bool) -> tuple[fmpq, ...]:
        return self.p if clean else self.q

    def prefix(self, clean: bool) -> list[fmpq]:
        """Exact running sums, starting at 0, of the clean or the adversarial masses."""
        key = "pq"[not clean]
        if key not in self._prefixes:
            self._prefixes[key] = list(itertools.accumulate(self.masses(clean), initial=fmpq(0)))
        return self._prefixes[key]

    def log_masses(self, clean: bool) -> np.ndarray:
        key = "pq"[not clean]
        if key not in self._logs:
            self._logs[key] = np.array([log_float(mass) for mass in self.masses(clean)])
        return self._logs[key]


Channels = Channel | Sequence[Channel]


def each_channel(channels: Channels) -> Sequence[Channel]:
    """One channel, or several among which the worst counts, as a sequence."""
    return (channels,) if isinstance(channels, Channel) else channels


def _from_pairs(pairs: Iterator[tuple[fmpq, fmpq]] | Sequence[tuple[fmpq, fmpq]]) -> Channel:
    """Channel of joint masses (clean, adversarial); outcomes of equal ratio are merged."""
    merged: dict[fmpq, list[fmpq]] = {}
    for p, q in pairs:
        if p > 0 and q > 0:
            entry = merged.setdefault(q / p, [fmpq(0), fmpq(0)])
            entry[0] += p
            entry[1] += q
    ratio = tuple(sorted(merged))
    p_all = tuple(merged[r][0] for r in ratio)
    q_all = tuple(merged[r][1] for r in ratio)
    return Channel(ratio, p_all, q_all, 1 - sum(p_all, fmpq(0)), 1 - sum(q_all, fmpq(0)))


@lru_cache(maxsize=64)
def gaussian() -> Channel:
    """No discrete part: one atom of ratio one."""
    return _from_pairs([(fmpq(1), fmpq(1))])


def drawn(beta: float) -> fmpq:
    """The probability that is drawn for beta: the nearest multiple of 2^-32 (method, section 13)."""
    return fmpq(round(Fraction(beta) * 2**32), 2**32)


@lru_cache(maxsize=64)
def absorbing(beta: float, d: int) -> Channel:
    """Masking with probability beta at d changed positions."""
    kept = drawn(beta) ** d
    return _from_pairs([(kept, kept), (1 - kept, fmpq(0)), (fmpq(0), 1 - kept)])


@lru_cache(maxsize=64)
def uniform(beta: float, vocab_size: int, d: int) -> Channel:
    """Uniform replacement at d changed positions, from the groups (i, j) of paper A.13.

    i positions differ from the clean text and j from the adversarial one, so both masses of an outcome depend
    on i - j only up to a common factor. Integers over the denominator (D (V - 1))^d, where beta = b / D.
    """
    b, denominator = drawn(beta).p, drawn(beta).q
    keep = (denominator - b) * (vocab_size - 1)
    b_powers = [b**i for i in range(d + 1)]
    keep_powers = [keep**i for i in range(d + 1)]
    groups: dict[int, list[fmpz]] = {}
    for i in range(d + 1):
        for j in range(d - i, d + 1):
            both = i + j - d
            count = fmpz(math.comb(d, i) * math.comb(i, both)) * fmpz(vocab_size - 2) ** both
            p = count * b_powers[i] * keep_powers[d - i]
            q = count * b_powers[j] * keep_powers[d - j]
            if p != 0 and q != 0:
                entry = groups.setdefault(i - j, [fmpz(0), fmpz(0)])
                entry[0] += p
                entry[1] += q
    total = (denominator * (vocab_size - 1)) ** d
    return _from_pairs([(fmpq(p, total), fmpq(q, total)) for p, q in groups.values()])


def forced_uniform(beta: float, vocab_size: int, d: int) -> Channel:
    """Conditional draws: d positions uniform over the alphabet, against the deployed law of the attacked text there."""
    beta, hit = drawn(beta), fmpq(1, vocab_size)
    counts = [(fmpq(math.comb(d, j)), j) for j in range(d + 1)]
    drawn_masses = [c * hit**j * (1 - hit) ** (d - j) for c, j in counts]
    deployed = [c * (1 - beta) ** j * beta ** (d - j) for c, j in counts]
    return _from_pairs(list(zip(drawn_masses, deployed, strict=True)))


def edited(share: float, removed: int, added: int) -> Channel:
    """Deletion noise: `removed` tokens deleted on the clean side, `added` ones on the attacked side, else disjoint."""
    share = drawn(share)
    p, q = share**removed, share**added
    return _from_pairs([(p, q), (1 - p, fmpq(0)), (fmpq(0), 1 - q)])


@lru_cache(maxsize=256)
def categorical(beta: float, cardinalities: tuple[int, ...]) -> Channel:
    """Uniform replacement on fields of the given cardinalities, all of them attacked.

    Position by position; an outcome is known by how often each cardinality leans to either side.
    """
    b = drawn(beta)
    distinct = sorted(set(cardinalities))
    outcomes: dict[tuple[int, ...], tuple[fmpq, fmpq]] = {(0,) * len(distinct): (fmpq(1), fmpq(1))}
    for size in cardinalities:
        keep, move = 1 - b, b / (size - 1)
        three = ((-1, keep, move), (0, move * (size - 2), move * (size - 2)), (1, move, keep))
        at = distinct.index(size)
        grown: dict[tuple[int, ...], tuple[fmpq, fmpq]] = {}
        for key, (p, q) in outcomes.items():
            for lean, p_one, q_one in three:
                if p_one == 0 or q_one == 0:
                    continue
                new = (*key[:at], key[at] + lean, *key[at + 1 :])
                p_old, q_old = grown.get(new, (fmpq(0), fmpq(0)))
                grown[new] = (p_old + p * p_one, q_old + q * q_one)
        outcomes = grown
    return _from_pairs(list(outcomes.values()))


def categorical_attacks(beta: float, cardinalities: Sequence[int], d: int) -> tuple[Channel, ...]:
    """One channel per distinct multiset of d attacked fields: the worst case is the worst of them."""
    chosen = {tuple(sorted(pick)) for pick in itertools.combinations(cardinalities, d)}
    return tuple(categorical(beta, pick) for pick in sorted(chosen))
