"""A table of `hybrid-rs sweep --radius` as heat maps: the certified radius over (d, p_A)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_rs_jax._files import beginning
from hybrid_rs_jax._tables import Table, read_table
from hybrid_rs_jax._text import down_text, floor_text, setting_text
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report.plots import label_budget, styled

__all__ = ["SweepTable", "is_sweep", "plot_sweep", "read_sweep"]

_NEEDED = ("p_a", "d", "radius")
#: More panels than this are no picture.
_MOST_PANELS = 12


@dataclasses.dataclass(frozen=True, eq=False)
class SweepTable:
    """One noise of a sweep.

    Attributes:
      noise: its settings in a few words, "" where there are none.
      budgets: the D discrete budgets.
      p_a: float64[P], rising.
      radius: float64[P, D]; -1 where nothing is certified.
    """

    noise: str
    budgets: tuple[int, ...]
    p_a: np.ndarray
    radius: np.ndarray


def is_sweep(path: Path) -> bool:
    """Whether the file is a table of sweep, by its name and first line."""
    if path.suffix.lower() == ".parquet":
        return True  # certificates are plotted from JSON alone
    if path.suffix.lower() != ".csv":
        return False
    first, *_ = beginning(path, 10_000).splitlines() or [""]
    return {"p_a", "d"} <= set(first.strip().split(","))


def read_sweep(path: Path) -> list[SweepTable]:
    """The noises of a sweep with --radius, by sigma, beta and tau.

    Raises:
      BadInputError: if it is another table, or does not hold every (p_A, d) once.
    """
    table = read_table(path, _NEEDED, ("sigma", "beta", "tau", "samples"))
    if not len(table):
        raise BadInputError(f"{path} holds no rows.")
    numbers = {name: _numbers(table, name) for name in (*_NEEDED, "sigma", "beta", "tau") if name in table.columns}
    keys = [name for name in ("sigma", "beta", "tau") if name in numbers]
    rows: dict[tuple[float, ...], list[int]] = {}
    for row in range(len(table)):
        key = tuple(float(numbers[name][row]) for name in keys)
        rows.setdefault(key, []).append(row)
    if len(rows) > _MOST_PANELS:
        raise BadInputError(
            f"{path} holds {len(rows)} settings of sigma, beta and tau; at most {_MOST_PANELS} are drawn."
        )
    return [_one(path, numbers, keys, key, np.array(chosen)) for key, chosen in rows.items()]


def _one(
    path: Path, numbers: Mapping[str, np.ndarray], keys: Sequence[str], key: tuple[float, ...], rows: np.ndarray
) -> SweepTable:
    p, score = np.unique(numbers["p_a"][rows], return_inverse=True)
    d, budget = np.unique(numbers["d"][rows], return_inverse=True)
    radius = np.full((p.size, d.size), np.nan)
    radius[score, budget] = numbers["radius"][rows]
    if np.isnan(radius).any() or rows.size != radius.size:
        raise BadInputError(f"{path} must hold each pair of p_a and d once for each sigma, beta and tau.")
    noise = ", ".join(f"{name} = {setting_text(value)}" for name, value in zip(keys, key, strict=True))
    return SweepTable(noise, tuple(int(each) for each in d), p, radius)


def _numbers(table: Table, name: str) -> np.ndarray:
    cells = table.columns[name]
    found = np.empty(len(cells))
    for row, cell in enumerate(cells):
        try:
            found[row] = float(cell)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise BadInputError(f"{table.place(row)}: {name} must be a number, got {cell!r:.80}.") from None
    return found


def plot_sweep(tables: list[SweepTable]) -> Any:
    """A heat map per noise: the certified radius, a column for each d and a row for each p_A, one scale for all."""
    import matplotlib
    from matplotlib.figure import Figure

    columns = 2 if len(tables) in (2, 4) else min(len(tables), 3)
    reached = max(int(np.flatnonzero((table.radius >= 0).any(axis=0)).max(initial=0)) for table in tables)
    lines = -(-len(tables) // columns)
    top = max(float(max(table.radius.max() for table in tables)), 1e-3)
    with styled():
        figure = Figure(figsize=(2.2 + 3.6 * columns, 0.9 + 3.6 * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        look = matplotlib.colormaps["viridis"].with_extremes(under="#e5e7eb")
        for ax, whole in zip(axes, tables, strict=False):
            # one more column shows that nothing is certified from there on
            table = dataclasses.replace(
                whole, budgets=whole.budgets[: reached + 2], radius=whole.radius[:, : reached + 2]
            )
            edges = [np.arange(size + 1) - 0.5 for size in table.radius.shape]
            # what is not certified lies below the scale; radius 0 is certified
            shown = np.where(table.radius < 0, -1.0, table.radius)
            mesh = ax.pcolormesh(edges[1], edges[0], shown, cmap=look, vmin=0, vmax=top, rasterized=True)
            ax.grid(visible=False)
            _name_places(ax.xaxis, [str(d) for d in table.budgets])
            _name_places(ax.yaxis, [_p_text(p) for p in table.p_a])
            ax.set_title(
                (table.noise or "Certified radius").replace("sigma", "σ").replace("beta", "β").replace("tau", "τ")
            )
            label_budget(ax)
            ax.set_ylabel("clean score $p_A$")
            if max(table.radius.shape) <= 12 and table.radius.size <= 120:
                for (row, column), value in np.ndenumerate(table.radius):
                    if value >= 0:
                        ink = "white" if value < 0.55 * top else "#1f2430"
                        text = floor_text(float(value), 2)
                        ax.text(column, row, text, ha="center", va="center", fontsize=7.5, color=ink)
        for ax in axes[len(tables) :]:
            ax.set_visible(False)
        bar = figure.colorbar(
            mesh, ax=list(axes[: len(tables)]), extend="min", label=r"certified radius $r$ (grey: none)"
        )
        bar.outline.set_visible(False)
    return figure


def _name_places(axis: Any, names: list[str]) -> None:
    """At most a dozen names along an axis of cells."""
    every = -(-len(names) // 12)
    axis.set_ticks(range(0, len(names), every), names[::every])


def _p_text(p: float) -> str:
    """A score with its digits behind the nines."""
    return setting_text(p) if len(setting_text(p)) <= 8 else down_text(p)
