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

The error budget
----------------

All errors are relative, in units of `u = 2^-53` (float64; 2^-24 in float32), and r is the `rounding` of the likelihood
ratio. Measured figures are against 160-bit arithmetic.

*One term* `p_i Phi(y)` (and `q_i Phi(y)`) of a sum, with y the threshold as computed:

    stored log mass, and its cast to the dtype    r (4 + |log p_i|)      by the definition of `rounding`, r >= 1
    exp                                           4                      measured: 1.95 (float32: 1.3)
    Phi of an exact argument, by erfc             1.02 (2 y^2 + 8)       measured; y > 0 is no worse than y = 0
    one rounding of the argument (a - rho)        y^2 + |y|              Phi'(y)/Phi(y) <= |y| + 1, for y <= 0;
                                                  0.49                   y Phi'(y)/Phi(y), for y > 0
    the product                                   1

Because `|y| <= 0.96 y^2 + 0.27`, the numbers add up to less than

    r (4 + |log p_i|) + (4 + 8.16 + 0.49 + 1) + 4 min(y, 0)^2  <=  r (4 + |log p_i|) + 14 + 4 min(y, 0)^2.

The first two parts are `p_error`, `q_error` of `prepare`; the third is added in `dual`, where y is known.

*A sum* of n positive terms, in any order, adds n - 1 units of itself: `terms = n + 4`. The other 5 are spare, for the
products of two errors (far below a unit, in float32 below a tenth). `p_0`, stored as it is and not as a logarithm, has
an error of at most 4 r + 4 units.

*The gap* `p_A - F` (or `(1 - F) - (1 - p_A)`, where p_0 does not enter) subtracts at most twice: 3 units of all that is
subtracted. Products that underflow lose at most the smallest normal number each.

*The value* `t gap + V` has a product and a sum: 4 units, two of them spare.

*The threshold.* `t = e^c` is taken as computed: every multiplier gives a bound. But then the thresholds `a_i` are not
the best ones for it. A threshold that is off by `e/rho` makes the value too large by

    t p_i phi(a_i) e^2 / (2 rho)  <=  0.2 min(t p_i, q_i) e^2 / rho,    since t p_i phi(a_i) = q_i phi(a_i - rho).

Stored ratios, the quotient, `c` and `exp` together give `e <= 8 r u (|l_i| + |l_k| + |c| + rho |w| + rho^2 + 1)`, and
the square of six terms is at most six times their squares: `1.2 (8 r u)^2 (squares) / rho`, of which `dual` takes 4
instead of 1.2. The sum over i of `min(t p_i, q_i)` is at most `min(t, 1)`. (A knapsack threshold, rho = 0, sits on its
atom: there the same error is of first order and is counted as such in `_knapsack`.)

Outermost, the noise is taken 1 + 16 u times, and 1e10 times the smallest normal number goes off for what underflows.
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
    "ndtri",
    "normal_cdf",
    "normal_pdf",
    "normal_quantile",
    "normal_quantiles",
    "prepare",
    "smallest_rho",
    "unit",
]

_SQRT_HALF = 0.7071067811865476
_INV_SQRT_2PI = 0.3989422804014327
# Units of the error budget above: of one term apart from its mass and y^2, of a sum beyond its number of terms.
TERM_UNITS, SUM_UNITS = 14, 4
# With fewer lanes than this the sum over atoms is one fused reduction; with more it is a loop over atoms, which never
# writes an [atoms, lanes] array and lets every atom's arithmetic vectorise over the lanes.
_LOOP_LANES = 64

# A function of its own in every program: traced and lowered once per shape, not at each call.
ndtri = jax.jit(jax.scipy.special.ndtri)


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
    z = ndtri(tail)
    return jnp.where(probability.near_one, -z, z)


def normal_quantiles(*probabilities: Probability) -> Float[Array, "k *lanes"]:
    """`Phi^-1` of k probabilities, one after the other in a loop: a program holds its long polynomials once."""
    columns = jax.tree.map(lambda *each: jnp.stack(each), *probabilities)
    return jax.lax.map(normal_quantile, columns)


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
    # the error budget of the module docstring: stored mass, then exp, Phi near 0 and the product
    p_error, q_error = (rounding[None] * (4 - log_mass) + TERM_UNITS for log_mass in (log_p, log_q))
    atoms = ratio.atoms if count is None else count
    terms = jnp.asarray(atoms).astype(dtype) + SUM_UNITS
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

    `lower` is the value less a bound on its rounding, which the module docstring adds up.

    Args:
      channel: masses of the atoms and their errors, from `prepare`.
      p_a: the clean probability and its complement.
      at: the threshold; any one gives a bound.
      rho: `eps / sigma`, positive.
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
