"""The table of inputs on the page: one row each, with text and picture where they are known."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np

from hybrid_rs_jax._text import at_least_text, budget_text, probability_text, radius_text, up_text
from hybrid_rs_jax.report._page_sections import text
from hybrid_rs_jax.report.previews import Preview
from hybrid_rs_jax.results.result import Bounds, Result

__all__ = ["MOST_ROWS", "PICTURE_BYTES", "count", "filters", "table"]

#: Beyond so many rows a browser no longer opens a page at once; files hold them all.
MOST_ROWS = 10_000
#: Pictures beyond this many bytes are left out, for the same reason.
PICTURE_BYTES = 24 * 2**20


def count(result: Result) -> str:
    """How many inputs the table shows."""
    if len(result) <= MOST_ROWS:
        return f"{len(result):,} inputs." if len(result) != 1 else "1 input."
    return f"The first {MOST_ROWS:,} of {len(result):,} inputs; the CSV file of the result holds all of them."


def filters(result: Result) -> str:
    """The fields that filter by budget and radius."""
    options = "".join(f'<option value="r_{d}">at d = {d}</option>' for d in result.budgets)
    if not result.statements[0].noise.pixels:
        return ""
    return (
        f'<label>Certified <select id="filter-budget"><option value="">any</option>{options}</select></label>\n'
        '<label>with radius at least <input type="number" id="filter-radius" min="0" step="any" placeholder="0"></label>'
    )


def table(result: Result, preview: Preview | None = None) -> str:
    """The table, its first `MOST_ROWS` rows."""
    shown = result[:MOST_ROWS]
    columns = list(_columns(shown))
    head = "".join(
        f'<th scope="col" data-name="{text(name)}" data-kind="{kind}">{text(name)}</th>' for name, kind, _ in columns
    )
    names = _names(shown.ids, preview)
    lines = (
        f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>'
        for name, *cells in zip(names, *(cells for _, _, cells in columns), strict=True)
    )
    return (
        '<table class="rows" id="rows"><caption class="hidden">Inputs with their certificates; a column head sorts'
        f'</caption>\n<thead><tr><th scope="col" data-name="input" data-kind="text">input</th>{head}</tr></thead>\n'
        f"<tbody>{chr(10).join(lines)}</tbody></table>"
    )


def _columns(result: Result) -> Iterator[tuple[str, str, list[str]]]:
    """Name, kind and cells of each column but the first."""
    decision = result.decision
    if decision is not None:
        yield "decision", "text", [f'<td class="text">{text(value)}</td>' for value in decision.tolist()]
    yield "successes", "number", _counts(result.successes)
    yield "n", "number", _counts(result.n)
    if result.lower_bound is not None:
        yield "p_A", "number", _bounds(result.lower_bound, upper=False)
    if result.upper_bound is not None:
        yield "upper bound", "number", _bounds(result.upper_bound, upper=True)
    if result.statements[0].noise.tokens:
        yield "largest d", "number", [f"<td>{budget_text(d)}</td>" for d in result.budget.tolist()]
    if result.statements[0].noise.pixels:
        for d, column in zip(result.budgets, result.radius.T, strict=True):
            yield f"r_{d}", "number", [f"<td>{radius_text(r)}</td>" for r in column.tolist()]


def _counts(values: np.ndarray) -> list[str]:
    """Integers; where each budget has a sample of its own, all of them, sorted by the first."""
    if values.ndim == 1:
        return [f"<td>{value}</td>" for value in values.tolist()]
    return [f'<td data-value="{row[0]}">{" ".join(map(str, row))}</td>' for row in values.tolist()]


def _bounds(bounds: Bounds, upper: bool) -> list[str]:
    """Confidence bounds, each rounded to its own safe side; the number itself is what a column sorts by."""
    shape = (len(bounds.p), -1)
    rows = zip(bounds.p.reshape(shape).tolist(), bounds.complement.reshape(shape).tolist(), strict=True)
    return [
        f'<td data-value="{p[0]!r}">{text(" ".join(_bound_text(x, y, upper) for x, y in zip(p, rest, strict=True)))}</td>'
        for p, rest in rows
    ]


def _bound_text(p: float, complement: float, upper: bool) -> str:
    if upper:
        return up_text(p) if p < 1 else "1"
    return at_least_text(p, complement) if complement < 1e-8 else probability_text(p)


def _names(ids: tuple[str, ...], preview: Preview | None) -> Iterator[str]:
    """Names of the inputs; one that is known better opens to its text and its picture."""
    used = 0
    for name in ids:
        known = None if preview is None else preview(name)
        if known is None:
            yield text(name)
            continue
        words, png = known
        used += 0 if png is None else len(png)
        picture = ""
        if png is not None and used <= PICTURE_BYTES:
            picture = f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        yield f"<details><summary>{text(name)}</summary>{picture}<p>{text(words)}</p></details>"
