"""One self-contained HTML page of a result: it opens from the disk and loads nothing."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib import resources
from string import Template

from hybrid_rs_jax.report import _page_inputs as inputs
from hybrid_rs_jax.report import _page_sections as sections
from hybrid_rs_jax.report.previews import Preview
from hybrid_rs_jax.results.result import Result

__all__ = ["asset", "page"]


def page(result: Result, preview: Preview | None = None) -> str:
    """The page: the guarantee in words, what is certified as charts and tables, every input, all settings.

    Equal results give equal pages: a page holds no time and no path. Numbers are rounded as in the tables: what is
    guaranteed is floored. Text of the result is data, never markup, and the page's content security policy lets it load
    nothing and run only its own script, which sorts and filters the table of inputs.

    Args:
      result: certificates.
      preview: text and PNG of the input with an id, or None where they are not known.

    Returns:
      The text of a file in UTF-8.
    """
    script = asset("page.js")
    policy = {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",  # the charts are SVG whose shapes carry their style
        "script-src": _hash(script),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return Template(asset("page.html")).substitute(
        policy="; ".join(f"{directive} {value}" for directive, value in policy.items()),
        style=asset("page.css"),
        script=script,
        title=escape(sections.title(result)),
        source=escape(sections.source(result)),
        figures=sections.figures(result),
        guarantee=sections.guarantee(result),
        charts=sections.charts(result),
        accuracy=sections.accuracy(result),
        summary=sections.summary(result),
        filters=inputs.filters(result),
        count=escape(inputs.count(result)),
        inputs=inputs.table(result, preview),
        missing=sections.missing(result),
        settings=sections.settings(result),
    )


def _hash(text: str) -> str:
    """The hash by which the content security policy allows one inline script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def asset(name: str) -> str:
    """A text that lies beside this module."""
    return resources.files("hybrid_rs_jax.report").joinpath(name).read_text(encoding="utf-8")
