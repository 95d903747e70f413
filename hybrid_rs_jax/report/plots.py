"""Pictures of certificates: the frontier of radius against token budget, and certified accuracy."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hybrid_rs_jax._text import counted, down_text, setting_text, span_text
from hybrid_rs_jax.kernels.record import describe_smoothing, smoothing_text
from hybrid_rs_jax.results.summary import lower_median

if TYPE_CHECKING:
    from hybrid_rs_jax.results.result import Result

__all__ = [
    "SUFFIXES",
    "TEXT",
    "Kind",
    "Words",
    "in_greek",
    "integer_ticks",
    "label_budget",
    "plot",
    "plot_certified_accuracy",
    "plot_certified_share",
    "plot_frontier",
    "plot_heat",
    "save",
    "save_figure",
    "styled",
    "svg_element",
    "svg_figures",
    "svg_style",
    "words_of",
]

Kind = Literal["frontier", "heat"]
#: What the two budgets count: tokens and pixels, or fields and numbers of a table.
Words = tuple[str, str]
TEXT: Words = ("token", "pixel")
SUFFIXES = (".png", ".pdf", ".svg")
_INK, _SOFT, _GRID = "#1f2430", "#6b7280", "#e5e7eb"
_MEAN, _MEDIAN = "#0b5394", "#c2570c"
#: More budgets than this are thinned out in a legend.
_LEGEND = 10
#: Cells of a heat map along eps.
_HEAT_ROWS = 120
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "text.color": _INK,
    "svg.hashsalt": "hybrid_rs_jax",
}


def styled() -> Any:
    """The look of all pictures, as a context."""
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def svg_style(salt: str) -> Any:
    """The look of pictures within a page, whose texts stay texts; equal salts give equal files."""
    import matplotlib

    return matplotlib.rc_context({**_STYLE, "svg.fonttype": "none", "svg.hashsalt": salt})


def plot(result: Result, kind: Kind = "frontier", figure: Any = None) -> Any:
    """Draw a result: the frontier and the certified accuracy (or the one that a unimodal run has), or a heat map.

    Args:
      result: certificates, of `certify` or `read_certificates`.
      kind: "frontier", or "heat": the share of inputs that is certified at each (d, eps).
      figure: an empty matplotlib figure; None makes one.

    Returns:
      The figure; a notebook shows it, and `figure.savefig` writes it.

    Raises:
      ValueError: for another kind, or votes per class, which have no threshold to draw.

    >>> import hybrid_rs_jax as hrs
    >>> smoothing = hrs.HybridSmoothing(hrs.UniformKernel(0.25, 512), 0.5)
    >>> len(plot(hrs.certify([990, 1000], 1000, smoothing, tau=1e-3, alpha=0.01)).axes)
    2
    """
    if kind not in ("frontier", "heat"):
        raise ValueError(f"kind must be 'frontier' or 'heat', got {kind!r}.")
    if kind == "heat" and not result.statements[0].noise.pixels:
        raise ValueError(
            "kind must be 'frontier' where the pixels carry no noise, got 'heat': eps = 0 alone is certified."
        )
    import matplotlib
    from matplotlib.figure import Figure

    noise, budgets, radius = result.statements[0].noise, result.budget_numbers, result.radius
    words = words_of(result)
    with matplotlib.rc_context(_STYLE):
        both = kind == "frontier" and noise.tokens and noise.pixels and len(budgets) > 1
        figure = figure or Figure(figsize=(11.6, 4.9) if both else (6.8, 4.9), layout="constrained")
        axes = figure.subplots(1, 2 if both else 1, squeeze=False)[0]
        if both:
            plot_frontier(axes[0], budgets, radius, words)
            _explain_gap(axes[0], result)
        if kind == "heat":
            plot_heat(axes[0], budgets, radius, words)
        elif noise.pixels:
            plot_certified_accuracy(axes[-1], budgets, radius, words)
        else:
            plot_certified_share(axes[-1], budgets, radius, words)
        figure.suptitle(_subtitle(result, wrap=not both), x=0.012, ha="left", fontsize=9, color=_SOFT)
    return figure


def save_figure(result: Result, path: Path, suffix: str, kind: Kind = "frontier") -> None:
    """Draw a result into a file.

    Args:
      result: certificates.
      path: file to write (the path of an `atomic_file`).
      suffix: ".png", ".pdf" or ".svg".
      kind: as for `plot`.
    """
    save(plot(result, kind), path, suffix)


def save(figure: Any, path: Path, suffix: str) -> None:
    """Write a figure of this module; the same one gives the same file."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        figure.savefig(path, format=suffix.removeprefix("."), dpi=170, metadata=_NO_DATE[suffix])


