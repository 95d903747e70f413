"""The chain from votes to guarantee for one input, step by step, with every number computed on the way."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from hybrid_rs_jax._text import (
    ceil_probability_text,
    counted,
    down_text,
    floor_text,
    probability_text,
    setting_text,
    up_text,
)
from hybrid_rs_jax.report.tables import print_table, say

if TYPE_CHECKING:
    from hybrid_rs_jax.kernels import HybridSmoothing
    from hybrid_rs_jax.results.certificate import Certificate

__all__ = ["explain"]

_SHOWN_ATOMS = 9


def explain(certificate: Certificate, index: int) -> None:
    """Print how a certificate of side "above" came about, at its middle certified budget and half of its radius."""
    from hybrid_rs_jax.certificate.bounds import worst_case_bounds
    from hybrid_rs_jax.results.sentences import confidence_text, run_time_text

    certificate, more = _ordinary(certificate), certificate
    tau, smoothing, row = certificate.tau, certificate.smoothing, certificate[index]
    p_a, complement = float(certificate.bound[index]), float(certificate.complement[index])
    say(f"\nFrom votes to guarantee, for {row.id}:\n")
    assert isinstance(row.n, int)  # ordinary draws have one number
    are = "is" if row.successes == 1 else "are"
    say(f"1. Votes. {row.successes:,} of {counted(row.n, 'noisy copy')} {are} called unsafe.")
    say(
        f"2. Confidence. The clean score p, the chance that one noisy copy is called unsafe, is at least p_A = "
        f"{probability_text(p_a)} with probability at least {confidence_text(certificate.risk_per_statement)} over the "
        "draws (one-sided Clopper-Pearson bound, from the integers)."
    )
    if row.budget < 0:
        need = certificate.statement.needs
        level = ceil_probability_text(need.bound, need.complement)
        say(f"3. Here it ends: p_A is below the {level} that certifies. {_other_draws(more, index)}")
        return
    budgets = certificate.budget_numbers
    d = budgets[budgets.index(row.budget) // 2]
    radius = row.radius[budgets.index(d)]
    epsilon = math.floor(radius * 500) / 1000
    _say_atoms(smoothing, d)
    lower, upper = (float(x) for x in worst_case_bounds(p_a, d, epsilon, smoothing, complement=complement))
    between = f"between {probability_text(lower)} and {ceil_probability_text(upper, 1 - upper)}"
    say(
        "4. Worst case. Among all classifiers with a clean score of p_A the one that suffers most from "
        f"{counted(d, 'changed token')} and a pixel change of eps = {setting_text(epsilon)} is a likelihood-ratio test "
        f"(Neyman-Pearson, Theorem 4.2). Its score under attack lies {between} (both bounds hold whatever the "
        "rounding)."
    )
    say(
        f"5. Radius. That exceeds tau = {down_text(tau)}{_left_over(certificate)}, so (d = {d}, eps = "
        f"{setting_text(epsilon)}) is certified. "
        f"At d = {d} it stays above tau up to eps = r_{d} = {floor_text(radius, 3)}; with no pixel change, up to "
        f"d = {row.budget}."
    )
    if more is not certificate:
        best = floor_text(more.radius[index][budgets.index(d)], 3)
        say(
            "   So far the ordinary draws. Conditional ones, in which the appended positions are resampled every time, "
            f"have the other half of alpha and raise radii where they can: in all r_{d} = {best}, and the largest "
            f"budget is {more[index].budget}."
        )
    say(f"6. Guarantee. {run_time_text(tau, 0.01, more.alpha)}")


def _other_draws(more: Certificate, index: int) -> str:
    """What becomes of an input that the ordinary draws do not certify."""
    if (found := more[index].budget) < 0:
        return "It abstains."
    return (
        f"So far the ordinary draws; by the conditional ones, with the other half of alpha, d = {found} is certified."
    )


def _left_over(certificate: Certificate) -> str:
    """The noise that was drawn is not quite the ideal one, of which this chain speaks."""
    delta = certificate.statement.noise.total_variation
    return f" by more than the noise on a grid can take off ({up_text(delta)}, and as much from p_A)" if delta else ""


def _ordinary(certificate: Certificate) -> Certificate:
    """What the ordinary draws prove by themselves."""
    from hybrid_rs_jax.results.certificate import certify_counts

    samples, counts = certificate.statement.samples, certificate.counts
    if samples is None or samples[0].forced is not None:
        return certificate
    run = None if counts.run is None else dataclasses.replace(counts.run, design=None)
    alone = dataclasses.replace(
        counts, successes=counts.successes[:, 0], n=counts.n[:, 0], samples=None, most=None, ties=None, run=run
    )
    settings = (certificate.smoothing, certificate.tau, samples[0].risk(certificate.alpha), certificate.budgets)
    return certify_counts(alone, *settings, certificate.side)


def _say_atoms(smoothing: HybridSmoothing, d: int) -> None:
    """The law of the log likelihood ratio of the token noise."""
    ratio = smoothing.likelihood_ratios(d)[0]
    say(
        f"3. Tokens. Take d = {d}, {counted(d, 'changed token')}. How much a noisy text speaks for the attacked text "
        "instead of the clean one is one number, the log likelihood ratio; with this noise it has "
        f"{counted(len(ratio.log_ratio), 'value')} (numbers are rounded down here):\n"
    )
    atoms = sorted(zip(*(np.asarray(x) for x in (ratio.log_ratio, ratio.log_p, ratio.log_q)), strict=True))
    body = [
        [floor_text(float(level)), *(probability_text(math.exp(mass)) for mass in masses)]
        for level, *masses in atoms[:_SHOWN_ATOMS]
    ]
    print_table(["log ratio", "clean", "attacked"], body, left=0)
    if len(atoms) > _SHOWN_ATOMS:
        say(f"... and {len(atoms) - _SHOWN_ATOMS} more.")
    say()
