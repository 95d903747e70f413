"""Laws of a score from noisy copies: integer histograms of the cosine of features, per input (method section 11)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from hybrid_rs_jax._checks import check_whole
from hybrid_rs_jax._jax import applied, own_settings
from hybrid_rs_jax.certificate.similarity_target import SimilarityTarget
from hybrid_rs_jax.classifiers.base import Abilities, for_smoothing
from hybrid_rs_jax.confidence import FixedSample
from hybrid_rs_jax.confidence.score_law import BINS, MOST_BINS, ScoreLaw, score_edges
from hybrid_rs_jax.features.base import Encoder
from hybrid_rs_jax.features.units import checked_features, unit_features
from hybrid_rs_jax.kernels import CategoricalKernel, Conditional, DeletionKernel, HybridSmoothing
from hybrid_rs_jax.kernels.conditional import check_forced
from hybrid_rs_jax.kernels.grid import round_to_grid
from hybrid_rs_jax.sampling._cosines import Cosines
from hybrid_rs_jax.sampling._law_stop import LawStop
from hybrid_rs_jax.sampling._trial import TRIAL_COPIES, Program, traced
from hybrid_rs_jax.sampling.engine import MOST_COPIES, Row, check_inputs, data_mesh, stream

__all__ = ["FeatureSampler", "clean_features", "sample_features"]

#: Of the largest feature: how far a program may be from the callable that it was traced from.
_TRACE_TOLERANCE = 1e-3


def sample_features(
    encoder: Encoder,
    tokens: Int[Array | np.ndarray, "inputs length"],
    images: Float[Array | np.ndarray, "inputs height width channels"],
    smoothing: HybridSmoothing,
    n: int,
    key: Key[Array, ""],
    reference: Any = "clean",
    *,
    eligible: Bool[Array | np.ndarray, "*inputs length"] | None = None,
    forced: Bool[Array | np.ndarray, "*rows length"] | None = None,
    bins: int = BINS,
    first: int = 0,
    target: SimilarityTarget | None = None,
    batch_size: int = 2000,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] | None = None,
) -> ScoreLaw:
    """Histograms of the score `(1 + cosine)/2` over `n` noisy copies of each input.

    The noise of copy `s` of input `i` depends on `(key, i, s)` alone, as in `sample_counts`. A cosine is lowered by
    more than its rounding, `(2 F + 32) 2^-24` with F features, and counted at the lower edge of its bin. With a target
    an input ends at the first look at which its draws so far certify it; the law then knows its looks, and
    `certify_features` shares the risk over them.

    Args:
      encoder: any `Encoder`, which JAX can trace or which is on the host (`on_host = True`).
      tokens, images, smoothing, key, eligible, batch_size, mesh, progress: as for `sample_counts`.
      n: noisy copies per input, at least 1; with a target at most so many.
      reference: what the feature of a noisy copy is compared with.
        "clean": the feature of the clean input (its pixels rounded to the grid), computed once before the draws.
        "pairs": the feature of a second, independent noisy copy; each of the n draws takes two.
        An array [inputs, F] or [inputs, K, F]: vectors that were fixed beforehand, for instance
        `certificate.prototypes.directions`; of K cosines the least counts.
      forced: positions that are resampled in every draw, for a `Conditional` kernel; the law then belongs to the budget
        of their number. The second copy of a pair carries the ordinary noise.
      bins: equal in angle, see `score_edges`.
      first: number of the first copy: laws of the copies `0..m-1` and `m..n-1` add up to that of `0..n-1`; 0 with a
        target.
      target: what the draws are for. Its looks also bound the batches: none is larger than the first look.

    Returns:
      The laws, counts int64[inputs, bins].

    Raises:
      ValueError: if shapes differ, a number is out of range, a feature is zero, not finite, or not a vector, or n draws
        could not certify the target for any input.

    >>> import jax
    >>> encoder = lambda tokens, images: images.reshape(len(images), -1)
    >>> tokens, images = np.zeros((1, 1), np.int32), np.full((1, 4, 4, 1), 0.5, np.float32)
    >>> law = sample_features(encoder, tokens, images, HybridSmoothing(None, 0.1), 500, jax.random.key(0))
    >>> law.counts.shape, bool(law.n[0] == 500)
    ((1, 1024), True)
    """
    tokens, images = np.asarray(tokens), np.asarray(images)
    n, first = check_whole("n", n, 1, MOST_COPIES), check_whole("first", first, 0, MOST_COPIES)
    mask, _ = check_inputs(tokens, images, smoothing, eligible)
    if isinstance(smoothing.discrete, Conditional) and forced is None:
        raise ValueError("forced must name the positions that a Conditional kernel resamples in every draw, got None.")
    always = [None] * len(tokens) if forced is None else list(check_forced(forced, mask))
    if not len(tokens):
        raise ValueError("tokens and images must hold at least one input, got none.")
    if target is not None and first:
        raise ValueError(f"first must be 0 with a target, whose looks count all draws, got {first}.")
    shape = Row(tokens[0], images[0], mask[0], 0)
    sampler = FeatureSampler(
        encoder, smoothing, shape, first + n, reference, bins=bins, batch_size=batch_size, mesh=mesh, target=target
    )
    fixed = None if isinstance(reference, str) else sampler.fixed(reference, len(tokens))
    counts, classified = np.zeros((len(tokens), sampler.bins), np.int64), 0
    for i in range(len(tokens)):
        row = Row(tokens[i], images[i], mask[i], i, first, forced=always[i])
        for _, votes, count in sampler.draws(row, key, None if fixed is None else fixed[i]):
            counts[i] += votes
            classified += count
            if progress is not None:
                progress(classified)
    return ScoreLaw(counts, sampler.edges, sampler.stop.plan)


class FeatureSampler:
    """Draws of one input after the other, by one compiled program.

    Args:
      encoder, smoothing, reference, bins, batch_size, mesh, target: as for `sample_features`.
      row: an input that shows the shapes of all.
      end: copies of each input are numbered 0..end-1.

    Attributes:
      stop: when an input ends.
    """

    def __init__(
        self,
        encoder: Encoder,
        smoothing: HybridSmoothing,
        row: Row,
        end: int,
        reference: Any = "clean",
        *,
        bins: int = BINS,
        batch_size: int = 2000,
        mesh: Mesh | None = None,
        target: SimilarityTarget | None = None,
    ):
        if isinstance(reference, str) and reference not in ("clean", "pairs"):
            raise ValueError(f"reference must be 'clean', 'pairs' or an array of vectors, got {reference!r}.")
        self.bins = check_whole("bins", bins, 2, MOST_BINS)
        self.edges = score_edges(self.bins)
        self._clean = isinstance(reference, str) and reference == "clean"
        self._pairs = isinstance(reference, str) and reference == "pairs"
        self._mesh = data_mesh() if mesh is None else mesh
        delta = smoothing.total_variation(row.image.size) * (2 if self._pairs else 1)
        self.stop = LawStop(end, self.bins, target, smoothing, delta)
        self._batch = min(check_whole("batch_size", batch_size, 1, MOST_COPIES), self.stop.looks[0])
        self._plain, self._smoothing = smoothing, doubled(smoothing) if self._pairs else smoothing
        encoder = for_smoothing(encoder, smoothing)
        self._encoder = encoder
        shards = self._mesh.shape["data"]
        step = -(-self._batch // shards) * shards * (2 if self._pairs else 1)
        with own_settings():
            program = encoder_program(encoder, smoothing, row, step)
        self.features = self._clean_feature(row).shape[1]
        self._cosines: Any = Cosines(encoder, program, self.edges, self.features, pairs=self._pairs, mesh=self._mesh)

    def fixed(self, vectors: Any, inputs: int) -> np.ndarray:
        """Vectors of the user, [inputs, K, features]."""
        found = np.asarray(vectors, np.float64)
        found = found[:, None] if found.ndim == 2 else found
        if found.ndim != 3 or len(found) != inputs or found.shape[2] != self.features or not found.shape[1]:
            raise ValueError(
                f"reference must hold vectors [{inputs}, {self.features}] or [{inputs}, K, {self.features}], got shape "
                f"{list(np.shape(vectors))}."
            )
        return found

    def _clean_feature(self, row: Row) -> np.ndarray:
        return clean_features(
            getattr(self._encoder, "plain", self._encoder), row.tokens[None], row.image[None], self._plain
        )

    def draws(
        self,
        row: Row,
        key: Key[Array, ""],
        fixed: np.ndarray | None = None,
        lost: Callable[[int], None] | None = None,
        before: np.ndarray | None = None,
    ) -> Generator[tuple[int, np.ndarray, int], None, None]:
        """Copies `row.drawn, ...` of an input until it ends: (number of the first one, counts per bin, copies).

        `lost` is told at the end how many draws were at the encoder, and not given any more. `before`: counts of the
        copies before `row.drawn`, which a target needs.

        Raises:
          ValueError: if a feature is zero or not finite.
        """
        counts = np.zeros(self.bins, np.int64) if before is None else np.array(before, np.int64)
        if self.stop.ended(counts):
            return
        if self._clean:
            fixed = unit_features(self._clean_feature(row))
        if self._pairs:
            row = dataclasses.replace(
                row,
                tokens=np.tile(row.tokens, 2),
                image=np.tile(row.image, (2, *(1,) * (row.image.ndim - 1))),
                eligible=np.tile(row.eligible, 2),
                forced=None if row.forced is None else np.r_[row.forced, np.zeros(row.forced.size, bool)],
            )
        else:
            assert fixed is not None
            self._cosines.towards(fixed)
        for look in self.stop.looks:
            if look <= row.drawn:
                continue
            for found in self._until(look, row, key, lost):
                counts += found[1]
                yield found
            if self.stop.ended(counts):
                return
            row = dataclasses.replace(row, drawn=look)

    def _until(
        self, look: int, row: Row, key: Key[Array, ""], lost: Callable[[int], None] | None
    ) -> Generator[tuple[int, np.ndarray, int], None, None]:
        """Copies `row.drawn .. look - 1` as they come."""
        begun = dataclasses.replace(row, votes=np.zeros(self.bins + 1, np.int64))
        drawn = stream(
            self._cosines,
            [begun],
            1,
            self._smoothing,
            FixedSample(look),
            key,
            classes=self.bins + 1,
            batch_size=self._batch,
            mesh=self._mesh,
            lost=lost,
        )
        for part in drawn:
            for start, count, votes in zip(part.first, part.count, part.votes, strict=True):
                if votes[-1]:
                    raise ValueError(
                        f"The encoder {self._cosines.name} gave {votes[-1]} features that are zero or not finite on "
                        f"the noisy copies {start}..{start + count - 1} of input {row.index}: they have no direction."
                    )
                yield int(start), votes[:-1], int(count)


def clean_features(encoder: Encoder, tokens: np.ndarray, images: np.ndarray, smoothing: HybridSmoothing) -> np.ndarray:
    """Features of clean inputs, whose pixels are rounded to the grid of the noise as in the draws, [inputs, features].

    Args:
      encoder, tokens, images, smoothing: as for `sample_features`.

    Raises:
      ValueError: if a feature is zero, not finite, or not a vector.
    """
    pixels, step = np.asarray(images), smoothing.grid_step
    if step is not None:
        levels = round_to_grid(pixels, step)[0]
        pixels = (levels.astype(np.float32) * np.float32(step)).astype(pixels.dtype)
    pixels = pixels.astype(jax.dtypes.canonicalize_dtype(pixels.dtype))
    abilities = Abilities.of(encoder)
    called: Any = encoder
    with own_settings():
        if abilities.functional is not None:
            found = applied(*abilities.functional(), jnp.asarray(tokens), jnp.asarray(pixels))
        elif abilities.on_host:
            found = called(np.asarray(tokens), pixels)
        else:
            found = called(jnp.asarray(tokens), jnp.asarray(pixels))
    return checked_features(found, len(tokens))


def encoder_program(encoder: Encoder, smoothing: HybridSmoothing, row: Row, batch: int) -> Program | None:
    """The encoder as a pure function for batches of this size; None: it stays on the host.

    Raises:
      ValueError: if it says that it is JAX, and the trial says that it is not.
    """

    def shaped(x: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)

    abilities = Abilities.of(encoder)
    if abilities.on_host:
        return None
    if abilities.functional is not None:
        return Program(*abilities.functional())
    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), (2, TRIAL_COPIES))
    clean = [jnp.asarray(x) for x in (row.tokens, row.image, row.eligible)]
    drawn = jax.jit(jax.vmap(lambda key: smoothing.sample(key, *clean)))
    batches = [drawn(own) for own in keys]
    tokens, images = batches[0]
    program = traced(encoder, (shaped(tokens), shaped(images)), batches, _agree)
    if isinstance(program, Program):
        return program
    if abilities.on_host is False:
        raise ValueError(
            f"The encoder {abilities.name} is declared to be JAX (on_host = False), but {program}; declare "
            "on_host = True, or wrap it in a HostEncoder."
        )
    return None


def doubled(smoothing: HybridSmoothing) -> HybridSmoothing:
    """The noise of two independent copies side by side.

    Raises:
      ValueError: for the deletion kernel, whose tokens close up.
    """
    kernel = smoothing.discrete
    if isinstance(kernel, DeletionKernel):
        raise ValueError("reference 'pairs' is not defined for the deletion kernel; use 'clean'.")
    if isinstance(kernel, CategoricalKernel):
        beta = kernel.beta * 2 if isinstance(kernel.beta, tuple) else kernel.beta
        kernel = CategoricalKernel(beta, kernel.cardinalities * 2)
    return dataclasses.replace(smoothing, discrete=kernel)


def _agree(again: np.ndarray, features: np.ndarray) -> bool:
    size = float(np.abs(features).max(initial=0.0))
    return bool(np.allclose(again, features, rtol=0, atol=_TRACE_TOLERANCE * size, equal_nan=True))
