"""Random and corner questions to a certifier, drawn with the oracle: most of them have a radius worth finding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from flint import fmpq
from oracle import (
    Channel,
    absorbing,
    categorical_attacks,
    gaussian,
    knapsack,
    quotient,
    required_probability,
    uniform,
)


@dataclass(frozen=True)
class Case:
    """One question to a certifier. `cardinalities` lists every field, d of which are attacked."""

    kernel: str  # "uniform", "absorbing", "categorical" or "gaussian"
    beta: float
    vocab_size: int
    cardinalities: tuple[int, ...]
    d: int
    p_a: float
    sigma: float
    epsilon: float
    tau: float

    @property
    def rho(self) -> fmpq:
        return quotient(self.epsilon, self.sigma)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The discrete channels over which the worst case is taken (one, but for categorical kernels)."""
        if self.kernel == "gaussian" or self.d == 0:
            return (gaussian(),)
        if self.kernel == "absorbing":
            return (absorbing(self.beta, self.d),)
        if self.kernel == "uniform":
            return (uniform(self.beta, self.vocab_size, self.d),)
        return categorical_attacks(self.beta, self.cardinalities, self.d)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))


def _draw_beta(rng: np.random.Generator, size: int) -> float:
    level = float((size - 1) / size)
    pick = rng.integers(10)
    if pick == 0:
        return (0.25, 0.5)[rng.integers(2)]
    if pick == 1:  # all atoms (nearly) coincide, or the order of the atoms turns round
        turned = level + (1 - level) * float(rng.uniform(0.01, 0.9))
        near = (level, math.nextafter(level, 0), math.nextafter(level, 1), turned)
        return min(near[rng.integers(4)], 0.999)
    if pick == 2:
        return (1e-3, 0.999)[rng.integers(2)]
    logit = rng.uniform(-6.9, 6.9)
    return min(max(float(1 / (1 + math.exp(-logit))), 1e-3), 0.999)


def _draw_tau(rng: np.random.Generator) -> float:
    pick = rng.integers(6)
    return (4.6e-5, 0.5)[pick] if pick < 2 else _log_uniform(rng, 1e-9, 0.9)


def _draw_rho(rng: np.random.Generator) -> float:
    pick = rng.integers(10)
    return 0.0 if pick == 0 else _log_uniform(rng, *((1e-9, 1e-2), (1e-2, 20.0), (0.05, 4.0))[pick % 3])


def _draw_p_a(rng: np.random.Generator, channel: Channel) -> float:
    pick = rng.integers(5)
    if pick == 0:
        return _log_uniform(rng, 1e-6, 1.0 - 1e-12)
    if pick == 1:
        return 1.0 - _log_uniform(rng, 1e-12, 1.0 - 1e-6)
    if pick == 2:  # every sample agrees
        alpha, n = (0.05, 0.01, 1e-3)[rng.integers(3)], int(_log_uniform(rng, 1, 1e6))
        return float(alpha ** (1 / n))
    prefix = channel.prefix(True)  # a corner of the trade-off function
    inner = float(channel.p_0 + prefix[rng.integers(len(prefix))])
    inner = (inner, math.nextafter(inner, 0), math.nextafter(inner, 1))[rng.integers(3)]
    return inner if 1e-6 <= inner <= 1 else float(rng.uniform(0.01, 0.99))


def _useful_budget(beta: float, size: int, tau: float) -> int:
    """Largest d <= 64 for which tau needs p_a below 1 - 1e-13 at rho = 0 (rough, doubles)."""
    one = np.array([1 - beta, beta * (size - 2) / (size - 1), beta / (size - 1)])
    p = np.ones(1)
    turned = beta / (size - 1) > 1 - beta
    for d in range(1, 65):
        p = np.convolve(p, one)
        clean, other = (p[::-1], p) if turned else (p, p[::-1])
        i = int(np.searchsorted(np.cumsum(other), tau))
        if i >= 2 * d or clean[i + 1 :].sum() < 1e-13:
            return d - 1
    return 64


