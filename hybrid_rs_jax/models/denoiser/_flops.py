"""Floating-point operations of a function, counted in its trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax

__all__ = ["count_flops"]


def count_flops(function: Callable[..., Any], *shapes: Any) -> int:
    """Two operations for each multiplication in convolutions and matrix products; all else is small beside them.

    Args:
      function: what is counted; it is traced, not run.
      shapes: a `jax.ShapeDtypeStruct` for each array of its arguments.

    >>> import jax.numpy as jnp
    >>> count_flops(jnp.matmul, jax.ShapeDtypeStruct((2, 3), jnp.float32), jax.ShapeDtypeStruct((3, 5), jnp.float32))
    60
    """
    return _count(jax.make_jaxpr(function)(*shapes).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        inner = [value for value in equation.params.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
        total += sum(_count(getattr(value, "jaxpr", value)) for value in inner)
        if not equation.outvars:
            continue
        outputs = math.prod(equation.outvars[0].aval.shape)
        if equation.primitive.name == "dot_general":
            (axes, _), _ = equation.params["dimension_numbers"]
            total += 2 * outputs * math.prod(equation.invars[0].aval.shape[axis] for axis in axes)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outward = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * outputs * math.prod(kernel) // outward
    return total
