"""Discrete budgets: a number of tokens, or edits of a text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

from hybrid_rs_jax._checks import LARGEST_BUDGET, check_budget, check_whole

__all__ = ["Budget", "Edits", "budget_numbers"]


@dataclasses.dataclass(frozen=True)
class Edits:
    """A budget of edits: at most so many tokens substituted, inserted and deleted, anywhere in the text.

    Every edit script is: the tokens at a set of positions disappear, then others are inserted anywhere; a substitution
    is one of each. So `removed` tokens disappear at most and `added` ones appear at most.

    Args:
      substituted, inserted, deleted: non-negative integers.

    Raises:
      ValueError: if one of them is not.

    >>> Edits(substituted=1, inserted=2).added
    3
    """

    substituted: int = 0
    inserted: int = 0
    deleted: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = check_whole(field.name, getattr(self, field.name), 0, LARGEST_BUDGET)
            object.__setattr__(self, field.name, value)

    def __str__(self) -> str:
        parts = [f"{count} {name}" for name, count in dataclasses.asdict(self).items() if count]
        return " + ".join(parts) or "no edit"

    @property
    def removed(self) -> int:
        """Tokens of the clean text that disappear at most."""
        return self.substituted + self.deleted

    @property
    def added(self) -> int:
        """Tokens of the attacked text that are new at most."""
        return self.substituted + self.inserted

    def covers(self, other: Edits) -> bool:
        """Is every attack within `other` one within this budget?"""
        return all(a >= b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True))

    @classmethod
    def of(cls, budget: object) -> Edits:
        """A budget as edits: a number of tokens is that many insertions."""
        return budget if isinstance(budget, Edits) else cls(inserted=check_budget(budget))


#: A discrete budget: a number of tokens, or edits.
Budget: TypeAlias = int | Edits


def budget_numbers(budgets: Sequence[Budget]) -> tuple[int, ...]:
    """Budgets as numbers: tokens, or of `Edits` the place in the list, 0 for the first."""
    return tuple(place if isinstance(budget, Edits) else budget for place, budget in enumerate(budgets))
