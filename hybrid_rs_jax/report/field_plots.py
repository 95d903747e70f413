"""Tables of the field's own scripts as a figure: certified accuracy against the radius."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hybrid_rs_jax.report.plots import styled
from hybrid_rs_jax.results.field_files import FieldTable

__all__ = ["plot_field"]


def plot_field(tables: Mapping[str, FieldTable]) -> Any:
    """The share of inputs that are right and certified at eps, a line per table; dashed: certified, right or not."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    with styled():
        figure = Figure(figsize=(7.2, 4.9), layout="constrained")
        ax = figure.subplots()
        shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.84, len(tables)))
        lines = []
        for (name, table), shade in zip(tables.items(), shades, strict=True):
            for chosen, dashes in ((table.decided & table.right, "-"), (table.decided, "--")):
                far = np.sort(table.radius[chosen])
                left = np.arange(far.size, -1, -1) / len(table)  # at eps up to each radius, and beyond the last one
                x, y = np.concatenate([[0.0], far, far[-1:]]), np.concatenate([left[:1], left])[: far.size + 2]
                ax.step(x, 100 * y[: x.size], where="pre", color=shade, linestyle=dashes, linewidth=2)
            lines.append(Line2D([], [], color=shade, linewidth=2, label=name))
        lines += [Line2D([], [], color="#6b7280", linewidth=2, label="right and certified")]
        lines += [Line2D([], [], color="#6b7280", linewidth=2, linestyle="--", label="certified, right or not")]
        ax.set_title("Certified accuracy")
        ax.set_xlabel(r"$\ell_2$ radius $\varepsilon$, in the unit of the table")
        ax.set_ylabel("inputs (%)")
        ax.set_xlim(left=0)
        ax.set_ylim(0, 102)
        figure.legend(handles=lines, frameon=False, fontsize=9, loc="outside lower left", ncols=2)
    return figure
