"""Sums of Gaussian tails over the atoms of a channel, and the threshold at which such a sum has a given mass."""

from __future__ import annotations

import math

import numpy as np
from flint import arb, fmpq
from scipy.special import log_ndtr, ndtri_exp

from oracle.balls import BITS, Real, ball, centre, exact_or_ball, log_float, precision
from oracle.channels import Channel


def clean_mass(channel: Channel, c: Real, rho: Real, bits: int = BITS) -> arb:
    """F(c; rho), rho > 0."""
    with precision(bits):
        c, rho = ball(exact_or_ball(c)), ball(exact_or_ball(rho))
        terms = (p * _phi_cdf((c - log_ratio) / rho + rho / 2) for log_ratio, p, _ in channel.atoms(bits))
        return sum(terms, arb(channel.p_0))


def adversarial_mass(channel: Channel, c: Real, rho: Real, bits: int = BITS) -> arb:
    """V(c; rho), rho > 0."""
    with precision(bits):
        c, rho = ball(exact_or_ball(c)), ball(exact_or_ball(rho))
        terms = (q * _phi_cdf((c - log_ratio) / rho - rho / 2) for log_ratio, _, q in channel.atoms(bits))
        return sum(terms, arb(0))


class Threshold:
    """Root c of F(c) = target (clean) or of V(c) = target, for 0 < target < total and rho > 0.

    The unknown is y with c = l_k + rho (y - rho / 2): the Gaussian argument of the clean mass of atom k, the
    atom in which the running mass passes the target. The equation is written with positive terms only,

        left = e_left + sum_{i >= s} w_i Phi(a_i)   =   right = e_right + sum_{i < s} w_i Phi(-a_i),

    where left - right = mass(y) - target, so nothing cancels, neither near one nor near a running mass.
    """

    def __init__(self, channel: Channel, target: fmpq, rho: fmpq | arb, clean: bool) -> None:
        prefix = channel.prefix(clean)
        k = next(i for i in range(len(channel.ratio)) if target <= prefix[i + 1])
        below, above = target - prefix[k], prefix[k + 1] - target
        self.channel, self.rho, self.clean, self.k = channel, rho, clean, k
        self.split, self.extra = (k, (fmpq(0), below)) if below <= above else (k + 1, (above, fmpq(0)))
        self._guess = log_float(below / channel.masses(clean)[k])
        if below > above:
            self._guess = -log_float(above / channel.masses(clean)[k])
        self._offsets: dict[int, tuple[arb, list[arb]]] = {}

    def offsets(self, bits: int) -> tuple[arb, list[arb]]:
        """The balls rho and (l_k - l_i) / rho."""
        if bits not in self._offsets:
            with precision(bits):
                rho = ball(self.rho)
                logs = [atom[0] for atom in self.channel.atoms(bits)]
                self._offsets[bits] = (
                    rho,
                    [(logs[self.k] - log) / rho if i != self.k else arb(0) for i, log in enumerate(logs)],
                )
        return self._offsets[bits]

    def arguments(self, y: arb, clean: bool, bits: int) -> list[arb]:
        rho, offsets = self.offsets(bits)
        shift = y if clean else y - rho
        return [offset + shift for offset in offsets]

    def sides(self, y: arb, bits: int) -> tuple[arb, arb]:
        with precision(bits):
            mass = 1 if self.clean else 2
            terms = zip(self.channel.atoms(bits), self.arguments(y, self.clean, bits), strict=True)
            total = [arb(self.extra[0]), arb(self.extra[1])]
            for i, (atom, a) in enumerate(terms):
                right = i < self.split
                total[right] += atom[mass] * _phi_cdf(-a if right else a)
            return total[0], total[1]

    def other_mass(self, y: arb, bits: int) -> arb:
        """The mass that is not being matched (without p_0)."""
        with precision(bits):
            mass = 2 if self.clean else 1
            terms = zip(self.channel.atoms(bits), self.arguments(y, not self.clean, bits), strict=True)
            return sum((atom[mass] * _phi_cdf(a) for atom, a in terms), arb(0))

    def slope(self, y: arb, clean: bool, bits: int) -> arb:
        """sum_i w_i phi(a_i): derivative of that mass in y."""
        with precision(bits):
            mass = 1 if clean else 2
            terms = zip(self.channel.atoms(bits), self.arguments(y, clean, bits), strict=True)
            total = sum((atom[mass] * (-a * a / 2).exp() for atom, a in terms), arb(0))
            return total / (2 * arb.pi()).sqrt()

    def price(self, y: arb, bits: int) -> arb:
        """e^c."""
        with precision(bits):
            rho = self.offsets(bits)[0]
            return arb(self.channel.ratio[self.k]) * (rho * y - rho * rho / 2).exp()

    def float_root(self) -> float:
        """Double-precision root, by bracketing and then Illinois steps on log(left / right)."""
        weights = self.channel.log_masses(self.clean)
        rho, offsets = self.offsets(128)
        shift = np.clip(np.array([float(offset) for offset in offsets]), -1e300, 1e300)
        lean = 0.0 if self.clean else float(rho)
        s = self.split
        extra = [log_float(e) for e in self.extra]

        def gap(y: float) -> float:
            a = shift + (y - lean)
            left = _logsumexp(np.append(weights[s:] + log_ndtr(a[s:]), extra[0]))
            right = _logsumexp(np.append(weights[:s] + log_ndtr(-a[:s]), extra[1]))
            return left - right

        guess = self._guess
        start = float(ndtri_exp(guess)) if guess < 0 else -float(ndtri_exp(-guess)) if guess > 0 else 0.0
        low = high = (start if math.isfinite(start) else 0.0) + lean
        g_low = g_high = gap(low)
        step = 0.5
        while g_low > 0:
            high, g_high = low, g_low
            low -= step
            step *= 2
            g_low = gap(low)
        while g_high < 0:
            low, g_low = high, g_high
            high += step
            step *= 2
            g_high = gap(high)
        last = 0
        for _ in range(200):
            y = low - g_low * (high - low) / (g_high - g_low) if g_high > g_low else low
            if not low < y < high:
                y = low + (high - low) / 2
            g = gap(y)
            if g == 0 or high - low <= 4e-16 * max(abs(low), abs(high)) or not low < y < high:
                return y
            if g < 0:
                moved, low, g_low = -1, y, g
                g_high = g_high / 2 if last == moved else g_high
            else:
                moved, high, g_high = 1, y, g
                g_low = g_low / 2 if last == moved else g_low
            last = moved
        return low + (high - low) / 2

    def refine(self, y: arb, bits: int, steps: int = 8) -> arb:
        """Newton on log(left / right) in balls of `bits` bits; stops where it no longer helps."""
        with precision(bits):
            for _ in range(steps):
                left, right = self.sides(y, bits)
                if not (left > 0 and right > 0):
                    return y
                slopes = self._side_slopes(y, bits)
                move = centre((left / right).log() / (slopes[0] / left + slopes[1] / right))
                if not move.is_finite() or abs(move) > 1 + abs(y) / 8:
                    return y
                y = centre(y - move)
                if abs(move) < (1 + abs(y)) * arb(2) ** (-bits // 4):
                    return y
            return y

    def _side_slopes(self, y: arb, bits: int) -> list[arb]:
        mass = 1 if self.clean else 2
        terms = zip(self.channel.atoms(bits), self.arguments(y, self.clean, bits), strict=True)
        total = [arb(0), arb(0)]
        for i, (atom, a) in enumerate(terms):
            total[i < self.split] += atom[mass] * (-a * a / 2).exp()
        scale = (2 * arb.pi()).rsqrt()
        return [part * scale for part in total]

    def root(self, bits: int) -> arb:
        y = self.refine(arb(self.float_root()), 128, steps=2)
        return self.refine(y, bits)

    def bracket(self, y: arb, bits: int) -> tuple[arb | None, arb | None]:
        """Points close to y, proven to lie at or below and at or above the root (None: not proven)."""
        with precision(bits):
            found: list[arb | None] = []
            for sign in (-1, 1):
                proven = None
                for power in range(bits // 2 - 8, 8, -16):
                    near = centre(y + sign * (1 + abs(y)) * arb(2) ** -power)
                    left, right = self.sides(near, bits)
                    if left <= right if sign < 0 else left >= right:
                        proven = near
                        break
                found.append(proven)
            return found[0], found[1]


def _phi_cdf(x: arb) -> arb:
    """Phi, accurate relative to its size on the left."""
    return (-x * arb(2).rsqrt()).erfc() / 2


def _logsumexp(values: np.ndarray) -> float:
    if values.size == 0:
        return -math.inf
    top = float(values.max())
    return top if math.isinf(top) else top + math.log(float(np.exp(values - top).sum()))