def svg_figures(result: Result) -> list[tuple[str, str]]:
    """The pictures of `save_figure`, one by one, as SVG elements for a page, each with a label in words."""
    from matplotlib.figure import Figure

    noise, budgets, radius = result.statements[0].noise, result.budget_numbers, result.radius
    words = words_of(result)
    drawn = []
    for kind in [*(["frontier"] if noise.tokens and noise.pixels and len(budgets) > 1 else []), "accuracy"]:
        with svg_style(kind):
            figure = Figure(figsize=(6.4, 4.5), layout="constrained")
            ax = figure.subplots()
            if kind == "frontier":
                label = f"Certified radius against {words[0]} budget, a line per input"
                plot_frontier(ax, budgets, radius, words)
                _explain_gap(ax, result)
            elif noise.pixels:
                label = f"Share of inputs certified against the {words[1]} budget, a curve per {words[0]} budget"
                plot_certified_accuracy(ax, budgets, radius, words)
            else:
                label = f"Share of inputs certified at each {words[0]} budget"
                plot_certified_share(ax, budgets, radius, words)
            drawn.append((label, svg_element(figure, kind)))
    return drawn


def svg_element(figure: Any, name: str) -> str:
    """A figure under `svg_style` as an element for a page, where an id may stand once: its ids begin with `name`."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=_NO_DATE[".svg"])
    svg = file.getvalue()
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg[svg.index("<svg") :])


_NO_DATE: dict[str, dict[str, None]] = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}


def plot_frontier(ax: Any, budgets: Sequence[int], radius: np.ndarray, words: Words = TEXT) -> None:
    """Certified radius against token budget: one thin line per input, mean and median on top.

    Args:
      ax: matplotlib axes.
      budgets: the D budgets.
      radius: float64[B, D]; -1 where not certified, which counts as 0 in the mean and lies below all in the median: its
        line ends where half of the inputs are not certified, as a summary has it.
    """
    from matplotlib.lines import Line2D

    d = np.asarray(budgets)
    thin = min(0.55, max(0.08, 40 / len(radius)))
    for row in radius:
        certified = row >= 0
        ax.plot(d[certified], row[certified], color=_SOFT, alpha=thin, linewidth=0.9, solid_capstyle="round")
        if certified.any() and not certified.all():
            ax.plot(d[certified][-1], row[certified][-1], ".", color=_SOFT, alpha=thin, markersize=5)
    reached = (radius >= 0).any(axis=0)
    counted = np.maximum(radius, 0)[:, reached]
    middle = lower_median(radius[:, reached])
    middle = np.where(middle < 0, np.nan, middle)
    marker_size = 4.5 if len(d) <= 30 else 0
    for name, values, colour, marker, dashes in (
        ("mean (not certified = 0)", counted.mean(axis=0), _MEAN, "o", "-"),
        ("median", middle, _MEDIAN, "s", "--"),
    ):
        ax.plot(d[reached], values, dashes, color=colour, marker=marker, markersize=marker_size, lw=2.2, label=name)
    one = Line2D([], [], color=_SOFT, alpha=0.6, linewidth=1, marker=".", label="one input, up to its largest d")
    ax.legend(handles=[*ax.get_legend_handles_labels()[0], one], frameon=False, loc="upper right", fontsize=9)
    ax.set_title("Certified frontier")
    label_budget(ax, words[0])
    ax.set_ylabel(r"certified radius $r$ ($\ell_2$, in the unit of the inputs)")
    integer_ticks(ax, d, 0.35)
    ax.set_ylim(bottom=0, top=max(float(radius.max()) * 1.08, 1e-3))


def plot_certified_accuracy(ax: Any, budgets: Sequence[int], radius: np.ndarray, words: Words = TEXT) -> None:
    """Share of inputs certified against the l2 budget, one step curve per token budget (exact, no grid)."""
    import matplotlib

    reached = np.flatnonzero((radius >= 0).any(axis=0)).tolist()
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.84, max(len(reached), 1)))
    named = set(np.linspace(0, len(reached) - 1, min(len(reached), _LEGEND)).astype(int).tolist())
    for rank, (index, shade) in enumerate(zip(reached, shades, strict=False)):
        steps = np.sort(radius[radius[:, index] >= 0, index])
        share = 100 * np.arange(steps.size, -1, -1) / len(radius)
        label = f"d = {budgets[index]}" if rank in named else None
        place = np.concatenate([[0.0], steps])
        ax.step(place, share, where="post", color=shade, linewidth=2, label=label, zorder=3 - rank / len(reached))
    if len(budgets) > 1:
        missing = [d for index, d in enumerate(budgets) if index not in reached]
        if missing:
            ax.plot([], [], " ", label=f"d = {span_text(missing)}: none")
        corner = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.02), "alignment": "left"}
        ax.legend(frameon=False, fontsize=9, title=f"{words[0]} budget", **corner)
    ax.set_title("Certified accuracy" + ("" if len(budgets) > 1 else f" at d = {budgets[0]}"))
    ax.set_xlabel(rf"{words[1]} budget ε ($\ell_2$, in the unit of the inputs)")
    ax.set_ylabel("inputs certified (%)")
    ax.set_xlim(0, max(float(radius.max()) * 1.04, 1e-3))
    ax.set_ylim(0, 102)


def plot_heat(ax: Any, budgets: Sequence[int], radius: np.ndarray, words: Words = TEXT) -> None:
    """Share of inputs certified at each (d, eps): a cell holds up to its upper edge, so that none promises too much.

    Args:
      ax: matplotlib axes.
      budgets: the D budgets.
      radius: float64[B, D]; -1 where not certified.
    """
    reached = np.flatnonzero((radius >= 0).any(axis=0))
    shown = int(reached[-1]) + 1 if reached.size else 1
    top = max(float(radius.max()), 1e-3)
    edges = np.linspace(0, top, _HEAT_ROWS + 1)
    # a cell between two edges holds for all eps up to its upper one
    share = 100 * (radius[:, :shown, None] >= edges[1:]).mean(axis=0)
    columns = np.arange(shown + 1) - 0.5
    mesh = ax.pcolormesh(columns, edges, share.T, cmap="viridis", vmin=0, vmax=100, rasterized=True)
    bar = ax.figure.colorbar(mesh, ax=ax, label="inputs certified (%)")
    bar.outline.set_visible(False)
    ax.set_xticks(range(shown), [str(d) for d in budgets[:shown]])
    ax.grid(visible=False)
    ax.set_title(
        "Certified at (d, ε)" + ("" if shown == len(budgets) else f"; nothing beyond d = {budgets[shown - 1]}")
    )
    label_budget(ax, words[0])
    ax.set_ylabel(rf"{words[1]} budget ε ($\ell_2$, in the unit of the inputs)")


def plot_certified_share(ax: Any, budgets: Sequence[int], radius: np.ndarray, words: Words = TEXT) -> None:
    """Share of inputs certified at each token budget, for noise on the tokens only."""
    share = 100 * (radius >= 0).mean(axis=0)
    ax.bar(budgets, share, width=0.72, color=_MEAN)
    if len(budgets) <= 20:
        above = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center"}
        for d, value in zip(budgets, share, strict=True):
            ax.annotate(str(int(value)), (d, value), fontsize=9, **above)
    ax.grid(axis="x", visible=False)
    ax.set_title("Certified accuracy, text only" if words == TEXT else "Certified accuracy, fields only")
    label_budget(ax, words[0])
    ax.set_ylabel("inputs certified (%)")
    integer_ticks(ax, np.asarray(budgets), 0.7)
    ax.set_ylim(0, 107)


def _explain_gap(ax: Any, result: Result) -> None:
    """Shade the budgets at which nothing is certified; with one decision its statement says why."""
    budgets, reached = result.budget_numbers, (result.radius >= 0).any(axis=0)
    if reached.all() or not reached.any():
        return
    first, statements = int(np.argmin(reached)), result.statements
    planned = statements[0].stopping.plan is not None
    needed = statements[0].needs.draws[first] if statements[0].classes is None else 0
    if len(statements) > 1 or statements[0].samples is not None:
        why = "no input is certified"
    elif needed < 0:
        why = "no stop of this plan\ncertifies" if planned else "no number of draws\nup to 2^53 certifies"
    elif (draws := int(np.max(result.n if result.n.ndim == 1 else result.n[:, first]))) < needed and not planned:
        why = f"n = {draws} is too small:\nd = {budgets[first]} needs {needed}"
    else:
        why = "no input is certified"
    left, right = budgets[first] - 0.5, ax.get_xlim()[1]
    ax.axvspan(left, right, color=_GRID, alpha=0.55, zorder=0, linewidth=0)
    narrow = right - left < 0.3 * (right - ax.get_xlim()[0])
    place, turn = (0.5, 90) if narrow else (0.04, 0)  # upright within the band: beside it are points
    look = {"ha": "center", "va": "center" if narrow else "baseline", "rotation": turn}
    ax.text((left + right) / 2, place, why, transform=ax.get_xaxis_transform(), fontsize=8.5, color=_SOFT, **look)


def words_of(result: Result) -> Words:
    """What the budgets of a result count."""
    threat = result.statements[0].threat
    return threat.symbol, threat.number


def label_budget(ax: Any, symbol: str = "token") -> None:
    """Name the axis of the discrete budget."""
    ax.set_xlabel(f"{symbol} budget $d$ (changed {symbol}s)")


def in_greek(words: str) -> str:
    """The settings of the noise and the threshold under their letters."""
    for name, letter in (("sigma", "σ"), ("beta", "β"), ("tau", "τ")):
        words = words.replace(name, letter)
    return words


def integer_ticks(ax: Any, d: np.ndarray, margin: float) -> None:
    """Whole numbers on the axis of the discrete budget."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    margin = max(0.03 * float(d[-1] - d[0]), margin)
    ax.set_xlim(d[0] - margin, d[-1] + margin)


def _subtitle(result: Result, wrap: bool) -> str:
    statement = result.statements[0]
    fewest, most = int(result.n.min()), int(result.n.max())
    n = f"n = {fewest}" if fewest == most else f"n = {fewest} to {most}"
    noise = in_greek(smoothing_text(describe_smoothing(statement.noise.smoothing)))
    risk = f"α = {setting_text(statement.risk.alpha)}"
    if statement.risk.tau is not None:
        risk = f"τ = {down_text(statement.risk.tau)}; {risk}"
    provisional = "" if statement.provisional is None else "PROVISIONAL; "
    rest = f"{provisional}{n} draws; {risk}; {counted(len(result), 'input')}; smoothed classifier"
    return f"{noise}\n{rest}" if wrap else f"{noise}; {rest}"