def _draw_fields(rng: np.random.Generator) -> tuple[int, ...]:
    sizes = [int(_log_uniform(rng, 2, 1000.99)) for _ in range(rng.integers(1, 7))]
    sizes[0] = (2, 3, sizes[0], 1000)[rng.integers(4)]
    if len(sizes) <= 2:
        return tuple(int(rng.choice(sizes)) for _ in range(rng.integers(1, 17)))
    return tuple(sizes)


def _draw_kernel(rng: np.random.Generator, tau: float, useful: bool) -> Case:
    kind = rng.choice(["uniform"] * 5 + ["absorbing"] * 2 + ["categorical"] * 2 + ["gaussian"])
    size = (2, 3, 2**20)[rng.integers(3)] if rng.integers(4) == 0 else int(_log_uniform(rng, 2, 2**20))
    fields = _draw_fields(rng) if kind == "categorical" else ()
    beta = _draw_beta(rng, int(rng.choice(fields)) if fields else size)
    if rng.integers(100) == 0:
        beta = float(rng.integers(2))  # legal: singular masses
    limit = 64
    if useful and kind == "uniform" and 0 < beta < 1:
        limit = _useful_budget(beta, size, tau)
    if useful and kind == "absorbing" and 0 < beta < 1:
        limit = min(64, int(math.log(max(tau, 1e-13)) / math.log(beta)))
    if kind == "categorical":
        limit = len(fields)
    if kind == "gaussian":
        beta, limit = 0.5, 0
    d = int(rng.integers(limit + 1)) if rng.integers(3) else min(limit, int(_log_uniform(rng, 1, 64.99)))
    size = size if kind == "uniform" else 0
    return Case(str(kind), beta, size, fields, d, 0.5, 1.0, 0.0, tau)


def _with(case: Case, rng: np.random.Generator, rho: float, p_a: float, tau: float | None = None) -> Case:
    sigma = (0.25, 0.5, 1.0)[rng.integers(3)] if rng.integers(2) else _log_uniform(rng, 0.02, 4.0)
    tau = case.tau if tau is None else tau
    return Case(
        case.kernel,
        case.beta,
        case.vocab_size,
        case.cardinalities,
        case.d,
        p_a,
        sigma,
        rho * sigma,
        tau,
    )


def _useful_case(rng: np.random.Generator) -> Case | None:
    """A case whose certified radius was chosen first; None where no float p_a < 1 reaches it."""
    case = _draw_kernel(rng, _draw_tau(rng), useful=True)
    rho = _draw_rho(rng)
    _, needed = required_probability(case.channels, rho, case.tau)
    p_a = float(needed)
    if not 1e-6 <= p_a <= 1 - 1e-13:
        return None
    if rng.integers(2):
        p_a = math.nextafter(p_a, 1)
    at = (rho, rho, rho * float(rng.uniform(0.2, 1.2)), 0.0)[rng.integers(4)]
    return _with(case, rng, at, p_a)


def _corner_case(rng: np.random.Generator) -> Case:
    case = _draw_kernel(rng, _draw_tau(rng), useful=bool(rng.integers(2)))
    channels = case.channels
    p_a = _draw_p_a(rng, channels[rng.integers(len(channels))])
    tau = case.tau
    if rng.integers(4) == 0:  # the edge of what rho = 0 certifies
        edge = float(min(knapsack(channel, p_a) for channel in channels))
        edge = (edge, math.nextafter(edge, 0), math.nextafter(edge, 1), edge * 0.999)[rng.integers(4)]
        tau = edge if 1e-9 <= edge <= 0.9 else tau
    return _with(case, rng, _draw_rho(rng), p_a, tau)


def cases(count: int, seed: int) -> list[Case]:
    """Random and corner cases, two thirds of them with a radius that was chosen beforehand."""
    rng = np.random.default_rng(seed)
    drawn: list[Case] = []
    while len(drawn) < count:
        case = _useful_case(rng) if len(drawn) % 3 else _corner_case(rng)
        if case is not None:
            drawn.append(case)
    return drawn
