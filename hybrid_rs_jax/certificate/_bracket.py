"""One safeguarded iteration for all root finders of this room.

Every solver looks for the root of a monotone function, one problem per lane. It keeps an interval that holds the root
and a point inside at which the function is evaluated next. A step

1. evaluates the function at the point and cuts the interval there,
2. proposes a new point (Newton, on a scale on which the function is nearly straight),
3. takes the proposal where it is inside of what is left and the evaluation can be trusted, else the middle.

So no step can lose the root, a flat or rounded stretch costs a bisection, and under `vmap` all lanes run the same
program until the last one is done. Nothing here makes a result sound: solvers evaluate a bound at the point that comes
out, and the bound holds at every point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = ["Bracket", "Search", "search"]


class Bracket(NamedTuple):
    """An interval that holds the root, and the point inside at which to look next."""

    low: Float[Array, "*lanes"]
    high: Float[Array, "*lanes"]
    at: Float[Array, "*lanes"]

    def cut(self, below: Bool[Array, "*lanes"], above: Bool[Array, "*lanes"] | None = None) -> Bracket:
        """Keep what lies above the point where the point is `below` the root, and what lies below it where `above`.

        `above` is the opposite of `below` unless a look may decide neither.
        """
        above = ~below if above is None else above
        return self._replace(low=jnp.where(below, self.at, self.low), high=jnp.where(above, self.at, self.high))

    def moved(
        self, proposal: Float[Array, "*lanes"], trusted: Bool[Array, "*lanes"], slack: Array | float = 0.0
    ) -> Bracket:
        """Go to the proposal where it is trusted and inside, else to the middle.

        A root that is found to the last digits sits on an edge of the interval: edges are inside, and so is a proposal
        that lies beyond by no more than `slack`, which is moved to the edge.
        """
        inside = trusted & (proposal >= self.low - slack) & (proposal <= self.high + slack)
        return self._replace(at=jnp.where(inside, jnp.clip(proposal, self.low, self.high), self.middle))

    @property
    def middle(self) -> Float[Array, "*lanes"]:
        """The point of a bisection."""
        return self.low + (self.high - self.low) / 2

    def is_narrow(self, tolerance: float) -> Bool[Array, "*lanes"]:
        """Is the width no more than `tolerance` of the ends' magnitude?"""
        return self.high - self.low <= tolerance * (jnp.abs(self.low) + jnp.abs(self.high))


class Search(NamedTuple):
    """Where a search stands.

    Attributes:
      bracket: one `Bracket`, or a tuple of them that move together.
      kept: what the solver carries along, such as its best bound so far and where it was found.
      done: lanes that are finished: their points move no more.
      steps: number of steps, the same for all lanes.
    """

    bracket: Any
    kept: Any
    done: Bool[Array, "*lanes"]
    steps: Array


def search(
    step: Callable[[Any, Any, Array], tuple[Any, Any, Array]],
    bracket: Any,
    kept: Any,
    done: Bool[Array, "*lanes"],
    max_steps: Array | int,
) -> Search:
    """Step until all lanes are done, or `max_steps` are spent.

    Args:
      step: from `(bracket, kept, steps)` to the next bracket, what is kept, and the lanes that are done with this step.
      bracket: where to begin, one `Bracket` or a tuple of them.
      kept: what the solver carries along, arrays of the lanes' shape.
      done: lanes that need no search.
      max_steps: steps after which the search ends in any case.
    """

    def body(state: Search) -> Search:
        bracket, kept, finished = step(state.bracket, state.kept, state.steps)
        done = state.done | finished

        def frozen(old: Bracket, new: Bracket) -> Bracket:
            return new._replace(at=jnp.where(done, old.at, new.at))

        bracket = jax.tree.map(frozen, state.bracket, bracket, is_leaf=lambda x: isinstance(x, Bracket))
        return Search(bracket, kept, done, state.steps + 1)

    def unfinished(state: Search) -> Array:
        return (state.steps < max_steps) & ~jnp.all(state.done)

    return jax.lax.while_loop(unfinished, body, Search(bracket, kept, done, jnp.zeros((), jnp.int32)))
