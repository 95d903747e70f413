"""The figure of `adaptive_attack.py`: achieved score against the certified bound as the budget grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["draw_figure"]

_INK, _SOFT, _GRID = "#1f2430", "#6b7280", "#e5e7eb"
_BOUND, _ATTACK, _RANDOM = "#0b5394", "#c2570c", "#6b7280"
_FLOOR = 1.2e-5
_TITLES = {
    "suffix": "Suffix tokens and pixels",
    "anywhere": "Any token and pixels",
    "majority": "Suffix and pixels, majority vote",
}
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "text.color": _INK,
}


def draw_figure(content: Mapping[str, Any], path: Path) -> None:
    """One panel per setting: the certified bound, the score that the attack reaches, and the one of random tries."""
    import matplotlib
    from matplotlib.figure import Figure

    settings = [setting for setting in content["settings"] if any(row["cases"] for row in setting["budgets"])]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.6 * len(settings), 4.9), layout="constrained")
        panels = figure.subplots(1, len(settings), squeeze=False)[0]
        for ax, setting in zip(panels, settings, strict=True):
            _panel(ax, setting, content["options"]["final"])
        panels[0].set_ylabel("smoothed score of the attacked input")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9.5)
        options = content["options"]
        figure.suptitle(
            f"σ = {content['sigma']}, α = {content['alpha']}, n = {options['samples']} draws per certificate; "
            f"{options['restarts']} restarts, {options['final']} fresh draws or more per score; lines: medians over "
            f"{options['curve_inputs']} inputs, bars and bands: ranges",
            x=0.012,
            ha="left",
            fontsize=9,
            color=_SOFT,
        )
        figure.savefig(path, format="png", dpi=100, metadata={})


def _panel(ax: Any, setting: Mapping[str, Any], draws: int) -> None:
    rows = [row for row in setting["budgets"] if row["cases"]]
    small = setting["tau"] < 0.01
    curve = setting["bound_curve"]
    floor = _FLOOR if small else 0.0
    ax.fill_between(
        curve["fraction"],
        curve["low"],
        curve["high"],
        color=_BOUND,
        alpha=0.15,
        linewidth=0,
    )
    ax.plot(curve["fraction"], curve["median"], color=_BOUND, lw=2, label="certified lower bound")
    _points(ax, rows, "random_score", _RANDOM, "s", "random tokens and direction, best of all tries", floor, 1.03)
    _points(ax, rows, "score", _ATTACK, "o", "adaptive attack, best of all restarts", floor, 1.0)
    ax.axhline(setting["tau"], color=_INK, lw=1, ls=(0, (5, 3)), label="threshold τ")
    ax.axvline(1.0, color=_INK, lw=1, ls=":", label="certified radius")
    ax.set_xscale("log")
    ticks = [row["fraction"] for row in rows if row["fraction"] != 1.25]
    ax.set_xticks(ticks, [f"{tick:g}" if tick != 0.99 else "1" for tick in ticks])
    ax.minorticks_off()
    ax.set_xlim(0.44, 4.5)
    ax.set_xlabel("pixel budget ε, in certified radii")
    if small:
        ax.set_yscale("log")
        ax.set_ylim(_FLOOR * 0.8, 1.5)
        if any(row["score"]["median"] == 0 for row in rows):
            ax.annotate(
                f"no Unsafe draw in {draws:,}",
                (4.0, _FLOOR),
                xytext=(5, 8),
                textcoords="offset points",
                ha="right",
                fontsize=8.5,
                color=_ATTACK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85},
                zorder=5,
            )
    else:
        ax.set_ylim(-0.03, 1.04)
    tau = f"{setting['tau']:g}"
    ax.set_title(f"{_TITLES[setting['name']]}\nβ = {setting['beta']:g}, τ = {tau}")


def _points(
    ax: Any,
    rows: Sequence[Mapping[str, Any]],
    name: str,
    colour: str,
    marker: str,
    label: str,
    floor: float,
    shift: float,
) -> None:
    x = np.array([row["fraction"] for row in rows]) * shift
    low, median, high = (np.maximum([row[name][key] for row in rows], floor) for key in ("low", "median", "high"))
    ax.errorbar(
        x,
        median,
        yerr=[median - low, high - median],
        color=colour,
        marker=marker,
        markersize=5,
        lw=1.6,
        elinewidth=1.1,
        capsize=2.5,
        label=label,
    )
