"""A picture of certified features: the certified cosine against the l2 distance, law against mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_rs_jax.report.plots import _MEAN, _MEDIAN, _SOFT, _STYLE, SUFFIXES

if TYPE_CHECKING:
    from hybrid_rs_jax.results.features import FeatureCurve

__all__ = ["SUFFIXES", "save_feature_curve"]


def save_feature_curve(curve: FeatureCurve, path: Path, suffix: str, setting: str) -> None:
    """Draw a curve.

    Args:
      curve: what is drawn.
      path: file to write (the path of an `atomic_file`).
      suffix: ".png", ".pdf" or ".svg".
      setting: what the numbers depend on, shown below the title.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.subplots()
        for values, label, colour, line in (
            (curve.law, "from the law of the score", _MEAN, "-"),
            (curve.mean, "from its mean alone (the paper's bound)", _MEDIAN, "--"),
        ):
            axes.plot(curve.epsilon, values, line, color=colour, linewidth=2, label=label)
        axes.set(xlabel="l2 distance of the attack", ylabel="certified cosine, mean over inputs", ylim=(0, 1.02))
        axes.set_xlim(left=0)
        axes.legend(frameon=False)
        axes.set_title("Certified cosine of smoothed features")
        figure.text(0.01, -0.005, f"{setting}; 0 where nothing is certified", color=_SOFT, fontsize=8, va="top")
        figure.savefig(path, format=suffix[1:], dpi=144, bbox_inches="tight")
