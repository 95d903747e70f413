"""Statements in words. What is certified is the smoothed classifier, and the words say so.

Every number in a promise is rounded to the side that keeps it: `down_text`, `up_text`; settings as they were given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from decimal import Decimal

from hybrid_rs_jax._text import DASH, counted, down_text, joined, setting_text, span_text, sum_text, up_text
from hybrid_rs_jax.certificate.samples import Sample
from hybrid_rs_jax.confidence import copies_needed
from hybrid_rs_jax.kernels import AbsorbingKernel, Conditional, DeletionKernel, Edits
from hybrid_rs_jax.kernels.edits import Budget
from hybrid_rs_jax.results.statement import Denoising, Noise, Provisional, Statement, Threat

__all__ = [
    "MINUS_ONE",
    "attacker",
    "certified",
    "claim",
    "confidence_text",
    "deployment",
    "guarantee",
    "legend",
    "provisos",
    "run_time_text",
    "threat_model",
    "too_few_draws",
]

MINUS_ONE = (
    "radius -1: not certified at this budget, not even at distance 0; "
    "budget -1: not certified at d = 0 either, the input abstains"
)
# What the filter that a statement takes as its example may miss.
_MISS_PROBABILITY = 0.01


def claim(statement: Statement) -> str:
    """What is claimed, in a few words."""
    if statement.classes is not None:
        return "no other class gets a larger smoothed score"
    return f"the smoothed score stays {statement.side} tau"


def certified(statement: Statement) -> str:
    """What an input with a certificate of this side is called."""
    return "certified unsafe" if statement.side == "above" else "certified safe"


def guarantee(statements: Sequence[Statement]) -> str:
    """One sentence: who holds what, with which probability; provisos first."""
    first = statements[0]
    discrete = [f"{first.threat.symbol} budget d"] if first.noise.tokens else []
    within = joined([*discrete, *(["l2 radius r_d"] if first.noise.pixels else [])])
    return (
        f"{_condition(first.provisional)}With probability at least {confidence_text(first.risk.alpha)} over the draws, "
        f"for each input by itself{_together(statements)}: no attack within {within} {_effect(statements)}."
    )


def _together(statements: Sequence[Statement]) -> str:
    first = statements[0]
    text = "" if len(first.budgets) == 1 else " and for all budgets together"
    if first.samples is not None:
        return f"{text} ({_shares(first)})" if len(first.samples) > 1 else text
    if not first.simultaneous:
        text += f" (one sample per budget, each bounded at risk alpha / {len(first.budgets) * len(statements)})"
    elif len(statements) > 1:
        text += " (alpha / 2 for each decision)"
    return text


def _shares(statement: Statement) -> str:
    """How samples share alpha: "risk 0.005 on ordinary draws, 0.00125 on those of d = 1..4 each"."""
    groups: dict[float, list[Sample]] = {}
    for sample in statement.samples or ():
        groups.setdefault(sample.share, []).append(sample)
    parts = []
    for share, group in groups.items():
        each = " each" if len(group) > 1 else ""
        parts.append(f"{up_text(statement.risk.own * share)} on {_draws_text(group, statement.budgets)}{each}")
    return f"of the risk alpha {joined(parts)}"


def _draws_text(samples: Sequence[Sample], budgets: Sequence[Budget]) -> str:
    """Which draws: "ordinary draws and conditional ones for d = 1..8".

    A sample is named by the largest budget that it is about: its sets may hold more positions than that.
    """
    ordinary = ["ordinary draws"] * any(sample.forced is None for sample in samples)
    largest = {budgets[sample.covers - 1] for sample in samples if isinstance(sample.forced, int)}
    numbers = sorted(d for d in largest if isinstance(d, int))
    edits = [str(sample.forced) for sample in samples if isinstance(sample.forced, Edits)]
    spans = [f"d = {span_text(numbers)}"] * bool(numbers) + edits
    return joined([*ordinary, *([f"conditional draws for {joined(spans)}"] if spans else [])])


def _effect(statements: Sequence[Statement]) -> str:
    first = statements[0]
    if first.classes is not None:
        return "changes the class with the largest SMOOTHED score"
    score = "brings the score of the SMOOTHED classifier (not of the classifier without noise)"
    moves = []
    for statement in statements:
        assert statement.risk.tau is not None
        tau = statement.risk.tau
        where = (
            f"down to tau = {down_text(tau)} or below"
            if statement.side == "above"
            else f"up to tau = {up_text(tau)} or above"
        )
        moves.append(where if len(statements) == 1 else f"of an input {certified(statement)} {where}")
    return f"{score} {joined(moves, 'or')}"


def threat_model(statement: Statement) -> str:
    """What the attacker may do, at the level of token ids and pixels, or of the fields and numbers of a table."""
    return attacker(statement.noise, statement.threat, statement.budgets)


def attacker(noise: Noise, threat: Threat, budgets: Sequence[Budget], distance: str = "r") -> str:
    """What the attacker may do within these budgets and an l2 change of `distance`."""
    table = threat.name == "fields"
    parts = [_token_changes(threat, budgets)] if noise.tokens else []
    if noise.pixels:
        parts.append(
            f"the {'numbers move' if table else 'continuous part moves'} by at most {distance} in l2 norm, in the unit "
            f"of the inputs, as sigma is{_grid(noise, table)}"
        )
    other = ("numbers stay as they are" if noise.tokens else "fields stay as they are") if table else ""
    other = other or ("text stays as it is" if noise.pixels else "rest of an input, such as a picture, stays as it is")
    unchanged = "" if noise.tokens and noise.pixels else f"; the {other}"
    return ", and ".join(parts) + unchanged


_SHIFT = "an insertion or deletion that shifts later tokens is not covered"


def _token_changes(threat: Threat, budgets: Sequence[Budget]) -> str:
    if threat.per_budget is not None:
        own = zip(budgets, threat.per_budget, strict=True)
        places = "; ".join(f"d = {d}: {_positions(positions)}" for d, positions in own)
        return (
            "each budget d has a filter of its own, whose noise is on the first d of the eligible positions alone, and "
            f"only these may be replaced by other symbols of the noise alphabet ({places}); every other token stays as "
            f"it is ({_SHIFT})"
        )
    if threat.name == "fields":
        return "at most d of the fields that carry noise change to other values of theirs"
    if any(isinstance(d, Edits) for d in budgets):
        return f"the text is edited within a budget, anywhere ({'; '.join(map(str, budgets))})"
    if threat.name == "insert":
        return "at most d tokens are inserted, anywhere in the text (which still fits its certified length)"
    if threat.name == "forced":
        return (
            "at most d tokens are replaced by other symbols of the noise alphabet, at positions that the draws for the "
            f"budget d always resampled; every other token stays as it is ({_SHIFT})"
        )
    which = {
        "append": "of the first d positions behind the text",
        "suffix": "of the positions behind the trusted text",
        "anywhere": "of the positions of the text",
    }.get(threat.name, "of the token positions that carry noise")
    if threat.name == "append" and threat.positions is None and not threat.own_positions:
        which = "of the first d eligible positions"
    where = ""
    if threat.positions is not None:
        where = f" ({span_text(threat.positions)})" if threat.positions else " (there are none)"
    elif threat.own_positions:
        where = " (a set of its own for each input)"
    return (
        f"at most d {which}{where} are replaced by other symbols of the noise alphabet "
        f"(appending d tokens replaces d pads; {_SHIFT}), every other token stays as it is"
    )


def _positions(positions: Sequence[int]) -> str:
    return span_text(positions) if positions else "none"


def _grid(noise: Noise, table: bool) -> str:
    if noise.drawn != "run" or noise.step is None:
        return ""
    step = _step_text(noise.step)
    if noise.off_grid:
        return f", and may leave the grid of step {step} (the radius allows for that)"
    if table:
        return f", and stay on the grid of step {step} (to which numbers are rounded; attacks off it are not covered)"
    return f", and stays on the grid of step {step} (as the pixels of a file do; attacks off the grid are not covered)"


def _step_text(step: float) -> str:
    parts = 1 / step
    return f"1/{round(parts)}" if step < 1 and 1 / round(parts) == step else setting_text(step)


def provisos(statement: Statement, ties: int = 0) -> Iterator[str]:
    """Sentences on what the guarantee takes for granted about the draws.

    Args:
      statement: the statement.
      ties: number of draws whose margin is at rounding level.
    """
    if statement.provisional is not None:
        yield _provisional_text(statement.provisional, statement.risk.alpha)
    yield _drawn_text(statement.noise)
    if statement.denoising is not None:
        yield _denoised_text(statement.denoising)
    if any(sample.forced is not None for sample in statement.samples or ()):
        yield _conditional_text(statement)
    if statement.ties == "left out":
        role = "failures" if statement.side == "above" else "successes"
        yield (
            f"{counted(ties, 'draw')} of all had a margin at rounding level (ties): the bounds count them as {role}."
        )
    elif statement.ties == "counted":
        yield (
            f"{counted(ties, 'draw')} of all had a margin at rounding level (ties) and count as they fell: the plan "
            "that stopped the draws has no bound without them. Another batch size may let them fall otherwise."
        )


def _denoised_text(denoising: Denoising) -> str:
    weights = "" if denoising.digest is None else f", weights {denoising.digest[:12]}"
    told = "" if denoising.sigma is None else f" for sigma = {setting_text(denoising.sigma)}"
    step = "" if denoising.time is None else f" (time {setting_text(denoising.time)} of its schedule)"
    return (
        f"Pictures are denoised by {denoising.name}{weights}{told}{step} after the noise was added and before "
        "the classifier sees them: the denoiser is part of the classifier that is certified, and so of the filter at "
        "run time."
    )


def _conditional_text(statement: Statement) -> str:
    kernel = statement.noise.smoothing.discrete
    kernel = kernel.kernel if isinstance(kernel, Conditional) else kernel
    done = {AbsorbingKernel: "masked", DeletionKernel: "deleted"}.get(type(kernel), "resampled over the whole alphabet")
    assert statement.samples is not None
    families = [sample.sets for sample in statement.samples if sample.sets > 1]
    text = (
        f"Conditional draws: the positions that an attack within d may change are {done} in each of them, the rest "
        "carries its ordinary noise. Certified is the classifier as it is deployed, with ordinary noise everywhere"
    )
    if families:
        text += f"; each set of positions has draws of its own (up to {max(families):,} sets), and the weakest counts"
    return text + ". A budget is certified by the best of the bounds about it, those of larger budgets included."


def _condition(provisional: Provisional | None) -> str:
    if provisional is None:
        return ""
    return "PROVISIONAL, true only if no vote had a part in when the draws ended: "


def _provisional_text(provisional: Provisional, alpha: float) -> str:
    parts = []
    if provisional.partial:
        parts.append(
            f"{counted(provisional.partial, 'input')} of this fixed run certified before the "
            f"{provisional.planned} draws that were set were complete"
        )
    if provisional.earlier:
        sizes = joined(provisional.earlier)
        parts.append(f"the run was extended from n = {sizes} to {provisional.planned}")
    looks = 1 + len(provisional.earlier)
    risk = f"If votes decided, the risk is more than alpha = {setting_text(alpha)}"
    if provisional.earlier and not provisional.partial:
        risk += f", with these {looks} looks at most {looks} alpha"
    return f"Provisional: {joined(parts)}. {risk}. `--target` and `--frontier` stop by the votes at risk alpha in all."


def _drawn_text(noise: Noise) -> str:
    ideal = "ideal Gaussian noise" if noise.pixels else "the noise that is named"
    if noise.drawn == "elsewhere":
        if noise.total_variation:
            return (
                f"The bounds are about {ideal}: the total variation of {up_text(noise.total_variation)} between it and "
                "the noise that was drawn, as it was given, is subtracted."
            )
        return f"The counts were drawn elsewhere: the bounds are about {ideal}."
    if noise.drawn == "version 0.1":
        pixels = ", whose normals end at -5.42 and +5.22 standard deviations and leave gaps" if noise.pixels else ""
        return (
            f"Version 0.1 drew this noise from float32 numbers{pixels}: the bounds are about {ideal}, and say nothing "
            "about a classifier that looks at such last bits."
        )
    where = f" on a grid of step {_step_text(noise.step)}" if noise.step is not None and noise.pixels else ""
    delta = (
        f"; its total variation of {up_text(noise.total_variation)} from the ideal noise is subtracted"
        if noise.total_variation
        else ""
    )
    return f"The noise was drawn by {noise.generator}{where}{delta}."


def legend(statement: Statement) -> str:
    """What the marks in a table mean."""
    radius = (
        f" r_d: certified l2 radius with d {_changed(statement.threat)} {statement.threat.symbol}s, in the unit of the "
        "inputs, as sigma is."
        if statement.noise.pixels
        else ""
    )
    return f"{DASH} not certified (-1 in files).{radius} Numbers are rounded down, upper bounds up."


def _changed(threat: Threat) -> str:
    return "inserted" if threat.name == "insert" else "changed"


def deployment(statements: Sequence[Statement]) -> str:
    """What tau means for a filter that runs a finite number of noisy copies, and what that costs."""
    name = "alpha" if len(statements) == 1 else f"alpha / {len(statements)}"
    return " ".join(_deployed(statement, name) for statement in statements if statement.risk.tau is not None)


def _deployed(statement: Statement, risk: str) -> str:
    tau, own = statement.risk.tau, statement.risk.own
    assert tau is not None
    if statement.side == "above":
        return run_time_text(tau, _MISS_PROBABILITY, own, risk)
    chance = up_text(min(math.nextafter(-math.expm1(100 * math.log1p(-tau)) * (1 + 1e-15), 2), 1.0))
    example = "" if chance == "1" else f", at most {chance} for m = 100"
    return (
        f"tau = {up_text(tau)}: given that its certificate is right (risk {risk} = {setting_text(own)}), a filter that "
        "runs m fresh noisy copies and flags at one positive flags an input certified safe with probability below "
        f"1 - (1 - tau)^m{example}, under every attack within its budgets. Each request that is "
        "not flagged costs all m copies."
    )


def run_time_text(tau: float, miss_probability: float, alpha: float | None = None, name: str = "alpha") -> str:
    """What a filter promises that flags an input when one of m copies is positive, for the m that tau stands for.

    Args:
      tau: score above which inputs are certified.
      miss_probability: what the filter may miss, given that the certificate is right.
      alpha: risk that it is not; None: nothing is certified yet.
      name: what that risk is called, where each decision has a part of alpha.
    """
    copies, fresh = _copies(tau, miss_probability), "fresh noisy"
    miss = setting_text(miss_probability)
    risk = (
        "given that its certificate is right; the risk alpha of the certificate comes on top"
        if alpha is None
        else "given that its certificate is right; "
        f"in all at most {name} + {miss} = {sum_text(alpha, miss_probability)}"
    )
    return (
        f"tau = {down_text(tau)}: a filter that runs {_copies_text(copies, fresh)} of an input, and flags it when at "
        "least one of them is positive, misses an input certified unsafe, under every attack within its budgets, with "
        f"probability at most {miss} {risk}. Each request costs up to {_copies_text(copies)}, and an input that is not "
        "flagged costs all of them, as safe inputs do."
    )


def _copies_text(copies: str, kind: str = "") -> str:
    return " ".join(filter(None, (copies, kind, "copy" if copies == "1" else "copies")))


def _copies(tau: float, miss_probability: float) -> str:
    """The smallest number of copies whose own threshold is at most tau."""
    number = copies_needed(tau, miss_probability)
    if number < 0:
        return up_text(math.log(miss_probability) / math.log1p(-tau) * (1 + 1e-9))
    return f"{number:,}"


def too_few_draws(n: int, budget: int, needed: int, decision: str = "") -> str:
    """Why no input can be certified at a budget (as `decision`, where there are two), and what would help.

    >>> too_few_draws(10_000, 6, 23_155)
    'n = 10,000 is too small for d = 6: it needs at least 23,155 draws.'
    """
    if decision:
        return f"n = {n:,} is too small to certify {decision} at d = {budget}: that needs at least {needed:,} draws."
    return f"n = {n:,} is too small for d = {budget}: it needs at least {needed:,} draws."


def confidence_text(alpha: float) -> str:
    """`1 - alpha` in percent, exactly; as a difference where alpha is tiny."""
    if not 1e-6 <= alpha <= 1 - 1e-6:
        return f"1 - {setting_text(alpha)}"
    percent = ((1 - Decimal(repr(alpha))) * 100).normalize()
    return format(percent, "f") + " %"
