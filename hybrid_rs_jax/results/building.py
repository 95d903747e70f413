"""Where a statement is put together: from counts, and from what their run says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybrid_rs_jax.kernels import CategoricalKernel, DeletionKernel, HybridSmoothing
from hybrid_rs_jax.kernels.edits import Budget
from hybrid_rs_jax.results.counts import Counts
from hybrid_rs_jax.results.runs import Run
from hybrid_rs_jax.results.statement import (
    Drawn,
    Noise,
    Risk,
    Split,
    Statement,
    Stopping,
    Threat,
    ThreatName,
    Ties,
)

if TYPE_CHECKING:
    from hybrid_rs_jax.certificate.certify import Side

__all__ = ["build_statement", "noise_of_run", "threat_of_run"]


def build_statement(
    counts: Counts,
    smoothing: HybridSmoothing,
    tau: float | None,
    alpha: float,
    budgets: tuple[Budget, ...],
    side: Side = "above",
    decisions: int = 1,
) -> Statement:
    """The statement of `counts`: the only place where one is put together.

    Args:
      counts: where the draws come from decides noise, threat, plan and provisos.
      smoothing: the smoothing distribution.
      tau: decision threshold, None for votes per class.
      alpha: risk level per input.
      budgets: the discrete budgets.
      side: the decision.
      decisions: 2 where both sides are asked, each at half of alpha.
    """
    shares = decisions * (1 if counts.budgets is None else len(budgets))
    split: Split = "one bound"
    if counts.budgets is not None:
        split = "budgets" if decisions == 1 else "budgets and decisions"
    elif decisions > 1:
        split = "decisions"
    smallest = 1.0
    if counts.samples is not None:
        split, smallest = "samples", min(sample.share for sample in counts.samples)
    classes = None if counts.votes is None else counts.votes.shape[-1]
    if classes is not None:
        split, shares = "classes", 2 if classes == 2 else 2 * classes
    return Statement(
        side=side,
        risk=Risk(alpha, alpha / shares * smallest, split, tau, decisions),
        noise=_noise(smoothing, counts),
        threat=_threat(smoothing, counts),
        budgets=budgets,
        stopping=Stopping(counts.plan, None if counts.run is None else counts.run.target),
        simultaneous=counts.budgets is None and counts.samples is None,
        ties=_ties(counts),
        provisional=counts.provisional,
        classes=classes,
        samples=counts.samples,
        denoising=None if counts.run is None else counts.run.denoising,
    )


def _noise(smoothing: HybridSmoothing, counts: Counts) -> Noise:
    if (run := counts.run) is None:
        return Noise(smoothing, total_variation=counts.total_variation)
    drawn: Drawn = "run" if run.generator is not None else "version 0.1"
    return noise_of_run(smoothing, run, drawn)


def noise_of_run(smoothing: HybridSmoothing, run: Run, drawn: Drawn = "run") -> Noise:
    """The noise of a run as its header has it."""
    return Noise(smoothing, drawn, run.step, run.generator, run.total_variation, run.off_grid)


def threat_of_run(smoothing: HybridSmoothing, run: Run | None) -> Threat:
    """What the noise, and the header of a run, say of the threat."""
    kernel = smoothing.discrete
    if kernel is None:
        return Threat("fields" if run is not None and run.threat == "fields" else "image")
    name: ThreatName = "fields" if isinstance(kernel, CategoricalKernel) else "positions"
    if isinstance(kernel, DeletionKernel):
        name = "insert"
    return Threat(name) if run is None else Threat(run.threat or name, run.positions, run.own_positions)


def _threat(smoothing: HybridSmoothing, counts: Counts) -> Threat:
    run, tokens = counts.run, smoothing.discrete is not None
    if tokens and run is None and any(sample.forced is not None for sample in counts.samples or ()):
        return Threat("forced")
    if tokens and run is not None and run.per_budget and counts.budgets is not None:
        first = None if run.positions is None else tuple(run.positions[:d] for d in run.per_budget)
        return Threat("append", run.positions, run.own_positions, first)
    return threat_of_run(smoothing, run)


def _ties(counts: Counts) -> Ties:
    if counts.ties is None or not counts.ties.any():
        return "none"
    return "left out" if counts.ties_left_out else "counted"
