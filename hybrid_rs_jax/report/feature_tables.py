"""Certified features on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hybrid_rs_jax._text import DASH, counted, floor_text, radius_text, setting_text
from hybrid_rs_jax.report.tables import print_table, say

if TYPE_CHECKING:
    from hybrid_rs_jax.certificate import FeatureCertificate
    from hybrid_rs_jax.results.features import FeatureCurve, FeatureRun

__all__ = ["print_certificates", "print_curve"]

_SHOWN = 10


def print_certificates(
    source: FeatureRun,
    certificate: FeatureCertificate,
    columns: Mapping[str, Any],
    rows: Sequence[Sequence[Any]],
    similarity: float,
) -> None:
    """The first rows of the per-input table, what was left out, the promise in words.

    Args:
      source: the run.
      certificate: of its laws.
      columns, rows: as `feature_columns` gives them.
      similarity: the cosine that the radii keep.
    """
    heads = ["id", "draws", *(f"radius d={d}" for d in certificate.budgets)]
    heads += [name.replace("cosine_", "cos eps=").replace("_", " d=") for name in columns if name.startswith("cosine_")]
    ends = 2 + len(certificate.budgets)
    print_table(
        heads,
        [
            [str(row[0]), f"{row[1]:,}", *map(radius_text, row[2:ends]), *map(_cosine_text, row[ends:])]
            for row in rows[:_SHOWN]
        ],
    )
    if len(rows) > _SHOWN:
        say(f"... and {len(rows) - _SHOWN} more (--format csv shows all).")
    for name, reason in source.skipped[:5]:
        say(f"Skipped {name}: {reason}")
    if source.unfinished:
        say(f"{counted(len(source.unfinished), 'input')} unfinished; features sample --resume continues.")
    kept = setting_text(similarity)
    say(f"\nRadius: l2 distance within which the cosine stays at least {kept}; {DASH} where nothing is certified.")
    say(source.statement(certificate))


def print_curve(found: FeatureCurve, inputs: int, statement: str) -> None:
    """The curve as a table, and the promise in words."""
    heads = ["eps", "cosine (law)", "cosine (mean)", "certified (law)", "certified (mean)"]
    rows = [
        [
            setting_text(row[0]),
            *map(floor_text, row[1:3]),
            *(f"{round(share * inputs)}/{inputs}" for share in row[3:]),
        ]
        for row in found.rows()
    ]
    print_table(heads, rows)
    say(
        f"\nMeans over {counted(inputs, 'input')}, with 0 where nothing is certified; 'certified': the share "
        "of inputs with a certified cosine."
    )
    say(statement)


def _cosine_text(value: float) -> str:
    return DASH if value < 0 else floor_text(value)
