"""Results of every kind, small ones, for the tests of the page."""

import functools

import numpy as np

import hybrid_rs_jax as hrs
from hybrid_rs_jax.results.certificate import certify_counts, certify_decisions
from hybrid_rs_jax.results.counts import Counts

KERNEL = hrs.UniformKernel(0.25, 512)
HYBRID = hrs.HybridSmoothing(KERNEL, 0.5)
COUNTS = [1000, 999, 900, 512, 0]
EVIL = "</script><script>window.ran = 1</script>\"'&<img src=x onerror='window.ran = 1'>"


def result_of(smoothing=HYBRID, counts=COUNTS, budgets=range(6), ids=None, side="above", tau=1e-3, alpha=0.01, **more):
    counts = np.asarray(counts)
    names = tuple(f"input-{index}" for index in range(len(counts))) if ids is None else tuple(ids)
    own = tuple(budgets) if counts.ndim == 2 else None
    table = Counts(names, counts, np.full(counts.shape, 1000), budgets=own, **more)
    if side == "both":
        return certify_decisions(table, smoothing, tau, alpha, tuple(budgets), "both")
    return certify_counts(table, smoothing, tau, alpha, tuple(budgets), side)


KINDS = {
    "hybrid": result_of,
    "text only": lambda: result_of(hrs.HybridSmoothing(KERNEL, None)),
    "image only": lambda: result_of(hrs.HybridSmoothing(None, 0.5), budgets=[0]),
    "one sample per budget": lambda: result_of(counts=[[1000, 900], [1000, 10]], budgets=[1, 3]),
    "upper bounds": lambda: result_of(counts=[0, 3, 400], tau=0.5, side="below"),
    "both decisions": lambda: result_of(counts=[1000, 500, 0], tau=0.5, side="both"),
    "nothing certified": lambda: result_of(counts=[0]),
    "votes per class": lambda: hrs.certify_classes([[10, 980, 10], [340, 330, 330]], HYBRID, 0.01, range(3)),
}


@functools.cache
def made(kind):
    """A result of each kind."""
    return KINDS[kind]()
