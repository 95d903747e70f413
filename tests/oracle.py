"""Reference certificate in ball arithmetic, written from the mathematics alone.

Nothing here comes from the package under test. Discrete channels are exact rationals; Gaussian sums are balls
(`flint.arb`) of at least 256 bits whose precision is raised until a question is decided. Float parameters
mean exactly the float that was passed, but for a noise probability, which means the multiple of 2^-32 that is drawn.

With atoms (l_i, p_i, q_i), singular masses p_0 and q_inf, and c the log of the Neyman-Pearson threshold:

    F(c) = p_0 + sum_i p_i Phi((c - l_i) / rho + rho / 2)      clean mass accepted
    V(c) =       sum_i q_i Phi((c - l_i) / rho - rho / 2)      adversarial mass accepted
    V*   = sup_c  e^c (p_a - F(c)) + V(c)                      worst-case score

Any c gives a lower bound of V*, any c with F(c) >= p_a gives the upper bound V(c), and so does rho = 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

import numpy as np
from flint import arb, ctx, fmpq, fmpz
from scipy.special import log_ndtr, ndtri_exp

Real = float | int | fmpq | arb
Bound = fmpq | arb
Enclosure = tuple[Bound, Bound]

BITS = 256
MAX_BITS = 4096


class Undecided(ArithmeticError):
    """The balls still overlap at the highest precision."""


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """Ball arithmetic of `bits` bits inside the block."""
    saved = ctx.prec
    ctx.prec = bits
    try:
        yield
    finally:
        ctx.prec = saved


def exact(x: float | int | fmpq) -> fmpq:
    """The rational number that a float is."""
    return x if isinstance(x, fmpq) else fmpq(*x.as_integer_ratio())


def quotient(epsilon: float, sigma: float) -> fmpq:
    """The ratio rho = epsilon / sigma of two floats, without rounding."""
    return exact(epsilon) / exact(sigma)


def _rho(rho: Real) -> fmpq | arb:
    if isinstance(rho, arb):
        return fmpq(0) if rho.is_zero() else rho
    return exact(rho)


def _ball(x: fmpq | arb) -> arb:
    return x if isinstance(x, arb) else arb(x)


def _mid(x: arb) -> arb:
    """The centre of a ball: an exact number."""
    return arb(x.mid())


def _log_float(x: fmpq) -> float:
    if x == 0:
        return -math.inf
    with precision(128):
        return float(arb(x).log())


# ----------------------------------------------------------------------------------------------------
# Channels
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Channel:
    """Law of the likelihood ratio q/p of a discrete kernel: exact rationals, ratios strictly increasing."""

    ratio: tuple[fmpq, ...]
    p: tuple[fmpq, ...]
    q: tuple[fmpq, ...]
    p_0: fmpq
    q_inf: fmpq
    _balls: dict[int, list[tuple[arb, arb, arb]]] = field(default_factory=dict, repr=False)
    _prefixes: dict[str, list[fmpq]] = field(default_factory=dict, repr=False)
    _logs: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def atoms(self, bits: int = BITS) -> list[tuple[arb, arb, arb]]:
        """Balls (log ratio, clean mass, adversarial mass) of every atom."""
        if bits not in self._balls:
            with precision(bits):
                self._balls[bits] = [
                    (arb(r).log(), arb(p), arb(q)) for r, p, q in zip(self.ratio, self.p, self.q, strict=True)
                ]
        return self._balls[bits]

    def masses(self, clean: bool) -> tuple[fmpq, ...]:
        return self.p if clean else self.q

    def prefix(self, clean: bool) -> list[fmpq]:
        """Exact running sums, starting at 0, of the clean or the adversarial masses."""
        key = "pq"[not clean]
        if key not in self._prefixes:
            self._prefixes[key] = list(itertools.accumulate(self.masses(clean), initial=fmpq(0)))
        return self._prefixes[key]

    def log_masses(self, clean: bool) -> np.ndarray:
        key = "pq"[not clean]
        if key not in self._logs:
            self._logs[key] = np.array([_log_float(mass) for mass in self.masses(clean)])
        return self._logs[key]


Channels = Channel | Sequence[Channel]


def _each(channels: Channels) -> Sequence[Channel]:
    return (channels,) if isinstance(channels, Channel) else channels


def _from_pairs(pairs: Iterator[tuple[fmpq, fmpq]] | Sequence[tuple[fmpq, fmpq]]) -> Channel:
    """Channel of joint masses (clean, adversarial); outcomes of equal ratio are merged."""
    merged: dict[fmpq, list[fmpq]] = {}
    for p, q in pairs:
        if p > 0 and q > 0:
            entry = merged.setdefault(q / p, [fmpq(0), fmpq(0)])
            entry[0] += p
            entry[1] += q
    ratio = tuple(sorted(merged))
    p_all = tuple(merged[r][0] for r in ratio)
    q_all = tuple(merged[r][1] for r in ratio)
    return Channel(ratio, p_all, q_all, 1 - sum(p_all, fmpq(0)), 1 - sum(q_all, fmpq(0)))


@lru_cache(maxsize=64)
def gaussian() -> Channel:
    """No discrete part: one atom of ratio one."""
    return _from_pairs([(fmpq(1), fmpq(1))])


def drawn(beta: float) -> fmpq:
    """The probability that is drawn for beta: the nearest multiple of 2^-32 (method, section 13)."""
    return fmpq(round(Fraction(beta) * 2**32), 2**32)


@lru_cache(maxsize=64)
def absorbing(beta: float, d: int) -> Channel:
    """Masking with probability beta at d changed positions."""
    kept = drawn(beta) ** d
    return _from_pairs([(kept, kept), (1 - kept, fmpq(0)), (fmpq(0), 1 - kept)])


@lru_cache(maxsize=64)
def uniform(beta: float, vocab_size: int, d: int) -> Channel:
    """Uniform replacement at d changed positions, from the groups (i, j) of paper A.13.

    i positions differ from the clean text and j from the adversarial one, so both masses of an outcome depend
    on i - j only up to a common factor. Integers over the denominator (D (V - 1))^d, where beta = b / D.
    """
    b, denominator = drawn(beta).p, drawn(beta).q
    keep = (denominator - b) * (vocab_size - 1)
    b_powers = [b**i for i in range(d + 1)]
    keep_powers = [keep**i for i in range(d + 1)]
    groups: dict[int, list[fmpz]] = {}
    for i in range(d + 1):
        for j in range(d - i, d + 1):
            both = i + j - d
            count = fmpz(math.comb(d, i) * math.comb(i, both)) * fmpz(vocab_size - 2) ** both
            p = count * b_powers[i] * keep_powers[d - i]
            q = count * b_powers[j] * keep_powers[d - j]
            if p != 0 and q != 0:
                entry = groups.setdefault(i - j, [fmpz(0), fmpz(0)])
                entry[0] += p
                entry[1] += q
    total = (denominator * (vocab_size - 1)) ** d
    return _from_pairs([(fmpq(p, total), fmpq(q, total)) for p, q in groups.values()])


def forced_uniform(beta: float, vocab_size: int, d: int) -> Channel:
    """Conditional draws: d positions uniform over the alphabet, against the deployed law of the attacked text there."""
    beta, hit = drawn(beta), fmpq(1, vocab_size)
    counts = [(fmpq(math.comb(d, j)), j) for j in range(d + 1)]
    drawn_masses = [c * hit**j * (1 - hit) ** (d - j) for c, j in counts]
    deployed = [c * (1 - beta) ** j * beta ** (d - j) for c, j in counts]
    return _from_pairs(list(zip(drawn_masses, deployed, strict=True)))


def edited(share: float, removed: int, added: int) -> Channel:
    """Deletion noise: `removed` tokens deleted on the clean side, `added` ones on the attacked side, else disjoint."""
    share = drawn(share)
    p, q = share**removed, share**added
    return _from_pairs([(p, q), (1 - p, fmpq(0)), (fmpq(0), 1 - q)])


@lru_cache(maxsize=256)
def categorical(beta: float, cardinalities: tuple[int, ...]) -> Channel:
    """Uniform replacement on fields of the given cardinalities, all of them attacked.

    Position by position; an outcome is known by how often each cardinality leans to either side.
    """
    b = drawn(beta)
    distinct = sorted(set(cardinalities))
    outcomes: dict[tuple[int, ...], tuple[fmpq, fmpq]] = {(0,) * len(distinct): (fmpq(1), fmpq(1))}
    for size in cardinalities:
        keep, move = 1 - b, b / (size - 1)
        three = ((-1, keep, move), (0, move * (size - 2), move * (size - 2)), (1, move, keep))
        at = distinct.index(size)
        grown: dict[tuple[int, ...], tuple[fmpq, fmpq]] = {}
        for key, (p, q) in outcomes.items():
            for lean, p_one, q_one in three:
                if p_one == 0 or q_one == 0:
                    continue
                new = (*key[:at], key[at] + lean, *key[at + 1 :])
                p_old, q_old = grown.get(new, (fmpq(0), fmpq(0)))
                grown[new] = (p_old + p * p_one, q_old + q * q_one)
        outcomes = grown
    return _from_pairs(list(outcomes.values()))


def categorical_attacks(beta: float, cardinalities: Sequence[int], d: int) -> tuple[Channel, ...]:
    """One channel per distinct multiset of d attacked fields: the worst case is the worst of them."""
    chosen = {tuple(sorted(pick)) for pick in itertools.combinations(cardinalities, d)}
    return tuple(categorical(beta, pick) for pick in sorted(chosen))


# ----------------------------------------------------------------------------------------------------
# Sums of Gaussian tails
# ----------------------------------------------------------------------------------------------------


def _phi_cdf(x: arb) -> arb:
    """Phi, accurate relative to its size on the left."""
    return (-x * arb(2).rsqrt()).erfc() / 2


def clean_mass(channel: Channel, c: Real, rho: Real, bits: int = BITS) -> arb:
    """F(c; rho), rho > 0."""
    with precision(bits):
        c, rho = _ball(_rho(c)), _ball(_rho(rho))
        terms = (p * _phi_cdf((c - log_ratio) / rho + rho / 2) for log_ratio, p, _ in channel.atoms(bits))
        return sum(terms, arb(channel.p_0))


def adversarial_mass(channel: Channel, c: Real, rho: Real, bits: int = BITS) -> arb:
    """V(c; rho), rho > 0."""
    with precision(bits):
        c, rho = _ball(_rho(c)), _ball(_rho(rho))
        terms = (q * _phi_cdf((c - log_ratio) / rho - rho / 2) for log_ratio, _, q in channel.atoms(bits))
        return sum(terms, arb(0))


def knapsack(channel: Channel, p_a: Real) -> fmpq:
    """V* at rho = 0, exactly: cheapest atoms first until their clean mass is p_a, the last one split."""
    room = exact(p_a) - channel.p_0
    value = fmpq(0)
    for ratio, p, q in zip(channel.ratio, channel.p, channel.q, strict=True):
        if room <= 0:
            break
        value += q if room >= p else room * ratio
        room -= p
    return value


def inverse_knapsack(channel: Channel, tau: Real) -> fmpq | None:
    """Smallest p_a with knapsack value tau (tau > 0), exactly; None where no p_a reaches tau."""
    need, p_a = exact(tau), channel.p_0
    for ratio, p, q in zip(channel.ratio, channel.p, channel.q, strict=True):
        if need <= q:
            return p_a + need / ratio
        need -= q
        p_a += p
    return None


def _logsumexp(values: np.ndarray) -> float:
    if values.size == 0:
        return -math.inf
    top = float(values.max())
    return top if math.isinf(top) else top + math.log(float(np.exp(values - top).sum()))


class _Threshold:
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
        self._guess = _log_float(below / channel.masses(clean)[k])
        if below > above:
            self._guess = -_log_float(above / channel.masses(clean)[k])
        self._offsets: dict[int, tuple[arb, list[arb]]] = {}

    def offsets(self, bits: int) -> tuple[arb, list[arb]]:
        """The balls rho and (l_k - l_i) / rho."""
        if bits not in self._offsets:
            with precision(bits):
                rho = _ball(self.rho)
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
        extra = [_log_float(e) for e in self.extra]

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
                move = _mid((left / right).log() / (slopes[0] / left + slopes[1] / right))
                if not move.is_finite() or abs(move) > 1 + abs(y) / 8:
                    return y
                y = _mid(y - move)
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
                    near = _mid(y + sign * (1 + abs(y)) * arb(2) ** -power)
                    left, right = self.sides(near, bits)
                    if left <= right if sign < 0 else left >= right:
                        proven = near
                        break
                found.append(proven)
            return found[0], found[1]


# ----------------------------------------------------------------------------------------------------
# The certificate
# ----------------------------------------------------------------------------------------------------


def _dual(threshold: _Threshold, y: arb, bits: int) -> arb:
    """e^c (p_a - F(c)) + V(c): at most V*, whatever y."""
    with precision(bits):
        left, right = threshold.sides(y, bits)
        return threshold.price(y, bits) * (right - left) + threshold.other_mass(y, bits)


def _enclosures(channel: Channel, p_a: Real, rho: Real) -> Iterator[Enclosure]:
    """Ever tighter rigorous enclosures of V*, the cheapest first; exact rationals in the limiting cases."""
    p_a, rho = exact(p_a), _rho(rho)
    if not 0 <= p_a <= 1 or not rho >= 0:
        raise ValueError(f"need 0 <= p_a <= 1 and rho >= 0, got {p_a} and {rho}")
    at_zero = knapsack(channel, p_a)
    if p_a == 1 or p_a <= channel.p_0 or (isinstance(rho, fmpq) and rho == 0):
        yield at_zero, at_zero
        return
    threshold = _Threshold(channel, p_a - channel.p_0, rho, clean=True)
    y = arb(threshold.float_root())
    lower = _dual(threshold, y, BITS).lower()
    yield lower.max(arb(0)), at_zero
    bits = BITS
    y = threshold.refine(y, 128, steps=2)
    while bits <= MAX_BITS:
        with precision(bits):
            y = threshold.refine(y, bits)
            lower = lower.max(_dual(threshold, y, bits).lower()).max(arb(0))
            upper = arb(at_zero).upper()
            feasible = threshold.bracket(y, bits)[1]
            if feasible is not None:
                upper = upper.min(threshold.other_mass(feasible, bits).upper())
        yield lower, upper
        bits *= 2


def worst_case_probability(channels: Channels, p_a: Real, rho: Real, relative: float = 1e-25) -> Enclosure:
    """Rigorous enclosure of V*, of relative width `relative`.

    Balls without radius, or exact rationals in the limiting cases: rho = 0, p_a = 1, p_a <= p_0.
    """
    pairs = []
    for channel in _each(channels):
        for pair in _enclosures(channel, p_a, rho):
            lower, upper = pair
            if upper - lower <= upper * exact(relative):
                break
        pairs.append(pair)
    return _combine(pairs, min)


def _combine(pairs: list[Enclosure], pick: Callable[[Iterator[Bound]], Bound]) -> Enclosure:
    """The least or the greatest of several enclosures; ends are compared as exact numbers."""
    if len(pairs) > 1 and any(isinstance(end, arb) for pair in pairs for end in pair):
        with precision(MAX_BITS):
            pairs = [(_ball(low).lower(), _ball(high).upper()) for low, high in pairs]
    return pick(low for low, _ in pairs), pick(high for _, high in pairs)


def lower_bound_is_sound(channels: Channels, p_a: Real, rho: Real, value: float) -> bool:
    """Decides value <= V*. Raises `Undecided` where the two agree to thousands of bits."""
    return all(_reaches(channel, p_a, rho, exact(value)) for channel in _each(channels))


def _reaches(channel: Channel, p_a: Real, rho: Real, value: fmpq) -> bool:
    if value <= 0:
        return True
    for lower, upper in _enclosures(channel, p_a, rho):
        if lower >= value:
            return True
        if upper < value:
            return False
    raise Undecided(f"V* and {value} agree to {MAX_BITS} bits")


def upper_bound_is_sound(channels: Channels, p_a: Real, rho: Real, value: float) -> bool:
    """Decides value >= V* (of the worst of several channels)."""
    goal = exact(value)

    def bounded(channel: Channel) -> bool:
        for lower, upper in _enclosures(channel, p_a, rho):
            if upper <= goal:
                return True
            if lower > goal:
                return False
        raise Undecided(f"V* and {value} agree to {MAX_BITS} bits")

    return any(bounded(channel) for channel in _each(channels))


def radius_is_sound(channels: Channels, p_a: Real, tau: float, rho: Real) -> bool:
    """Decides V*(rho) >= tau: rho <= rho*. Also decides a claimed required probability p_a."""
    return lower_bound_is_sound(channels, p_a, rho, tau)


def certified_radius(channels: Channels, p_a: Real, tau: float, relative: float = 1e-13) -> tuple[arb, arb]:
    """Enclosure of rho* = sup {rho: V*(rho) >= tau}, relative width at most 2 `relative` where rho* > 0.

    (-1, -1) where V*(0) < tau, (0, 0) where V*(0) = tau, infinite where p_a = 1 suffices.
    """
    return _combine([_radius(channel, p_a, tau, relative) for channel in _each(channels)], min)


def _radius(channel: Channel, p_a: Real, tau: float, relative: float) -> tuple[arb, arb]:
    if tau <= 0:
        raise ValueError(f"tau must be positive, got {tau}")
    p_a, goal = exact(p_a), exact(tau)
    at_zero = knapsack(channel, p_a)
    if at_zero < goal:
        return arb(-1), arb(-1)
    if p_a == 1:
        return arb("inf"), arb("inf")
    if at_zero == goal:
        return arb(0), arb(0)
    with precision(BITS):
        rho = _solve_radius(channel, p_a, goal, at_zero)
        width = exact(relative)
        for _ in range(12):
            low, high = _mid(rho * (1 - width)), _mid(rho * (1 + width))
            sound, unsound = _reaches(channel, p_a, low, goal), not _reaches(channel, p_a, high, goal)
            if sound and unsound:
                return low, high
            rho = high if sound else low
    raise Undecided(f"no radius found for p_a = {p_a}, tau = {tau}")


def _quantile(log_p: float, log_complement: float) -> float:
    return float(ndtri_exp(log_p)) if log_p < log_complement else -float(ndtri_exp(log_complement))


def _value_and_slope(channel: Channel, p_a: fmpq, rho: arb, bits: int) -> tuple[arb, arb]:
    """Centres of V*(rho) and of its derivative, -sum_i q_i phi(x_i - rho / 2)."""
    threshold = _Threshold(channel, p_a - channel.p_0, rho, clean=True)
    y = threshold.refine(arb(threshold.float_root()), bits, steps=2)
    with precision(bits):
        return _mid(_dual(threshold, y, bits)), -_mid(threshold.slope(y, False, bits))


def _solve_radius(channel: Channel, p_a: fmpq, goal: fmpq, at_zero: fmpq, bits: int = 192) -> arb:
    """Safeguarded Newton for V*(rho) = tau, first on the normal scale, where the Gaussian case is linear."""
    goal_quantile = _quantile(_log_float(goal), _log_float(1 - goal))
    with precision(bits):
        # an upper end for every discrete law; 1e-14 for the rounding of the two float quantiles
        high = arb(_quantile(_log_float(p_a), _log_float(1 - p_a)) - goal_quantile) * (1 + exact(1e-12))
        high = (high if high > 0 else arb(0)) + exact(1e-14)
        low, spare, fall, rho = arb(0), arb(at_zero - goal), arb(at_zero), high
        for _ in range(300):
            value, slope = _value_and_slope(channel, p_a, rho, bits)
            miss = value - goal
            if miss.is_zero():
                return rho
            if miss > 0:
                low = rho
                high = high if high > rho else 2 * rho
            else:
                high, fall = rho, at_zero - value
            if abs(miss) < goal * exact(1e-3):
                new = _mid(rho - miss / slope)
            else:
                quantile = _quantile(float(value.log()), float((1 - value).log())) if value > 0 else -math.inf
                density = (-(arb(quantile) ** 2) / 2).exp() / (2 * arb.pi()).sqrt()
                new = _mid(rho - arb(quantile - goal_quantile) * density / slope)
            if new.is_finite() and abs(new - rho) < rho * exact(1e-17):
                return new
            if not (new > low and new < high):
                if low > 0:
                    new = _mid((low * high).sqrt()) if high > 4 * low else _mid((low + high) / 2)
                else:
                    new = _mid(high * (spare / fall).min(arb(0.9)))
            rho = new
    raise Undecided("the radius iteration did not settle")


def required_probability(channels: Channels, rho: Real, tau: float) -> Enclosure:
    """Enclosure of the smallest p_a with V*(rho) >= tau > 0.

    Infinite where even p_a = 1 does not reach tau; exact rationals at rho = 0.
    """
    return _combine([_required(channel, rho, tau) for channel in _each(channels)], max)


def _required(channel: Channel, rho: Real, tau: float) -> Enclosure:
    if tau <= 0:
        raise ValueError(f"tau must be positive, got {tau}")
    rho, goal = _rho(rho), exact(tau)
    at_zero = inverse_knapsack(channel, goal)
    if at_zero is None:
        return arb("inf"), arb("inf")
    if (isinstance(rho, fmpq) and rho == 0) or at_zero == 1:
        return at_zero, at_zero
    threshold = _Threshold(channel, goal, rho, clean=False)
    y = threshold.root(BITS)
    bits = BITS
    lower, upper = arb(0), arb(1)
    while bits <= MAX_BITS:
        with precision(bits):
            y = threshold.refine(y, bits)
            lower = arb(at_zero).lower()
            below = threshold.bracket(y, bits)[0]
            if below is not None:
                lower = lower.max((channel.p_0 + threshold.other_mass(below, bits)).lower())
            left, right = threshold.sides(y, bits)
            sufficient = channel.p_0 + threshold.other_mass(y, bits)
            sufficient += (right - left) / threshold.price(y, bits)
            upper = sufficient.upper().min(arb(1))
            if upper - lower <= (1 - lower) * exact(1e-20) and upper - lower <= upper * exact(1e-20):
                break
        bits *= 2
    return lower, upper


# ----------------------------------------------------------------------------------------------------
# Binomial tail
# ----------------------------------------------------------------------------------------------------


def clopper_pearson_is_sound(successes: int, n: int, alpha: float, p: float) -> bool:
    """Decides P[Bin(n, p) >= successes] <= alpha: p is a lower confidence bound (p <= 0 always is)."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"need 0 <= successes <= n, got {successes} of {n}")
    if p <= 0:
        return True
    if successes == 0 or p >= 1:
        return alpha >= 1
    rate, risk = exact(p), exact(alpha)
    bits = BITS
    while bits <= (MAX_BITS if n > 512 else 2 * BITS):
        with precision(bits):
            verdict = _tail_at_most(successes, n, rate, risk)
        if verdict is not None:
            return verdict
        bits *= 2
    if n > 512:
        raise Undecided(f"binomial tail and {alpha} agree to {MAX_BITS} bits")
    terms = (math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(successes, n + 1))
    return bool(sum(terms, fmpq(0)) <= risk)


def _tail_at_most(successes: int, n: int, rate: fmpq, risk: fmpq) -> bool | None:
    """Sum of falling terms from `successes` up; the rest is below a geometric series."""
    odds = arb(rate / (1 - rate))
    log_choose = arb(n + 1).lgamma() - arb(successes + 1).lgamma() - arb(n - successes + 1).lgamma()
    term = (log_choose + successes * arb(rate).log() + (n - successes) * arb(1 - rate).log()).exp()
    total = arb(0)
    for k in range(successes, n + 1):
        total += term
        if total > risk:
            return False
        factor = odds * (n - k) / (k + 1)
        if k % 16 == 0 and factor < 1:
            rest = term * factor / (1 - factor)
            if total + rest <= risk:
                return True
            if rest < total * arb(2) ** -ctx.prec:
                return None
        term *= factor
    return True if total <= risk else None
