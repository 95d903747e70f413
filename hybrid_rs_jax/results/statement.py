"""The statement of a certificate: everything that a guarantee depends on; `building` puts one together.

Sentences and columns are made from a statement (`sentences`), never from flags: a record of two decisions has two.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from hybrid_rs_jax._version import __version__
from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.kernels.edits import Budget

if TYPE_CHECKING:
    from hybrid_rs_jax.certificate.certify import Side
    from hybrid_rs_jax.certificate.samples import Sample
    from hybrid_rs_jax.confidence import SamplingPlan

__all__ = [
    "Denoising",
    "Needs",
    "Noise",
    "Provisional",
    "Risk",
    "Statement",
    "Stopping",
    "Target",
    "Threat",
]

#: Who drew the noise: a run of ours; a run of version 0.1, whose pixel noise is float32 normals; somebody else.
Drawn = Literal["run", "version 0.1", "elsewhere"]
#: How one level alpha is spent: on one bound that serves all budgets, or in equal parts.
Split = Literal["one bound", "budgets", "decisions", "budgets and decisions", "samples", "classes"]
ThreatName = Literal["append", "suffix", "anywhere", "insert", "positions", "fields", "forced", "image"]
#: Draws whose margin is at rounding level: there are none, the bound does without them, or they count as they fell.
Ties = Literal["none", "left out", "counted"]


@dataclasses.dataclass(frozen=True)
class Noise:
    """The noise that was drawn, and the one that is certified.

    Attributes:
      smoothing: the smoothing distribution.
      drawn: who drew it.
      step: pixels and pixel noise lie on a grid of this step; None: not known, or no pixel noise.
      generator: the pseudo-random generator, None where it is not known.
      total_variation: distance delta between the noise that was drawn and the ideal one, in [0, 1). It is subtracted.
      off_grid: attacked pixels may be any real numbers (the radii allow for that), and not on the grid alone.
    """

    smoothing: HybridSmoothing
    drawn: Drawn = "elsewhere"
    step: float | None = None
    generator: str | None = None
    total_variation: float = 0.0
    off_grid: bool = False

    @property
    def tokens(self) -> bool:
        """Tokens carry noise."""
        return self.smoothing.discrete is not None

    @property
    def pixels(self) -> bool:
        """Pixels carry noise."""
        return self.smoothing.sigma is not None


@dataclasses.dataclass(frozen=True)
class Threat:
    """Which changes the budgets count.

    Attributes:
      name: "append": the first d eligible positions; "suffix": any d positions behind the trusted text; "anywhere": any
        d positions of the text; "insert": d tokens anywhere; "positions": any d of the positions that carry noise;
        "forced": the positions that the draws for the budget d always resampled;
        "fields": any d categorical fields of a table; "image": no token may change.
      positions: positions that carry noise in every input; None where that is not known, or differs by input.
      own_positions: each input has a set of its own.
      per_budget: for each budget the positions that carry noise, where each budget has a filter of its own.
    """

    name: ThreatName
    positions: tuple[int, ...] | None = None
    own_positions: bool = False
    per_budget: tuple[tuple[int, ...], ...] | None = None

    @property
    def symbol(self) -> str:
        """What a discrete budget counts: "token", or of a table of features "field"."""
        return "field" if self.name == "fields" else "token"

    @property
    def number(self) -> str:
        """What the continuous budget moves: "pixel", or of a table of features "number"."""
        return "number" if self.name == "fields" else "pixel"


@dataclasses.dataclass(frozen=True)
class Risk:
    """The risk level, chosen before the counts were seen.

    Attributes:
      alpha: for each input, that any of its statements is false.
      per_statement: spent on each confidence bound; of several samples the smallest part.
      split: how the one became the other.
      tau: decision threshold; None for votes per class, where the other classes take its place.
      decisions: 2 where this is one of two decisions that share alpha.
    """

    alpha: float
    per_statement: float
    split: Split
    tau: float | None
    decisions: int = 1

    @property
    def own(self) -> float:
        """Of alpha, the part of this one decision: that any of its bounds is false."""
        return self.alpha / self.decisions


@dataclasses.dataclass(frozen=True)
class Target:
    """What early stopping was for.

    Attributes:
      tau, alpha: threshold and risk that the plan was made for.
      d, epsilon: the one budget that was to be decided; None: the whole frontier, up to `tolerance` sigma.
    """

    tau: float
    alpha: float
    d: int | None = None
    epsilon: float | None = None
    tolerance: float | None = None


@dataclasses.dataclass(frozen=True)
class Stopping:
    """How many draws were taken, and why.

    Attributes:
      plan: the plan that stopped the draws early; None: a number fixed before the first draw.
      target: what the plan was for.
    """

    plan: SamplingPlan | None = None
    target: Target | None = None


@dataclasses.dataclass(frozen=True)
class Provisional:
    """A fixed number of draws that did not stay what it was: true only if no vote had a part in that.

    Attributes:
      planned: draws per input that the run is set to.
      partial: number of inputs that are certified with fewer.
      earlier: numbers of draws that the run was set to before it was extended.
    """

    planned: int
    partial: int = 0
    earlier: tuple[int, ...] = ()


class Denoising(NamedTuple):
    """A denoiser before the classifier: part of what is certified.

    Attributes:
      name: of the denoiser.
      digest: of its weights, SHA-256; None where it has none.
      sigma: standard deviation of the pixel noise that it expects; None where the run does not say.
      time: what its network is told for that, a time step as a rule; None where it is told none.
    """

    name: str
    digest: str | None = None
    sigma: float | None = None
    time: float | None = None


class Needs(NamedTuple):
    """What certification takes, whatever the votes.

    Attributes:
      draws: for each budget the fewest draws that certify it at `eps = 0` if all agree (under the plan: at one of its
        stops); -1 where no number does.
      bound, complement: the lower bound on the share of agreeing draws that certifies the first budget; the
        complement is negative where none does.
    """

    draws: tuple[int, ...]
    bound: float
    complement: float


@dataclasses.dataclass(frozen=True)
class Statement:
    """Everything that a guarantee depends on: whose score, against what, at which risk, from which draws.

    Attributes:
      side: "above": the smoothed score stays above tau (certified unsafe); "below": it stays below (certified safe).
      budgets: the D discrete budgets.
      simultaneous: one sample serves all budgets.
      ties: what became of draws whose margin is at rounding level.
      provisional: why the statement holds under a condition only; None: it does not.
      classes: number of classes where votes per class are certified, else None.
      samples: the samples of draws that share alpha, conditional ones among them; None: there is one, or one for each
        budget.
      denoising: the denoiser before the classifier; None: there is none.
      known_needs: `needs` where they have been computed before (a file that was read).
    """

    side: Side
    risk: Risk
    noise: Noise
    threat: Threat
    budgets: tuple[Budget, ...]
    stopping: Stopping = Stopping()
    simultaneous: bool = True
    ties: Ties = "none"
    provisional: Provisional | None = None
    classes: int | None = None
    samples: tuple[Sample, ...] | None = None
    denoising: Denoising | None = None
    package: str = f"hybrid_rs_jax {__version__}"
    known_needs: Needs | None = dataclasses.field(default=None, compare=False, repr=False)

    @functools.cached_property
    def needs(self) -> Needs:
        """Draws and bound that certification takes, on this side and under this plan."""
        if self.known_needs is not None:
            return self.known_needs
        from hybrid_rs_jax.certificate.certify import needed_bound, needed_samples

        assert self.risk.tau is not None, "votes per class have no threshold"
        noise, tau, delta = self.noise.smoothing, self.risk.tau, self.noise.total_variation
        if self.samples is not None:
            each = self.sample_needs
            draws = np.where(each < 0, np.iinfo(np.int64).max, each).min(axis=0)
            first = self.samples[0]
            bound = needed_bound(first.budgets(self.budgets)[0], 0.0, first.smoothing(noise), tau, self.side, delta)
            few = tuple(-1 if n == np.iinfo(np.int64).max else n for n in draws.tolist())
            return Needs(few, float(bound.p), float(bound.complement))
        draws = needed_samples(
            self.budgets,
            noise,
            tau,
            self.risk.per_statement,
            self.side,
            plan=self.stopping.plan,
            total_variation=delta,
        )
        bound = needed_bound(self.budgets[0], 0.0, noise, tau, self.side, delta)
        return Needs(tuple(draws.tolist()), float(bound.p), float(bound.complement))

    @functools.cached_property
    def sample_needs(self) -> np.ndarray:
        """Draws that each sample needs for each budget at `eps = 0` if all agree, int64[S, D]; -1: none suffice."""
        from hybrid_rs_jax.certificate.samples import needed_by_sample

        assert self.samples is not None
        assert self.risk.tau is not None
        delta = self.noise.total_variation
        settings = (self.samples, self.budgets, self.noise.smoothing, self.risk.tau, self.risk.own, self.side)
        return needed_by_sample(*settings, plan=self.stopping.plan, total_variation=delta)
