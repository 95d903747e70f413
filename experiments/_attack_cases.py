"""The cases of `adaptive_attack.py`: which inputs and budgets, attacked, scored on fresh noise, judged."""

from __future__ import annotations

import argparse
import dataclasses
import math
from typing import Any

import jax
import numpy as np

import hybrid_rs_jax as hrs
from hybrid_rs_jax import attacks
from hybrid_rs_jax.classifiers import DemoGuard
from hybrid_rs_jax.data import demo

SIGMA, ALPHA = 0.25, 0.01
PAPER_TAU = 4.6e-5
BORDER = 0.99
FRACTIONS = (0.5, BORDER, 1.25, 1.5, 2.0, 3.0, 4.0)
#: Risk that any true bound is flagged, over all cases and looks; risk per look that an unbroken case is called broken.
RISK, BREAK_RISK = 0.01, 0.01
MOST_TOKENS = 4
#: Cases per budget beyond the radius on which the many draws for a small tau are spent.
BREAK_CASES = 2
#: What a key is for.
CERTIFY, ATTACK, LOOK, AGAIN, RANDOM, RANDOM_LOOK, BREAK = range(7)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One threat and threshold; `everything`: all positions may change, not only the suffix."""

    name: str
    beta: float
    tau: float
    everything: bool = False

    @property
    def smoothing(self) -> hrs.HybridSmoothing:
        return hrs.HybridSmoothing(hrs.UniformKernel(self.beta, demo.VOCAB_SIZE), SIGMA)

    @property
    def mask(self) -> np.ndarray:
        return np.ones(demo.LENGTH, bool) if self.everything else demo.suffix_mask()


SETTINGS = (
    Setting("suffix", 0.25, PAPER_TAU),
    Setting("anywhere", 0.25, PAPER_TAU, everything=True),
    Setting("majority", 0.75, 0.5),
)


def chosen_budgets(certificate: hrs.Certificate) -> dict[int, int]:
    """Token budget per certified input: 1, 2, ... up to its largest with a positive radius, in turns over inputs."""
    largest = (certificate.radius > 0).sum(axis=1) - 1
    return {i: 1 + i % int(most) if most > 0 else 0 for i, most in enumerate(largest) if most >= 0}


@dataclasses.dataclass(frozen=True)
class Work:
    """Attacks on some inputs of a setting.

    Attributes:
      args: flags of the script.
      certificate: of all inputs of the setting.
      rows: all inputs; `index` says which of them, and `d` with which token budget.
      number: of this chunk; chunk 0 is attacked at every budget, the others at the border.
      risk: that one look flags a true bound.
    """

    args: argparse.Namespace
    setting: Setting
    certificate: hrs.Certificate
    rows: demo.DemoInputs
    index: np.ndarray
    d: np.ndarray
    number: int
    risk: float

    def run(self) -> dict[str, Any]:
        """All cases of this chunk."""
        fractions = FRACTIONS if self.number == 0 else (BORDER,)
        cases, found = [], None
        for fraction in fractions:
            rows, found = self.at(fraction, found)
            cases += rows
        return {"cases": cases}

    def at(
        self, fraction: float, before: attacks.AttackResult | None
    ) -> tuple[list[dict[str, Any]], attacks.AttackResult]:
        """One case per input, with `fraction` of its certified radius as l2 budget; begins where `before` ended."""
        radius = self.certificate.radius[self.index, self.d]
        epsilon = fraction * radius
        bound = self.bound(epsilon)
        found = self.attack(epsilon, self.key(ATTACK, fraction), self.args.steps, before)
        first = self.score(found, self.args.final, self.key(LOOK, fraction))
        second = self.second_look(found, first, bound, fraction)
        broken = self.broken(found, first, fraction)
        weak = None
        if self.number == 0:
            tries = self.attack(epsilon, self.key(RANDOM, fraction), steps=0)
            weak = self.score(tries, self.args.final, self.key(RANDOM_LOOK, fraction))
        cases = []
        for place, i in enumerate(self.index.tolist()):
            looks = [(int(first[place]), self.args.final)]
            if place in second:
                looks.append((second[place], self.args.again))
            cases.append(
                {
                    "setting": self.setting.name,
                    "id": self.rows.ids[i],
                    "d": int(self.d[place]),
                    "fraction": fraction,
                    "epsilon": float(epsilon[place]),
                    "changes": int(found.changes[place]),
                    "distance": float(found.distance[place]),
                    "restart_scores": found.scores[place].round(4).tolist(),
                    **self.verdict(looks, bound[place]),
                    "broken": broken.get(place),
                    "random_score": None if weak is None else float(weak[place] / self.args.final),
                }
            )
        return cases, found

    def verdict(self, looks: list[tuple[int, int]], bound: float) -> dict[str, Any]:
        """The last look's numbers; flagged, or shown to hold, by any of them."""
        judged = [attacks.judge(successes, n, bound, self.risk) for successes, n in looks]
        successes, n = looks[-1]
        numbers = {"successes": successes, "n": n, "score": successes / n, "bound": float(bound)}
        limits = {"lower": float(judged[-1].lower), "upper": float(judged[-1].upper)}
        flags = {name: any(bool(getattr(look, name)) for look in judged) for name in ("violated", "held", "decisive")}
        return numbers | limits | flags

    def bound(self, epsilon: np.ndarray) -> np.ndarray:
        """What the certificate claims at (d, eps) of each input; the digits of p_A near one are kept."""
        p_a, complement = self.certificate.p_a[self.index], self.certificate.complement[self.index]
        bound = hrs.worst_case_probability(p_a, self.d, epsilon, self.setting.smoothing, complement=complement)
        return np.asarray(bound, np.float64)

    def attack(
        self, epsilon: np.ndarray, key: Any, steps: int, before: attacks.AttackResult | None = None
    ) -> attacks.AttackResult:
        """The strongest of all restarts; with no steps, of as many random tries."""
        settings = attacks.AttackSettings(restarts=self.args.restarts, steps=steps, pairs_at_once=10)
        rows = self.rows.take(self.index)
        guard = attacks.TableGuard(DemoGuard.load())
        return attacks.attack(
            guard,
            rows.tokens,
            rows.images,
            self.setting.smoothing,
            self.d,
            epsilon,
            key,
            eligible=self.setting.mask,
            start=None if before is None else (before.tokens, before.images),
            settings=settings,
        )

    def score(self, found: attacks.AttackResult, n: int, key: Any, places: Any = slice(None)) -> np.ndarray:
        """Unsafe draws out of `n`, on fresh noise."""
        return draw(self.setting, found.tokens[places], found.images[places], n, key)

    def second_look(
        self, found: attacks.AttackResult, first: np.ndarray, bound: np.ndarray, fraction: float
    ) -> dict[int, int]:
        """Counts of fresh draws for the cases within the radius that the first look leaves open."""
        verdict = attacks.judge(first, self.args.final, bound, self.risk)
        places = np.flatnonzero(~verdict.held & ~verdict.violated)
        if fraction > 1 or not places.size:
            return {}
        counts = self.score(found, self.args.again, self.key(AGAIN, fraction), places)
        return dict(zip(places.tolist(), counts.tolist(), strict=True))

    def broken(self, found: attacks.AttackResult, first: np.ndarray, fraction: float) -> dict[int, bool]:
        """Which cases beyond the radius are shown to lie below tau, among those that were asked."""
        if fraction <= 1:
            return {}
        tau = self.setting.tau
        verdict = attacks.judge(first, self.args.final, tau, BREAK_RISK)
        if verdict.decisive.all():
            return dict(enumerate(verdict.violated.tolist()))
        asked = np.flatnonzero(first == 0)[:BREAK_CASES]
        if not asked.size:
            return {}
        # half as many again as no Unsafe draw would need
        n = math.ceil(1.5 * math.log(1 / BREAK_RISK) / tau)
        counts = self.score(found, n, self.key(BREAK, fraction), asked)
        verdict = attacks.judge(counts, n, tau, BREAK_RISK)
        return dict(zip(asked.tolist(), verdict.violated.tolist(), strict=True))

    def key(self, stage: int, fraction: float) -> Any:
        """A key of its own for each stage, budget and chunk."""
        key = stage_key(self.args.seed, self.setting, stage)
        return jax.random.fold_in(jax.random.fold_in(key, FRACTIONS.index(fraction)), self.number)


def stage_key(seed: int, setting: Setting, stage: int) -> Any:
    """Certificate, attack and scores draw from different keys: they are independent of each other."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), SETTINGS.index(setting)), stage)


def draw(setting: Setting, tokens: np.ndarray, images: np.ndarray, n: int, key: Any) -> np.ndarray:
    """Unsafe draws out of `n`."""
    return hrs.sample_counts(
        DemoGuard.load(), tokens, images, setting.smoothing, n, key, eligible=setting.mask, batch_size=1000
    )
