"""A result as the JSON object of `hybrid-rs certify --json`: dictionaries are made here, at the last step."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from hybrid_rs_jax.certificate.samples import Sample
from hybrid_rs_jax.kernels import Edits
from hybrid_rs_jax.kernels.edits import Budget
from hybrid_rs_jax.kernels.record import describe_smoothing
from hybrid_rs_jax.results.explanations import draws_at_share, silent_rows
from hybrid_rs_jax.results.facts import thawed
from hybrid_rs_jax.results.sentences import MINUS_ONE, claim, deployment, guarantee, provisos, threat_model
from hybrid_rs_jax.results.statement import Provisional, Statement, Threat

if TYPE_CHECKING:
    from hybrid_rs_jax.results.result import OneSided, Result

__all__ = ["blocks", "distinct", "json_lines", "record", "row_columns", "statement_record"]

Object: TypeAlias = dict[str, object]
Values: TypeAlias = "np.ndarray | tuple[str, ...]"
#: The draws that inputs which abstain would need are computed for so many different shares of votes.
_SHARES = 200
#: Rows that are turned into text at a time.
_BLOCK = 1 << 18


def record(result: Result) -> Object:
    """`{"statement": everything that the guarantee depends on, "certificates": one object per input}`."""
    columns = {"id": result.ids, **row_columns(result)}
    rows = zip(*(_listed(values) for values in columns.values()), strict=True)
    certificates = [dict(zip(columns, row, strict=True)) for row in rows]
    for column in result.counts.others:
        for row, value in zip(certificates, column.values, strict=True):
            row.setdefault("columns", {})[column.name] = value
    return {"statement": statement_record(result), "certificates": certificates}


def json_lines(result: Result, more: Mapping[str, object] | None = None) -> Iterator[str]:
    """The text of `record`, a field or certificate per line; equal certificates are turned into text once.

    Args:
      result: certificates.
      more: further fields of the object, at its end.
    """
    fields = (f"    {_text(name)}: {_text(value)}" for name, value in statement_record(result).items())
    yield '{\n  "statement": {\n' + ",\n".join(fields) + '\n  },\n  "certificates": [\n'
    between = ""
    for part in blocks(result):
        for line in _row_texts(part):
            yield f"{between}    {line}"
            between = ",\n"
    yield "\n  ]"
    for name, value in (more or {}).items():
        yield f",\n  {_text(name)}: {_text(value)}"
    yield "\n}"


def blocks(result: Result) -> Iterator[Result]:
    """The inputs in parts, so that the text of a million rows is never held as a whole."""
    for start in range(0, len(result), _BLOCK):
        yield result.taken(slice(start, start + _BLOCK))


def _row_texts(result: Result) -> Iterator[str]:
    first, back = distinct(result)
    columns = row_columns(result.taken(first))
    bodies = [
        ", ".join(f"{_text(name)}: {text}" for name, text in zip(columns, row, strict=True))
        for row in zip(*map(_column_texts, columns.values()), strict=True)
    ]
    others = result.counts.others
    for index, (name, kind) in enumerate(zip(result.ids, back.tolist(), strict=True)):
        more = {column.name: column.values[index] for column in others}
        tail = f', "columns": {_text(more)}' if more else ""
        yield f'{{"id": {_text(name)}, {bodies[kind]}{tail}}}'


def row_columns(result: Result) -> dict[str, Values]:
    """What a row holds besides its id, by name: arrays [B] or [B, D]."""
    counts = result.counts
    columns: dict[str, Values] = {}
    if (decision := result.decision) is not None:
        columns["decision"] = decision
    columns |= result.count_columns
    columns["n"] = counts.n
    if counts.most is not None:
        columns["most"] = counts.most
    if counts.ties is not None:
        columns["ties"] = counts.ties
    columns |= _bound_columns(result)
    columns["radius"] = result.radius
    columns |= result.more_radii
    columns["budget"] = result.budget
    return columns


def _bound_columns(result: Result) -> dict[str, Values]:
    """Bounds under their own names: `p_a` is a lower one, always."""
    columns: dict[str, Values] = {}
    upper = "p_b" if result.statements[0].classes is not None else "upper_bound"
    for name, bounds in (("p_a", result.lower_bound), (upper, result.upper_bound)):
        if bounds is not None:
            columns[name] = bounds.p
    return columns


def distinct(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Rows that differ in more than their ids, int64[U], and for each input which one of them it is, int64[B]."""
    if not len(result):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    counts = result.counts
    number = np.zeros(len(result), np.int64)
    for values in (counts.n, counts.successes, counts.most, counts.ties, counts.votes, result.radius[:, :1]):
        if values is None:
            continue
        for column in np.reshape(values, (len(result), -1)).T:
            kinds, place = np.unique(column, return_inverse=True)
            if len(kinds) > 1:
                _, number = np.unique(number * len(kinds) + place, return_inverse=True)
    _, first, back = np.unique(number, return_index=True, return_inverse=True)
    bounds = [array for found in (result.lower_bound, result.upper_bound) if found is not None for array in found]
    columns = (column for array in (result.radius, result.budget, *bounds) for column in np.atleast_2d(array.T))
    same = all(np.array_equal(column[first][back], column) for column in columns)
    every = np.arange(len(result))
    return (first, back) if same else (every, every)


