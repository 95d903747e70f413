"""One self-contained HTML page of a record of certificates: it opens from the disk and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from string import Template
from typing import Any

from hybrid_rs_jax._text import ceil_probability_text, probability_text
from hybrid_rs_jax.report import html_sections as sections
from hybrid_rs_jax.report.html_previews import Preview
from hybrid_rs_jax.results.record import record as as_record
from hybrid_rs_jax.results.result import Result

__all__ = ["PICTURE_BYTES", "embedded_record", "html_report"]

#: Pictures beyond this many bytes are left out, so that the page still opens at once.
PICTURE_BYTES = 24 * 2**20
_SCRIPTS = ("html_numbers.js", "html_charts.js", "html_table.js", "html_input.js", "html_page.js")


def html_report(result: Result, preview: Preview | None = None) -> str:
    """The page: settings, the guarantee in words, the frontier, certified accuracy, and every input.

    Equal records give equal pages: the page holds no time and no path. Numbers are rounded as in the tables: what is
    guaranteed is floored. Text of the record is data, never markup, and the page's content security policy lets it
    load nothing and run only its own script.

    Args:
      result: what `certify` gives, or `read_certificates` reads.
      preview: text and PNG of the input with an id, or None where they are not known. Pictures are embedded in the
        order of the record, up to `PICTURE_BYTES`.

    Returns:
      The text of a file in UTF-8.
    """
    record = as_record(result)
    style, script = _asset("html_style.css"), "\n".join(_asset(name) for name in _SCRIPTS)
    policy = {
        "default-src": "'none'",
        "style-src": _source(style),
        "script-src": _source(script),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return Template(_asset("html_template.html")).substitute(
        policy="; ".join(f"{directive} {value}" for directive, value in policy.items()),
        style=style,
        script=script,
        data=_json(_payload(record, preview)),
        title=sections.title(record),
        source=sections.source(record),
        figures=sections.figures(record),
        guarantee=sections.guarantee(record),
        summary=sections.summary(record, result),
        missing=sections.missing(record),
        settings=sections.settings(record),
    )


def embedded_record(data: Mapping[str, Any]) -> dict[str, Any]:
    """The record back from the JSON in a page (the element with the id `data`), digit for digit.

    >>> row = {"id": "a", "successes": 9, "n": 9, "p_a": 0.5, "radius": [0.25], "budget": 0}
    >>> record = {"statement": {"side": "above"}, "certificates": [row]}
    >>> embedded_record(_payload(record, None)) == record
    True
    """
    rows = [{"id": name, **data["kinds"][kind]} for name, kind in zip(data["ids"], data["kind"], strict=True)]
    return {"statement": data["statement"], "certificates": rows}


def _payload(record: Mapping[str, Any], preview: Preview | None) -> dict[str, Any]:
    """The record with equal certificates stored once: inputs that got the same counts differ in their ids only."""
    rows = record["certificates"]
    kinds: list[dict[str, Any]] = []
    known: dict[str, int] = {}
    kind = []
    for row in rows:
        values = {name: value for name, value in row.items() if name != "id"}
        number = known.setdefault(json.dumps(values), len(kinds))
        if number == len(kinds):
            kinds.append(values)
        kind.append(number)
    payload = {
        "statement": record["statement"],
        "kinds": kinds,
        "bounds": [_bound_text(record["statement"], values) for values in kinds],
        "ids": [row["id"] for row in rows],
        "kind": kind,
    }
    return payload if preview is None else payload | _previews(payload["ids"], preview)


def _bound_text(statement: Mapping[str, Any], row: Mapping[str, Any]) -> str | list[str]:
    """The bound on the clean score, rounded to its own safe side: a lower one down, an upper one up."""
    upper = row.get("decision") == "safe" or statement.get("side") == "below"
    bound = row.get("upper_bound" if upper else "p_a")
    text = [ceil_probability_text(p, 1 - p) if upper else probability_text(p) for p in _listed(bound)]
    return text if isinstance(bound, list) else "".join(text)


def _listed(value: Any) -> list[float]:
    if value is None:
        return []
    return [float(p) for p in value] if isinstance(value, list) else [float(value)]


def _previews(ids: Iterable[str], preview: Preview) -> dict[str, list[str | None]]:
    texts: list[str | None] = []
    pictures: list[str | None] = []
    used = 0
    for name in ids:
        text, png = preview(name) or (None, None)
        used += 0 if png is None else len(png)
        texts.append(text)
        pictures.append(None if png is None or used > PICTURE_BYTES else base64.b64encode(png).decode())
    return {"texts": texts, "pictures": pictures}


def _json(payload: Mapping[str, Any]) -> str:
    """JSON that no HTML parser can mistake for markup: plain ASCII, and none of `<`, `>`, `&`."""
    text = json.dumps(payload, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _source(text: str) -> str:
    """The hash by which the content security policy allows one inline element."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return resources.files("hybrid_rs_jax.report").joinpath(name).read_text(encoding="utf-8")
