"""The weak dual of the Neyman-Pearson problem and everything that rounding can do to it.

Theorem 4.2 of the paper, with `rho = eps / sigma`, `c = log t` and

    a_i = (c - l_i)/rho + rho/2                  threshold of atom i, in standard deviations of the clean law
    F = p_0 + sum_i p_i Phi(a_i)                 clean mass accepted
    V =       sum_i q_i Phi(a_i - rho)           adversarial mass accepted

For EVERY `c` the worst-case score is at least the dual value `e^c (p_A - F) + V`. Root finders elsewhere only choose a
good `c`; soundness rests on this file alone, where each dual value is lowered by a bound on its own rounding.

The threshold is kept as an offset `w` from an anchor atom of ratio `l_k`: `a_i = w + (l_k - l_i)/rho`,
`c = l_k + rho (w - rho/2)`. So `a_k = w` keeps all its digits when `rho` is small, where `c` would lose them.

Near `p_A = 1` the gap `p_A - F` is computed from complements: `(1 - F) - (1 - p_A)` with `1 - F = sum p_i Phi(-a_i)`.

Arrays have the atoms on the leading axis and lanes (independent problems) on the trailing ones.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio

__all__ = [
    "Channel",
    "Dual",
    "Probability",
    "Threshold",
    "dual",
    "normal_cdf",
    "normal_pdf",
    "normal_quantile",
    "prepare",
    "smallest_rho",
    "unit",
]

_SQRT_HALF = 0.7071067811865476
_INV_SQRT_2PI = 0.3989422804014327
# With fewer lanes than this the sum over atoms is one fused reduction; with more it is a loop over atoms, which never
# writes an [atoms, lanes] array and lets every atom's arithmetic vectorise over the lanes.
_LOOP_LANES = 64


class Channel(NamedTuple):
    """A likelihood ratio, ready for sums: masses out of the log domain, and their rounding in units of `unit`."""

    log_ratio: Float[Array, "atoms *lanes"]
    p: Float[Array, "atoms *lanes"]
    q: Float[Array, "atoms *lanes"]
    p_error: Float[Array, "atoms *lanes"]
    q_error: Float[Array, "atoms *lanes"]
    p_0: Float[Array, "*lanes"]
    reachable: Float[Array, "*lanes"]  # sum of q: `1 - q_inf`, with all its digits
    reachable_error: Float[Array, "*lanes"]
    rounding: Float[Array, "*lanes"]
    atoms: Int[Array, ""] | int
    terms: Float[Array, ""]  # rounding of a sum over all atoms, in units of its value


class Probability(NamedTuple):
    """A clean probability `p_A` and its complement, which keeps the digits near one."""

    p: Float[Array, "*lanes"]
    complement: Float[Array, "*lanes"]

    @classmethod
    def of(cls, p: Float[Array, "*lanes"], complement: Float[Array, "*lanes"] | None = None) -> Probability:
        return cls(p, 1 - p if complement is None else complement)

    @property
    def near_one(self) -> Array:
        return self.p > 0.5


class Threshold(NamedTuple):
    """A point of the dual: the anchor's log ratio `l_k`, and the offset `w` in standard deviations."""

    anchor: Float[Array, "*lanes"]
    offset: Float[Array, "*lanes"]

    def log_multiplier(self, rho: Array) -> Array:
        """`c = log t`, the slope of the trade-off function there is `e^c`."""
        return self.anchor + rho * (self.offset - rho / 2)


