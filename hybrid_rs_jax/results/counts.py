"""Counts of inputs, and where they are read from: a table or a run folder.

Whatever is not plainly right is refused by line and value.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from hybrid_rs_jax._files import kind_of, path_text
from hybrid_rs_jax._tables import Table, read_table
from hybrid_rs_jax._text import joined, span_text
from hybrid_rs_jax.certificate.samples import Sample, samples_for
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.kernels.deletion import Budget
from hybrid_rs_jax.results.columns import Column, read_columns
from hybrid_rs_jax.results.runs import Run, read_run
from hybrid_rs_jax.results.statement import Provisional
from hybrid_rs_jax.sampling.design import Design
from hybrid_rs_jax.sampling.ledger import LEDGER_FILE

if TYPE_CHECKING:
    from hybrid_rs_jax.certificate.certify import Side
    from hybrid_rs_jax.confidence import SamplingPlan

__all__ = ["Column", "Counts", "count_table", "read_counts"]

COLUMNS = ("id", "successes", "n")
SAMPLE = "sample"
#: Counts are compared in float64 further on, which holds integers up to here.
MOST_DRAWS = 2**53
#: A table over more discrete budgets would take hours.
MOST_BUDGET = 1000
_RESULT = re.compile(r'\s*\{\s*"statement"')


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


def read_counts(path: Path, *, partial: bool = False) -> Counts:
    """Read a run folder, or a table (CSV, JSON lines, Parquet) with the columns `id, successes, n[, budget]`.

    Args:
      path: run folder or file.
      partial: take a fixed number of draws that was cut short or extended, too; the counts then say so.

    Raises:
      BadInputError: one sentence with file, line, value and legal range.
    """
    run = None
    if kind_of(path) == "folder":
        if kind_of(path / LEDGER_FILE) == "file":
            from hybrid_rs_jax.results._ledger_counts import ledger_counts

            counts = ledger_counts(path, partial)
            return dataclasses.replace(counts, others=read_columns(path, counts.ids))
        run = read_run(path)
        path = path / "counts.csv"
    _refuse_results(path)
    if run is not None and run.design is not None:
        return dataclasses.replace(_design_counts(read_table(path, COLUMNS, (SAMPLE,)), run.design), run=run)
    return dataclasses.replace(_table_counts(read_table(path, COLUMNS, ("budget", "ties"))), run=run)


def _table_counts(table: Table) -> Counts:
    """Columns of a table as counts: one row per input, or per input and budget."""
    if not len(table):
        raise BadInputError(f"{table.path} holds no counts: expected one line per input with {joined(COLUMNS)}.")
    n = table.integers("n", 1, MOST_DRAWS)
    successes = table.integers("successes", 0, n, "n")
    ties = table.integers("ties", 0, n, "n") if "ties" in table.columns else None
    names = table.names()
    others = tuple(
        Column(name, tuple("" if cell is None else str(cell) for cell in table.columns[name]))
        for name in table.unknown
        if "budget" not in table.columns
    )
    if "budget" not in table.columns:
        _refuse_twins(table, names, None)
        return Counts(tuple(names), successes, n, ties, others=others)
    budget = _budget_column(table)
    _refuse_twins(table, names, budget)
    order, ids, budgets = _arranged(table, names, budget)
    shape = (len(ids), len(budgets))
    ties = None if ties is None else ties[order].reshape(shape)
    return Counts(ids, successes[order].reshape(shape), n[order].reshape(shape), ties, budgets)


def count_table(counts: Counts) -> tuple[list[tuple[object, ...]], tuple[str, ...]]:
    """Rows and columns of a table that `read_counts` reads beside the header of a run."""
    if counts.samples is None:
        rows = zip(counts.ids, counts.successes.tolist(), counts.n.tolist(), strict=True)
        return list(rows), COLUMNS
    labels = counts.labels or ()
    cells = [
        (name, label, int(k), int(n))
        for name, successes, draws in zip(counts.ids, counts.successes, counts.n, strict=True)
        for label, k, n in zip(labels, successes, draws, strict=True)
    ]
    return [*cells], ("id", SAMPLE, "successes", "n")


def _design_counts(table: Table, design: Design) -> Counts:
    """Columns of a table whose rows are one per input and sample of a design."""
    labels = Counts((), np.zeros(0), np.zeros(0), samples=design.samples).labels or ()
    names = table.names()
    ids = tuple(dict.fromkeys(names))
    known = {(name, label): row for row, (name, label) in enumerate(zip(names, table.columns[SAMPLE], strict=True))}
    for name in ids:
        for label in labels:
            if (name, label) not in known:
                raise BadInputError(f"{table.path}: id {name!r} has no line with {SAMPLE} {label}.")
    if len(names) != len(ids) * len(labels):
        raise BadInputError(f"{table.path} must have {len(labels)} lines for each of {len(ids)} ids, got {len(names)}.")
    n = table.integers("n", 1, MOST_DRAWS)
    successes = table.integers("successes", 0, n, "n")
    order = np.array([[known[name, label] for label in labels] for name in ids])
    return Counts(ids, successes[order], n[order], samples=design.samples)


def _budget_column(table: Table) -> np.ndarray:
    given = [cell is not None for cell in table.columns["budget"]]
    if not all(given):
        row = given.index(not given[0])
        raise BadInputError(f"{table.place(row)}: budget is given on some lines and not on others.")
    return table.integers("budget", 0, MOST_BUDGET)


def _refuse_twins(table: Table, names: list[str], budget: np.ndarray | None) -> None:
    """Every input (and budget) has one line."""
    keys: Sequence[object] = names if budget is None else list(zip(names, budget.tolist(), strict=True))
    if len(set(keys)) == len(keys):
        return
    first: dict[object, int] = {}
    for row, key in enumerate(keys):
        if (before := first.setdefault(key, row)) != row:
            where = "" if budget is None else f" with budget {budget[row]}"
            raise BadInputError(
                f"{table.place(row)}: id {names[row]!r}{where} appears again, after {table.unit} "
                f"{table.lines[before]}; every id must be different."
            )


def _arranged(
    table: Table, names: list[str], budget: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...], tuple[int, ...]]:
    """Rows by input (in order of appearance) and budget; ids; the budgets, which all inputs must share."""
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    owner = np.array([number[name] for name in names], np.int64)
    order = np.lexsort((budget, owner))
    starts = np.searchsorted(owner[order], np.arange(len(number) + 1))
    budgets = budget[order][: starts[1]]
    ids = tuple(number)
    for name, first, end in zip(ids, starts, starts[1:], strict=False):
        have = budget[order][first:end]
        if not np.array_equal(have, budgets):
            where = table.place(int(order[first:end].max()))
            raise BadInputError(
                f"{where}: id {name!r} has the budgets {span_text(have.tolist())}, but {ids[0]!r} has "
                f"{span_text(budgets.tolist())}; every id must have the same budgets."
            )
    return order, ids, tuple(budgets.tolist())


def _refuse_results(path: Path) -> None:
    """A result of certify is no table of counts, and says so better than a parser would."""
    try:
        with path.open("rb") as file:
            begins = file.read(200).decode("utf-8-sig", "replace")
    except (OSError, ValueError):
        return  # the reader has the sentence
    if _RESULT.match(begins):
        raise BadInputError(f"{path_text(path)} is a result of certify, not counts; `hybrid-rs plot` can show it.")
