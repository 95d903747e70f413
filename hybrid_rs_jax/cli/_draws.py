"""Which draws `sample` and `demo` take: ordinary ones, conditional ones for each budget, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from cyclopts import Group, Parameter

from hybrid_rs_jax._text import joined
from hybrid_rs_jax.cli import _values
from hybrid_rs_jax.cli._values import flag, integer
from hybrid_rs_jax.cli.options import RiskOptions, StoppingOptions, ThreatOptions
from hybrid_rs_jax.errors import BadInputError, library_sentences

if TYPE_CHECKING:
    from hybrid_rs_jax.cli._sources import Source
    from hybrid_rs_jax.kernels import HybridSmoothing
    from hybrid_rs_jax.sampling.design import Design

__all__ = ["DrawsOptions", "design_text"]

Draws = Literal["ordinary", "conditional", "both"]


@Parameter(name="*", group=Group("Which draws"))
@dataclass(frozen=True, kw_only=True)
class DrawsOptions:
    """Which draws estimate the score under attack."""

    draws: Draws = "ordinary"
    """ordinary: one sample for all budgets; conditional: for each budget draws in which the attacked positions are
    always resampled, which certify more tokens from fewer copies; both: half of alpha each (default: ordinary)"""
    max_budget: Annotated[int, flag(integer(1, _values.MAX_BUDGET), "D")] | None = None
    """with conditional draws: the largest budget (default: 8, or as many positions as there are)"""

    def design(
        self,
        source: Source,
        smoothing: HybridSmoothing,
        threat: ThreatOptions,
        stopping: StoppingOptions,
        risk: RiskOptions,
        total_variation: float,
    ) -> Design | None:
        """How the copies are spread over the budgets; None: they are ordinary draws.

        Raises:
          BadInputError: if a flag has no meaning for these draws.
        """
        from hybrid_rs_jax.classifiers.base import Abilities
        from hybrid_rs_jax.kernels import DeletionKernel
        from hybrid_rs_jax.sampling.design import design_draws, target_design

        if self.draws == "ordinary":
            if self.max_budget is not None:
                raise BadInputError("--max-budget needs --draws conditional or both; ordinary draws serve all.")
            return None
        reasons = {
            "token noise": smoothing.discrete is None,
            "noise that replaces or masks tokens (insertions need no conditional draws)": isinstance(
                smoothing.discrete, DeletionKernel
            ),
            "a classifier that says unsafe or not, no classes": Abilities.of(source.classifier).classes is not None,
            "a fixed number of draws or --target, no --frontier": stopping.frontier,
        }
        if missing := [need for need, lacks in reasons.items() if lacks]:
            raise BadInputError(f"--draws {self.draws} needs {missing[0]}.")
        places, ordered = _places(source), threat.name == "append"
        with library_sentences():
            if stopping.target is not None:
                if self.draws == "both" or not (ordered or stopping.target[0] >= places):
                    raise BadInputError("--target needs --draws ordinary, or conditional with --threat append.")
                return target_design(stopping.target[0], places, stopping.samples)
            budget = min(8, places) if self.max_budget is None else self.max_budget
            settings = (stopping.samples, budget, places, risk.threshold, risk.level)
            return design_draws(self.draws, smoothing, *settings, ordered=ordered, total_variation=total_variation)


def _places(source: Source) -> int:
    """Most eligible positions of an input."""
    from hybrid_rs_jax.cli._sources import first_readable

    shared = getattr(source.inputs, "eligible", first_readable(source.inputs).eligible)
    if np.ndim(shared) == 1:
        return int(np.sum(shared))
    return int(np.sum(shared, axis=1).max()) if len(shared) else int(np.shape(shared)[1])


def design_text(design: Design) -> str:
    """The samples in a few words."""
    parts = []
    for part in design.parts:
        if part.sample.forced is None:
            parts.append(f"{part.draws:,} ordinary")
            continue
        sets = "" if part.sample.sets == 1 else f" ({part.sample.sets} sets of positions, {part.draws:,} each)"
        parts.append(f"{part.copies:,} for d = {part.sample.covers - 1}{sets}")
    return f"Draws of each input, {design.copies:,} in all: {joined(parts)}."
