"""Why something is not certified, and what would help: sentences about the votes of a result, each about one side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hybrid_rs_jax._text import ceil_probability_text, counted, down_text, setting_text, span_text, up_text
from hybrid_rs_jax.confidence import samples_for_share
from hybrid_rs_jax.kernels.edits import budget_numbers
from hybrid_rs_jax.results.sentences import certified, too_few_draws
from hybrid_rs_jax.results.statement import Statement

if TYPE_CHECKING:
    from hybrid_rs_jax.results.result import OneSided, Result

__all__ = ["draws_at_share", "explanations", "silent_rows"]

#: So many inputs that abstain are named with the draws that they would have needed.
_NAMED = 3


def explanations(result: Result) -> Iterator[str]:
    """Sentences that say what is not certified and why, so that the user knows what would help."""
    if result.statements[0].classes is not None:
        if silent := int((result.budget < 0).sum()):
            yield (
                f"{silent} of {counted(len(result), 'input')} abstain: their two leading classes are too close for n "
                "draws."
            )
        return
    parts = result.sided
    silent_both = np.flatnonzero(result.budget < 0)
    if silent_both.size:
        yield _who_abstains(result, parts, silent_both)
        for part in parts:
            yield from _what_would_help(part, silent_both, len(parts) > 1)
    for part in parts:
        yield from _hopeless(part, len(parts) > 1)
    if beaten := _beaten(parts):
        yield (
            f"No input is certified for d = {span_text(beaten)}, though n suffices: no bound on a clean score is far "
            "enough from tau (`hybrid-rs plan` gives the p_A that each budget needs)."
        )
    if parts[0].plan is not None:
        yield _stopped_early(parts[0].statement)


def silent_rows(certificate: OneSided) -> np.ndarray:
    """Inputs that the certificate's own side does not certify at any budget."""
    return np.flatnonzero(certificate.budget < 0)


def draws_at_share(certificate: OneSided, rows: np.ndarray) -> list[int | None]:
    """The draws that inputs would have needed for the first budget, at the share of votes that they have.

    None where no number helps. Plans that stop early have no such number: they would have stopped all the same.
    """
    needs = certificate.statement.needs
    k, n = certificate.counts.certain(certificate.side)[rows], certificate.n[rows]
    k, n = (k, n) if k.ndim == 1 else (k[:, 0], n[:, 0])
    agreeing = k if certificate.side == "above" else n - k
    known: dict[float, int | None] = {}
    found = []
    for share in (agreeing / n).tolist():
        if share not in known:
            possible = 0 < needs.bound < 1 and needs.complement > 0
            risk = certificate.statement.risk.per_statement
            known[share] = samples_for_share(share, needs.bound, risk, needs.complement) if possible else None
        found.append(known[share])
    return found


def _who_abstains(result: Result, parts: Sequence[OneSided], rows: np.ndarray) -> str:
    which = "The input abstains" if len(result) == 1 else f"{rows.size} of {len(result)} inputs abstain"
    reasons = [_too_close(part, rows) for part in parts]
    return f"{which}: {' and '.join(reasons)}."


def _too_close(part: OneSided, rows: np.ndarray) -> str:
    """On which side of tau the bounds of these rows are, in words that none of them denies."""
    first, tau = part.budgets[0], part.tau
    if part.statement.samples is not None:
        return (
            f"no bound on the score of the draws is {'high' if part.side == 'above' else 'low'} enough for d = {first}"
        )
    bound = part.bound[rows] if part.bound.ndim == 1 else part.bound[rows, 0]
    if part.side == "above":
        name = "the lower bound p_A on the clean score"
        denied, level, verb = bound > tau, up_text(tau), "does not exceed"
    else:
        name = "the upper bound on the clean score"
        denied, level, verb = bound < tau, down_text(tau), "is not below"
    if first == 0 and not denied.any():
        return f"{name} {verb} tau = {level}"
    direction = "low" if part.side == "above" else "high"
    return f"{name} is too {direction} for d = {first}"