def statement_record(result: Result) -> Object:
    """Everything that the guarantee depends on, ready for JSON."""
    statements = result.statements
    first, counts = statements[0], result.counts
    both = len(statements) > 1
    noise = first.noise
    found: Object = {
        "claim": "the smoothed score stays on its side of tau" if both else claim(first),
        "guarantee": guarantee(statements),
        "threat_model": threat_model(first),
        "deployment": deployment(statements),
        "provisos": list(dict.fromkeys(said for each in statements for said in provisos(each, _total(counts.ties)))),
        **describe_smoothing(noise.smoothing),
        "tau": first.risk.tau,
        "alpha": first.risk.alpha,
        "risk": _risk(first),
        "bound": _bound(first),
        "budgets": [_budget(budget) for budget in first.budgets],
        "max_budget": _budget(first.budgets[-1]),
        "risk_per_statement": first.risk.per_statement,
        "simultaneous": first.simultaneous,
        **({} if first.samples is None else {"samples": [_sample(each, first) for each in first.samples]}),
        "side": "both" if both else first.side,
        "plan": None if first.stopping.plan is None else first.stopping.plan.describe(),
        "noise": {
            "drawn": noise.drawn,
            "step": noise.step,
            "generator": noise.generator,
            "total_variation": noise.total_variation,
            "off_grid": noise.off_grid,
        },
        "threat": _threat(first.threat),
        "ties": first.ties,
        "provisional": _provisional(first.provisional),
    }
    if first.classes is not None:
        found["classes"] = first.classes
        for name in ("tau", "side", "plan", "deployment"):
            del found[name]
    elif both:
        found["decisions"] = {
            name: {"claim": claim(part.statement), "side": part.side, **_needs(part)}
            for name, part in zip(("unsafe", "safe"), result.sided, strict=True)
        }
    else:
        found |= _needs(result.sided[0])
    found |= {"minus_one": MINUS_ONE, "package": first.package}
    if counts.run is not None:
        found["run"] = thawed(counts.run.facts)
    if counts.skipped or counts.unfinished:
        found |= {"skipped": dict(counts.skipped), "unfinished": list(counts.unfinished)}
    return found


def _needs(part: OneSided) -> Object:
    """What certification on this side takes; for inputs that abstain the draws, where their number is fixed."""
    needs = part.statement.needs
    found: Object = {
        "needed_samples": list(needs.draws),
        "needed_share": needs.bound if needs.complement > 0 else None,
        "needed_share_complement": needs.complement,
    }
    rows = silent_rows(part)
    share = (part.successes / part.n)[rows]
    shares = len(np.unique(share if share.ndim == 1 else share[:, 0]))
    if part.plan is None and part.statement.samples is None and 0 < shares <= _SHARES:
        draws = draws_at_share(part, rows)
        found["abstaining"] = {part.ids[row]: n or -1 for row, n in zip(rows.tolist(), draws, strict=True)}
    return found


def _risk(statement: Statement) -> str:
    if statement.classes is not None:
        return "union over the bounds of all classes, simultaneous over budgets"
    if statement.samples is not None:
        text = "alpha split over the samples as their shares say"
        return f"{text}, half of it for each decision" if statement.risk.decisions > 1 else text
    text = "simultaneous over budgets" if statement.simultaneous else "alpha split evenly over budgets"
    return f"{text}, half of it for each decision" if "decisions" in statement.risk.split else text


def _bound(statement: Statement) -> str:
    plan = statement.stopping.plan
    return "one-sided Clopper-Pearson" if plan is None else f"that of the plan {plan.describe()['plan']!r}"


def _budget(budget: Budget) -> object:
    return dataclasses.asdict(budget) if isinstance(budget, Edits) else budget


def _sample(sample: Sample, statement: Statement) -> Object:
    return {
        "draws": "ordinary" if sample.forced is None else "conditional",
        "forced": None if sample.forced is None else _budget(sample.forced),
        "covers": sample.covers,
        "sets": sample.sets,
        "share": sample.share,
        "risk": sample.risk(statement.risk.own),
    }


def _threat(threat: Threat) -> Object:
    return {
        "name": threat.name,
        "positions": None if threat.positions is None else list(threat.positions),
        "own_positions": threat.own_positions,
        "positions_per_budget": None if threat.per_budget is None else [list(own) for own in threat.per_budget],
    }


def _provisional(provisional: Provisional | None) -> Object | None:
    if provisional is None:
        return None
    return {"planned": provisional.planned, "partial": provisional.partial, "earlier": list(provisional.earlier)}


def _total(ties: np.ndarray | None) -> int:
    return 0 if ties is None else int(ties.sum())


def _listed(values: Values) -> list[object]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _text(value: object) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _column_texts(values: Values) -> Iterable[str]:
    """JSON of each entry of a column; Python writes finite numbers, and lists of them, as JSON does."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "if":
        if not np.isfinite(values).all():
            raise ValueError("A result must hold finite numbers.")
        return map(str, values.tolist())
    return map(_text, _listed(values))
