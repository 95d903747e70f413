"""Pure cores for `jit`, `vmap`, `grad` and sharding: `hrs.core`.

The dtype comes from the inputs. In float64 (x64 on) the bounds agree to about 1e-12; in float32 the rounding margin is
2^29 times wider and the result is accordingly coarser, but on the safe side all the same.

Lanes: `p_a`, `rho` and `tau` broadcast against each other to the lanes' shape. A likelihood ratio with fields of shape
[atoms] is shared by all lanes; fields of shape [atoms, *lanes] give every lane its own.

Derivatives are exact, by the envelope theorem: `dV*/dp_A = e^c`, `dV*/drho = -sum_i q_i phi(a_i - rho)`, and the
implicit function theorem for the radius. They include the masses `log_p`, `log_q` and `p_0` of the likelihood ratio.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hybrid_rs_jax.certificate._dual import Probability, Threshold, dual, normal_cdf, prepare, smallest_rho
from hybrid_rs_jax.certificate._solve import solve_radius, solve_required, solve_worst_case
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio

__all__ = ["certified_radius", "required_probability", "worst_case_probability"]


def worst_case_probability(
    p_a: Float[Array | np.ndarray, "*lanes"] | float,
    likelihood_ratio: LikelihoodRatio,
    rho: Float[Array | np.ndarray, "*lanes"] | float,
    complement: Float[Array | np.ndarray, "*lanes"] | float | None = None,
) -> tuple[Float[Array, "*lanes"], Float[Array, "*lanes"]]:
    """Smallest smoothed score that any attacker with this budget can cause (Theorem 4.2).

    `V*(rho) = min_h E_Q[h]` over tests with `E_P[h] = p_A`, computed as `max_c e^c (p_A - F(c)) + V(c)`.

    Args:
      p_a: lower bound on the clean smoothed score, in [0, 1].
      likelihood_ratio: the law of the discrete log ratio at budget d.
      rho: `eps / sigma`, at least 0.
      complement: `1 - p_a`, where it is known to more digits than `p_a` shows (near one).

    Returns:
      `(lower, upper)`: `lower` never exceeds the true worst case, `upper` is never below it.

    >>> from hybrid_rs_jax.likelihood_ratio import identity
    >>> lower, upper = worst_case_probability(0.9, identity(), 1.0)
    >>> bool(lower <= upper), round(float(lower), 3)
    (True, 0.611)
    """
    p, q, rho = _lanes(p_a, complement, rho)
    return _worst_case(p, q, likelihood_ratio, rho)


def certified_radius(
    p_a: Float[Array | np.ndarray, "*lanes"] | float,
    likelihood_ratio: LikelihoodRatio,
    tau: Float[Array | np.ndarray, "*lanes"] | float,
    complement: Float[Array | np.ndarray, "*lanes"] | float | None = None,
) -> Float[Array, "*lanes"]:
    """Largest proven `rho = eps / sigma` at which the worst case stays above `tau` (section 4).

    Args:
      p_a: lower bound on the clean smoothed score, in [0, 1].
      likelihood_ratio: the law of the discrete log ratio at budget d.
      tau: decision threshold, in (0, 1).
      complement: `1 - p_a`, where it is known to more digits than `p_a` shows (near one).

    Returns:
      `rho`, at most the true one; 0 where only `eps = 0` is certified, -1 where not even that is, and inf where
      `p_a = 1`. Multiply by sigma for the radius.

    >>> from hybrid_rs_jax.likelihood_ratio import identity
    >>> round(float(certified_radius(0.9, identity(), 0.5)), 2)
    1.28
    """
    p, q, tau = _lanes(p_a, complement, tau)
    return _radius(p, q, likelihood_ratio, tau)


def required_probability(
    likelihood_ratio: LikelihoodRatio,
    rho: Float[Array | np.ndarray, "*lanes"] | float,
    tau: Float[Array | np.ndarray, "*lanes"] | float,
) -> tuple[Float[Array, "*lanes"], Float[Array, "*lanes"]]:
    """Smallest clean probability that certifies `rho` at `tau`, and its complement.

    The point of the frontier at `rho`: `p = F(c; rho)` where `V(c; rho) = tau` (method section 3, "inverse"). Its
    arguments stand in the order of the host function, `(d, epsilon, smoothing, tau)`, with the law in the place of d.

    Args:
      likelihood_ratio: the law of the discrete log ratio at budget d; fields of shape [atoms] or [atoms, *lanes].
      rho: `eps / sigma`, at least 0; lanes.
      tau: decision threshold, in (0, 1); lanes.

    Returns:
      `(p, 1 - p)`, the first rounded up, the second rounded down; the second is negative where no probability does.

    >>> from hybrid_rs_jax.likelihood_ratio import identity
    >>> p, complement = required_probability(identity(), 1.0, 0.5)
    >>> round(float(p), 3), round(float(complement), 3)
    (0.841, 0.159)
    """
    _, tau, rho = _lanes(tau, tau, rho)  # both rounded up
    result = solve_required(likelihood_ratio, Probability.of(tau), rho)
    return result.p, result.complement


def _lanes(
    p: Array | np.ndarray | float, complement: Array | np.ndarray | float | None, other: Array | np.ndarray | float
) -> tuple[Array, Array, Array]:
    """Common floating dtype and shape; the complement follows `p_a` and carries no derivative of its own.

    A number that the dtype cannot hold is rounded to the safe side: `p_a` down, everything else up.
    """
    dtype = jnp.result_type(p, other)
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.result_type(float)
    if complement is None:
        complement = 1 - p
    lower, upper, other = (
        _cast(p, dtype, np.less),
        _cast(complement, dtype, np.greater),
        _cast(other, dtype, np.greater),
    )
    upper = jax.lax.stop_gradient(upper)
    shape = jnp.broadcast_shapes(lower.shape, upper.shape, other.shape)
    return jnp.broadcast_to(lower, shape), jnp.broadcast_to(upper, shape), jnp.broadcast_to(other, shape)


def _cast(x: Array | np.ndarray | float, dtype: np.dtype, side: np.ufunc) -> Array:
    """Cast, moving numbers whose value is known here to the `side` (`np.less`: down) of what they were."""
    if isinstance(x, jax.Array):
        return x.astype(dtype)
    wide = np.asarray(x, np.float64)
    narrow = wide.astype(dtype)
    beyond = -np.inf if side is np.less else np.inf
    wrong = ~side(narrow, wide) & (narrow != wide)
    return jnp.asarray(np.where(wrong, np.nextafter(narrow, narrow.dtype.type(beyond)), narrow))


@jax.custom_jvp
def _worst_case(p: Array, q: Array, ratio: LikelihoodRatio, rho: Array) -> tuple[Array, Array]:
    result = solve_worst_case(ratio, Probability(p, q), rho)
    return result.lower, result.upper


@_worst_case.defjvp
def _worst_case_jvp(primals, tangents):  # type: ignore[no-untyped-def]
    p, q, ratio, rho = primals
    d_p, _, d_ratio, d_rho = tangents
    result = solve_worst_case(ratio, Probability(p, q), rho)
    t, slope, d_ratio_part = _sensitivities(ratio, d_ratio, Probability(p, q), result.threshold, rho)
    tangent = t * d_p - slope * d_rho + d_ratio_part
    return (result.lower, result.upper), (tangent, tangent)


@jax.custom_jvp
def _radius(p: Array, q: Array, ratio: LikelihoodRatio, tau: Array) -> Array:
    return solve_radius(ratio, Probability(p, q), Probability.of(tau)).rho


@_radius.defjvp
def _radius_jvp(primals, tangents):  # type: ignore[no-untyped-def]
    p, q, ratio, tau = primals
    d_p, _, d_ratio, d_tau = tangents
    result = solve_radius(ratio, Probability(p, q), Probability.of(tau))
    inner = (result.rho > 0) & jnp.isfinite(result.rho)
    rho = jnp.where(inner, result.rho, 1)
    t, slope, d_ratio_part = _sensitivities(ratio, d_ratio, Probability(p, q), result.threshold, rho)
    tangent = (t * d_p - d_tau + d_ratio_part) / jnp.where(slope > 0, slope, 1)
    return result.rho, jnp.where(inner, tangent, 0)


@jax.jit
def _sensitivities(
    ratio: LikelihoodRatio, d_ratio: LikelihoodRatio, p_a: Probability, threshold: Threshold, rho: Array
) -> tuple[Array, Array, Array]:
    """Partial derivatives of the dual at its maximum, where the threshold itself contributes nothing."""
    rho = jnp.maximum(rho, rho.dtype.type(smallest_rho(rho.dtype)))
    channel = prepare(ratio, rho.dtype, rho.ndim)
    at = dual(channel, p_a, threshold, rho)
    a = threshold.offset[None] + (threshold.anchor[None] - channel.log_ratio) / rho[None]

    def column(x: Array | np.ndarray) -> Array:
        return jnp.asarray(x, rho.dtype).reshape(jnp.shape(x) + (1,) * (rho.ndim + 1 - jnp.ndim(x)))

    clean = channel.p * normal_cdf(a) * column(d_ratio.log_p)
    adversarial = channel.q * normal_cdf(a - rho[None]) * column(d_ratio.log_q)
    d_p_0 = jnp.asarray(d_ratio.p_0, rho.dtype)
    d_ratio_part = adversarial.sum(0) - at.multiplier * (clean.sum(0) + d_p_0)
    return at.multiplier, at.slope, d_ratio_part
