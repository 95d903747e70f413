"""Results for `certify`, `plot` and `report`: certified from counts as asked, or read from a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from hybrid_rs_jax._files import atomic_file, kind_of, path_text
from hybrid_rs_jax._text import span_text
from hybrid_rs_jax.cli._values import MAX_BUDGET, flag, integer
from hybrid_rs_jax.cli.options import ALPHA, TAU, RiskOptions, check_fields
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.kernels.edits import budget_numbers

if TYPE_CHECKING:
    from hybrid_rs_jax.kernels import HybridSmoothing
    from hybrid_rs_jax.results.certificate import Certificate, Decision, Decisions
    from hybrid_rs_jax.results.classes import ClassCertificate
    from hybrid_rs_jax.results.comparison import Compared
    from hybrid_rs_jax.results.counts import Counts
    from hybrid_rs_jax.results.field_files import FieldTable

__all__ = [
    "By",
    "ResultOptions",
    "certified",
    "output_path",
    "read_fields",
    "read_or_certify",
    "read_runs",
    "write_comparison",
]

#: A setting that runs are held side by side by (of `results.comparison`, which the parser need not import).
By = Literal["sigma", "beta", "model"]

#: Largest discrete budget where none is asked for.
BUDGET = 8


@Parameter(name="*", group=Group("What is certified"))
@dataclass(frozen=True, kw_only=True)
class ResultOptions(RiskOptions):
    """What a user asks of counts; None: what the run was made for, or the default."""

    max_budget: Annotated[int, flag(integer(0, MAX_BUDGET), "D")] | None = None
    """certify the discrete budgets 0..D (default: 8; no more than there are fields; 0 for image-only)"""
    partial: bool = False
    """certify a fixed number of draws that was cut short or extended, too; the result says so"""

    @property
    def flags(self) -> list[str]:
        """The flags that were given."""
        given = {"--tau": self.tau, "--alpha": self.alpha, "--max-budget": self.max_budget}
        return [name for name, value in given.items() if value is not None] + ["--partial"] * self.partial


def certified(
    counts: Counts, smoothing: HybridSmoothing, asked: ResultOptions, decision: Decision | None = None
) -> Certificate | Decisions | ClassCertificate:
    """Certify `counts` as asked; a run that was stopped early was meant for a threshold of its own.

    Raises:
      BadInputError: if what is asked does not fit the counts.
    """
    from hybrid_rs_jax.results.certificate import certify_decisions
    from hybrid_rs_jax.results.classes import certify_class_counts

    target = None if counts.run is None else counts.run.target
    tau = asked.tau or (TAU if target is None else target.tau)
    alpha = asked.alpha or (ALPHA if target is None else target.alpha)
    budgets = _budgets(asked.max_budget, smoothing, counts)
    with library_sentences():
        if counts.votes is None:
            return certify_decisions(counts, smoothing, tau, alpha, budgets, decision or "unsafe")
        if asked.tau is not None or decision is not None:
            raise BadInputError("--tau and --decision have no meaning for votes per class: the largest score wins.")
        return certify_class_counts(counts, smoothing, alpha, budgets)


def read_or_certify(source: Path, asked: ResultOptions) -> Certificate | Decisions | ClassCertificate:
    """What the file `source` holds; of a run its certificates, or its counts certified as asked."""
    from hybrid_rs_jax.results.count_files import read_counts
    from hybrid_rs_jax.results.reading import read_certificates

    if kind_of(source) != "folder":
        if asked.flags:
            where = f"{path_text(source)} holds certificates, which are fixed"
            raise BadInputError(f"{asked.flags[0]} needs a run folder; {where}.")
        return read_certificates(source)
    if not asked.flags and kind_of(source / "certificates.json") == "file":
        return read_certificates(source / "certificates.json")
    counts = read_counts(source, partial=asked.partial)
    assert counts.run is not None, "a folder is a run"
    return certified(counts, counts.run.smoothing, asked)


def read_runs(paths: list[Path], asked: ResultOptions, by: By | None) -> list[Compared]:
    """Runs to hold side by side, each certified as asked, in the order of a setting where one is named.

    A run is called by its last name, or where that is no name of one alone by the whole path.
    """
    from hybrid_rs_jax.results.comparison import compared, in_order

    runs = [compared(name, read_or_certify(path, asked)) for name, path in zip(_names(paths), paths, strict=True)]
    return runs if by is None else in_order(runs, by)


def write_comparison(runs: list[Compared], out: Path, force: bool, by: By | None) -> None:
    """Runs side by side as a figure or, into a file .html, a page."""
    from hybrid_rs_jax.report.comparison_page import comparison_page
    from hybrid_rs_jax.report.comparison_plots import plot_by, plot_comparison
    from hybrid_rs_jax.report.plots import save

    suffix = out.suffix.lower()
    with atomic_file(out, force) as path:
        if suffix == ".html":
            path.write_text(comparison_page(runs), encoding="utf-8")
        else:
            save(plot_comparison(runs) if by is None else plot_by(runs, by), path, suffix)


def read_fields(paths: list[Path], asked: ResultOptions, by: By | None) -> dict[str, FieldTable]:
    """Tables of the field's own scripts by name; none where no path is one."""
    from hybrid_rs_jax.results.field_files import is_field_file, read_field

    found = [path for path in paths if kind_of(path) == "file" and is_field_file(path)]
    if found and (len(found) < len(paths) or asked.flags or by is not None):
        other = "no --by" if by is not None else f"no {asked.flags[0]}" if asked.flags else "no run"
        raise BadInputError(f"{path_text(found[0])} holds radii, not counts: it goes with tables alike, and {other}.")
    return dict(zip(_names(found), map(read_field, found), strict=True))


