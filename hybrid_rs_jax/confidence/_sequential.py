"""The sequential test: is the proportion at least p*? Stop as soon as the counts say so."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from hybrid_rs_jax._checks import (
    MOST_TEST_DRAWS,
    SMALLEST_TEST_ALPHA,
    check_open_unit,
    check_probability,
    check_risk,
    check_side,
    check_whole,
)
from hybrid_rs_jax.confidence._clopper_pearson import LowerBound, UpperBound
from hybrid_rs_jax.confidence._design import design, largest_error, reach_probability, reaching_odds, rounding_margin
from hybrid_rs_jax.confidence._paths import Boundary, Odds, Outcomes, log_sum, outcomes
from hybrid_rs_jax.confidence._plan import Verdict, counts_at
from hybrid_rs_jax.confidence._strength import outcome_index, outwards, stopped_lower, stopped_upper

__all__ = ["PlanSummary", "SequentialTest"]


class PlanSummary(NamedTuple):
    """What a plan costs on an input of known proportion: exact, from the law of the stop."""

    p: float
    certified: float  # probability of REACHED
    mean: float
    median: int
    quantile_95: int
    worst: int


@dataclasses.dataclass(frozen=True)
class SequentialTest:
    """Early stopping for "is the proportion at least p*?", with the error known exactly.

    Sampling stops with `REACHED` at the first look at which the failures are at most `boundary.reached`, with `FUTILE`
    where they are at least `boundary.futile` (binding), and with `EXHAUSTED` after `max_samples`. If the proportion is
    at most p*, `REACHED` has probability at most `alpha`: its exact value, from a dynamic programme over draws and
    failures, is `error`. An input whose proportion is at least `alternative` is `REACHED` with probability at least
    `power`; of what `power` leaves, half is lost to `max_samples`, half to giving up early.

    Args:
      p_star: the proportion to prove, in (0, 1).
      alpha: risk of `REACHED` at p*, in [1e-100, 1).
      max_samples: draws after which sampling ends, at most 10^7.
      complement_star: `1 - p_star`, for a p* so close to 1 that `p_star` has lost its digits.
      power: probability with which `alternative` is certified, above `alpha`, below 1.
      side: "above" proves `p >= p_star`; "below" proves `p <= p_star`, with the parts of success and failure swapped.
      boundary: a boundary designed before (it comes from `plan_from`); designed here if None.

    Raises:
      ValueError: if an argument is out of range, if even `max_samples` agreeing draws would not prove p*, or if the
        error of a given boundary exceeds alpha.

    >>> plan = SequentialTest(p_star=0.75, alpha=0.01, max_samples=1_000)
    >>> plan.verdict(20, [20, 16, 5]).tolist()
    [1, 0, 2]
    """

    p_star: float
    alpha: float
    max_samples: int
    complement_star: float | None = None
    power: float = 0.95
    side: str = "above"
    boundary: Boundary = dataclasses.field(default=None, repr=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "p_star", float(check_open_unit("p_star", self.p_star)))
        given = 1 - self.p_star if self.complement_star is None else self.complement_star
        set_(self, "complement_star", float(check_open_unit("complement_star", given)))
        set_(self, "alpha", float(check_risk(self.alpha, smallest=SMALLEST_TEST_ALPHA)))
        set_(self, "power", float(check_open_unit("power", self.power)))
        set_(self, "max_samples", check_whole("max_samples", self.max_samples, 1, MOST_TEST_DRAWS))
        self._check_together()
        if self.boundary is None:
            set_(self, "boundary", design(self._null, self.alpha, self.max_samples, self.power))
        set_(self, "boundary", _checked_boundary(self.boundary, self.max_samples))
        # between what a design may spend and alpha, so that another machine's last bits do not refuse the same boundary
        if (error := self.error) > self.alpha * (1 - 1.5 * rounding_margin(self.max_samples)):
            raise ValueError(f"boundary must have an error of at most alpha = {self.alpha}, got {error}.")

    def _check_together(self) -> None:
        check_side(self.side)
        if abs(sum(self._claim) - 1) > 1e-9 + 1e-6 * min(self._claim):
            raise ValueError(f"complement_star must be 1 - p_star = {1 - self.p_star}, got {self.complement_star}.")
        if self.power <= self.alpha:
            raise ValueError(f"power must lie above alpha = {self.alpha}, got {self.power}.")
        need = math.log(largest_error(self.alpha, self.max_samples)) / self._null.log_p * (1 + 1e-13)
        if need > self.max_samples:
            raise ValueError(
                f"max_samples must be at least {math.ceil(need)} to prove p_star = {self.p_star} at alpha = "
                f"{self.alpha}, got {self.max_samples}."
            )

    # the plan

    @property
    def looks(self) -> np.ndarray:
        """Numbers of draws at which sampling may stop."""
        return np.array(self.boundary.looks, np.int64)

    def verdict(self, n: object, successes: object) -> np.ndarray:
        """`REACHED`, `FUTILE` or `EXHAUSTED` where sampling stops, else `CONTINUE`; int8."""
        draws, k = counts_at(n, successes, self.max_samples)
        misses = self._misses(draws, k)
        looks, reached, futile = (np.asarray(bounds, np.int64) for bounds in self.boundary)
        at = np.searchsorted(looks, draws)
        code = np.where(draws == self.max_samples, Verdict.EXHAUSTED, Verdict.CONTINUE)
        code = np.where(misses >= futile[at], Verdict.FUTILE, code)
        code = np.where(misses <= reached[at], Verdict.REACHED, code)
        return np.where(looks[at] == draws, code, Verdict.CONTINUE).astype(np.int8)

    def lower_bound(self, n: object, successes: object, alpha: object) -> LowerBound:
        """The p at which a stop at least as strong has probability alpha; rounded down.

        Any one alpha may be asked that was chosen before the draws, not only that of the design.

        Exact, by one fixed order of all stops (earlier `REACHED` is stronger, then `EXHAUSTED` with fewer failures,
        then later `FUTILE`), so it may be used for any tau or budget later on. For `side="above"`: after `REACHED`, at
        the alpha of the design, it is at least p*. For "below" the order is turned round.

        Raises:
          ValueError: where sampling could not have stopped with these counts.
        """
        if self.side == "above":
            return LowerBound(*self._bounds(n, successes, alpha, lower=True))
        p, complement = self._bounds(n, successes, alpha, lower=False)
        return LowerBound(complement, p)

    def upper_bound(self, n: object, successes: object, alpha: object) -> UpperBound:
        """The p at which a stop at most as strong has probability alpha; rounded up. Mirror image of `lower_bound`.

        For `side="below"`: after `REACHED`, at the alpha of the design, it is at most p*.
        """
        if self.side == "above":
            return UpperBound(*self._bounds(n, successes, alpha, lower=False))
        p, complement = self._bounds(n, successes, alpha, lower=True)
        return UpperBound(complement, p)

    def describe(self) -> dict[str, object]:
        """JSON-able settings with the boundary itself: a later design rule cannot change what a stop meant."""
        settings = {name: getattr(self, name) for name in ("p_star", "alpha", "max_samples", "complement_star")}
        boundary = {name: list(bounds) for name, bounds in self.boundary._asdict().items()}
        return {"plan": "target", **settings, "power": self.power, "side": self.side, "boundary": boundary}

    # what it costs, exactly

    @property
    def error(self) -> float:
        """Probability of `REACHED` at p*: the part of alpha that is spent."""
        return reach_probability(self._law, self._null)

    @property
    def alternative(self) -> float:
        """The p from which on (for "below": down to which) an input is `REACHED` with probability at least `power`."""
        p, complement = outwards(-reaching_odds(self._law, self.power).logit)[::-1]
        return min(p, 1.0) if self.side == "above" else complement

    def summary(self, p: float, complement: float | None = None) -> PlanSummary:
        """Probability of `REACHED` and the draws needed, for an input of proportion p.

        Args:
          p: the assumed proportion, in [0, 1].
          complement: `1 - p` where p has lost its digits.

        Returns:
          exact values, from the law of the stop.

        Raises:
          ValueError: if p lies outside of [0, 1].
        """
        p = float(check_probability("p", p))
        odds = Odds.of(p, complement)
        odds = odds if self.side == "above" else odds.swapped
        law = self._law
        order = np.argsort(law.n, kind="stable")
        mass, n = law.probability(odds)[order], law.n[order]
        below = np.cumsum(mass)

        def quantile(level: float) -> int:
            return int(n[min(np.searchsorted(below, level * below[-1] * (1 - 1e-12)), n.size - 1)])

        mean = float(mass @ n)
        sure = -math.inf in odds  # one course alone: no draw fails, or none succeeds
        worst = int((n[mass > 0] if sure else n)[-1])
        return PlanSummary(p, reach_probability(law, odds), mean, quantile(0.5), quantile(0.95), worst)

    # inside: "hits" prove the claim, "misses" speak against it

    @property
    def _null(self) -> Odds:
        p, complement = self._claim
        # of two roundings of one number the one that is harder to prove
        if p < 0.5:
            return Odds.of(max(p, 1 - complement))
        complement = min(complement, 1 - p)
        return Odds.of(1 - complement, complement)

    @property
    def _claim(self) -> tuple[float, float]:
        """The share of hits to prove, and its complement."""
        assert self.complement_star is not None  # filled in by __post_init__
        pair = self.p_star, self.complement_star
        return pair if self.side == "above" else pair[::-1]

    @property
    def _law(self) -> Outcomes:
        return outcomes(self.boundary, self._null)

    def _misses(self, n: np.ndarray, k: np.ndarray) -> np.ndarray:
        return np.asarray(n - k if self.side == "above" else k)

    def _bounds(self, n: object, successes: object, alpha: object, lower: bool) -> tuple[np.ndarray, np.ndarray]:
        """A bound on the share of hits, and its complement."""
        draws, k = counts_at(n, successes, self.max_samples)
        draws, k, risk = np.broadcast_arrays(draws, k, check_risk(alpha))
        index = outcome_index(self.boundary, self._null, draws, self._misses(draws, k))
        if np.any(nowhere := index < 0):
            pair = f"{k[nowhere].flat[0]} of {draws[nowhere].flat[0]}"
            raise ValueError(f"successes and n must be counts at which the plan stops, got {pair}.")
        bound = self._lower if lower else self._upper
        pairs = [bound(int(i), float(a)) for i, a in zip(index.flat, risk.flat, strict=True)]
        found = np.array(pairs, np.float64).reshape(*draws.shape, 2)
        return found[..., 0], found[..., 1]

    def _lower(self, index: int, alpha: float) -> tuple[float, float]:
        margin = rounding_margin(self.max_samples)
        p, complement = stopped_lower(self.boundary, self._null, index, alpha, margin)
        if log_sum(self._law.log_mass[: index + 1]) > math.log(alpha) - margin:
            return p, complement
        # p* itself passes: the last bits of the root must not put the bound below it
        return max(p, self._claim[0]), min(complement, self._claim[1])

    def _upper(self, index: int, alpha: float) -> tuple[float, float]:
        return stopped_upper(self.boundary, self._null, index, alpha, rounding_margin(self.max_samples))


def _checked_boundary(boundary: Boundary, max_samples: int) -> Boundary:
    bounds = Boundary(*(tuple(int(x) for x in part) for part in boundary))
    looks, reached, futile = (np.asarray(part) for part in bounds)
    increasing = looks.size and looks[0] >= 1 and np.all(np.diff(looks) > 0) and looks[-1] == max_samples
    if not (increasing and looks.size == reached.size == futile.size and np.all(reached < futile)):
        raise ValueError(
            f"boundary must hold increasing looks up to max_samples = {max_samples} with reached below futile at each, "
            f"got {looks.size} looks."
        )
    return bounds