class Dual(NamedTuple):
    """One evaluation of the dual."""

    lower: Float[Array, "*lanes"]  # dual value, rounded down: at most the worst-case score
    value: Float[Array, "*lanes"]  # dual value as computed
    noise: Float[Array, "*lanes"]  # bound on the rounding of `value`
    gap: Float[Array, "*lanes"]  # p_A - F
    gap_noise: Float[Array, "*lanes"]  # bound on the rounding of `gap`
    accepted: Float[Array, "*lanes"]  # V
    accepted_noise: Float[Array, "*lanes"]  # bound on the rounding of `accepted`
    multiplier: Float[Array, "*lanes"]  # t = e^c = dV*/dp_A
    slope: Float[Array, "*lanes"]  # sum_i q_i phi(a_i - rho) = -dV*/drho = t dF/dw
    drift: Float[Array, "*lanes"]  # mean of a_i under those weights: dw/drho = (drift - w)/rho at constant F


def unit(dtype: np.dtype) -> float:
    """Unit roundoff: 2^-53 for float64, 2^-24 for float32."""
    return float(jnp.finfo(dtype).eps) / 2


def smallest_rho(dtype: np.dtype) -> float:
    """Below this a positive `rho` is raised to it: the worst case only falls, and `x_i` keeps its digits."""
    return 1e-13 if dtype == jnp.float64 else 1e-5


def normal_cdf(x: Array) -> Array:
    return 0.5 * jax.lax.erfc(-x * x.dtype.type(_SQRT_HALF))


def normal_pdf(z: Array) -> Array:
    return jnp.exp(-z * z / 2) * z.dtype.type(_INV_SQRT_2PI)


def normal_quantile(probability: Probability) -> Array:
    """`Phi^-1(p)`, from whichever tail is the small one."""
    tail = jnp.minimum(probability.p, probability.complement)
    z = jax.scipy.special.ndtri(tail)
    return jnp.where(probability.near_one, -z, z)


def prepare(ratio: LikelihoodRatio, dtype: np.dtype, lanes: int, count: Int[Array, ""] | int | None = None) -> Channel:
    """Bring the masses out of the log domain and give every field `lanes` trailing axes.

    Args:
      ratio: fields of shape [atoms] (shared by all lanes) or [atoms, *lanes].
      dtype: dtype of the computation.
      lanes: number of lane axes.
      count: number of leading atoms that are real; atoms beyond it are never read.
    """

    def cast(x: Array | np.ndarray) -> Array:
        x = jnp.asarray(x, dtype)
        return x.reshape(x.shape + (1,) * (lanes + 1 - x.ndim))

    def scalar(x: Array | np.ndarray | float) -> Array:
        x = jnp.asarray(x, dtype)
        return x.reshape(x.shape + (1,) * (lanes - x.ndim))

    # exp(-1e4) is 0 in every dtype: padding (log mass -inf) gets no mass and no NaN
    log_p, log_q = (jnp.maximum(cast(x), -1e4) for x in (ratio.log_p, ratio.log_q))
    rounding = scalar(ratio.rounding)
    # stored mass, exp, and per term of the sums: Phi (about 8 units), products and the x^2 terms are in `dual`
    p_error, q_error = (rounding[None] * (4 - log_mass) + 14 for log_mass in (log_p, log_q))
    atoms = ratio.atoms if count is None else count
    terms = jnp.asarray(atoms).astype(dtype) + 4
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    return Channel(
        cast(ratio.log_ratio),
        p,
        q,
        p_error,
        q_error,
        scalar(ratio.p_0),
        q.sum(0),
        (q * q_error).sum(0) / jnp.maximum(q.sum(0), jnp.finfo(dtype).tiny) + terms,
        rounding,
        atoms,
        terms,
    )


