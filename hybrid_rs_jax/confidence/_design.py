"""The boundary of a sequential test: risk is spent look by look, and every probability comes from the exact law."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import scipy  # scipy.optimize is loaded where it is first used
from scipy import special

from hybrid_rs_jax.confidence._paths import Boundary, Odds, Outcomes, Walk, ordered, outcomes
from hybrid_rs_jax.confidence._plan import Verdict

__all__ = ["design", "largest_error", "reach_probability", "reaching_odds", "rounding_margin"]

# The share of alpha that is open at the earliest possible stop; the rest follows the logarithm of n. For p* = 0.75 and
# 0.97, 2,000 and 10,000 draws and p between p* and 1, a half costs 1.15 to 1.22 times Wald's log(1/alpha)/KL(p||p*)
# (geometric mean), within 1 % of the best of 18 pairs of share and shape tried. The others are for few draws, where
# whole numbers can leave much of alpha unspent.
_FIRST_SHARES = (0.5, 0.75, 1.0)
_ENOUGH_SPENT = 0.8
_FIRST_LOOK = 8
_CLOSEST, _WIDEST = 1.01, 1.1
# What the design may forget: paths of many failures whose log probability is that much below alpha's.
_NEGLIGIBLE = -70.0


def rounding_margin(max_samples: int) -> float:
    """Relative error that no probability of an outcome exceeds.

    Measured against 200-bit arithmetic, up to 47,000 draws: at most 2 % of it; a few units in the last place of the log
    masses, which are at most some ten times `max_samples`.
    """
    return 1e-9 + 4e-15 * max_samples


def largest_error(alpha: float, max_samples: int) -> float:
    """The largest error that a design may aim at: alpha less two margins.

    One margin covers the rounding of the error itself, the other that of the bounds that are computed at the stop, so
    that a stop at `REACHED` still proves p* when its bound is rounded outwards.
    """
    return alpha * (1 - 2 * rounding_margin(max_samples))


@functools.lru_cache(maxsize=256)
def design(null: Odds, alpha: float, max_samples: int, power: float) -> Boundary:
    """A boundary for "p >= null?" whose error is at most `largest_error`, with a binding futility bound.

    The risk of a wrong `REACHED` is spent along `_Spending`. Without futility, some p is reached with probability
    `(1 + power) / 2`; the futility bound then gives up where that p loses no more than the same half of `1 - power`.
    """
    best, most_spent = None, -1.0
    for share in _FIRST_SHARES:
        boundary = _with_futility(_Spending(null, alpha, max_samples, share), power)
        spent = reach_probability(outcomes(boundary, null), null)
        if spent > most_spent:
            best, most_spent = boundary, spent
        if spent >= _ENOUGH_SPENT * alpha:
            break
    assert best is not None
    return best


def _with_futility(spend: _Spending, power: float) -> Boundary:
    loss = (1 - power) / 2
    _, reached = _boundary(spend, None)
    alternative = reaching_odds(reached, 1 - loss)
    return _boundary(spend, _Futility(alternative, loss, spend.max_samples))[0]


class _Spending(NamedTuple):
    """Risk under the null."""

    null: Odds
    alpha: float
    max_samples: int
    first_share: float

    @property
    def earliest(self) -> float:
        """Draws that prove the null wrong when all of them agree and all of alpha is spent."""
        return math.log(largest_error(self.alpha, self.max_samples)) / self.null.log_p

    def __call__(self, n: int) -> float:
        """Risk that may be spent by `n` draws."""
        alpha = largest_error(self.alpha, self.max_samples)
        if n >= self.max_samples:
            return alpha
        if n < self.earliest:
            return 0.0
        time = math.log(n / self.earliest) / math.log(self.max_samples / self.earliest)
        return alpha * (self.first_share + (1 - self.first_share) * time)


class _Futility(NamedTuple):
    """Power at the alternative that may be given up: the same share of it for every doubling of n."""

    alternative: Odds
    loss: float
    max_samples: int

    def __call__(self, n: int) -> float:
        """Power that may be lost by `n` draws."""
        return self.loss * math.log1p(n) / math.log1p(self.max_samples)


def _boundary(spend: _Spending, futility: _Futility | None) -> tuple[Boundary, Outcomes]:
    """Go from look to look; at each, stop on as many failures as the spending affords, and give up on the hopeless.

    The second result holds the outcomes `REACHED` alone.
    """
    walk = Walk(spend.null, negligible=math.log(spend.alpha) + _NEGLIGIBLE)
    most, spent, lost = -1, 0.0, 0.0
    rows: list[tuple[int, int, int]] = []
    reached: list[tuple[int, np.ndarray, np.ndarray]] = []
    while walk.n < spend.max_samples and walk.log_mass.size:
        walk.advance(_next_look(walk, most, spent, spend))
        mass = np.cumsum(np.exp(walk.log_mass))
        fits = int(np.searchsorted(mass, spend(walk.n) - spent, side="right"))
        if fits:
            most, spent = walk.low + fits - 1, spent + mass[fits - 1]
        give_up = walk.n + 1
        if futility is not None and walk.n < spend.max_samples:
            give_up, lost = _give_up(walk, futility, lost, most)
        rows.append((walk.n, most, give_up))
        reached.append((walk.n, walk.failures[:fits], walk.log_mass[:fits]))
        walk.stop(most, give_up)
    law = ordered({Verdict.REACHED: reached}, spend.null)
    # more failures than the last look forgives cannot be reached any more
    rows = [(n, c, min(give_up, most + 1)) for n, c, give_up in rows if n < spend.max_samples]
    looks, bounds, hopeless = zip(*rows, (spend.max_samples, most, spend.max_samples + 1), strict=True)
    return Boundary(looks, bounds, hopeless), law


def _give_up(walk: Walk, futility: _Futility, lost: float, most: int) -> tuple[int, float]:
    """Fewest failures that are hopeless: the alternative loses no more than it may by now."""
    failures = walk.failures
    tilt = (walk.n - failures) * (futility.alternative.log_p - walk.reference.log_p)
    tilt += failures * (futility.alternative.log_q - walk.reference.log_q)
    tail = np.cumsum(np.exp(walk.log_mass + tilt)[::-1])
    kept = failures > most
    fits = min(int(np.searchsorted(tail, futility(walk.n) - lost, side="right")), int(kept.sum()))
    return int(walk.low + failures.size - fits), lost + (tail[fits - 1] if fits else 0.0)


def _next_look(walk: Walk, most: int, spent: float, spend: _Spending) -> int:
    """The first n at which one more failure is affordable, kept within 1 and 10 per cent of further draws."""
    first = min(_FIRST_LOOK, math.ceil(spend.earliest))
    near = min(max(walk.n + 1, math.ceil(walk.n * _CLOSEST), first), spend.max_samples)
    far = min(max(near, math.floor(walk.n * _WIDEST)), spend.max_samples)
    allowed = most + 1 - walk.failures
    weights = np.exp(walk.log_mass[allowed >= 0])
    allowed = allowed[allowed >= 0]
    q = math.exp(walk.reference.log_q)

    def affordable(n: int) -> bool:
        return bool(spent + float(weights @ special.bdtr(allowed, n - walk.n, q)) <= spend(n))

    if not allowed.size or not affordable(far):
        return far
    low = near - 1
    while far - low > 1:
        middle = (low + far) // 2
        low, far = (low, middle) if affordable(middle) else (middle, far)
    return far


def reach_probability(law: Outcomes, odds: Odds) -> float:
    """Probability of `REACHED` at p."""
    reached = law.verdict == Verdict.REACHED
    return float(np.exp(law.log_probability(odds)[reached]).sum())


def reaching_odds(law: Outcomes, power: float) -> Odds:
    """The smallest p, rounded up, at which `REACHED` has the given probability (which grows with p)."""

    def short(logit: float) -> float:
        return power - reach_probability(law, Odds.of_logit(logit))

    x = float(scipy.optimize.brentq(short, law.reference.logit, 700.0, xtol=1e-12))
    step = 1e-14 * max(abs(x), 1.0)
    while short(x) > 0 and x < 700:
        x, step = x + step, 2 * step
    return Odds.of_logit(x)
