"""The table of inputs on the page: one row each, with text and picture where they are known."""

from __future__ import annotations

import base64
from collections.abc import Iterator

from hybrid_rs_jax.report._page_sections import text
from hybrid_rs_jax.report.previews import Preview
from hybrid_rs_jax.report.tables import certificate_rows
from hybrid_rs_jax.results.result import Result

__all__ = ["MOST_ROWS", "PICTURE_BYTES", "count", "filters", "table"]

#: Beyond so many rows a browser no longer opens a page at once; files hold them all.
MOST_ROWS = 10_000
#: Pictures beyond this many bytes are left out, for the same reason.
PICTURE_BYTES = 24 * 2**20
#: Columns that are words.
_WORDS = ("id", "decision")


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
        '<label>with radius at least <input type="number" id="filter-radius" min="0" step="any"></label>'
    )


def table(result: Result, preview: Preview | None = None) -> str:
    """The table, its first `MOST_ROWS` rows, with the cells of the terminal's."""
    shown = result[:MOST_ROWS]
    header, body = certificate_rows(shown, decimals=3)
    kinds = ["text" if name in _WORDS else "number" for name in header]
    heads = "".join(
        f'<th scope="col" data-name="{text(name)}" data-kind="{kind}">{text(name)}</th>'
        for name, kind in zip(header, kinds, strict=True)
    )
    tags = [f'<td class="{kind}">' if kind == "text" else "<td>" for kind in kinds[1:]]
    lines = (
        f'<tr><th scope="row">{name}</th>'
        + "".join(f"{tag}{text(cell)}</td>" for tag, cell in zip(tags, cells[1:], strict=True))
        + "</tr>"
        for name, cells in zip(_names(shown.ids, preview), body, strict=True)
    )
    return (
        '<table class="rows" id="rows"><caption class="hidden">Inputs with their certificates; a column head sorts'
        f"</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>{chr(10).join(lines)}</tbody></table>"
    )


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
