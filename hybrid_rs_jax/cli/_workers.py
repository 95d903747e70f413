"""`--workers`: the draws of a run on a cluster, each worker with a model and data of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybrid_rs_jax.cli._denoiser import denoised_source, open_denoiser
from hybrid_rs_jax.cli._doors import ModelOptions
from hybrid_rs_jax.cli._header import DEMO_SIGMA, smoothing_of
from hybrid_rs_jax.cli.options import GuardOptions, NoiseOptions, ThreatOptions
from hybrid_rs_jax.report.tables import say

if TYPE_CHECKING:
    from hybrid_rs_jax.cli._sources import Source
    from hybrid_rs_jax.kernels import HybridSmoothing
    from hybrid_rs_jax.sampling.design import StreamGroup
    from hybrid_rs_jax.sampling.workers import Work, WorkerShare

__all__ = ["Cluster", "Opening", "WorkOpening", "say_shares"]


@dataclass(frozen=True)
class Opening:
    """Model, data and noise as the flags name them; it can be pickled, so that every machine opens the same."""

    model: str
    data: str
    pixel_range: tuple[float, float] | None
    denoiser: str | None
    noise: NoiseOptions
    threat: ThreatOptions
    own: ModelOptions
    guard: GuardOptions

    def open(self) -> tuple[Source, HybridSmoothing]:
        """The model behind its denoiser with the data, and the noise.

        Raises:
          BadInputError: if one of them cannot be opened, or they do not fit.
        """
        from hybrid_rs_jax.cli._sources import DEMO_DATA, open_source

        demo, silent = self.data in DEMO_DATA, self.noise.no_pixel_noise
        sigma = self.noise.sigma or (DEMO_SIGMA if demo and not silent else None)
        clean = open_denoiser(self.denoiser, sigma, self.guard.dtype)
        source = open_source(
            self.model,
            self.data,
            self.guard,
            self.pixel_range,
            threat=self.threat,
            share_image=silent,
            own=self.own,
        )
        smoothing = smoothing_of(self.noise, source, self.threat, demo=demo)
        return denoised_source(source, clean, smoothing), smoothing


@dataclass(frozen=True)
class WorkOpening:
    """What a worker opens: the source and noise of the flags, and what the driver has decided about the draws."""

    opening: Opening
    groups: tuple[StreamGroup, ...]
    seed: int
    batch_size: int | None

    def __call__(self) -> Work:
        return self.of(*self.opening.open())

    def of(self, source: Source, smoothing: HybridSmoothing) -> Work:
        """The work with what has been opened already."""
        from hybrid_rs_jax.classifiers.base import Abilities
        from hybrid_rs_jax.sampling.workers import Work

        classifier, classes = source.classifier, Abilities.of(source.classifier).classes
        return Work(classifier, source.inputs, smoothing, self.groups, self.seed, classes, self.batch_size)


@dataclass(frozen=True)
class Cluster:
    """A cluster of Ray; without an address one that is started on this machine."""

    address: str | None = None

    @classmethod
    def parse(cls, text: str) -> Cluster:
        """`ray` or `ray:ADDRESS`.

        >>> Cluster.parse("ray:10.0.0.1:6379")
        Cluster(address='10.0.0.1:6379')
        """
        found = re.fullmatch(r"ray(?::(\S+))?", text)
        if found is None:
            raise ValueError(f"must look like ray or ray:ADDRESS, got {text}")
        return cls(found[1])


def say_shares(shares: Mapping[str, WorkerShare]) -> None:
    """A line for each worker: what it drew, and how fast."""
    for name, share in sorted(shares.items()):
        rate = share.draws / share.seconds if share.seconds else 0.0
        say(f"  worker {name}: {share.draws:,} draws, {rate:,.3g} per second of its work")
