"""The figures of a plan: what a budget needs, and what early stopping for a target costs, as typed records."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hybrid_rs_jax._version import __version__
from hybrid_rs_jax.cli.options import SAMPLES, check_fields
from hybrid_rs_jax.errors import library_sentences
from hybrid_rs_jax.kernels.record import describe_smoothing, smoothing_text

if TYPE_CHECKING:
    from hybrid_rs_jax.confidence import PlanSummary, SequentialTest
    from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["BudgetRow", "Setting", "affordable_failures", "budgets_record", "plan_rows", "target_record"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all figures of a plan depend on."""

    smoothing: HybridSmoothing
    tau: float
    alpha: float
    miss_probability: float

    def record(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            **describe_smoothing(self.smoothing),
            "tau": self.tau,
            "alpha": self.alpha,
            "miss_probability": self.miss_probability,
            "package": f"hybrid_rs_jax {__version__}",
        }

    @property
    def noise(self) -> str:
        """The noise in a few words."""
        return smoothing_text(describe_smoothing(self.smoothing))


@dataclasses.dataclass(frozen=True)
class BudgetRow:
    """What one budget needs.

    Attributes:
      p_a, complement: the score that certifies it and `1 - p_a`; None where none does.
      required_samples: ordinary draws that certify if all succeed; -1 where none do.
      required_conditional, runtime_copies: conditional draws, and the copies of a filter; None where there are none.
      affordable_failures: of the draws that are planned; None where no number is.
    """

    d: int
    p_a: float | None
    complement: float | None
    required_samples: int
    required_conditional: int | None = None
    runtime_copies: int | None = None
    affordable_failures: int | None = None

    @property
    def possible(self) -> bool:
        """Some number of draws certifies it."""
        return max(self.required_samples, -1 if self.required_conditional is None else self.required_conditional) >= 0

    def record(self) -> dict[str, object]:
        """As JSON has it."""
        always = ("d", "p_a", "complement", "required_samples")
        return {name: value for name, value in vars(self).items() if value is not None or name in always}


def target_record(
    test: SequentialTest, target: tuple[int, float], about: Setting, inputs: Sequence[PlanSummary]
) -> dict[str, object]:
    """What early stopping for one target costs, for inputs of different clean scores, as JSON has it."""
    meaning = (
        "certified: probability that an input of clean score p is certified; mean, median, quantile_95, worst: "
        "draws until it is decided; all exact, from the law of the stopping rule, for ideal noise"
    )
    statement = {
        **about.record(),
        "target": {"d": target[0], "epsilon": target[1]},
        "samples": test.max_samples,
        "p_a": test.p_star,
        "complement": test.complement_star,
        "error": test.error,
        "alternative": test.alternative,
        "power": test.power,
        "meaning": meaning,
    }
    return {"statement": statement, "scores": [each._asdict() for each in inputs]}


def budgets_record(rows: Sequence[BudgetRow], epsilon: float, about: Setting, samples: int | None) -> dict[str, object]:
    """What the budgets need, as JSON has it."""
    meaning = (
        "required_samples: ordinary draws that certify if all succeed, -1 where none do; required_conditional: "
        "conditional draws of this budget and of one set of positions; runtime_copies: copies m of a filter that flags "
        "at one unsafe copy, of an input whose conditional draws (`samples`, or 10000) all succeed; "
        "affordable_failures: of `samples` ordinary draws, -1 where not even none certifies; all for ideal noise: "
        "a run also subtracts the total variation of its noise on a grid from it"
    )
    statement = {**about.record(), "epsilon": epsilon, "samples": samples, "meaning": meaning}
    return {"statement": statement, "budgets": [row.record() for row in rows]}


def plan_rows(budgets: list[int], epsilon: float, about: Setting, samples: int | None) -> list[BudgetRow]:
    """One row per budget."""
    from hybrid_rs_jax.certificate.bounds import required_bound, required_samples

    smoothing, tau, alpha = about.smoothing, about.tau, about.alpha
    check_fields(smoothing, budgets[-1])
    with library_sentences():
        need = required_bound(budgets, epsilon, smoothing, tau)
        draws = np.atleast_1d(required_samples(budgets, epsilon, smoothing, tau, alpha))
    known = _conditional(budgets, epsilon, about, samples or SAMPLES)
    rows = []
    for place, (d, p, complement, n) in enumerate(zip(budgets, need.p, need.complement, draws.tolist(), strict=True)):
        possible = complement >= 0
        conditional, copies = (None, None) if known is None else (column[place] for column in known)
        failures = None
        if samples is not None:
            failures = -1 if n < 0 else affordable_failures(samples, p, complement, alpha)
        score = float(p) if possible else None
        rest = float(complement) if possible else None
        rows.append(BudgetRow(d, score, rest, n, conditional, copies, failures))
    return rows


def _conditional(
    budgets: list[int], epsilon: float, about: Setting, samples: int
) -> tuple[list[int], list[int]] | None:
    """Conditional draws that each budget needs, and the copies of a filter at run time; None: there are no such draws.

    Deletion noise needs none: nothing of the text disappears by an insertion.
    """
    from hybrid_rs_jax.certificate.bounds import required_samples, worst_case_bounds
    from hybrid_rs_jax.confidence import clopper_pearson_bound, copies_needed
    from hybrid_rs_jax.kernels import DeletionKernel

    if about.smoothing.discrete is None or isinstance(about.smoothing.discrete, DeletionKernel):
        return None
    drawn = about.smoothing.forcing()
    with library_sentences():
        draws = np.atleast_1d(required_samples(budgets, epsilon, drawn, about.tau, about.alpha))
        score = clopper_pearson_bound(samples, samples, about.alpha)
        own = (np.full(len(budgets), float(part)) for part in (score.p, score.complement))
        kept, _ = worst_case_bounds(next(own), budgets, epsilon, drawn, complement=next(own))
    # the score that is kept must exceed the threshold
    copies = [copies_needed(float(np.nextafter(score, 0)), about.miss_probability) for score in kept]
    return draws.tolist(), copies


def affordable_failures(samples: int, p: float, complement: float, alpha: float) -> int:
    """Most failures among `samples` draws with which the lower bound still reaches `p`; -1: not even none."""
    from hybrid_rs_jax.confidence import clopper_pearson_bound

    low, high = -1, samples
    while high - low > 1:  # `low` failures can be afforded, `high` cannot: with no success the bound is 0
        failures = (low + high) // 2
        bound = clopper_pearson_bound(samples - failures, samples, alpha)
        enough = bound.complement <= complement if p > 0.5 else bound.p >= p
        low, high = (failures, high) if enough else (low, failures)
    return low
