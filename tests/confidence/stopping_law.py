"""Where a plan stops, worked out draw by draw from its verdicts alone: the oracle of the sequential tests."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np


def verdict_table(plan):
    """Verdict at each look for every count, asked once."""
    return {int(n): plan.verdict(int(n), np.arange(int(n) + 1)) for n in plan.looks}


def path_counts(plan):
    """Number of success/failure sequences that stop at each (n, successes), as exact integers."""
    table, alive, stopped = verdict_table(plan), {0: 1}, {}
    for n in range(1, plan.max_samples + 1):
        grown = {}
        for k, count in alive.items():
            grown[k] = grown.get(k, 0) + count
            grown[k + 1] = grown.get(k + 1, 0) + count
        alive = grown
        if n in table:
            for k in [k for k in alive if table[n][k]]:
                stopped[n, k] = alive.pop(k)
    assert not alive
    return stopped


def law(plan, p):
    """Probability of each stop (n, successes): exact for a Fraction, float otherwise."""
    return {(n, k): count * p**k * (1 - p) ** (n - k) for (n, k), count in path_counts(plan).items()}


def enumerated_law(plan, p):
    """The same from all 2^max_samples sequences, one after the other."""
    table, found = verdict_table(plan), {}
    for draws in itertools.product((0, 1), repeat=plan.max_samples):
        n = next(n for n in table if table[n][sum(draws[:n])])
        k, total = sum(draws[:n]), sum(draws)
        found[n, k] = found.get((n, k), Fraction(0)) + p**total * (1 - p) ** (plan.max_samples - total)
    return found


def float_law(plan, p):
    """Draw by draw in plain floats, for plans too long for exact integers: arrays n, successes, mass."""
    table, alive, rows = verdict_table(plan), np.ones(1), []
    for n in range(1, plan.max_samples + 1):
        alive = np.concatenate([alive * (1 - p), [0.0]]) + np.concatenate([[0.0], alive * p])
        if n in table:
            stop = np.flatnonzero((table[n] != 0) & (alive > 0))
            rows.append((np.full(stop.size, n), stop, alive[stop]))
            alive[stop] = 0.0
    return tuple(np.concatenate(part) for part in zip(*rows, strict=True))
