"""Results for `certify`, `plot` and `report`: certified from counts as asked, or read from a file."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_rs_jax._files import kind_of, path_text
from hybrid_rs_jax._text import span_text
from hybrid_rs_jax.cli import _arguments as arguments
from hybrid_rs_jax.errors import BadInputError, library_sentences

if TYPE_CHECKING:
    from hybrid_rs_jax.kernels import HybridSmoothing
    from hybrid_rs_jax.results.certificate import Certificate, Decision, Decisions
    from hybrid_rs_jax.results.classes import ClassCertificate
    from hybrid_rs_jax.results.counts import Counts

__all__ = ["Asked", "add_result_arguments", "certified", "output_path", "read_or_certify"]

#: Largest discrete budget where none is asked for.
BUDGET = 8


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a user asks of counts; None: what the run was made for, or the default.

    Attributes:
      tau, alpha: threshold and risk level.
      max_budget: the discrete budgets 0..max_budget are certified.
      decision: "unsafe", "safe" or "both".
      partial: certify a fixed number of draws that was cut short or extended, too.
    """

    tau: float | None = None
    alpha: float | None = None
    max_budget: int | None = None
    decision: Decision | None = None
    partial: bool = False

    @classmethod
    def of(cls, args: argparse.Namespace) -> Asked:
        """From the flags of a command; those that it does not have are not asked."""
        return cls(args.tau, args.alpha, args.max_budget, getattr(args, "decision", None), args.partial)

    @property
    def flags(self) -> list[str]:
        """The flags that were given."""
        given = {"--tau": self.tau, "--alpha": self.alpha, "--max-budget": self.max_budget, "--decision": self.decision}
        return [flag for flag, value in given.items() if value is not None] + ["--partial"] * self.partial


def add_result_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that ask for another threshold, risk or budget than those of a finished certificate."""
    arguments.add_risk_arguments(parser)
    parser.add_argument(
        "--max-budget",
        type=arguments.integer(0, arguments.MAX_BUDGET),
        metavar="D",
        help=f"certify the discrete budgets 0..D (default: {BUDGET}; no more than there are fields; 0 for image-only)",
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="certify a fixed number of draws that was cut short or extended, too; the result says so",
    )


def certified(counts: Counts, smoothing: HybridSmoothing, asked: Asked) -> Certificate | Decisions | ClassCertificate:
    """Certify `counts` as asked; a run that was stopped early was meant for a threshold of its own.

    Raises:
      BadInputError: if what is asked does not fit the counts.
    """
    from hybrid_rs_jax.results.certificate import certify_decisions
    from hybrid_rs_jax.results.classes import certify_class_counts

    target = None if counts.run is None else counts.run.target
    tau = asked.tau or (arguments.TAU if target is None else target.tau)
    alpha = asked.alpha or (arguments.ALPHA if target is None else target.alpha)
    budgets = _budgets(asked.max_budget, smoothing, counts)
    with library_sentences():
        if counts.votes is None:
            return certify_decisions(counts, smoothing, tau, alpha, budgets, asked.decision or "unsafe")
        if asked.tau is not None or asked.decision is not None:
            raise BadInputError("--tau and --decision have no meaning for votes per class: the largest score wins.")
        return certify_class_counts(counts, smoothing, alpha, budgets)


def read_or_certify(source: Path, asked: Asked) -> Certificate | Decisions | ClassCertificate:
    """What the file `source` holds; of a run its certificates, or its counts certified as asked."""
    from hybrid_rs_jax.results.counts import read_counts
    from hybrid_rs_jax.results.files import read_certificates

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


def output_path(source: Path, out: Path | None, suffix: str) -> Path:
    """`--out`, or RUN/certificates with the suffix, or FILE with the suffix."""
    kind = kind_of(source)
    if kind is None:
        raise BadInputError(f"{path_text(source)} does not exist.")
    if out is not None:
        return out
    return source / f"certificates{suffix}" if kind == "folder" else source.with_suffix(suffix)


def _budgets(max_budget: int | None, smoothing: HybridSmoothing, counts: Counts) -> tuple[int, ...]:
    """Budgets 0..D; those of the counts where each has a sample of its own."""
    if counts.budgets is not None:
        if max_budget not in (None, counts.budgets[-1]):
            raise BadInputError(
                f"--max-budget {max_budget} contradicts the counts, which have one sample for each of the budgets "
                f"{span_text(counts.budgets)}; leave it out."
            )
        budgets = counts.budgets
    else:
        largest = BUDGET if smoothing.discrete is not None else 0
        fields = getattr(smoothing.discrete, "cardinalities", None)
        if fields is not None:
            largest = min(largest, len(fields))
        budgets = tuple(range((largest if max_budget is None else max_budget) + 1))
    arguments.check_fields(smoothing, budgets[-1])
    return budgets
