"""Pictures are drawn for every kind of certificate, in every format."""

import numpy as np
import pytest

import hybrid_rs_jax as hrs
from hybrid_rs_jax.report.plots import SUFFIXES, plot_certified_accuracy, plot_frontier, save_figure

KERNEL = hrs.UniformKernel(0.25, 512)
SMOOTHINGS = {
    "hybrid": hrs.HybridSmoothing(KERNEL, 0.5),
    "text only": hrs.HybridSmoothing(KERNEL, None),
    "image only": hrs.HybridSmoothing(None, 0.5),
}


def _result(smoothing, counts, budgets=range(9)):
    return hrs.certify(counts, 1000, smoothing, tau=1e-3, alpha=0.01, budgets=budgets)


@pytest.mark.parametrize("kind", SMOOTHINGS)
@pytest.mark.parametrize("counts", [[1000, 999, 900, 0], [0], [1000]])
def test_every_kind_of_certificate_can_be_drawn(tmp_path, kind, counts):
    path = tmp_path / "a.png"
    save_figure(_result(SMOOTHINGS[kind], counts), path, ".png")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_formats(tmp_path, suffix):
    save_figure(_result(SMOOTHINGS["hybrid"], [1000, 990]), tmp_path / "a", suffix)
    assert (tmp_path / "a").stat().st_size > 5000


def test_one_budget_and_one_sample_per_budget(tmp_path):
    save_figure(_result(SMOOTHINGS["hybrid"], [1000], budgets=[0]), tmp_path / "a", ".png")
    save_figure(_result(SMOOTHINGS["hybrid"], [[1000, 900], [1000, 10]], budgets=[0, 3]), tmp_path / "b", ".png")


def test_curves_show_the_numbers():
    from matplotlib.figure import Figure

    certificate = hrs.certify([1000, 900, 890, 0], 1000, SMOOTHINGS["hybrid"], tau=1e-3, alpha=0.01)
    left, right = Figure().subplots(1, 2)
    plot_frontier(left, certificate.budgets, certificate.radius)
    mean = next(line for line in left.lines if line.get_label().startswith("mean"))
    assert mean.get_ydata()[0] == pytest.approx(certificate.radius[:, 0].clip(0).mean())
    median = next(line for line in left.lines if line.get_label() == "median").get_ydata()
    said = [line.median for line in certificate.summary().budgets][: len(median)]
    assert [-1 if np.isnan(value) else value for value in median] == said
    assert -1 in said, "no marker stands at a radius of 0 where half of the inputs are not certified"
    plot_certified_accuracy(right, certificate.budgets, certificate.radius)
    curve = next(line for line in right.lines if line.get_label() == "d = 1")
    for epsilon, share in zip(curve.get_xdata()[1:], curve.get_ydata()[:-1], strict=True):
        assert share == pytest.approx(100 * certificate.certified_accuracy(epsilon)[1])
