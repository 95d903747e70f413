"""Figures of the safety-filter experiment, from its record alone: certified accuracy, and what beta buys and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _common as common
import numpy as np
from _subject import Subject

THREATS = ("suffix", "l0")


def draw_curves(folder: Path, subject: Subject, settings: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Certified accuracy against eps: a row per threat, a column per sigma, a line per d."""
    import matplotlib

    epsilons, budgets = np.array(content["epsilons"]), settings["budgets"]
    sigmas = list(dict.fromkeys(row["sigma"] for row in content["curves"]))
    figure, axes = common.new_figure(len(THREATS), len(sigmas), (10.5, 6.2), sharey=True, sharex="col")
    image = {row["sigma"]: row["certified_accuracy"][0] for row in content["unimodal"] if row["noise"] == "image-only"}
    yardstick = content["picture_distance"]
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(budgets)))
    for row in content["curves"]:
        ax = axes[THREATS.index(row["threat"]), sigmas.index(row["sigma"])]
        accuracy = 100 * np.array(row["certified_accuracy"])
        alone = 100 * np.array(image[row["sigma"]])
        ax.plot(*_until_zero(epsilons, alone), "k:", lw=1.6, label="image-only")
        for d, curve, shade in zip(budgets, accuracy, shades, strict=True):
            if curve.any():
                ax.plot(*_until_zero(epsilons, curve), color=shade, lw=2, label=f"hybrid, d = {d}")
        none = [d for d, curve in zip(budgets, accuracy, strict=True) if not curve.any()]
        nothing = f" (d ≥ {none[0]}: nothing)" if none else ""
        if yardstick is not None:
            ax.axvline(yardstick["nearest_other_digit_median"], color=common.SOFT, lw=1, ls="--")
        common.panel_title(ax, f"{row['threat']}, σ = {row['sigma']:g}, n = {row['n']:,}{nothing}")
        ax.set_ylim(0, 103)
    for ax, sigma in zip(axes[0], sigmas, strict=True):
        ax.set_xlim(0, 7 * sigma)
    for ax in axes[1]:
        ax.set_xlabel(r"pixel budget $\varepsilon$ ($\ell_2$, pixels in [0, 1])")
    for ax in axes[:, 0]:
        ax.set_ylabel("certified accuracy (%)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    title = (
        f"Certified accuracy of {subject.name}, smoothed, under joint token and pixel attacks, β = {settings['beta']:g}"
    )
    dashed = "" if yardstick is None else "; dashed: median distance to the nearest other digit"
    below = _caption(subject, settings, f"n as stated{dashed}")
    common.save_figure(figure, folder / "safety_filter_curves.png", title, below)


def draw_sweep(folder: Path, subject: Subject, settings: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """The price and the gain of beta, and shared against per-budget samples."""
    figure, axes = common.new_figure(1, 3, (10.5, 3.9))
    bought, cost, shared = axes[0]
    _radius_panel(bought, content["beta_sweep"], content["table1"][0]["image_only_radius"])
    sigma = content["beta_sweep"][0]["sigma"]
    _clean_panel(cost, content["smoothed_accuracy"], sigma, settings["clean_n"])
    _sharing_panel(shared, content["per_budget"], settings["budgets"])
    for ax in axes[0]:
        ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
        ax.legend(frameon=False, fontsize=8, loc="upper right" if ax is cost else "best", handlelength=3.5)
    common.save_figure(
        figure,
        folder / "safety_filter_tradeoffs.png",
        "What the replacement probability buys and costs, and what sharing one sample over all budgets costs",
        _caption(subject, settings, f"n = {settings['n']:,} where no other n is given"),
    )


def _radius_panel(ax: Any, rows: Sequence[Mapping[str, Any]], image_only: float) -> None:
    for d, colour, marker in (
        (1, common.BLUE, "o"),
        (2, common.GREEN, "s"),
        (4, common.ORANGE, "^"),
        (8, common.PURPLE, "D"),
    ):
        radius = [row["mean_radius"][d] if row["share_certified"][d] else np.nan for row in rows]
        ax.plot([row["beta"] for row in rows], radius, color=colour, marker=marker, label=f"hybrid, d = {d}")
    ax.axhline(image_only, color="black", ls=":", label="image-only")
    common.panel_title(ax, f"Suffix threat, σ = {rows[0]['sigma']:g}")
    ax.set_xlabel(r"replacement probability $\beta$")
    ax.set_ylabel(r"mean certified radius ($\ell_2$; none = 0)")


def _clean_panel(ax: Any, rows: Sequence[Mapping[str, Any]], sigma: float, n: int) -> None:
    for threat, dashes in zip(THREATS, ("-", "--"), strict=True):
        chosen = [row for row in rows if (row["sigma"], row["threat"]) == (sigma, threat)]
        for field, colour, name in (
            ("unsafe_majority_right", common.BLUE, "unsafe, right by majority"),
            ("safe_flagged_by_n_copies", common.ORANGE, f"safe, flagged by {n} copies"),
        ):
            values = [np.nan if row[field] is None else 100 * row[field] for row in chosen]
            beta = [row["beta"] for row in chosen]
            ax.plot(beta, values, dashes, color=colour, marker="o", ms=4, label=f"{name} ({threat})")
    common.panel_title(ax, f"No attack, σ = {sigma:g}, n = {n}")
    ax.set_xlabel(r"replacement probability $\beta$")
    ax.set_ylabel("inputs (%)")
    ax.set_ylim(-3, 165)
    ax.set_yticks(range(0, 101, 20))


def _sharing_panel(ax: Any, ways: Mapping[str, Any], budgets: Sequence[int]) -> None:
    for mode, colour, marker in (("shared", common.BLUE, "o"), ("per budget", common.ORANGE, "s")):
        way = ways[mode]
        radius = [r if share else np.nan for r, share in zip(way["mean_radius"], way["share_certified"], strict=True)]
        label = f"{mode}: {way['draws_per_input']:,} draws per input"
        ax.plot(budgets, radius, color=colour, marker=marker, label=label)
    common.panel_title(ax, f"One sample or nine: {ways['inputs']} inputs")
    ax.set_xlabel("token budget $d$")
    ax.set_ylabel(r"mean certified radius ($\ell_2$; none = 0)")


def _until_zero(epsilons: np.ndarray, percent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve up to its first zero."""
    end = int(np.argmax(percent == 0)) + 1 if (percent == 0).any() else len(percent)
    return epsilons[:end], percent[:end]


def _caption(subject: Subject, settings: Mapping[str, Any], n: str) -> str:
    """What every number of a figure depends on."""
    risk = f"τ = {settings['tau']:.2g}; α = {settings['alpha']:g} per input"
    return f"{settings['inputs']} {subject.inputs_name}; {n}; {risk}"
