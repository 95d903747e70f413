"""The binomial tail: whether a lower confidence bound is one."""

from __future__ import annotations

import math

from flint import arb, ctx, fmpq

from oracle.balls import BITS, MAX_BITS, Undecided, exact, precision


def clopper_pearson_is_sound(successes: int, n: int, alpha: float, p: float) -> bool:
    """Decides P[Bin(n, p) >= successes] <= alpha: p is a lower confidence bound (p <= 0 always is)."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"need 0 <= successes <= n, got {successes} of {n}")
    if p <= 0:
        return True
    if successes == 0 or p >= 1:
        return alpha >= 1
    rate, risk = exact(p), exact(alpha)
    bits = BITS
    while bits <= (MAX_BITS if n > 512 else 2 * BITS):
        with precision(bits):
            verdict = _tail_at_most(successes, n, rate, risk)
        if verdict is not None:
            return verdict
        bits *= 2
    if n > 512:
        raise Undecided(f"binomial tail and {alpha} agree to {MAX_BITS} bits")
    terms = (math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(successes, n + 1))
    return bool(sum(terms, fmpq(0)) <= risk)


def _tail_at_most(successes: int, n: int, rate: fmpq, risk: fmpq) -> bool | None:
    """Sum of falling terms from `successes` up; the rest is below a geometric series."""
    odds = arb(rate / (1 - rate))
    log_choose = arb(n + 1).lgamma() - arb(successes + 1).lgamma() - arb(n - successes + 1).lgamma()
    term = (log_choose + successes * arb(rate).log() + (n - successes) * arb(1 - rate).log()).exp()
    total = arb(0)
    for k in range(successes, n + 1):
        total += term
        if total > risk:
            return False
        factor = odds * (n - k) / (k + 1)
        if k % 16 == 0 and factor < 1:
            rest = term * factor / (1 - factor)
            if total + rest <= risk:
                return True
            if rest < total * arb(2) ** -ctx.prec:
                return None
        term *= factor
    return True if total <= risk else None
