"""Several results in one figure, against the budget or against a setting of their noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid_rs_jax._text import setting_text
from hybrid_rs_jax.report.plots import in_greek, integer_ticks, label_budget, styled, svg_element, svg_style, words_of

if TYPE_CHECKING:
    from hybrid_rs_jax.results.comparison import By, Compared

__all__ = ["comparison_svgs", "plot_by", "plot_comparison"]

_GREY = "#6b7280"
_DASHES, _MARKS = ("-", "--", "-.", ":"), "osD^vP*X<>"
#: Budgets that have a line of their own in a figure over a setting.
_LINES = 6
_LONGEST = 26


def plot_comparison(runs: Sequence[Compared], size: tuple[float, float] = (11.6, 4.9)) -> Any:
    """Certified share and mean radius against the discrete budget, a line per run."""
    import matplotlib
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=size, layout="constrained")
        left, right = _two(figure, size)
        shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.84, len(runs)))
        for place, (run, shade) in enumerate(zip(runs, shades, strict=True)):
            d, look = run.result.budget_numbers, _look(place, shade)
            left.plot(d, 100 * run.certified / len(run.result), label=f"{run.name}: {run.noise}", **look)
            right.plot(d, run.mean_radius, **look)
        every = np.array(sorted({d for run in runs for d in run.result.budget_numbers}))
        for ax in (left, right):
            label_budget(ax, words_of(runs[0].result)[0])
            integer_ticks(ax, every, 0.35)
            ax.set_ylim(bottom=0)
        figure.legend(frameon=False, fontsize=9, loc="outside lower left", ncols=1)
    return figure


def plot_by(runs: Sequence[Compared], by: By, size: tuple[float, float] = (11.6, 4.9)) -> Any:
    """Certified share and mean radius against sigma, beta or the model: a colour per budget d.

    Runs that differ in something else as well are joined by lines of different dashes, one for each of the others'
    settings.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from hybrid_rs_jax.results.comparison import value_of, varied

    places = sorted({value_of(run, by) for run in runs}, key=lambda value: (isinstance(value, str), value))
    numbers = all(isinstance(value, float) for value in places)
    place = {value: value if numbers else number for number, value in enumerate(places)}
    settings = varied(runs)
    others: dict[str, list[Compared]] = {}
    for run in runs:
        others.setdefault(run.beside(by, settings), []).append(run)
    reached = sorted({d for run in runs for d in run.result.budget_numbers[: run.reached]})
    shown = [reached[k] for k in sorted(set(np.linspace(0, len(reached) - 1, min(len(reached), _LINES)).astype(int)))]
    with styled():
        figure = Figure(figsize=size, layout="constrained")
        left, right = _two(figure, size)
        shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.84, len(shown)))
        for number, group in enumerate(others.values()):
            group = sorted(group, key=lambda run: place[value_of(run, by)])
            for d, shade in zip(shown, shades, strict=True):
                x = [place[value_of(run, by)] for run in group]
                look = _look(number, shade) | ({} if numbers else {"linestyle": "none"})
                left.plot(x, [100 * run.share_at(d) for run in group], **look)
                right.plot(x, [run.mean_radius_at(d) for run in group], **look)
        name = in_greek(by)
        for ax in (left, right):
            ax.set_xlabel(f"{name} of the runs" if numbers else name)
            texts = [setting_text(value) if isinstance(value, float) else _short(value) for value in places]
            ax.set_xticks(list(place.values()), texts)
            ax.margins(x=0.08 if numbers else 0.2)
            ax.set_ylim(bottom=0)
        colours = [Line2D([], [], color=shade, lw=2, label=f"d = {d}") for d, shade in zip(shown, shades, strict=True)]
        figure.legend(handles=colours, frameon=False, fontsize=9, loc="outside lower left", ncols=len(shown))
        if len(others) > 1:
            looks = [_look(number, _GREY) for number in range(len(others))]
            lines = [Line2D([], [], label=beside, **look) for beside, look in zip(others, looks, strict=True)]
            left.legend(handles=lines, frameon=False, fontsize=8, loc="best")
    return figure


def comparison_svgs(runs: Sequence[Compared], by: Sequence[By]) -> list[tuple[str, str]]:
    """The figures for a page as SVG elements, upright ones for narrow screens, each with a label in words."""
    size = (6.4, 7.8)
    whole: list[tuple[str, By | None]] = [("the budget, a line per run", None)]
    drawn = []
    for number, (against, setting) in enumerate([*whole, *((f"{each}, a colour per budget", each) for each in by)]):
        with svg_style(f"comparison-{number}"):
            figure = plot_comparison(runs, size) if setting is None else plot_by(runs, setting, size)
            label = f"Certified share and mean radius against {against}"
            drawn.append((label, svg_element(figure, f"figure{number}")))
    return drawn


def _short(name: str) -> str:
    """A name that has room below an axis: its end says most."""
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"


def _two(figure: Any, size: tuple[float, float]) -> tuple[Any, Any]:
    """Two empty plots, side by side or where the figure is upright one above the other."""
    upright = size[1] > size[0]
    left, right = figure.subplots(2, 1) if upright else figure.subplots(1, 2)
    left.set_title("Certified share")
    left.set_ylabel("inputs certified (%)")
    right.set_title("Mean certified radius")
    right.set_ylabel(r"mean $r$ (not certified = 0)")
    return left, right


def _look(place: int, shade: Any) -> dict[str, Any]:
    """Lines that lie on each other can be told apart."""
    marker, dashes = _MARKS[place % len(_MARKS)], _DASHES[place % len(_DASHES)]
    return {"color": shade, "marker": marker, "markersize": 5, "linewidth": 2, "linestyle": dashes}
