"""Tables and sentences on a terminal; plain text without colours or frames where the output is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hybrid_rs_jax._text import (
    DASH,
    budget_text,
    ceil_probability_text,
    floor_text,
    mean,
    percent_text,
    probability_text,
    radius_text,
    setting_text,
    span_text,
)
from hybrid_rs_jax.results.words import too_few_draws

__all__ = ["abstentions", "certificate_rows", "print_table", "say", "summary_rows"]

_PLAIN_WIDTH = 250
#: A terminal of at least this width has room for three decimals.
_ROOMY = 100
_LONGEST_NAME = 28


def say(text: str = "", *, stderr: bool = False) -> None:
    """Print a sentence; wrapped at words on a terminal, on one line elsewhere."""
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


def certificate_rows(record: Mapping[str, Any], first: int | None = None) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the per-input table: successes, draws (where they differ), p_A, budget, radius per budget."""
    statement, everything = record["statement"], record["certificates"]
    shared = not isinstance(everything[0]["n"], list)
    uneven = shared and any(row["n"] != everything[0]["n"] for row in everything)
    pixels = statement["sigma"] is not None
    decimals = 3 if _console().width >= _ROOMY else 2
    header = ["id", *(["decision"] if "decision" in everything[0] else [])]
    header += [*(["successes"] if shared else []), *(["n"] if uneven else []), *(["p_A"] if shared else [])]
    header += ["max d", *(f"r_{d}" for d in statement["budgets"] if pixels)]
    body = []
    for row in everything[:first]:
        cells = [row["id"], *([row["decision"]] if "decision" in row else [])]
        if shared:
            cells += [str(row["successes"]), *([str(row["n"])] if uneven else []), _bound_text(statement, row)]
        radii = [radius_text(r, decimals) for r in row["radius"] if pixels]
        body.append([*cells, budget_text(row["budget"]), *radii])
    return header, body


def _bound_text(statement: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """A lower bound rounded down; an upper one, where the score is certified to stay below tau, rounded up."""
    upper = row.get("decision", "") == "safe" or statement.get("side") == "below"
    return ceil_probability_text(row["p_a"], 1 - row["p_a"]) if upper else probability_text(row["p_a"])


def summary_rows(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and one row per budget: share certified, mean and median radius (not certified counts as 0)."""
    radius = np.array([row["radius"] for row in record["certificates"]], np.float64)
    body = []
    for d, column in zip(record["statement"]["budgets"], radius.T, strict=True):
        certified = int((column >= 0).sum())
        middle = float(np.sort(column)[(column.size - 1) // 2])
        average = floor_text(mean(column.tolist())) if certified else DASH
        share = f"{certified} ({percent_text(certified, column.size)})"
        body.append([str(d), share, average, radius_text(middle), radius_text(column.max())])
    columns = 5 if record["statement"]["sigma"] is not None else 2
    return ["d", "certified", "mean r", "median r", "largest r"][:columns], [row[:columns] for row in body]


def abstentions(record: Mapping[str, Any]) -> Iterator[str]:
    """Sentences that say what is not certified and why, so that the user knows what would help."""
    statement, rows = record["statement"], record["certificates"]
    silent = [row for row in rows if row["budget"] < 0]
    if silent:
        which = "The input abstains" if len(rows) == 1 else f"{len(silent)} of {len(rows)} inputs abstain"
        first = statement["budgets"][0]
        why = f"does not exceed tau = {setting_text(statement['tau'])}" if first == 0 else f"is too low for d = {first}"
        yield f"{which}: the bound p_A on the clean score {why}."
        yield from _what_would_help(statement)
    if statement.get("plan") is not None:
        yield _stopped_early(statement)
        return
    radius = np.array([row["radius"] for row in rows], np.float64)
    draws = np.array([row["n"] for row in rows], np.int64).reshape(len(rows), -1)
    draws = np.broadcast_to(draws, radius.shape).max(axis=0)
    hopeless, beaten = [], []
    for index, (d, needed) in enumerate(zip(statement["budgets"], statement["needed_samples"], strict=True)):
        if needed < 0:
            hopeless.append(d)
        elif draws[index] < needed:
            yield too_few_draws(int(draws[index]), d, needed)
        elif d > 0 and not (radius[:, index] >= 0).any():
            beaten.append(d)
    if hopeless:
        yield f"No number of draws up to 2^53 certifies d = {span_text(hopeless)} with this noise and tau."
    if beaten:
        yield (
            f"No input is certified for d = {span_text(beaten)}, though n suffices: no p_A is high enough "
            "(`hybrid-rs plan` gives the p_A that each budget needs)."
        )


def _what_would_help(statement: Mapping[str, Any]) -> Iterator[str]:
    """The draws that inputs which abstain would have needed, if their share of votes stays what it is."""
    needed, share = statement.get("abstaining", {}), statement.get("needed_share")
    helped = {name: n for name, n in needed.items() if n > 0}
    for name, n in list(helped.items())[:3]:
        yield f"{name} would have needed n = {n:,}, at the share of votes that it has."
    if len(helped) > 3:
        yield f"{len(helped) - 3} more would be helped by more draws; --json gives the n for each."
    if share is not None and (beyond := len(needed) - len(helped)):
        subject = "Its share of votes is" if len(needed) == 1 else f"For {beyond} of them the share of votes is"
        yield f"{subject} itself below the {ceil_probability_text(share, 1 - share)} that is needed: no n would help."


def _stopped_early(statement: Mapping[str, Any]) -> str:
    """What counts that were stopped early are good for."""
    aim = (statement.get("run") or {}).get("aim") or {}
    if "d" in aim:
        what = f"once d = {aim['d']}, eps = {setting_text(aim['epsilon'])} was decided"
    else:
        what = "where more of them could hardly have raised a radius"
    return (
        f"Draws ended {what}; the bounds allow for that, and hold for every budget, tau and radius in the table. More "
        "may be certifiable with more draws."
    )


def _console(stderr: bool = False, width: int | None = None) -> Any:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = width if stream.isatty() else _PLAIN_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def _printable(text: str) -> str:
    clean = "".join(letter if letter.isprintable() else "?" for letter in text)
    return clean if len(clean) <= _LONGEST_NAME else clean[: _LONGEST_NAME - 3] + "..."
