"""Parts of the HTML page that are text: the guarantee in words, the summary per budget, the settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from hybrid_rs_jax._text import counted, floor_text, mean, radius_text, setting_text, span_text
from hybrid_rs_jax.kernels.record import smoothing_text
from hybrid_rs_jax.results.explanations import explanations
from hybrid_rs_jax.results.result import Result
from hybrid_rs_jax.results.sentences import legend

__all__ = ["figures", "guarantee", "missing", "not_covered", "settings", "source", "summary", "title"]

#: A summary of more budgets scrolls by itself.
_LONG = 16
#: Names of this many skipped or unfinished inputs are listed.
_LISTED = 200
#: Statement fields that the page shows as sentences, as a column or as a list of inputs.
_ELSEWHERE = (
    "guarantee",
    "threat_model",
    "minus_one",
    "needed_samples",
    "needed_samples_safe",
    "skipped",
    "unfinished",
)


def _names(joined: str) -> tuple[str, ...]:
    return tuple(joined.split(", "))


#: Settings by group: a group takes the fields with these names, or whose dotted name begins with one that ends in ".".
_GROUPS: dict[str, tuple[str, ...]] = {
    "Certificate": _names(
        "claim, side, tau, alpha, risk, risk_per_statement, simultaneous, bound, budgets, max_budget"
    ),
    "Noise": _names(
        "kernel, beta, vocab_size, cardinalities, mask_token, sigma, run.sigma_unit, run.eligible_positions"
    ),
    "Draws": _names(
        "run.samples, run.seed, run.dtype, run.mode, plan, plan., run.plan, run.plan., run.aim, run.aim., run.budgets, "
        "run.classes"
    ),
    "Classifier": ("run.classifier.",),
    "Data": ("run.data.",),
    "Software": ("package", "run.packages.", "run.format"),
}
_REST = "Other"
_LABELS = {"tau": "τ, threshold", "alpha": "α, risk", "beta": "β", "sigma": "σ", "dtype": "pixel type"}
_SETS = ("budgets", "run.budgets", "run.eligible_positions")


def text(value: object) -> str:
    """Text as HTML: nothing in it is markup, and it can be written in UTF-8."""
    return escape(str(value).encode("utf-8", "replace").decode())


def title(record: Mapping[str, Any]) -> str:
    """What the page is about: the classifier, where the record names it."""
    name = _named(record, "classifier")
    return text(f"Certificates of the smoothed {name.rsplit('.', 1)[-1]}" if name else "Certificates")


def source(record: Mapping[str, Any]) -> str:
    """Data and noise, in one line."""
    data = _named(record, "data")
    parts = [*([data] if data else []), smoothing_text(record["statement"])]
    return text("; ".join(parts).replace("beta", "β").replace("sigma", "σ"))


def figures(record: Mapping[str, Any]) -> str:
    """The four numbers that say most, with what they are."""
    statement, rows = record["statement"], record["certificates"]
    radius = _radius(record)
    first = statement["budgets"][0]
    at_first = f" at d\u00a0=\u00a0{first}" if _tokens(record) else ""
    shown = [(f"{int((radius[:, 0] >= 0).sum()):,} of {len(rows):,}", f"inputs certified{at_first}")]
    if any("decision" in row for row in rows):
        named = [row.get("decision") for row in rows]
        shown.append(
            (" / ".join(f"{named.count(d):,}" for d in ("unsafe", "safe")), "certified unsafe / certified safe")
        )
    if _tokens(record):
        shown.append((floor_text(mean(row["budget"] for row in rows), 2), "mean certified token budget"))
    if statement["sigma"] is not None:
        middle = float(np.sort(radius[:, 0])[(len(rows) - 1) // 2])
        shown.append((radius_text(middle), f"median certified radius{at_first}"))
    draws = sorted({int(n) for row in rows for n in np.atleast_1d(row["n"])})
    span = f"{draws[0]:,}" if len(draws) == 1 else f"{draws[0]:,} to {draws[-1]:,}"
    shown.append((span, "noisy copies per input" + ("" if statement.get("simultaneous", True) else " and budget")))
    return "\n".join(f"<div><dt>{text(what)}</dt><dd>{text(number)}</dd></div>" for number, what in shown)


def guarantee(record: Mapping[str, Any]) -> str:
    """The guarantee, what the attacker may do, what tau means at run time, and what is not covered."""
    statement = record["statement"]
    said = statement.get("guarantee") or "The file does not state its guarantee."
    attacker = statement.get("threat_model")
    side = statement.get("side", "above")
    parts = [f'<p class="lead">{text(said)}</p>', '<div class="pair">', "<div>"]
    if attacker:
        parts.append(f"<h3>What the attacker may do</h3><p>{text(_sentence(attacker))}</p>")
    if side in ("above", "below", "both") and "tau" in statement:
        parts.append(f"<h3>What it means in operation</h3><p>{text(statement.get('deployment', ''))}</p>")
    parts += ["</div>", "<div><h3>What is not covered</h3>", _list(not_covered(record)), "</div>", "</div>"]
    return "\n".join(parts)


def not_covered(record: Mapping[str, Any]) -> Iterator[str]:
    """Sentences that keep a reader from taking the certificates for more than they are."""
    statement, inputs = record["statement"], len(record["certificates"])
    yield "The base classifier without noise: nothing is said about its answer."
    yield "Whether an answer is right: a certificate says that it cannot be moved, not that it is true."
    yield (
        f"All inputs at once: each has its own risk α = {setting_text(statement['alpha'])}. Among "
        f"{counted(inputs, 'input')}, up to {setting_text(inputs * statement['alpha'])} wrong certificates are to be "
        "expected."
    )
    if _tokens(record):
        run = statement.get("run")
        places: Any = run.get("eligible_positions") if isinstance(run, dict) else None
        if _whole(places):
            yield f"Tokens outside the positions {span_text(places)}, which carry no noise: they must stay as they are."
        yield "Insertions and deletions that shift later tokens."
    if statement["sigma"] is not None:
        yield "Pixel changes beyond the l2 radius; another norm is covered only as far as it fits into that ball."
    if minus_one := statement.get("minus_one"):
        yield f"Budgets without a certificate. In files: {minus_one}."


def summary(record: Mapping[str, Any], result: Result) -> str:
    """One row per budget, with the draws that it needs; then why something is not certified, and the legend."""
    statement = record["statement"]
    header, body = result.summary().table()
    known = len(statement.get("needed_samples") or ()) == len(body)
    if known:
        header = [*header, "draws needed"]
        needed = statement["needed_samples"]
        body = [[*row, f"{n:,}" if n > 0 else "none suffices"] for row, n in zip(body, needed, strict=True)]
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    lines = (f'<tr><th scope="row">{text(d)}</th>{_cells(rest)}</tr>' for d, *rest in body)
    notes = [*statement["provisos"], *explanations(result)]
    pixels = statement["sigma"] is not None
    average = "Over all inputs; one that is not certified counts as 0 in the mean. " if pixels else ""
    notes.append(average + legend(result.statements[0]))
    if known:
        notes.append(
            "Draws needed: the fewest noisy copies with which an input can be certified at that budget, if all agree."
        )
    return "\n".join(
        [
            f'<div class="scroll summary{" long" if len(body) > _LONG else ""}" role="region" '
            'aria-label="Summary per budget" tabindex="0">',
            '<table class="numbers"><caption class="hidden">Summary per token budget</caption>',
            f"<thead><tr>{head}</tr></thead>",
            f"<tbody>{''.join(lines)}</tbody></table></div>",
            *(f'<p class="note">{text(note)}</p>' for note in notes),
        ]
    )


def missing(record: Mapping[str, Any]) -> str:
    """Inputs of the run that have no certificate, with the reason where there is one."""
    parts = []
    for what, why in (("skipped", "the run could not use them"), ("unfinished", "their draws are not complete")):
        entries = record["statement"].get(what) or ()
        if not entries:
            continue
        named = [f"{name}: {entries[name]}" if isinstance(entries, dict) else str(name) for name in entries]
        more = [f"and {len(named) - _LISTED} more"] if len(named) > _LISTED else []
        count = counted(len(named), "input")
        parts.append(
            f"<details><summary>{text(f'{count} {what}, not certified: {why}')}</summary>"
            f"{_list([*named[:_LISTED], *more])}</details>"
        )
    return "\n".join(parts)


def settings(record: Mapping[str, Any]) -> str:
    """Everything in the statement that is not said elsewhere, in groups; unknown fields under their own names."""
    fields = dict(_flat(record["statement"]))
    parts = []
    for group, names in {**_GROUPS, _REST: ("",)}.items():
        prefixes = tuple(name for name in names if name.endswith(".")) if group != _REST else ("",)
        chosen = [name for wanted in names for name in fields if name == wanted]
        chosen += [name for name in fields if prefixes and name.startswith(prefixes) and name not in chosen]
        rows = [_setting(name, fields.pop(name), prefixes) for name in chosen]
        if rows:
            parts.append(f"<section><h3>{group}</h3><dl>{''.join(rows)}</dl></section>")
    return "\n".join(parts)


def _setting(name: str, value: Any, prefixes: Iterable[str]) -> str:
    label = _LABELS.get(name.removeprefix("run."))
    if label is None:
        found = [prefix for prefix in (*prefixes, "run.") if prefix and name.startswith(prefix)]
        label = name.removeprefix(max(found, key=len, default=""))
        label = label if name.startswith("run.packages.") else label.replace("_", " ")
    return f"<div><dt>{text(label)}</dt><dd>{text(_value_text(name, value))}</dd></div>"


def _value_text(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _whole(value):
        return span_text(value) if name in _SETS else ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Fields by dotted name."""
    for name, value in fields.items():
        if prefix or name not in _ELSEWHERE:
            if isinstance(value, dict) and value:
                yield from _flat(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value


def _named(record: Mapping[str, Any], part: str) -> str | None:
    run = record["statement"].get("run")
    described = run.get(part) if isinstance(run, dict) else None
    name = described.get("name") if isinstance(described, dict) else None
    return name if isinstance(name, str) else None


def _radius(record: Mapping[str, Any]) -> np.ndarray:
    return np.array([row["radius"] for row in record["certificates"]], np.float64)


def _tokens(record: Mapping[str, Any]) -> bool:
    return record["statement"]["kernel"] != "none"


def _whole(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(x, int) and not isinstance(x, bool) for x in value)
    )


def _sentence(said: str) -> str:
    return said[:1].upper() + said[1:] + ("" if said.endswith(".") else ".")


def _cells(cells: Sequence[str]) -> str:
    return "".join(f"<td>{text(cell)}</td>" for cell in cells)


def _list(entries: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{text(entry)}</li>' for entry in entries)}</ul>"
