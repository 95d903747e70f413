"""The three solvers as compiled programs, shared by the pure cores and the host API."""

from __future__ import annotations

import jax
from jaxtyping import Array, Int

from hybrid_rs_jax.certificate._dual import Probability, prepare
from hybrid_rs_jax.certificate._inverse import required
from hybrid_rs_jax.certificate._radius import MAX_STEPS, Radius, radius
from hybrid_rs_jax.certificate._worst_case import WorstCase, worst_case
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio

__all__ = ["solve_radius", "solve_required", "solve_worst_case"]

# Jitted here, so that an eager call compiles once per shape and not once per call. `count` is the number of atoms that
# are real, where the likelihood ratio was padded.
Count = Int[Array, ""] | None


@jax.jit
def solve_worst_case(ratio: LikelihoodRatio, p_a: Probability, rho: Array, count: Count = None) -> WorstCase:
    """Bounds on the worst-case score at `rho`."""
    return worst_case(prepare(ratio, rho.dtype, rho.ndim, count), p_a, rho)


@jax.jit
def solve_radius(
    ratio: LikelihoodRatio, p_a: Probability, tau: Probability, max_steps: Array | int = MAX_STEPS, count: Count = None
) -> Radius:
    """Certified `rho`, within `max_steps`."""
    return radius(prepare(ratio, tau.p.dtype, tau.p.ndim, count), p_a, tau, max_steps)


@jax.jit
def solve_required(ratio: LikelihoodRatio, tau: Probability, rho: Array, count: Count = None) -> Probability:
    """The smallest probability that certifies `rho`."""
    return required(prepare(ratio, rho.dtype, rho.ndim, count), tau, rho)
