"""The law of where a sequential plan stops, by dynamic programming over draws and failures: nothing is simulated."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from hybrid_rs_jax.confidence._plan import Verdict

__all__ = ["Boundary", "Odds", "Outcomes", "Walk", "log_sum", "ordered", "outcomes"]

# A linear convolution takes factors down to e^-690, raised by 2^500: no product overflows, nor underflows (slowly). An
# entry above `_SAFE` has lost less than one part in 10^15 to the factors left out.
_LEAST, _RAISE, _SAFE = -690.0, 2.0**500, 1e20 * 2.0**-1000

# draws, failures and log masses of the stops at one look, by verdict
Stops = dict[Verdict, list[tuple[int, np.ndarray, np.ndarray]]]


class Boundary(NamedTuple):
    """When to stop, in failures: at look j `REACHED` with at most `reached[j]`, `FUTILE` with at least `futile[j]`.

    `reached[j] = -1` and `futile[j] = looks[j] + 1` mean "never at this look"; `reached[j] < futile[j]`.
    """

    looks: tuple[int, ...]
    reached: tuple[int, ...]
    futile: tuple[int, ...]


class Odds(NamedTuple):
    """A proportion as the logarithms of itself and of its complement, so that both ends keep their digits."""

    log_p: float
    log_q: float

    @classmethod
    def of(cls, p: float, complement: float | None = None) -> Odds:
        """From p, or from its complement where that one is the smaller."""
        q = 1 - p if complement is None else complement
        with np.errstate(divide="ignore"):
            if q < p:
                return cls(float(np.log1p(-q)), float(np.log(q)))
            return cls(float(np.log(p)), float(np.log1p(-p)))

    @classmethod
    def of_logit(cls, logit: float) -> Odds:
        """From `log(p / (1 - p))`."""
        return cls(-float(np.logaddexp(0.0, -logit)), -float(np.logaddexp(0.0, logit)))

    @property
    def logit(self) -> float:
        """`log(p / (1 - p))`."""
        return self.log_p - self.log_q

    @property
    def swapped(self) -> Odds:
        """The odds of the complement."""
        return Odds(self.log_q, self.log_p)


class Outcomes(NamedTuple):
    """Every way to stop, strongest first, with its log probability under `reference`.

    Strength is one fixed order: `REACHED` earlier is stronger, then `EXHAUSTED`, then `FUTILE` later is stronger; at
    one look fewer failures are stronger. Turning a failure of a path into a success never makes its outcome weaker, so
    the probability of "at least as strong as" grows with p.
    """

    n: np.ndarray
    failures: np.ndarray
    verdict: np.ndarray
    log_mass: np.ndarray
    reference: Odds

    def log_probability(self, odds: Odds, part: slice = slice(None)) -> np.ndarray:
        """Log probability of each outcome at another p: path counts do not depend on p, so masses are tilted."""
        n, failures = self.n[part], self.failures[part]
        up, down = odds.log_p - self.reference.log_p, odds.log_q - self.reference.log_q
        with np.errstate(invalid="ignore"):
            tilt = np.where(n > failures, (n - failures) * up, 0.0) + np.where(failures > 0, failures * down, 0.0)
        return self.log_mass[part] + tilt

    def probability(self, odds: Odds) -> np.ndarray:
        """Probability of each outcome."""
        return np.exp(self.log_probability(odds))


class Walk:
    """The law of the failures among those paths that have not stopped yet, look after look."""

    def __init__(self, reference: Odds, negligible: float = -np.inf) -> None:
        """`negligible`: drop the paths of most failures while their log probability together stays below this."""
        self.reference = reference
        self.negligible = negligible
        self.n = 0
        self.low = 0  # failures of the first entry
        self.log_mass = np.zeros(1)

    @property
    def failures(self) -> np.ndarray:
        """Failures that the entries of `log_mass` stand for."""
        return self.low + np.arange(self.log_mass.size)

    def advance(self, n: int) -> None:
        """Draw on, up to `n` draws."""
        step = _log_binomial(n - self.n, self.reference)
        self.n = n
        if self.negligible == -np.inf:
            self.log_mass = _log_convolve(self.log_mass, step)
            return
        mass, scale = _linear(self.log_mass, step[: int(np.flatnonzero(step > self.negligible)[-1]) + 1])
        keep = int(np.flatnonzero(mass > np.exp(self.negligible - scale))[-1]) + 1
        with np.errstate(divide="ignore"):
            self.log_mass = np.log(mass[:keep]) + scale

    def stop(self, reached: int, futile: int) -> None:
        """Forget the paths that stop here: at most `reached` failures, or at least `futile`."""
        first, last = max(reached + 1 - self.low, 0), max(futile - self.low, 0)
        self.log_mass = self.log_mass[first:last]
        self.low += first


@functools.lru_cache(maxsize=16)
def outcomes(boundary: Boundary, reference: Odds) -> Outcomes:
    """Every outcome of a boundary, with its probability under `reference`."""
    walk = Walk(reference)
    found: Stops = {code: [] for code in (Verdict.REACHED, Verdict.EXHAUSTED, Verdict.FUTILE)}
    for n, reached, futile in zip(*boundary, strict=True):
        walk.advance(n)
        failures, log_mass = walk.failures, walk.log_mass
        for code, part in ((Verdict.REACHED, failures <= reached), (Verdict.FUTILE, failures >= futile)):
            found[code].append((n, failures[part], log_mass[part]))
        walk.stop(reached, futile)
        if not walk.log_mass.size:
            break
    found[Verdict.EXHAUSTED].append((walk.n, walk.failures, walk.log_mass))
    found[Verdict.FUTILE].reverse()
    return ordered(found, reference)


def ordered(found: Stops, reference: Odds) -> Outcomes:
    """The outcomes of each verdict, in the order given, as arrays."""
    rows = [(code, *stop) for code, stops in found.items() for stop in stops]
    return Outcomes(
        n=np.concatenate([np.full(failures.size, n, np.int64) for _, n, failures, _ in rows]),
        failures=np.concatenate([failures for _, _, failures, _ in rows]).astype(np.int64),
        verdict=np.concatenate([np.full(failures.size, code, np.int8) for code, _, failures, _ in rows]),
        log_mass=np.concatenate([log_mass for *_, log_mass in rows]),
        reference=reference,
    )


def log_sum(values: np.ndarray) -> float:
    """Log of the sum of `e^values`."""
    top = values.max(initial=-np.inf)
    return float(top + np.log(np.exp(values - top).sum())) if top > -np.inf else -np.inf


@functools.lru_cache(maxsize=128)
def _log_binomial(n: int, odds: Odds) -> np.ndarray:
    """Log masses of the failures among n draws.

    Sums of log ratios run outwards from the mode, so that the masses that matter carry the least rounding; the total
    of one is restored at the end.
    """
    k = np.arange(1, n + 1, dtype=np.float64)
    log_steps = np.log((n - k + 1) / k) + (odds.log_q - odds.log_p)
    mode = int(np.searchsorted(-log_steps, 0.0))
    up = _running_sum(log_steps[mode:])
    down = -_running_sum(log_steps[:mode][::-1])[::-1]
    log_mass = np.concatenate([down, [0.0], up])
    return log_mass - np.log(np.exp(log_mass).sum())


def _running_sum(values: np.ndarray) -> np.ndarray:
    """Cumulative sum whose rounding does not grow with its length: plain within blocks, compensated between them."""
    blocks = np.pad(values, (0, -values.size % 256)).reshape(-1, 256).cumsum(axis=1)
    total, lost, starts = 0.0, 0.0, [0.0]
    for block in blocks[:, -1].tolist():
        grown = total + block
        smaller, larger = sorted((total, block), key=abs)
        lost += smaller - (grown - larger)
        total = grown
        starts.append(total + lost)
    return (blocks + np.array(starts[:-1])[:, None]).reshape(-1)[: values.size]


def _log_convolve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Log of the convolution of two log masses, every entry to full relative accuracy.

    One linear convolution serves the entries that doubles reach. Where it underflows, both sides are tilted by a
    factor `e^(slope * index)`, which centres them on an entry that is still missing, and convolved again.
    """
    result = np.full(a.size + b.size - 1, -np.inf)
    missing, slope = np.arange(result.size), 0.0
    while True:
        mass, scale = _linear(a + slope * np.arange(a.size), b + slope * np.arange(b.size))
        found = mass[missing] > _SAFE
        here = missing[found]
        result[here] = np.log(mass[here]) + scale - slope * here
        missing = missing[~found]
        if not missing.size:
            return result
        # a little ahead of the first missing entry: the next round reaches to both sides
        next_ = min(here.size // 3, missing.size - 1)
        k = int(missing[next_])
        first = max(k - b.size + 1, 0)
        terms = a[first : k + 1] + b[k - first - np.arange(min(k + 1, a.size) - first)]
        result[k], missing = log_sum(terms), np.delete(missing, next_)
        j = k - first - int(np.argmax(terms))
        slope = float(b[max(j - 1, 0)] - b[min(j + 1, b.size - 1)]) / 2


def _linear(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
    """Convolution of `e^a` and `e^b`, up to a factor whose logarithm comes second."""
    start, scale = 0, 0.0
    factors: list[np.ndarray] = []
    for x in (a, b):
        top = float(x.max())
        inside = x > top + _LEAST
        kept = np.flatnonzero(inside)
        mass = np.exp(x - top, out=np.zeros(x.size), where=inside)
        factors.append(mass[kept[0] : kept[-1] + 1] * _RAISE)
        start, scale = start + int(kept[0]), scale + top
    result = np.zeros(a.size + b.size - 1)
    part = np.convolve(factors[0], factors[1])
    result[start : start + part.size] = part * _RAISE**-2
    return result, scale
