"""The chain from votes to guarantee for one input, step by step, with every number computed on the way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import hybrid_rs_jax as hrs
from hybrid_rs_jax._text import ceil_probability_text, floor_text, probability_text, setting_text
from hybrid_rs_jax.report.tables import print_table, say

__all__ = ["explain"]

_SHOWN_ATOMS = 9


def explain(row: dict[str, Any], statement: dict[str, Any], smoothing: hrs.HybridSmoothing) -> None:
    """Print how `row` of a certificate came about, at its middle certified budget and half of its radius there."""
    from hybrid_rs_jax.certificate.bounds import worst_case_bounds

    tau, alpha, n, k, p_a = statement["tau"], statement["alpha"], row["n"], row["successes"], row["p_a"]
    say(f"\nFrom votes to guarantee, for {row['id']}:\n")
    say(f"1. Votes. {k:,} of {n:,} noisy copies are called unsafe.")
    say(
        f"2. Confidence. The clean score p, the chance that one noisy copy is called unsafe, is at least p_A = "
        f"{probability_text(p_a)} with probability {setting_text(1 - alpha)} over the draws (one-sided "
        "Clopper-Pearson bound, from the integers)."
    )
    if row["budget"] < 0:
        need = float(hrs.required_probability(statement["budgets"][0], 0.0, smoothing, tau))
        say(f"3. Here it ends: p_A is below the {ceil_probability_text(need, 1 - need)} that certifies. It abstains.")
        return
    d = statement["budgets"][statement["budgets"].index(row["budget"]) // 2]
    radius = row["radius"][statement["budgets"].index(d)]
    epsilon = math.floor(radius * 500) / 1000
    _say_atoms(smoothing, d)
    lower, upper = (float(x) for x in worst_case_bounds(p_a, d, epsilon, smoothing))
    between = f"between {probability_text(lower)} and {ceil_probability_text(upper, 1 - upper)}"
    say(
        f"4. Worst case. Among all classifiers with a clean score of p_A the one that suffers most from {d} tokens "
        f"and a pixel change of eps = {setting_text(epsilon)} is a likelihood-ratio test (Neyman-Pearson, Theorem "
        f"4.2). Its score under attack lies {between} (both bounds hold whatever the rounding)."
    )
    say(
        f"5. Radius. That exceeds tau = {setting_text(tau)}, so (d = {d}, eps = {setting_text(epsilon)}) is certified. "
        f"At d = {d} it stays above tau up to eps = r_{d} = {floor_text(radius, 3)}; with no pixel change, up to "
        f"d = {row['budget']}."
    )
    copies = math.ceil(math.log(0.01) / math.log1p(-tau))
    say(
        f"6. Guarantee. A filter that runs {copies:,} fresh noisy copies and flags the input when one of them is "
        f"unsafe misses a score above tau with probability at most (1 - tau)^{copies:,} = "
        f"{math.exp(copies * math.log1p(-tau)):.4f}, so it catches the input under every such attack."
    )


def _say_atoms(smoothing: hrs.HybridSmoothing, d: int) -> None:
    """The law of the log likelihood ratio of the token noise."""
    ratio = smoothing.likelihood_ratios(d)[0]
    say(
        f"3. Tokens. Take d = {d} changed tokens. How much a noisy text speaks for the attacked text instead of the "
        f"clean one is one number, the log likelihood ratio; with this noise it has {len(ratio.log_ratio)} values:\n"
    )
    atoms = sorted(zip(*(np.asarray(x) for x in (ratio.log_ratio, ratio.log_p, ratio.log_q)), strict=True))
    body = [[f"{level:+.3f}", f"{math.exp(p):.3g}", f"{math.exp(q):.3g}"] for level, p, q in atoms[:_SHOWN_ATOMS]]
    print_table(["log ratio", "clean", "attacked"], body, left=0)
    if len(atoms) > _SHOWN_ATOMS:
        say(f"... and {len(atoms) - _SHOWN_ATOMS} more.")
    say()