def _names(paths: list[Path]) -> list[str]:
    """The last name of each path; where that is no name of one alone, the whole path."""
    short = [path.resolve().name for path in paths]
    return [str(path) if short.count(name) > 1 else name for path, name in zip(paths, short, strict=True)]


def output_path(source: Path, out: Path | None, suffix: str) -> Path:
    """`--out`, or RUN/certificates with the suffix, or FILE with the suffix."""
    kind = kind_of(source)
    if kind is None:
        raise BadInputError(f"{path_text(source)} does not exist.")
    if out is not None:
        return out
    return source / f"certificates{suffix}" if kind == "folder" else source.with_suffix(suffix)


def _sample_budgets(counts: Counts) -> tuple[int, ...]:
    """The budgets that the samples are about."""
    if counts.run is not None and counts.run.design is not None:
        return counts.run.design.budgets
    assert counts.samples is not None
    return budget_numbers([sample.forced for sample in counts.samples if sample.forced is not None])


def _budgets(max_budget: int | None, smoothing: HybridSmoothing, counts: Counts) -> tuple[int, ...]:
    """Budgets 0..D; those of the counts where each has a sample of its own."""
    if counts.budgets is not None:
        budgets = budget_numbers(counts.budgets)
        if max_budget not in (None, budgets[-1]):
            raise BadInputError(
                f"--max-budget {max_budget} contradicts the counts, which have one sample for each of the budgets "
                f"{span_text(budgets)}; leave it out."
            )
    elif counts.samples is not None:
        budgets = _sample_budgets(counts)
        if max_budget not in (None, budgets[-1]):
            raise BadInputError(
                f"--max-budget {max_budget} contradicts the counts, whose conditional draws are for d = "
                f"{span_text(budgets)}; leave it out."
            )
    else:
        largest = BUDGET if smoothing.discrete is not None else 0
        fields = getattr(smoothing.discrete, "cardinalities", None)
        if fields is not None:
            largest = min(largest, len(fields))
        budgets = tuple(range((largest if max_budget is None else max_budget) + 1))
    check_fields(smoothing, budgets[-1])
    return budgets
