"""The guarantee in words. What is certified is the smoothed classifier, and the words say so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

from hybrid_rs_jax._text import DASH, joined, setting_text

__all__ = ["MINUS_ONE", "deployment_text", "guarantee_text", "legend_text", "threat_model", "too_few_draws"]

MINUS_ONE = (
    "radius -1: not certified at this budget, not even without any pixel change; "
    "budget -1: not certified at d = 0 either, the input abstains"
)


def threat_model(tokens: bool = True, pixels: bool = True) -> str:
    """What the attacker may do, at the level of token ids."""
    parts = []
    if tokens:
        parts.append(
            "at most d of the token positions that carry noise are replaced by other symbols of the noise alphabet "
            "(appending d tokens replaces d pads; an insertion or deletion that shifts later tokens is not covered)"
        )
    if pixels:
        parts.append("the continuous part moves by at most r in l2 norm, in the unit of the inputs, as sigma is")
    unchanged = "" if tokens and pixels else f"; the {'image' if tokens else 'text'} stays as it is"
    return joined(parts) + unchanged


def guarantee_text(
    alpha: float,
    tau: float,
    budgets: Sequence[int],
    simultaneous: bool,
    *,
    tokens: bool = True,
    pixels: bool = True,
    side: str = "above",
) -> str:
    """One sentence: who holds what, with which probability; `side` is "above", "below" or "both"."""
    together = "" if len(budgets) == 1 else " and for all budgets together"
    if not simultaneous:
        together += f" (one sample per budget, each bounded at risk alpha / {len(budgets)})"
    if side == "both":
        together += " (alpha / 2 for each decision)"
    within = joined([*(["token budget d"] if tokens else []), *(["l2 radius r_d"] if pixels else [])])
    moves = {
        "above": f"down to tau = {setting_text(tau)} or below",
        "below": f"up to tau = {setting_text(tau)} or above",
        "both": f"across tau = {setting_text(tau)}, down for one certified unsafe and up for one certified safe",
    }
    return (
        f"With probability at least {_confidence(alpha)} over the draws, for each input by itself{together}: no attack "
        f"within {within} brings the score of the SMOOTHED classifier (not of the classifier without noise) "
        f"{moves[side]}."
    )


def legend_text(pixels: bool = True) -> str:
    """What the marks in a table mean."""
    radius = (
        " r_d: certified l2 radius with d changed tokens, in the unit of the inputs, as sigma is." if pixels else ""
    )
    return f"{DASH} not certified (-1 in files).{radius} Numbers are rounded down."


def deployment_text(tau: float, miss_probability: float = 0.01, side: str = "above") -> str:
    """What tau means for a filter that runs a finite number of noisy copies."""
    copies = math.log(miss_probability) / math.log1p(-tau) * (1 - 1e-12)
    number = f"{math.ceil(copies):,}" if copies < 1e12 else f"about {copies:.1e}"
    flags = (
        f"tau = {setting_text(tau)}: a filter that runs {number} fresh noisy copies of an input, and flags it when at"
    )
    misses = (
        f"{flags} least one of them is positive, misses a certified input with probability at most "
        f"{setting_text(miss_probability)}."
    )
    alarms = (
        f"tau = {setting_text(tau)}: an input certified safe is flagged by m fresh noisy copies with probability below "
        f"1 - (1 - tau)^m, which is {-math.expm1(100 * math.log1p(-tau)):.2g} for m = 100."
    )
    return {"above": misses, "below": alarms, "both": f"{misses} {alarms}"}[side]


def too_few_draws(n: int, budget: int, needed: int) -> str:
    """Why no input can be certified at a budget, and what would help.

    >>> too_few_draws(10_000, 6, 23_155)
    'n = 10000 is too small for d = 6: it needs at least 23155 draws.'
    """
    return f"n = {n} is too small for d = {budget}: it needs at least {needed} draws."


def _confidence(alpha: float) -> str:
    """`1 - alpha` in percent, exactly; as a difference where alpha is tiny."""
    if not 1e-6 <= alpha <= 1 - 1e-6:
        return f"1 - {alpha!r}"
    return f"{((1 - Decimal(str(alpha))) * 100).normalize():f} %"
