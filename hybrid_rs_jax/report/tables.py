"""Tables and sentences on a terminal; plain text without colours or frames where the output is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hybrid_rs_jax._text import (
    budget_text,
    ceil_probability_text,
    counted,
    down_text,
    joined,
    probability_text,
    radius_text,
    setting_text,
)
from hybrid_rs_jax.report.quiet import is_quiet
from hybrid_rs_jax.results.summary import summary

if TYPE_CHECKING:
    from hybrid_rs_jax.results.result import Bounds, Result

__all__ = ["certificate_rows", "print_result", "print_table", "say"]

_PLAIN_WIDTH = 250
#: A terminal of at least this width has room for three decimals.
_ROOMY = 100
_LONGEST_NAME = 28


def say(text: str = "", *, stderr: bool = False) -> None:
    """Print a sentence; wrapped at words on a terminal, on one line elsewhere; nothing within `quietly`."""
    if is_quiet() and not stderr:
        return
    console = _console(stderr)
    console.print(text, soft_wrap=not console.is_terminal)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> None:
    """Print rows under a header; the first `left` columns are flush left, the others flush right. Nothing is cut."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    terminal = _console()
    gap = 2 if terminal.width >= _ROOMY else 1  # of which the box takes one
    table = Table(
        box=box.SIMPLE_HEAD if terminal.is_terminal else None,
        pad_edge=False,
        header_style="bold",
        show_edge=False,
        padding=(0, gap - 1 if terminal.is_terminal else gap, 0, 0),
    )
    for index, name in enumerate(header):
        table.add_column(Text(name), justify="left" if index < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_printable(cell)) for cell in row))
    console = _console(width=_PLAIN_WIDTH)
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def print_result(result: Result, first: int | None = None) -> None:
    """Per-input table, summary per budget, what is not certified and why, the guarantee in words."""
    from hybrid_rs_jax.kernels.record import describe_smoothing, smoothing_text
    from hybrid_rs_jax.results.explanations import explanations
    from hybrid_rs_jax.results.sentences import deployment, guarantee, legend, provisos, threat_model

    statement, counts = result.statements[0], result.counts
    noise = smoothing_text(describe_smoothing(statement.noise.smoothing))
    classes = "" if statement.classes is None else f"{statement.classes} classes, "
    draws = set(counts.n.ravel()[: 10**6].tolist())
    n = f"n = {draws.pop()}; " if len(draws) == 1 and statement.simultaneous else ""
    tau = "" if statement.risk.tau is None else f"tau = {down_text(statement.risk.tau)}, "
    say(f"{counted(len(result), 'input')}, {classes}{noise}; {n}{tau}alpha = {setting_text(statement.risk.alpha)}\n")
    print_table(*certificate_rows(result, first))
    if first is not None and len(result) > first:
        say(f"... and {len(result) - first} more; --json prints and --out FILE writes all of them.")
    if len(result) > 1:
        say()
        print_table(*summary(result).table())
        if statement.noise.pixels:
            say("Over all inputs; one that is not certified counts as 0 in the mean.")
    say()
    say(legend(statement))
    for sentence in explanations(result):
        say(sentence)
    say()
    say(guarantee(result.statements))
    say(f"The attacker: {threat_model(statement)}.")
    ties = 0 if counts.ties is None else int(counts.ties.sum())
    for sentence in dict.fromkeys(text for each in result.statements for text in provisos(each, ties)):
        say(sentence)
    if text := deployment(result.statements):
        say(text)
    for what, names in (("skipped", [name for name, _ in counts.skipped]), ("unfinished", list(counts.unfinished))):
        if names:
            more = ", ..." if names[3:] else ""
            say(f"{counted(len(names), 'input')} {what}, not certified: {joined(names[:3])}{more}.")


def certificate_rows(
    result: Result, first: int | None = None, decimals: int | None = None
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the per-input table: counts, draws (where they differ), bounds, budget, radius per budget.

    Args:
      result: certificates.
      first: so many rows; None: all.
      decimals: of the radii; None: as many as the terminal has room for.
    """
    statement, counts = result.statements[0], result.counts
    shared = counts.n.ndim == 1
    uneven = shared and bool((counts.n != counts.n[:1]).any())
    ties = shared and counts.ties is not None and bool(counts.ties.any())
    bounds = [(name, found) for name, found in _named_bounds(result) if found is not None and shared]
    pixels = statement.noise.pixels
    decimals = decimals or (3 if _console().width >= _ROOMY else 2)
    header = ["id", *(["decision"] if result.decision is not None else [])]
    header += ["class", "votes"] if statement.classes is not None else ["successes"] if shared else []
    header += [*(["n"] if uneven else []), *(["ties"] if ties else []), *(name for name, _ in bounds)]
    header += ["max d", *(f"r_{d}" for d in result.budgets if pixels)]
    body = []
    for row in result[:first]:
        cells = [row.id, *([str(row.decision)] if result.decision is not None else [])]
        if shared:
            cells += [*_vote_cells(result, row.index), *([str(row.n)] if uneven else [])]
            cells += [*([str(row.ties)] if ties else []), *(_bound_text(*bound, row.index) for bound in bounds)]
        radii = [radius_text(r, decimals) for r in row.radius if pixels]
        body.append([*cells, budget_text(row.budget), *radii])
    return header, body


def _named_bounds(result: Result) -> tuple[tuple[str, Bounds | None], ...]:
    """The columns of bounds with their names; of several classes only that of the leading one is shown."""
    upper = None if result.statements[0].classes is not None else result.upper_bound
    return ("p_A", result.lower_bound), ("upper bound", upper)


def _vote_cells(result: Result, index: int) -> list[str]:
    from hybrid_rs_jax.results.classes import ClassCertificate

    if isinstance(result, ClassCertificate):
        label = int(result.label[index])
        return [str(label), str(int(result.votes[index, label]))]
    return [str(int(result.successes[index]))]


def _bound_text(name: str, bounds: Bounds, index: int) -> str:
    """A lower bound rounded down, an upper one up."""
    p, complement = float(bounds.p[index]), float(bounds.complement[index])
    return probability_text(p) if name == "p_A" else ceil_probability_text(p, complement)


def _console(stderr: bool = False, width: int | None = None) -> Any:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = width if stream.isatty() else _PLAIN_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def _printable(text: str) -> str:
    clean = "".join(letter if letter.isprintable() else "?" for letter in text)
    return clean if len(clean) <= _LONGEST_NAME else clean[: _LONGEST_NAME - 3] + "..."
