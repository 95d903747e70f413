"""A filter in use: certified detection against false alarms for every rule "flag at k of m copies" (method section 10).

Detection is the share of unsafe inputs whose certificate keeps the score above `tau(m, k, a)` under attack. False
alarms are estimated from the ordinary draws of safe inputs: for m of at most n draws without bias, beyond only bounded.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from scipy import stats

from hybrid_rs_jax.confidence import clopper_pearson_upper_bound, detection_threshold, mean_lower_bound
from hybrid_rs_jax.results.certificate import Certificate
from hybrid_rs_jax.results.counts import Counts
from hybrid_rs_jax.results.sentences import attacker

__all__ = ["Operation", "OperatingPoint", "operating_points", "ordinary_draws"]

#: Rules that are tried: numbers of copies, and of flags.
MOST_COPIES = 100_000
_FLAGS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100)


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """One rule: flag an input when at least `flags` of `copies` fresh noisy copies are unsafe.

    Attributes:
      copies, flags: m and k.
      tau: a score of at least tau is missed with probability at most a, rounded up.
      detection: share of unsafe inputs that are certified for tau: no attack within the target makes the filter miss
        them with probability above a.
      alarms: estimated share of safe inputs that are flagged; None where m exceeds the draws of a safe input, and no
        unbiased estimate exists.
      alarms_bound: upper bound on that share, at the risk of one rule: for m of at most n about inputs like these,
        beyond about these inputs.
      expected_copies: copies that a safe input costs on average, stopping at the k-th unsafe one (an estimate).
    """

    copies: int
    flags: int
    tau: float
    detection: float
    alarms: float | None
    alarms_bound: float
    expected_copies: float


@dataclasses.dataclass(frozen=True)
class Operation:
    """Rules none of which is beaten by another one in certified detection and in false alarms at once.

    Attributes:
      points: from the fewest copies on.
      rules: number of rules that were tried; any of the points may be chosen, for alpha was split over all.
      budget, epsilon: the target.
      miss_probability: a, per request.
      alpha: risk of the certificate of an unsafe input, and of all bounds on false alarms together.
      unsafe, safe: numbers of inputs.
      most_copies: largest m that was tried.
      attacker: what may happen within the target, in words.
    """

    points: tuple[OperatingPoint, ...]
    rules: int
    budget: int
    epsilon: float
    miss_probability: float
    alpha: float
    unsafe: int
    safe: int
    most_copies: int
    attacker: str

    def best(self, alarms: float) -> OperatingPoint | None:
        """The rule with most certified detection whose bound on false alarms is at most `alarms`; None: no rule."""
        allowed = [point for point in self.points if point.alarms_bound <= alarms]
        return max(allowed, key=lambda point: (point.detection, -point.copies), default=None)


def operating_points(
    certificate: Certificate,
    safe: Counts,
    budget: int,
    epsilon: float,
    miss_probability: float,
    alpha: float,
    most_copies: int = MOST_COPIES,
) -> Operation:
    """The rules that are worth a look.

    Args:
      certificate: of the unsafe inputs, side "above"; its tau does not matter.
      safe: ordinary draws of safe inputs under the same noise and classifier, a number fixed beforehand.
      budget: tokens d that an attacker may change, one of the certificate's budgets.
      epsilon: l2 budget.
      miss_probability: a, in (0, 1).
      alpha: risk of the bounds on false alarms together.
      most_copies: largest m.

    Returns:
      The rules none of which is beaten by another one.

    Raises:
      ValueError: if an argument is out of range.

    >>> import hybrid_rs_jax as hrs
    >>> smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.5, 512), 0.25)
    >>> unsafe = hrs.certify([1_000] * 5, 1_000, smoothing, tau=0.01, alpha=0.01, budgets=range(3))
    >>> safe = Counts(("a", "b"), np.zeros(2, np.int64), np.full(2, 1_000))
    >>> found = operating_points(unsafe, safe, 1, 0.1, miss_probability=0.01, alpha=0.01, most_copies=20)
    >>> found.points[0].copies, found.points[0].flags, found.points[0].detection
    (7, 1, 1.0)
    """
    if budget not in certificate.budgets:
        raise ValueError(f"d must be one of the certified budgets {list(certificate.budgets)}, got {budget}.")
    kept = certificate.worst_case(epsilon)[:, certificate.budgets.index(budget)]
    rules = [(m, k) for m in _numbers_of_copies(most_copies) for k in _FLAGS if k <= m]
    risk = alpha / len(rules)
    points = []
    for m, k in rules:
        near = stats.beta.ppf(1 - miss_probability, k, m - k + 1)  # the exact number takes its time
        if not (kept > near * (1 - 1e-9)).any():
            continue
        tau = _threshold(m, miss_probability, k)
        detection = float((kept > tau).mean())
        if detection > 0:
            points.append(_point(m, k, tau, detection, safe, risk))
    front = tuple(_undominated(points))
    statement = certificate.statement
    may = attacker(statement.noise, statement.threat, (budget,), distance="eps")
    settings = (budget, epsilon, miss_probability, alpha)
    return Operation(front, len(rules), *settings, len(certificate), len(safe), rules[-1][0], may)


def ordinary_draws(counts: Counts) -> Counts:
    """The ordinary draws among the samples of counts.

    Args:
      counts: of a run on safe inputs.

    Returns:
      Counts with the ordinary sample alone.

    Raises:
      ValueError: if there are none, or they were stopped early by their votes.

    >>> counts = Counts(("a",), np.zeros(1, np.int64), np.full(1, 100))
    >>> ordinary_draws(counts) is counts
    True
    """
    if counts.plan is not None:
        raise ValueError("The safe inputs need a fixed number of draws, got draws that stopped early by their votes.")
    if counts.samples is None:
        if counts.n.ndim == 2 or counts.votes is not None:
            raise ValueError("The safe inputs need one ordinary sample each, got one per budget or votes per class.")
        return counts
    for place, sample in enumerate(counts.samples):
        if sample.forced is None:
            successes, n = counts.successes[:, place], counts.n[:, place]
            return dataclasses.replace(counts, successes=successes, n=n, samples=None, most=None, ties=None)
    raise ValueError("The safe inputs need ordinary draws: conditional ones say nothing about false alarms.")


#: Several runs, and several budgets, ask for the same rules.
_threshold = functools.lru_cache(maxsize=4096)(detection_threshold)


def _numbers_of_copies(most: int) -> Iterator[int]:
    """1, 2, ..., 10, then eight numbers for each factor of ten."""
    yield from range(1, min(most, 10) + 1)
    steps = sorted({round(10 ** (1 + j / 8)) for j in range(1, 8 * 12)})
    yield from (m for m in steps if 10 < m <= most)


def _point(m: int, k: int, tau: float, detection: float, safe: Counts, risk: float) -> OperatingPoint:
    c, n = safe.successes, safe.n
    if m <= int(n.min()):
        flagged = np.clip(stats.hypergeom.sf(k - 1, n, c, m), 0.0, 1.0)
        alarms: float | None = float(flagged.mean())
        bound = 1.0 - float(mean_lower_bound(1.0 - flagged, risk))
    else:
        alarms = None
        score = np.asarray(clopper_pearson_upper_bound(c, n, risk / len(safe)).p)
        bound = float(np.minimum(stats.binom.sf(k - 1, m, score) * (1 + 1e-9), 1.0).mean())
    return OperatingPoint(m, k, tau, detection, alarms, min(bound, 1.0), float(_expected(m, k, c / n).mean()))


def _expected(m: int, k: int, score: np.ndarray) -> np.ndarray:
    """`E min(T, m)` for the number T of copies up to the k-th unsafe one."""
    positive = np.maximum(score, 1e-300)
    ended = k / positive * stats.binom.sf(k, m + 1, positive)
    return np.where(score > 0, ended + m * stats.binom.cdf(k - 1, m, score), m)


def _undominated(points: list[OperatingPoint]) -> Iterator[OperatingPoint]:
    """The points that no other one with at most as many copies beats in detection and alarms."""
    for point in points:
        better = (
            other
            for other in points
            if other.copies <= point.copies
            and other.detection >= point.detection
            and other.alarms_bound <= point.alarms_bound
            and (other.copies, -other.detection, other.alarms_bound)
            != (point.copies, -point.detection, point.alarms_bound)
        )
        if next(better, None) is None:
            yield point
