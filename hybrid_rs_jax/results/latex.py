"""A result as a LaTeX table (booktabs): numbers rounded to their safe side, units, the statement as the caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hybrid_rs_jax._text import DASH, budget_text, ceil_probability_text, probability_text, radius_text
from hybrid_rs_jax.results.sentences import guarantee, provisos, threat_model
from hybrid_rs_jax.results.summary import summary

if TYPE_CHECKING:
    from hybrid_rs_jax.results.result import Bounds, Result

__all__ = ["caption", "latex_table", "latex_tabular"]

#: More inputs than this are summed up, one line per budget.
MOST_ROWS = 60
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{letter: "\\" + letter for letter in "$&#_%"},
}


def latex_table(result: Result) -> str:
    """A `table` for `\\usepackage{booktabs}`: one line per input; of more than 60 inputs one line per budget.

    Radii are floored to three decimals, lower bounds down and upper bounds up; a dash stands for "not certified".
    """
    header, rows = _input_rows(result) if len(result) <= MOST_ROWS else _summary_rows(result)
    return _tabular(header, rows, caption(result))


def caption(result: Result) -> str:
    """The guarantee of a result and what else belongs to it, in sentences."""
    statements = result.statements
    ties = 0 if result.counts.ties is None else int(result.counts.ties.sum())
    said = [
        guarantee(statements),
        f"The attacker: {threat_model(statements[0])}.",
        *dict.fromkeys(sentence for statement in statements for sentence in provisos(statement, ties)),
    ]
    if statements[0].noise.pixels:
        said.append("Radii are l2 norms in the unit of the inputs, as sigma is; all numbers err on the safe side.")
    return " ".join(said)


def latex_tabular(header: Sequence[str], rows: Sequence[Sequence[str]], said: str) -> str:
    """A `table` of plain cells, the first column flush left."""
    return _tabular([escaped(cell) for cell in header], [[escaped(cell) for cell in row] for row in rows], said)


def _tabular(header: Sequence[str], rows: Sequence[Sequence[str]], said: str) -> str:
    """Cells that are LaTeX already."""
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(said)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        _line(header),
        r"\midrule",
        *(_line(row) for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text in which nothing is a command.

    >>> escaped("a_1 & 50 %")
    'a\\\\_1 \\\\& 50 \\\\%'
    """
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return "".join(_SPECIAL.get(letter, letter) for letter in printable).replace(DASH, "--")


def _input_rows(result: Result) -> tuple[list[str], list[list[str]]]:
    pixels = result.statements[0].noise.pixels
    shared = result.successes.ndim == 1 and result.counts.votes is None
    several = result.decision is not None
    lower, upper = (
        found if found and found.p.ndim == 1 else None for found in (result.lower_bound, result.upper_bound)
    )
    header = ["id", *(["decision"] if several else []), *(["$k$", "$n$"] if shared else [])]
    header += [*([r"$p \geq$"] if lower else []), *([r"$p \leq$"] if upper else [])]
    header += ["max $d$", *(f"$r_{{{d}}}$" for d in result.budgets if pixels)]
    rows = []
    for row in result:
        cells = [escaped(row.id), *([str(row.decision)] if several else [])]
        cells += [str(row.successes), str(row.n)] if shared else []
        cells += [probability_text(float(lower.p[row.index]))] if lower else []
        cells += [_upper_text(upper, row.index)] if upper else []
        cells += [budget_text(row.budget), *(radius_text(r) for r in row.radius if pixels)]
        rows.append([cell.replace(DASH, "--") for cell in cells])
    return header, rows


def _summary_rows(result: Result) -> tuple[list[str], list[list[str]]]:
    header, rows = summary(result).table()
    return [escaped(name) for name in header], [[escaped(cell) for cell in row] for row in rows]


def _upper_text(bounds: Bounds, index: int) -> str:
    return ceil_probability_text(float(bounds.p[index]), float(bounds.complement[index]))


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
