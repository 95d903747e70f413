"""Certified features on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hybrid_rs_jax._text import DASH, counted, floor_text, radius_text, setting_text
from hybrid_rs_jax.report.tables import print_table, say
from hybrid_rs_jax.results.latex import latex_tabular

if TYPE_CHECKING:
    from hybrid_rs_jax.certificate import FeatureCertificate
    from hybrid_rs_jax.results.features import FeatureCurve, FeatureRun
    from hybrid_rs_jax.smoothed_encoder import CopiesRow

__all__ = ["certificate_cells", "curve_cells", "print_certificates", "print_copies", "print_curve"]

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
    print_table(*certificate_cells(certificate, columns, rows[:_SHOWN]))
    if len(rows) > _SHOWN:
        say(f"... and {len(rows) - _SHOWN} more (--format csv shows all).")
    for name, reason in source.skipped[:5]:
        say(f"Skipped {name}: {reason}")
    if source.unfinished:
        say(f"{counted(len(source.unfinished), 'input')} unfinished; features sample --resume continues.")
    kept = setting_text(similarity)
    say(f"\nRadius: l2 distance within which the cosine stays at least {kept}; {DASH} where nothing is certified.")
    say(source.statement(certificate))


def certificate_cells(
    certificate: FeatureCertificate, columns: Mapping[str, Any], rows: Sequence[Sequence[Any]]
) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of the per-input table; numbers rounded down."""
    heads = ["id", "draws", *(f"radius d={d}" for d in certificate.budgets)]
    heads += [name.replace("cosine_", "cos eps=").replace("_", " d=") for name in columns if name.startswith("cosine_")]
    ends = 2 + len(certificate.budgets)
    return heads, [
        [str(row[0]), f"{row[1]:,}", *map(radius_text, row[2:ends]), *map(_cosine_text, row[ends:])] for row in rows
    ]


def curve_cells(found: FeatureCurve, inputs: int) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of a curve; numbers rounded down."""
    heads = ["eps", "cosine (law)", "cosine (mean)", "certified (law)", "certified (mean)"]
    return heads, [
        [
            setting_text(row[0]),
            *map(floor_text, row[1:3]),
            *(f"{round(share * inputs)}/{inputs}" for share in row[3:]),
        ]
        for row in found.rows()
    ]


def print_curve(found: FeatureCurve, budget: int, inputs: int, statement: str) -> None:
    """The curve as a table, and the promise in words."""
    print_table(*curve_cells(found, inputs))
    say(
        f"\nAt d = {budget}, means over {counted(inputs, 'input')}, with 0 where nothing is certified; 'certified': "
        "the share of inputs with a certified cosine."
    )
    say(statement)


def print_copies(rows: Sequence[CopiesRow], inputs: int, *, latex: bool = False) -> None:
    """What the encoder in use gives and costs with a few copies; nothing of it is certified."""
    heads = ["copies", "cosine (mean)", "cosine (least)", "ms per input"]
    cells = [
        [f"{row.copies:,}", floor_text(row.mean), floor_text(row.least), f"{1000 * row.seconds:.3g}"] for row in rows
    ]
    said = (
        f"The mean of that many fresh copies against the clean feature, over {counted(inputs, 'clean input')}: "
        "measured, not certified. What is certified is the expectation, the mean of infinitely many."
    )
    if latex:
        print(latex_tabular(heads, cells, said), end="")
        return
    print_table(heads, cells)
    say(f"\n{said}")


def _cosine_text(value: float) -> str:
    return DASH if value < 0 else floor_text(value)
