"""`certify` for runs that counted votes per class: the smoothed top-1 decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hybrid_rs_jax as hrs
from hybrid_rs_jax._text import budget_text, counted, probability_text, radius_text, setting_text
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.kernels.record import describe_smoothing, smoothing_text
from hybrid_rs_jax.report.tables import print_table, say, summary_rows
from hybrid_rs_jax.results.counts import Counts
from hybrid_rs_jax.results.words import MINUS_ONE, legend_text, threat_model

__all__ = ["class_record", "print_class_record"]


def class_record(
    counts: Counts, smoothing: hrs.HybridSmoothing, alpha: float, budgets: Sequence[int]
) -> dict[str, Any]:
    """The record of top-1 certificates; there is no tau, the other classes take its place."""
    if counts.budgets is not None:
        raise BadInputError("Votes per class are certified from one sample for all budgets, not from one per budget.")
    with library_sentences():
        found = hrs.certify_classes(counts.votes, smoothing, alpha, budgets)
    parts = {"tokens": smoothing.discrete is not None, "pixels": smoothing.sigma is not None}
    statement = {
        "claim": "no other class gets a larger smoothed score",
        "guarantee": found.statement(),
        "threat_model": threat_model(**parts),
        **describe_smoothing(smoothing),
        "classes": found.votes.shape[1],
        "alpha": alpha,
        "budgets": list(found.budgets),
        "max_budget": found.budgets[-1],
        "minus_one": MINUS_ONE,
        "package": f"hybrid_rs_jax {hrs.__version__}",
        "run": {key: value for key, value in (counts.run or {}).items() if key != "smoothing"},
    }
    columns = (found.label, found.votes, found.votes.sum(axis=1), found.p_a, found.p_b, found.radius, found.budget)
    names = ("id", "label", "votes", "n", "p_a", "p_b", "radius", "budget")
    rows = zip(counts.ids, *(column.tolist() for column in columns), strict=True)
    return {"statement": statement, "certificates": [dict(zip(names, row, strict=True)) for row in rows]}


def print_class_record(record: dict[str, Any], first: int) -> None:
    """Per-input table, summary per budget, the guarantee in words."""
    statement, rows = record["statement"], record["certificates"]
    pixels = statement["sigma"] is not None
    say(
        f"{counted(len(rows), 'input')}, {statement['classes']} classes, {smoothing_text(statement)}; "
        f"alpha = {setting_text(statement['alpha'])}\n"
    )
    header = ["id", "class", "votes", "n", "p_A", "max d", *(f"r_{d}" for d in statement["budgets"] if pixels)]
    body = []
    for row in rows[:first]:
        leading = row["votes"][row["label"]]
        cells = [row["id"], str(row["label"]), str(leading), str(row["n"]), probability_text(row["p_a"])]
        body.append([*cells, budget_text(row["budget"]), *(radius_text(r) for r in row["radius"] if pixels)])
    print_table(header, body)
    if len(rows) > first:
        say(f"... and {len(rows) - first} more; --json prints and --out FILE.json writes all of them.")
    if len(rows) > 1:
        say()
        print_table(*summary_rows(record))
    say()
    say(legend_text(pixels))
    silent = sum(row["budget"] < 0 for row in rows)
    if silent:
        say(f"{silent} of {counted(len(rows), 'input')} abstain: their two leading classes are too close for n draws.")
    say()
    say(statement["guarantee"])
