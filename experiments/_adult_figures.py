"""Figures of the Adult experiment: certified accuracy, and its gap to an attack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_rs_jax._files import atomic_file

#: Okabe and Ito's colours; each line has its own dashes too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
DASHES = ("-", "--", "-.", ":")
SOFT = "#6b7280"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
}
EPS_LABEL = r"$\varepsilon$ ($\ell_2$, training standard deviations)"


def draw_figures(record: Mapping[str, Any], folder: Path) -> None:
    """Write the four PNGs."""
    for name, model, group in (
        ("certified_accuracy.png", "noise-trained", "all"),
        ("certified_accuracy_plain_svm.png", "plain", "all"),
        ("certified_accuracy_over_50K.png", "noise-trained", ">50K"),
    ):
        _save(certified_figure(record, model, group), folder / name)
    _save(attack_figure(record), folder / "attack.png")


def certified_figure(record: Mapping[str, Any], model: str, group: str) -> Any:
    """Certified accuracy against eps, one panel per (sigma, beta), one line per d."""
    settings, eps = record["settings"], np.array(record["epsilons"])
    figure, panels = _panels(len(settings["sigma"]), len(settings["beta"]))
    budgets = settings["budgets"]
    for result in record["results"]:
        if result["model"] != model or group not in result["certified_accuracy"]:
            continue
        ax = panels[settings["sigma"].index(result["sigma"]), settings["beta"].index(result["beta"])]
        for d, curve, colour, dashes in zip(budgets, result["certified_accuracy"][group], COLOURS, DASHES, strict=True):
            ax.step(*_down_to_zero(eps, curve), dashes, where="pre", color=colour, lw=2, label=f"$d = {d}$", zorder=3)
        smoothed = result["smoothed_accuracy"] if group == "all" else result["smoothed_accuracy_by_label"][group]
        ax.axhline(100 * smoothed, color="black", lw=0.9, label="smoothed, no attack")
        if group == "all":
            constant = record["data"]["accuracy_of_always_<=50K"]
            ax.axhline(100 * constant, color=SOFT, lw=0.9, ls=(0, (1, 2)), label="always answering ≤50K")
        ax.set_title(rf"$\sigma = {result['sigma']:g}$, $\beta = {result['beta']:g}$")
        ax.text(
            0.98,
            0.97,
            _not_certified(result, group, settings),
            transform=ax.transAxes,
            ha="right",
            va="top",
            fontsize=8,
        )
    _finish(figure, panels, "certified accuracy (%)")
    who = "all rows" if group == "all" else f"rows with income {group} only"
    title = "Adult: certified accuracy of the smoothed linear SVM" + (" trained with noise" if model != "plain" else "")
    figure.suptitle(f"{title}, {who}\n{_setting(record)}", x=0.01, ha="left", fontsize=11)
    return figure


def attack_figure(record: Mapping[str, Any]) -> Any:
    """Certificate, attacked smoothed classifier and attacked SVM, one panel per (beta, d), at the first sigma."""
    settings, eps, coarse = record["settings"], np.array(record["epsilons"]), np.array(record["attack_epsilons"])
    sigma, budgets = settings["sigma"][0], settings["budgets"]
    figure, panels = _panels(len(settings["beta"]), len(budgets))
    found = {(r["beta"], r["model"]): r for r in record["results"] if r["sigma"] == sigma}
    for row, beta in enumerate(settings["beta"]):
        smoothed, plain = found[beta, "noise-trained"], found[beta, "plain"]
        for i, d in enumerate(budgets):
            ax = panels[row, i]
            proven = _down_to_zero(eps, smoothed["certified_accuracy"]["all"][i])
            ax.step(*proven, "-", where="pre", color=COLOURS[0], lw=2, label="smoothed: certified")
            estimate = 100 * np.array(smoothed["attack"]["smoothed_accuracy_some_rows"][i])
            name = f"smoothed: attacked ({smoothed['attack']['rows']} rows)"
            ax.plot(coarse, estimate, "o", color=COLOURS[1], ms=5, label=name)
            for result, dashes, colour, name in (
                (smoothed, DASHES[2], COLOURS[2], "same SVM, not smoothed: attacked"),
                (plain, DASHES[1], COLOURS[3], "plain SVM, not smoothed: attacked"),
            ):
                accuracy = 100 * np.array(result["attack"]["base_accuracy"][i])
                ax.plot(eps, accuracy, dashes, color=colour, lw=1.8, label=name)
            ax.set_title(rf"$\beta = {beta:g}$, $d = {d}$")
    _finish(figure, panels, "accuracy (%)")
    title = f"Adult: certificate and attack on the linear SVM trained with noise, σ = {sigma:g}"
    figure.suptitle(f"{title}\n{_setting(record)}", x=0.01, ha="left", fontsize=11)
    return figure


def _not_certified(result: Mapping[str, Any], group: str, settings: Mapping[str, Any]) -> str:
    """Which budgets have no line, and the draws that the first of them would need where there were too few."""
    budgets = settings["budgets"]
    none = [i for i in range(len(budgets)) if not any(result["certified_accuracy"][group][i])]
    if not none:
        return ""
    names, needed = ", ".join(str(budgets[i]) for i in none), result["needed_samples"][none[0]]
    return f"nothing certified at d = {names}" + (f" (needs n ≥ {needed:,})" if needed > settings["samples"] else "")


def _down_to_zero(eps: np.ndarray, curve: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Per cent up to the first zero. Steps "pre" draw the lower value between two points of the grid."""
    percent = 100 * np.array(curve)
    end = int(np.argmax(percent == 0)) + 1 if (percent == 0).any() else len(eps)
    return eps[:end], percent[:end]


def _setting(record: Mapping[str, Any]) -> str:
    s = record["settings"]
    return f"{s['rows']} test rows; n = {s['samples']} draws per row; τ = {s['tau']:g}; α = {s['alpha']:g} per row"


def _panels(rows: int, columns: int) -> tuple[Any, Any]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.5 + 3.0 * columns, 1.6 + 2.5 * rows), layout="constrained")
        return figure, figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)


def _finish(figure: Any, panels: Any, ylabel: str) -> None:
    """Shared axes labels and one legend below."""
    for ax in panels[-1]:
        ax.set_xlabel(EPS_LABEL, fontsize=9)
    for ax in panels[:, 0]:
        ax.set_ylabel(ylabel)
    panels[0, 0].set_xlim(left=0)
    panels[0, 0].set_ylim(0, 100)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 2 * panels.shape[1]),
        frameon=False,
        fontsize=9,
    )


def _save(figure: Any, path: Path) -> None:
    with atomic_file(path, force=True) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
