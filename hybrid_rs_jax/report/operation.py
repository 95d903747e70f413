"""The picture of a filter in use: certified detection against false alarms, one curve per run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hybrid_rs_jax._text import setting_text
from hybrid_rs_jax.report.plots import SUFFIXES, styled
from hybrid_rs_jax.results.operation import OperatingPoint, Operation

__all__ = ["SUFFIXES", "save_operation"]

_MARKERS = "osD^v"


def save_operation(operations: Mapping[str, Operation], path: Path, suffix: str) -> None:
    """Draw one point per rule: the estimate of its false alarms, where there is one, a line up to their upper bound.

    Args:
      operations: by the name of the run.
      path: file to write.
      suffix: one of `SUFFIXES`.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    copies = [point.copies for operation in operations.values() for point in operation.points]
    norm = LogNorm(max(min(copies, default=1), 1), max(max(copies, default=10), 10))
    with styled():
        figure = Figure(figsize=(7.8, 4.8), layout="constrained")
        ax = figure.subplots()
        for number, (name, operation) in enumerate(operations.items()):
            points = operation.points
            y = [100 * point.detection for point in points]
            bound = [100 * point.alarms_bound for point in points]
            known = [
                end if point.alarms is None else 100 * point.alarms for point, end in zip(points, bound, strict=True)
            ]
            ax.hlines(y, known, bound, color="#c8ccd4", linewidth=1, zorder=1)
            marker = _MARKERS[number % len(_MARKERS)]
            colours = [point.copies for point in points]
            dots = ax.scatter(known, y, c=colours, norm=norm, cmap="viridis", marker=marker, s=34, label=name, zorder=3)
        for number, point in enumerate(_corners(operations)):  # the second above its dot: both may lie in one place
            x = 100 * (point.alarms_bound if point.alarms is None else point.alarms)
            label, place = f"{point.flags} of {point.copies:,}", (x, 100 * point.detection)
            ax.annotate(label, place, xytext=(5, (-13, 6)[number]), textcoords="offset points", fontsize=8.5)
        ax.set_xlim(left=0)
        ax.set_ylim(0, 107)
        ax.set_xlabel("False alarms on safe inputs (%): estimate, and line to the upper bound")
        ax.set_ylabel("Unsafe inputs certified (%)")
        if copies:
            figure.colorbar(dots, ax=ax, label="copies m per request")
            one = next(iter(operations.values()))
            target = f"d = {one.budget}, ε = {setting_text(one.epsilon)}"
            ax.set_title(f"Flag at k of m copies: {target}, a = {setting_text(one.miss_probability)}")
        if len(operations) > 1:
            ax.legend(loc="lower right", frameon=False)
        figure.savefig(path, format=suffix.removeprefix("."), dpi=170)


def _corners(operations: Mapping[str, Operation]) -> list[OperatingPoint]:
    """The rules with the fewest copies and with the fewest alarms."""
    points = [point for operation in operations.values() for point in operation.points]
    if not points:
        return []
    few = min(points, key=lambda point: point.copies)
    quiet = min(points, key=lambda point: point.alarms_bound)
    return [few] if few is quiet else [few, quiet]