def dual(channel: Channel, p_a: Probability, at: Threshold, rho: Array) -> Dual:
    """Evaluate the dual bound at a threshold and `rho > 0`, lanes of shape `rho.shape`.

    The rounding bound counts, in units of `u = unit(dtype)`: the stored masses; `exp` and products; `Phi`, whose
    relative error is below `1.02 (2 y^2 + 8) u` for an exact argument (measured against 160-bit arithmetic, in float64
    and float32) plus `(y^2 + |y|) u` for a rounded one; the sums; and, of
    second order, that rounded thresholds `a_i` are not exactly the best test for their `c`.
    """
    u = unit(rho.dtype)
    c = at.log_multiplier(rho)
    t = jnp.exp(c)
    sign = jnp.where(p_a.near_one, -jnp.ones_like(rho), jnp.ones_like(rho))

    def term(log_ratio: Array, p: Array, q: Array, p_error: Array, q_error: Array) -> tuple[Array, ...]:
        a = at.offset + (at.anchor - log_ratio) / rho
        b, tail = a - rho, sign * a
        clean, adversarial = p * normal_cdf(tail), q * normal_cdf(b)
        density = q * jnp.exp(-b * b / 2)
        clean_error = clean * (p_error + 4 * jnp.square(jnp.clip(tail, -40, 0)))
        adversarial_error = adversarial * (q_error + 4 * jnp.square(jnp.clip(b, -40, 0)))
        return (
            clean,
            adversarial,
            density,
            density * a,
            clean_error,
            adversarial_error,
            jnp.minimum(t * p, q) * jnp.square(log_ratio),
        )

    clean, accepted, density, drift, clean_error, accepted_error, spread = _sum_over_atoms(channel, rho, term)
    clean_noise = u * (clean_error + channel.terms * clean)
    accepted_noise = u * (accepted_error + channel.terms * accepted)
    p_0_noise = u * (4 * channel.rounding + 4) * channel.p_0
    gap = jnp.where(p_a.near_one, clean - p_a.complement, (p_a.p - channel.p_0) - clean)
    side = jnp.where(p_a.near_one, p_a.complement, p_a.p + channel.p_0)
    gap_noise = clean_noise + jnp.where(p_a.near_one, jnp.zeros_like(rho), p_0_noise) + 3 * u * (side + clean)
    gap_noise = gap_noise + channel.terms * jnp.finfo(rho.dtype).tiny  # products that underflow

    # an error e in log ratios costs atom i at most min(t p_i, q_i) e^2 / rho
    reach = jnp.square(at.anchor) + jnp.square(c) + jnp.square(rho * at.offset) + jnp.square(rho * rho) + 1
    reach = spread + jnp.minimum(t, 1) * reach
    threshold_loss = jnp.square(8 * channel.rounding * u) * 4 * reach / rho
    value = t * gap + accepted
    noise = t * gap_noise + accepted_noise + threshold_loss + 4 * u * (t * jnp.abs(gap) + accepted)
    tiny = jnp.asarray(1e10 * float(jnp.finfo(rho.dtype).tiny), rho.dtype)
    lower = jnp.maximum(value - (1 + 16 * u) * noise - tiny, 0)
    slope = density * rho.dtype.type(_INV_SQRT_2PI)
    mean = drift / jnp.where(density > 0, density, 1)
    return Dual(lower, value, noise, gap, gap_noise, accepted, accepted_noise, t, slope, mean)


def _sum_over_atoms(channel: Channel, lanes: Array, term) -> tuple[Array, ...]:  # type: ignore[no-untyped-def]
    """Sum `term` (a tuple of arrays) over the atoms: a loop for many lanes, a fused reduction for few."""
    columns = (channel.log_ratio, channel.p, channel.q, channel.p_error, channel.q_error)
    zero = jnp.zeros((), lanes.dtype)
    if lanes.size < _LOOP_LANES:
        values = term(*columns)
        values = tuple(jnp.broadcast_to(v, jnp.broadcast_shapes(v.shape, (1, *lanes.shape))) for v in values)
        return jax.lax.reduce(
            values, (zero,) * len(values), lambda x, y: tuple(i + j for i, j in zip(x, y, strict=True)), (0,)
        )

    def body(i: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(s + v for s, v in zip(sums, term(*(column[i] for column in columns)), strict=True))

    return jax.lax.fori_loop(0, channel.atoms, body, (jnp.zeros_like(lanes),) * 7)