def _what_would_help(part: OneSided, rows: np.ndarray, several: bool) -> Iterator[str]:
    """The draws that inputs which abstain would have needed, if their share of votes stays what it is."""
    if part.plan is not None or part.statement.samples is not None:
        return
    purpose = f" to be {certified(part.statement)}" if several else ""
    needs = part.statement.needs
    helped = 0
    beyond = 0
    for row, n in zip(rows.tolist(), draws_at_share(part, rows[: 10 * _NAMED]), strict=False):
        if n is None:
            beyond += 1
        elif (helped := helped + 1) <= _NAMED:
            yield f"{part.ids[row]} would have needed n = {n:,}{purpose}, at the share of votes that it has."
    if helped > _NAMED or (helped and rows.size > 10 * _NAMED):
        yield "More draws would help others, too; --json gives the n for each."
    if beyond and not several and needs.complement > 0 and rows.size <= 10 * _NAMED:
        share = "share of votes" if part.side == "above" else "share of draws that are negative"
        subject = f"Its {share} is" if rows.size == 1 else f"For {beyond} of them the {share} is"
        level = ceil_probability_text(needs.bound, needs.complement)
        yield f"{subject} itself below, or hardly above, the {level} that is needed: no n would help."


def _hopeless(part: OneSided, several: bool) -> Iterator[str]:
    """Budgets that no votes could have certified on this side."""
    if part.statement.samples is not None:
        yield from _hopeless_samples(part, several)
        return
    most = _most_draws(part)
    impossible = []
    for index, (d, needed) in enumerate(zip(budget_numbers(part.budgets), part.statement.needs.draws, strict=True)):
        if (part.radius[:, index] >= 0).any():
            continue  # whatever rounding says, it has been done
        if needed < 0:
            impossible.append(d)
        elif part.plan is None and most[index] < needed:
            yield too_few_draws(int(most[index]), d, needed, _decision(part) if several else "")
    if impossible:
        subject = "No number of draws up to 2^53" if part.plan is None else "No stop of this plan, whatever the votes,"
        what = f"certifies {_decision(part)} at" if several else "certifies"
        yield f"{subject} {what} d = {span_text(impossible)} with this noise and tau."


def _hopeless_samples(part: OneSided, several: bool) -> Iterator[str]:
    """Budgets that no votes could have certified with these samples."""
    samples, needs = part.statement.samples, part.statement.sample_needs
    assert samples is not None
    drawn, purpose = part.n.max(axis=0), f" {_decision(part)}" if several else ""
    for place, d in enumerate(part.budgets):
        if (part.radius[:, place] >= 0).any():
            continue
        about = [s for s, sample in enumerate(samples) if sample.covers > place]
        if all(needs[s, place] < 0 for s in about):
            yield f"No number of draws up to 2^53 certifies{purpose} d = {d} with this noise, tau and kind of draws."
        elif part.plan is None and all(not 0 < needs[s, place] <= drawn[s] for s in about):
            s = min((s for s in about if needs[s, place] > 0), key=lambda s: needs[s, place])
            kind = "ordinary" if samples[s].forced is None else "conditional"
            yield (
                f"{drawn[s]:,} {kind} draws are too few to certify{purpose} d = {d}: that needs at least "
                f"{needs[s, place]:,} of them{' for each set of positions' if samples[s].sets > 1 else ''}."
            )


def _decision(part: OneSided) -> str:
    return "unsafe" if part.side == "above" else "safe"


def _beaten(parts: Sequence[OneSided]) -> list[int]:
    """Budgets above 0 that are not certified for any input, on any side, though draws would have sufficed."""
    found: list[int] = []
    if parts[0].statement.samples is not None:
        return found
    for index, d in enumerate(budget_numbers(parts[0].budgets)):
        enough = [
            part.plan is None and 0 < part.statement.needs.draws[index] <= _most_draws(part)[index] for part in parts
        ]
        if d > 0 and any(enough) and not any((part.radius[:, index] >= 0).any() for part in parts):
            found.append(d)
    return found


def _most_draws(part: OneSided) -> np.ndarray:
    n = part.n if part.n.ndim == 2 else part.n[:, None]
    return np.asarray(np.broadcast_to(n, part.radius.shape).max(axis=0, initial=0))


def _stopped_early(statement: Statement) -> str:
    """What counts that were stopped early are good for."""
    target = statement.stopping.target
    if target is not None and target.d is not None and target.epsilon is not None:
        what = f"once d = {target.d}, eps = {setting_text(target.epsilon)} was decided"
    else:
        what = "where more of them could hardly have raised a radius"
    return (
        f"Draws ended {what}, or at the most that the plan allows; the bounds allow for that. The risk alpha is spent "
        "on all stops together, and was to be chosen before the draws. More may be certifiable with more draws."
    )
