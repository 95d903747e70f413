"""Counts of inputs, typed: what `certify` takes and every result carries."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import numpy as np

from hybrid_rs_jax.certificate.samples import Sample, samples_for
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.kernels.edits import Budget
from hybrid_rs_jax.results.columns import Column
from hybrid_rs_jax.results.runs import Run
from hybrid_rs_jax.results.statement import Provisional

if TYPE_CHECKING:
    from hybrid_rs_jax.certificate.certify import Side
    from hybrid_rs_jax.confidence import SamplingPlan

__all__ = ["Column", "Counts"]


@dataclasses.dataclass(frozen=True, eq=False)
class Counts:
    """Monte Carlo counts of B inputs.

    Attributes:
      ids: names of the inputs, all different.
      successes, n: int64[B] for one sample per input, int64[B, D] for one sample per input and budget, int64[B, S] for
        each of the `samples`. Of several sets of positions `successes` is the least count.
      most: the largest count of the sets of positions, int64[B, S]; None: it is `successes`.
      ties: of the draws of `n`, those whose margin is at rounding level (they may be successes or not), same shape;
        None: there are none, or it is not known.
      budgets: the D budgets where there is one sample per budget, with a filter of its own or without a name for its
        draws, else None.
      samples: the S samples of draws of one filter, ordinary or conditional, else None.
      run: what a run folder says about the noise and the classifier, else None.
      plan: the plan that stopped the draws early; None: a number of draws that was fixed beforehand.
      votes: int64[B, classes] where a run counts votes per class; `successes` are then 0, for which class is certified
        must be decided without these draws.
      provisional: why a fixed number of draws did not stay what it was; None: it did.
      skipped: (id, reason) of the inputs that a run gave up; they are not among the B.
      unfinished: inputs whose draws are not complete, where no bound holds yet; they are not among the B.
      others: further columns of the table that the counts come from.
      total_variation: distance between the noise that was drawn and the ideal one, where no run says it.
    """

    ids: tuple[str, ...]
    successes: np.ndarray
    n: np.ndarray
    ties: np.ndarray | None = None
    budgets: tuple[Budget, ...] | None = None
    run: Run | None = None
    plan: SamplingPlan | None = None
    votes: np.ndarray | None = None
    provisional: Provisional | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    unfinished: tuple[str, ...] = ()
    others: tuple[Column, ...] = ()
    samples: tuple[Sample, ...] | None = None
    most: np.ndarray | None = None
    total_variation: float = 0.0

    def __post_init__(self) -> None:
        if self.ties is not None and not np.any(self.ties):
            object.__setattr__(self, "ties", None)

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Counts):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))

    __hash__ = None  # type: ignore[assignment]

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the columns of `successes` and `n`: "ordinary", or the budget; None: there is one column."""
        if self.samples is not None:
            return tuple("ordinary" if sample.forced is None else str(sample.forced) for sample in self.samples)
        return None if self.budgets is None else tuple(map(str, self.budgets))

    @property
    def ties_left_out(self) -> bool:
        """Bounds do without ties: where every look is a statement of its own, so that any counts may be bounded there.

        A test with one order of all stops has bounds for the counts alone at which it stopped.
        """
        from hybrid_rs_jax.confidence import StagedLooks

        return self.plan is None or isinstance(self.plan, StagedLooks)

    def of_draws(self, draws: Literal["ordinary", "conditional"] | None, name: str) -> Counts:
        """The counts of a table, told how those with a budget each were drawn.

        Args:
          draws: "conditional": column d comes from draws whose positions of d were resampled.
          name: of the table, for errors.

        Raises:
          BadInputError: if it is not said, or contradicts what is known: read as the other kind they prove too much.
        """
        if self.run is not None:
            own = "ordinary" if self.samples is None else "conditional"
            if draws not in (None, own):
                raise BadInputError(f"--draws {draws} contradicts the run {name}, which has {own} draws; leave it out.")
            return self
        if self.budgets is None:
            if draws == "conditional":
                raise BadInputError(
                    f"--draws conditional needs counts for each budget, and {name} has no column budget: one "
                    "conditional score is never taken for several budgets."
                )
            return self
        if draws is None:
            raise BadInputError(
                f"{name} has counts for each budget: say how they were drawn, --draws ordinary or --draws conditional "
                "(the positions of the budget resampled in every draw)."
            )
        if draws == "ordinary":
            return self
        return dataclasses.replace(self, budgets=None, samples=samples_for(self.budgets))

    def certain(self, side: Side) -> np.ndarray:
        """Successes that a bound rests on: without ties for a lower one, with all of them for an upper one."""
        weakest = self.successes if side == "above" or self.most is None else self.most
        if self.ties is None or not self.ties_left_out:
            return weakest
        if side == "above":
            return np.asarray(np.maximum(weakest - self.ties, 0))
        return np.asarray(np.minimum(weakest + self.ties, self.n))

    def taken(self, rows: slice | np.ndarray) -> Counts:
        """The counts of some of the inputs."""
        ids = np.asarray(self.ids, object)[rows]
        return dataclasses.replace(
            self,
            ids=tuple(ids.tolist()),
            successes=self.successes[rows],
            n=self.n[rows],
            ties=None if self.ties is None else self.ties[rows],
            votes=None if self.votes is None else self.votes[rows],
            most=None if self.most is None else self.most[rows],
            others=tuple(Column(c.name, tuple(np.asarray(c.values, object)[rows].tolist())) for c in self.others),
        )


def _same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(np.asarray(one), np.asarray(other))
    return one == other
