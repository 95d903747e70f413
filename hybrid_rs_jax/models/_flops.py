"""Floating-point operations of a function, counted in its trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax

__all__ = ["count_flops"]


def count_flops(function: Callable[..., Any], *shapes: Any) -> int:
    """Two operations for each multiplication in convolutions and matrix products; all else is small beside them.

    Of the branches of a condition the dearest counts, and the body of a scan as often as it runs.

    Args:
      function: what is counted; it is traced, not run.
      shapes: a `jax.ShapeDtypeStruct` for each array of its arguments.

    >>> import jax.numpy as jnp
    >>> count_flops(jnp.matmul, jax.ShapeDtypeStruct((2, 3), jnp.float32), jax.ShapeDtypeStruct((3, 5), jnp.float32))
    60
    """
    return _count(jax.make_jaxpr(function)(*shapes).jaxpr)


def _count(jaxpr: Any) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> int:
    if (branches := equation.params.get("branches")) is not None:
        return max(_count(branch.jaxpr) for branch in branches)
    inner = [value for value in equation.params.values() if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
    total = sum(_count(getattr(value, "jaxpr", value)) for value in inner)
    if equation.primitive.name == "scan":
        total *= equation.params["length"]
    if not equation.outvars:
        return total
    outputs = math.prod(equation.outvars[0].aval.shape)
    if equation.primitive.name == "dot_general":
        (axes, _), _ = equation.params["dimension_numbers"]
        total += 2 * outputs * math.prod(equation.invars[0].aval.shape[axis] for axis in axes)
    elif equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outward = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        total += 2 * outputs * math.prod(kernel) // outward
    return total
