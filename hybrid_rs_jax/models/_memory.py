"""Memory that a function needs besides its arguments, read off its trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core

__all__ = ["peak_bytes"]

# never written down: the compiler makes their values where they are read
_VIRTUAL = {"broadcast_in_dim", "iota"}


def peak_bytes(function: Callable[..., Any], *shapes: Any) -> int:
    """Bytes of all arrays that are alive at the same time, at most, in the order in which the trace computes them.

    An estimate: a compiler fuses steps, which needs less, and changes their order, which may need more. Of the branches
    of a condition the largest counts, and of a loop one turn.

    Args:
      function: what is asked about; it is traced, not run.
      shapes: a `jax.ShapeDtypeStruct` for each array of its arguments.

    >>> import jax.numpy as jnp
    >>> peak_bytes(lambda x: (x @ x).sum(), jax.ShapeDtypeStruct((10, 10), jnp.float32))
    404
    """
    return _peak(jax.make_jaxpr(function)(*shapes).jaxpr)


def _peak(jaxpr: Any) -> int:
    ends = {name: number for number, equation in enumerate(jaxpr.eqns) for name in _names(equation.invars)}
    kept = set(_names(jaxpr.outvars))
    alive: dict[Any, int] = {}
    total = peak = 0
    for number, equation in enumerate(jaxpr.eqns):
        made = 0 if equation.primitive.name in _VIRTUAL else sum(_bytes(name) for name in equation.outvars)
        inner = max(map(_peak, _inside(equation)), default=0)
        peak = max(peak, total + max(made, inner))
        for name in equation.outvars:
            alive[name] = 0 if equation.primitive.name in _VIRTUAL else _bytes(name)
        total += made
        for name in {*_names(equation.invars), *equation.outvars}:
            if name in alive and ends.get(name, -1) <= number and name not in kept:
                total -= alive.pop(name)
    return peak


def _inside(equation: Any) -> list[Any]:
    """The programs of an equation: branches, a body, a function."""
    values = [*equation.params.values(), *(equation.params.get("branches") or ())]
    found = [getattr(value, "jaxpr", value) for value in values]
    return [value for value in found if hasattr(value, "eqns")]


def _names(variables: Any) -> list[Any]:
    return [name for name in variables if not isinstance(name, jax.extend.core.Literal)]


def _bytes(name: Any) -> int:
    shape, dtype = getattr(name.aval, "shape", ()), getattr(name.aval, "dtype", None)
    return math.prod(shape) * getattr(dtype, "itemsize", 0)
