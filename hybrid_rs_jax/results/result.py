"""What all results have in common: columns over inputs, rows as views of them, and the ways out."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

import numpy as np

from hybrid_rs_jax.kernels.edits import Budget, budget_numbers
from hybrid_rs_jax.results.counts import Counts
from hybrid_rs_jax.results.statement import Statement

if TYPE_CHECKING:
    from hybrid_rs_jax.certificate.certify import Side
    from hybrid_rs_jax.confidence import SamplingPlan

__all__ = ["Bounds", "OneSided", "Result", "Row"]

Numbers = int | tuple[int, ...]
Reals = float | tuple[float, ...]
Some = TypeVar("Some", bound="Result")


class Bounds(NamedTuple):
    """A column of confidence bounds on the clean score and `1 - bound` with its digits, float64[B] or float64[B, D]."""

    p: np.ndarray
    complement: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Result(abc.ABC):
    """Certificates of B inputs at D discrete budgets, as columns.

    Attributes:
      counts: the counts that they rest on.
      radius: float64[B, D] in the units of sigma; 0: only `eps = 0` is certified; -1: not even that.
      budget: int64[B], largest certified budget (at `eps = 0`); -1: none, the input abstains.
    """

    counts: Counts
    radius: np.ndarray
    budget: np.ndarray

    # what it says, and about whom

    @property
    @abc.abstractmethod
    def statements(self) -> tuple[Statement, ...]:
        """What is claimed: one statement, or one for each of two decisions."""

    @property
    @abc.abstractmethod
    def lower_bound(self) -> Bounds | None:
        """Lower bounds on the clean score (of the class that leads), rounded down; None: this result has none."""

    @property
    @abc.abstractmethod
    def upper_bound(self) -> Bounds | None:
        """Upper bounds on the clean score (of every other class), rounded up; None: this result has none."""

    @property
    def sided(self) -> tuple[OneSided, ...]:
        """The certificates against a threshold that it consists of, each about one side; none for votes per class."""
        return ()

    @property
    def count_columns(self) -> dict[str, np.ndarray]:
        """What was counted, by name."""
        return {"successes": self.counts.successes}

    @property
    def more_radii(self) -> dict[str, np.ndarray]:
        """Radii besides `radius`, by name."""
        return {}

    @property
    def decision(self) -> np.ndarray | None:
        """Where there are several: "unsafe", "safe" or "abstain" for each input."""
        return None

    @property
    def alpha(self) -> float:
        """Risk level per input."""
        return self.statements[0].risk.alpha

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The D discrete budgets."""
        return self.statements[0].budgets

    @property
    def budget_numbers(self) -> tuple[int, ...]:
        """The budgets as numbers, for axes and `budget`: of `Edits` their places."""
        return budget_numbers(self.budgets)

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return self.counts.ids

    @property
    def successes(self) -> np.ndarray:
        """Successes, int64[B] or int64[B, D]."""
        return self.counts.successes

    @property
    def n(self) -> np.ndarray:
        """Draws, same shape as `successes`."""
        return self.counts.n

    # one input

    def __len__(self) -> int:
        return len(self.counts)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self: Some, index: slice | list[int] | list[bool] | np.ndarray) -> Some: ...

    def __getitem__(self: Some, index: int | slice | list[int] | list[bool] | np.ndarray) -> Row | Some:
        if isinstance(index, list | np.ndarray):
            return self.taken(np.arange(len(self))[np.asarray(index)])
        if isinstance(index, slice):
            return self.taken(index)
        place = range(len(self))[index]
        return Row(self, place)

    def __iter__(self) -> Iterator[Row]:
        return (Row(self, index) for index in range(len(self)))

    @abc.abstractmethod
    def taken(self: Some, rows: slice | np.ndarray) -> Some:
        """The certificates of some of the inputs; the statement stays what it is."""

    # all of them

    def certified_accuracy(self, epsilon: object) -> np.ndarray:
        """Share of inputs certified at each budget and each `epsilon`, float64[D, *epsilon]."""
        levels = np.asarray(epsilon, np.float64)
        if (bad := ~(np.isfinite(levels) & (levels >= 0))).any():
            raise ValueError(f"epsilon must be finite and at least 0, got {levels[bad].flat[0]}.")
        certified = self.radius.T.reshape(len(self.budgets), -1, *(1,) * levels.ndim) >= levels
        return np.asarray(certified.mean(axis=1))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))
        return all(
            np.array_equal(one, two, equal_nan=True) if isinstance(one, np.ndarray) else one == two
            for one, two in pairs
        )

    __hash__ = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class OneSided(Result):
    """A result about one side of a threshold: bounds on the clean score, and one statement.

    Attributes:
      bound, complement: confidence bound on the clean score, and `1 - bound`; float64[B] or one column per sample.
      statement: everything that the guarantee depends on.
    """

    bound: np.ndarray
    complement: np.ndarray
    statement: Statement

    @property
    def statements(self) -> tuple[Statement, ...]:
        """The one statement."""
        return (self.statement,)

    @property
    def side(self) -> Side:
        """The side of tau that is certified."""
        return self.statement.side

    @property
    def tau(self) -> float:
        """Decision threshold."""
        assert self.statement.risk.tau is not None
        return self.statement.risk.tau

    @property
    def plan(self) -> SamplingPlan | None:
        """The plan that stopped the draws early; None: their number was fixed beforehand."""
        return self.statement.stopping.plan


@dataclasses.dataclass(frozen=True, repr=False)
class Row:
    """One input of a result: a view, it holds nothing of its own.

    Attributes:
      result: the whole.
      index: of the input in it.
    """

    result: Result
    index: int

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={getattr(self, name)!r}" for name in ("id", "budget", "radius"))
        return f"Row({said})"

    @property
    def id(self) -> str:
        """Name of the input."""
        return self.result.ids[self.index]

    @property
    def successes(self) -> Numbers:
        """Successes; one number per budget where each has a sample of its own."""
        return _numbers(self.result.successes[self.index])

    @property
    def n(self) -> Numbers:
        """Draws; one number per budget where each has a sample of its own."""
        return _numbers(self.result.n[self.index])

    @property
    def ties(self) -> Numbers | None:
        """Of the draws, those whose margin is at rounding level."""
        ties = self.result.counts.ties
        return None if ties is None else _numbers(ties[self.index])

    @property
    def decision(self) -> str | None:
        """What is certified, where there are several decisions."""
        decision = self.result.decision
        return None if decision is None else str(decision[self.index])

    @property
    def lower_bound(self) -> Reals | None:
        """Lower bound on the clean score."""
        bounds = self.result.lower_bound
        return None if bounds is None else _reals(bounds.p[self.index])

    @property
    def upper_bound(self) -> Reals | None:
        """Upper bound on the clean score."""
        bounds = self.result.upper_bound
        return None if bounds is None else _reals(bounds.p[self.index])

    @property
    def radius(self) -> tuple[float, ...]:
        """Certified radius at each budget; -1: not certified."""
        return tuple(self.result.radius[self.index].tolist())

    @property
    def budget(self) -> int:
        """Largest certified budget; -1: none."""
        return int(self.result.budget[self.index])


def _numbers(values: np.ndarray | np.integer[Any]) -> Numbers:
    return tuple(int(x) for x in values) if isinstance(values, np.ndarray) else int(values)


def _reals(values: np.ndarray | np.floating[Any]) -> Reals:
    return tuple(float(x) for x in values) if isinstance(values, np.ndarray) else float(values)
