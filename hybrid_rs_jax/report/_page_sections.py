"""The parts of the page that are about all inputs: figures, guarantee, charts, tables per budget, settings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

import numpy as np

from hybrid_rs_jax._text import counted, floor_text, mean, percent_text, radius_text, setting_text, span_text, up_text
from hybrid_rs_jax.kernels.record import describe_smoothing, smoothing_text
from hybrid_rs_jax.report.plots import in_greek, svg_figures
from hybrid_rs_jax.results import sentences
from hybrid_rs_jax.results import summary as summaries
from hybrid_rs_jax.results.explanations import explanations
from hybrid_rs_jax.results.record import statement_record
from hybrid_rs_jax.results.result import Result

__all__ = ["accuracy", "charts", "figures", "guarantee", "missing", "settings", "source", "summary", "text", "title"]

#: A summary of more budgets scrolls by itself.
_LONG = 16
#: Names of this many skipped or unfinished inputs are listed.
_LISTED = 200
#: Columns of the table of certified accuracy, at most.
_EPSILONS = 9


#: Fields of the statement that the page shows as sentences, as a column or as a list of inputs.
_ELSEWHERE = (
    "guarantee", "threat_model", "deployment", "provisos", "minus_one", "needed_samples", "decisions", "abstaining",
    "skipped", "unfinished",
)  # fmt: skip
#: Titles of groups of settings, by the dotted name that their fields begin with.
_GROUPS = {"": "Certificate", "run": "Run", "run.packages": "Packages", "run.noise": "Noise of the run"}


def text(value: object) -> str:
    """Text as HTML: nothing in it is markup, and it can be written in UTF-8."""
    return escape(str(value).encode("utf-8", "replace").decode())


def title(result: Result) -> str:
    """What the page is about: the classifier, where the run names it."""
    run = result.counts.run
    name = None if run is None else run.named("classifier")
    return f"Certificates of the smoothed {name.rsplit('.', 1)[-1]}" if name else "Certificates"


def source(result: Result) -> str:
    """Data and noise, in one line."""
    run = result.counts.run
    data = None if run is None else run.named("data")
    noise = smoothing_text(describe_smoothing(result.statements[0].noise.smoothing))
    return "; ".join([*([data] if data else []), in_greek(noise)])


def figures(result: Result) -> str:
    """The numbers that say most, with what they are."""
    noise, threat, first = result.statements[0].noise, result.statements[0].threat, result.budgets[0]
    at_first = f" at d\u00a0=\u00a0{first}" if noise.tokens else ""
    shown = [(f"{int((result.radius[:, 0] >= 0).sum()):,} of {len(result):,}", f"inputs certified{at_first}")]
    if result.decision is not None and result.counts.votes is None:
        counts = [int((result.decision == name).sum()) for name in ("unsafe", "safe")]
        shown.append((" / ".join(f"{number:,}" for number in counts), "certified unsafe / certified safe"))
    if noise.tokens:
        shown.append(
            (
                floor_text(mean(map(float, result.budget)), 2),
                f"mean certified {threat.symbol} budget",
            )
        )
    if noise.pixels:
        middle = float(np.sort(result.radius[:, 0])[(len(result) - 1) // 2])
        shown.append((radius_text(middle), f"median certified radius{at_first}"))
    least, most = int(result.n.min()), int(result.n.max())
    per = "noisy copies per input" + ("" if result.statements[0].simultaneous else " and budget")
    shown.append((f"{most:,}" if least == most else f"{least:,} to {most:,}", per))
    return "\n".join(f"<div><dt>{text(what)}</dt><dd>{text(number)}</dd></div>" for number, what in shown)


def guarantee(result: Result) -> str:
    """The guarantee, what the attacker may do, what tau means at run time, and what is not covered."""
    first = result.statements[0]
    ties = 0 if result.counts.ties is None else int(result.counts.ties.sum())
    notes = list(sentences.provisos(first, ties))
    kind = ' class="lead warning"' if first.provisional is not None else ' class="lead"'
    parts = [f"<p{kind}>{text(sentences.guarantee(result.statements))}</p>", '<div class="pair">', "<div>"]
    parts.append(f"<h3>What the attacker may do</h3><p>{text(_sentence(sentences.threat_model(first)))}</p>")
    if operation := sentences.deployment(result.statements):
        parts.append(f"<h3>What it means in operation</h3><p>{text(operation)}</p>")
    parts.append("<h3>What it rests on</h3>" + "".join(f"<p>{text(note)}</p>" for note in notes))
    parts += ["</div>", "<div><h3>What is not covered</h3>", html_list(not_covered(result)), "</div>", "</div>"]
    return "\n".join(parts)


def not_covered(result: Result) -> Iterator[str]:
    """Sentences that keep a reader from taking the certificates for more than they are."""
    first = result.statements[0]
    yield "The base classifier without noise: nothing is said about its answer."
    yield "Whether an answer is right: a certificate says that it cannot be moved, not that it is true."
    yield (
        f"All inputs at once: each has its own risk α = {setting_text(result.alpha)}. Among "
        f"{counted(len(result), 'input')}, up to {up_text(len(result) * result.alpha)} wrong certificates are to be "
        "expected."
    )
    if first.noise.tokens:
        places = first.threat.positions
        where = "that carry no noise" if places is None else f"other than {span_text(places)}, which carry no noise"
        if first.threat.name == "fields":
            yield "Columns with one value, and the label: they must stay as they are."
        else:
            yield f"Tokens at positions {where}: they must stay as they are."
        if first.threat.name not in ("insert", "fields"):
            yield "Insertions and deletions that shift later tokens."
    if first.noise.pixels:
        changes = f"{first.threat.number.capitalize()} changes"
        yield f"{changes} beyond the l2 radius; another norm is covered only as far as it fits into that ball."
    yield f"Budgets without a certificate. In files: {sentences.MINUS_ONE}."


def charts(result: Result) -> str:
    """The frontier and the certified accuracy as inline SVG."""
    drawn = svg_figures(result)
    inside = "\n".join(f'<figure role="img" aria-label="{text(label)}">{svg}</figure>' for label, svg in drawn)
    return f'<div class="charts">\n{inside}\n</div>'


def accuracy(result: Result) -> str:
    """Share of inputs certified for each token budget and pixel budget."""
    largest, threat = float(result.radius.max(initial=0.0)), result.statements[0].threat
    if not result.statements[0].noise.pixels or largest <= 0:
        return ""
    epsilons = _round_steps(largest)
    share = (result.radius[:, :, None] >= epsilons).sum(axis=0)
    head = ["d", *(f"ε = {setting_text(float(epsilon))}" for epsilon in epsilons)]
    body = [
        [str(d), *(percent_text(int(count), len(result)) for count in row)]
        for d, row in zip(result.budgets, share, strict=True)
    ]
    return "<h3>Certified accuracy: share of inputs that are certified at (d, ε)</h3>\n" + html_table(
        head, body, f"Certified accuracy by {threat.symbol} budget and {threat.number} budget"
    )


def summary(result: Result) -> str:
    """One row per budget, with the draws that it needs; then why something is not certified, and the legend."""
    header, body = summaries.summary(result).table()
    asked = [statement for statement in result.statements if statement.risk.tau is not None]
    for statement in asked:
        name = "draws needed" if len(asked) == 1 else f"draws needed ({sentences.certified(statement)})"
        header = [*header, name]
        draws = statement.needs.draws
        body = [[*row, f"{n:,}" if n > 0 else "none suffices"] for row, n in zip(body, draws, strict=True)]
    notes = list(explanations(result))
    pixels = result.statements[0].noise.pixels
    notes.append("Over all inputs; one that is not certified counts as 0 in the mean." if pixels else "")
    notes.append(sentences.legend(result.statements[0]))
    if asked:
        notes.append("Draws needed: the fewest noisy copies that certify an input at that budget, if all agree.")
    return "\n".join(
        [
            html_table(header, body, f"Summary per {result.statements[0].threat.symbol} budget"),
            *(f'<p class="note">{text(note)}</p>' for note in notes if note),
        ]
    )


def missing(result: Result) -> str:
    """Inputs of the run that have no certificate, with the reason where there is one."""
    skipped = [f"{name}: {reason}" for name, reason in result.counts.skipped]
    parts = []
    for what, why, named in (
        ("skipped", "the run could not use them", skipped),
        ("unfinished", "their draws are not complete", list(result.counts.unfinished)),
    ):
        if not named:
            continue
        more = [f"and {len(named) - _LISTED} more"] if len(named) > _LISTED else []
        count = counted(len(named), "input")
        parts.append(
            f"<details><summary>{text(f'{count} {what}, not certified: {why}')}</summary>"
            f"{html_list([*named[:_LISTED], *more])}</details>"
        )
    return "\n".join(parts)


def settings(result: Result) -> str:
    """Everything that the statement holds and the page does not say elsewhere, by group."""
    groups: dict[str, list[str]] = {"Certificate": []}
    for name, value in _flat(statement_record(result)):
        group, _, rest = name.rpartition(".")
        title = _GROUPS.get(group, group.rpartition(".")[2])
        label = rest if title == "Packages" else rest.replace("_", " ")
        row = f"<div><dt>{text(label)}</dt><dd>{text(_value_text(value))}</dd></div>"
        groups.setdefault(title.capitalize(), []).append(row)
    return "\n".join(
        f"<section><h3>{text(name)}</h3><dl>{''.join(rows)}</dl></section>" for name, rows in groups.items()
    )


def _flat(fields: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Fields by dotted name, without those that the page says in its own place."""
    for name, value in fields.items():
        if not prefix and name in _ELSEWHERE:
            continue
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _value_text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and value and all(type(part) is int for part in value):
        return span_text(value)
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        return "; ".join(_fields_text(part) for part in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _fields_text(fields: Mapping[str, object]) -> str:
    """One of several: `draws conditional, forced 2, sets 4`."""
    said = {name: up_text(value) if isinstance(value, float) else value for name, value in fields.items()}
    return ", ".join(f"{name} {value}" for name, value in said.items() if value is not None)


def _round_steps(largest: float) -> np.ndarray:
    """Round distances from 0 up to at most `largest`, few enough for a table."""
    power = 10.0 ** math.floor(math.log10(largest))
    step = next(s for s in (0.1, 0.2, 0.25, 0.5, 1, 2, 2.5, 5) if largest / (s * power) < _EPSILONS) * power
    return np.array([round(step * index, 12) for index in range(int(largest / step) + 1)])


def html_table(head: Sequence[str], body: Sequence[Sequence[str]], caption: str) -> str:
    """A table that scrolls by itself; the first column names the rows."""
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    lines = (f'<tr><th scope="row">{text(first)}</th>{_cells(rest)}</tr>' for first, *rest in body)
    return (
        f'<div class="scroll{" long" if len(body) > _LONG else ""}" role="region" aria-label="{text(caption)}" '
        f'tabindex="0"><table><caption class="hidden">{text(caption)}</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _sentence(said: str) -> str:
    return said[:1].upper() + said[1:] + ("" if said.endswith(".") else ".")


def _cells(cells: Sequence[str]) -> str:
    return "".join(f"<td>{text(cell)}</td>" for cell in cells)


def html_list(entries: Iterable[str]) -> str:
    """Sentences as a list."""
    return f"<ul>{''.join(f'<li>{text(entry)}</li>' for entry in entries)}</ul>"
