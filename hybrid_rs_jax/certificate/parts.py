"""Several texts and several pictures under one attack, each with a noise of its own.

The parts carry independent noise, so the log likelihood ratio is the sum of those of the parts: the laws of the
discrete parts compose, and the Gaussian ones are one Gaussian at `rho = sqrt(sum_j (eps_j / sigma_j)^2)`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from hybrid_rs_jax._checks import check_complement, check_epsilon, check_sigma, check_tau, check_whole
from hybrid_rs_jax.certificate import _batches
from hybrid_rs_jax.kernels import DiscreteKernel
from hybrid_rs_jax.kernels.edits import Budget
from hybrid_rs_jax.likelihood_ratio import LikelihoodRatio, compose_all

__all__ = ["joint_radius", "joint_worst_case", "l2_of_linf"]

_UP, _DOWN = 1 + 2.0**-50, 1 - 2.0**-50


def joint_worst_case(
    p_a: float,
    tokens: Sequence[tuple[DiscreteKernel, Budget]],
    pixels: Sequence[tuple[float, float]],
    *,
    complement: float | None = None,
) -> float:
    """Certified lower bound on the score when every part may be attacked within a budget of its own.

    Args:
      p_a: lower bound on the clean smoothed score, in [0, 1].
      tokens: for each text its kernel and the discrete budget.
      pixels: for each picture its sigma and the l2 budget, in the units of that picture; a numeric feature with a sigma
        of its own is a part of one number.
      complement: `1 - p_a`, where it is known to more digits.

    Returns:
      at most the true worst case.

    Raises:
      ValueError: if an argument is out of range.

    >>> from hybrid_rs_jax import UniformKernel
    >>> title, body = UniformKernel(0.25, 1000), UniformKernel(0.5, 1000)
    >>> round(joint_worst_case(0.9999, [(title, 1), (body, 2)], [(0.5, 0.25), (1.0, 0.5)]), 4)
    0.1144
    """
    p, q = check_complement("p_a", p_a, complement)
    distances = [float(check_epsilon(eps)) / check_sigma(sigma) for sigma, eps in pixels]
    rho = np.array([math.hypot(*distances) * _UP if distances else 0.0])
    lanes = (np.atleast_1d(p), np.atleast_1d(q), rho)
    return min(float(_batches.worst_case_lanes(ratio, *lanes)[0][0]) for ratio in _laws(tokens))


def joint_radius(
    p_a: float,
    tokens: Sequence[tuple[DiscreteKernel, Budget]],
    tau: float,
    *,
    complement: float | None = None,
) -> float:
    """Largest certified `rho`: all l2 budgets with `sqrt(sum_j (eps_j / sigma_j)^2) <= rho` keep the score above tau.

    Args:
      p_a, tokens, complement: as for `joint_worst_case`.
      tau: decision threshold in (0, 1).

    Returns:
      at most the true one, in standard deviations; 0 where only `rho = 0` is certified, -1 where not even that is.

    Raises:
      ValueError: if an argument is out of range.

    >>> from hybrid_rs_jax import UniformKernel
    >>> round(joint_radius(0.9999, [(UniformKernel(0.25, 1000), 1), (UniformKernel(0.5, 1000), 2)], tau=1e-3), 2)
    5.17
    """
    p, q = check_complement("p_a", p_a, complement)
    level = check_tau(tau)
    lanes = (np.atleast_1d(p), np.atleast_1d(q), np.atleast_1d(level), np.atleast_1d(1 - level))
    found = min(float(_batches.radius_lanes(ratio, *lanes)[0]) for ratio in _laws(tokens))
    return found * _DOWN if found > 0 else found


def l2_of_linf(epsilon: float, numbers: int) -> float:
    """The l2 budget that covers a change of each of `numbers` pixels by at most `epsilon`: `eps sqrt(D)`, rounded up.

    A certificate that goes this way is weak: the ball it must cover is far larger than the cube, and the radius that
    an l2 certificate reaches does not grow with the number of pixels.

    Args:
      epsilon: largest change of a pixel, at least 0.
      numbers: of pixels D, at least 1; channels count.

    Returns:
      `eps sqrt(D)`, rounded up.

    Raises:
      ValueError: if an argument is out of range.

    >>> l2_of_linf(8 / 255, 3 * 224 * 224) > 12
    True
    """
    side = check_whole("numbers", numbers, 1)
    return float(check_epsilon(epsilon)) * math.sqrt(side) * _UP


def _laws(tokens: Sequence[tuple[DiscreteKernel, Budget]]) -> Iterator[LikelihoodRatio]:
    """The candidate laws of all texts together, of which the worst counts."""
    for laws in itertools.product(*(kernel.likelihood_ratios(d) for kernel, d in tokens)):  # type: ignore[arg-type]
        yield compose_all(laws)
