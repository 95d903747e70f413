"""What a classifier owes to be attacked by gradients, and an adapter for networks with an embedding table."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

__all__ = ["DifferentiableGuard", "TableGuard"]


@runtime_checkable
class DifferentiableGuard(Protocol):
    """A base classifier whose margin is differentiable in the token embeddings and in the pixels."""

    def embedded(self) -> tuple[Callable[..., Float[Array, " b"]], Any, Float[Array, "vocab width"]]:
        """`(margin, parameters, table)`.

        `margin(parameters, embeddings, images)` is a pure function of embeddings [b, l, e] and images [b, h, w, c],
        above 0 for Unsafe; the same hashable object on each call, or every attack compiles anew. `table` [V, e] holds
        the embedding of each token: for tokens `t` the base classifier decides `margin(parameters, table[t], images)
        > 0`. What else a network adds to the embeddings (positions) happens inside of `margin`.
        """
        ...


class TableGuard:
    """A guard whose network looks tokens up in one embedding table, as a `DifferentiableGuard`.

    The network is used as it is: embeddings [b, l, e] are put in the place of the table, as a table of b l rows, and
    the tokens are the row numbers 0..b l - 1.

    Called with tokens and images it decides as the guard does, so that it may be sampled as well.

    Args:
      guard: a base classifier with `functional() -> (apply, parameters)`, where `apply(parameters, tokens, images)` is
        the margin and `parameters` a `flax.nnx.State`.
      path: where the table is in `parameters`, with slashes: "embedding", "language/embed_tokens/embedding". It must
        be used for the look-up alone: a head that shares the weights would see the exchanged table.

    Raises:
      ValueError: if there is no table at `path`, or the parameters are no `State`.
    """

    def __init__(self, guard: Any, path: str = "embedding"):
        self.guard = guard
        self._apply, self._parameters = guard.functional()
        self._path = tuple(path.split("/"))
        if not isinstance(self._parameters, nnx.State):
            raise ValueError(
                f"parameters of the guard must be a flax.nnx.State, got {type(self._parameters).__name__}; a denoiser "
                "goes around the table: Denoised(TableGuard(guard), denoiser)."
            )
        if _leaf_at(self._parameters, self._path) is None:
            found = ", ".join("/".join(map(str, name)) for name, _ in nnx.to_flat_state(self._parameters))
            raise ValueError(f"path must name a parameter of the guard, got {path!r}; it has {found}.")

    def __getattr__(self, name: str) -> Any:
        """`functional`, `margin`, `tie_tolerance`, `describe`: what the sampling engine asks for, from the guard."""
        if name == "guard":
            raise AttributeError(name)
        return getattr(self.guard, name)

    def __call__(self, tokens: Any, images: Any) -> Any:
        """Decide for each pair, as the guard does."""
        return self.guard(tokens, images)

    def embedded(self) -> tuple[Callable[..., Float[Array, " b"]], Any, Float[Array, "vocab width"]]:
        """The margin of embeddings, the parameters, and the table; guards that share an `apply` share the margin."""
        table = _leaf_at(self._parameters, self._path)[...]
        return _margin_of_embeddings(self._apply, self._path), self._parameters, table


@functools.lru_cache(maxsize=64)
def _margin_of_embeddings(apply: Callable[..., Array], path: tuple[str, ...]) -> Callable[..., Float[Array, " b"]]:
    def margin(parameters: Any, embeddings: Float[Array, "b l e"], images: Float[Array, "b h w c"]) -> Array:
        batch, length, width = embeddings.shape
        rows = jnp.arange(batch * length, dtype=jnp.int32).reshape(batch, length)
        leaves = [
            (name, leaf.replace(embeddings.reshape(-1, width)) if _named(name, path) else leaf)
            for name, leaf in nnx.to_flat_state(parameters)
        ]
        return apply(nnx.from_flat_state(leaves), rows, images)

    return margin


def _leaf_at(parameters: Any, path: tuple[str, ...]) -> Any:
    return next((leaf for name, leaf in nnx.to_flat_state(parameters) if _named(name, path)), None)


def _named(name: tuple[Any, ...], path: tuple[str, ...]) -> bool:
    return tuple(map(str, name)) == path
