"""The law of a score with values in [0, 1], bounded from below at every level at once (method 11)."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int64

from hybrid_rs_jax.confidence._clopper_pearson import LowerBound, clopper_pearson_bound, risk_levels

__all__ = ["BINS", "RANKS", "LawBand", "ScoreLaw", "law_band", "score_edges", "score_ranks"]

BINS = 1024
RANKS = 30


def score_edges(bins: int = BINS) -> Float[np.ndarray, " edges"]:
    """Edges of bins that are equally wide in the angle: `sin^2(pi j / (2 bins))`, fine where cosines are near one.

    Args:
      bins: their number, 1..2^20.

    Returns:
      float64[bins + 1], from 0 to 1, increasing.

    >>> score_edges(2).round(3).tolist()
    [0.0, 0.5, 1.0]
    """
    if not 1 <= bins <= 2**20:
        raise ValueError(f"bins must lie in 1..{2**20}, got {bins}.")
    edges = np.sin(np.arange(bins + 1) * (np.pi / (2 * bins))) ** 2
    edges[0], edges[-1] = 0.0, 1.0
    return edges


def score_ranks(n: int, number: int = RANKS) -> Int64[np.ndarray, " ranks"]:
    """Ranks at which the law of `n` draws is bounded: geometric, dense in the lower tail, fixed before the draws.

    >>> score_ranks(1000, 5).tolist()
    [1, 6, 32, 178, 1000]
    """
    if n < 1 or number < 1:
        raise ValueError(f"n and the number of ranks must be at least 1, got {n} and {number}.")
    return np.unique(np.rint(np.geomspace(1, n, number)).astype(np.int64))


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreLaw:
    """Histograms of a score with values in [0, 1], one per input: integers, so that draws can be merged in any order.

    Attributes:
      counts: draws in each bin, int64[B, bins].
      edges: edges of the bins, float64[bins + 1], from 0 to 1; bin j holds the values in `[edges[j], edges[j + 1])`, the
        last one also 1.
    """

    counts: Int64[np.ndarray, "inputs bins"]
    edges: Float[np.ndarray, " edges"]

    def __post_init__(self) -> None:
        edges, counts = np.asarray(self.edges, np.float64), np.asarray(self.counts)
        if edges.ndim != 1 or edges.size < 2 or edges[0] != 0 or edges[-1] != 1 or not np.all(np.diff(edges) > 0):
            raise ValueError("edges must grow from 0 to 1, one more than there are bins.")
        if counts.dtype.kind not in "iu" or counts.ndim != 2 or counts.shape[1] != edges.size - 1:
            raise ValueError(
                f"counts must be integers [inputs, {edges.size - 1}], got {counts.dtype} {list(counts.shape)}."
            )
        counts = counts.astype(np.int64)
        if np.any(counts < 0) or np.any(counts.sum(axis=1) < 1):
            raise ValueError("counts must be non-negative, with at least one draw per input.")
        object.__setattr__(self, "counts", counts)
        object.__setattr__(self, "edges", edges)

    @classmethod
    def of(cls, values: object, edges: Float[np.ndarray, " edges"] | None = None) -> ScoreLaw:
        """The histograms of draws.

        Args:
          values: scores in [0, 1], [inputs, draws].
          edges: of the bins, chosen beforehand; default `score_edges()`.

        Raises:
          ValueError: if a value is not in [0, 1].

        >>> ScoreLaw.of([[0.1, 0.9, 1.0]], score_edges(2)).counts.tolist()
        [[1, 2]]
        """
        scores = np.asarray(values, np.float64)
        edges = score_edges() if edges is None else np.asarray(edges, np.float64)
        if scores.ndim != 2:
            raise ValueError(f"values must have shape [inputs, draws], got {list(scores.shape)}.")
        if (bad := ~((scores >= 0) & (scores <= 1))).any():
            raise ValueError(f"values must lie in [0, 1], got {scores[bad].flat[0]}.")
        bins = edges.size - 1
        at = np.minimum(np.searchsorted(edges, scores, side="right") - 1, bins - 1)
        flat = at + bins * np.arange(len(scores))[:, None]
        return cls(np.bincount(flat.ravel(), minlength=bins * len(scores)).reshape(len(scores), bins), edges)

    @property
    def n(self) -> Int64[np.ndarray, " inputs"]:
        """Draws of each input."""
        return self.counts.sum(axis=1)

    def __add__(self, other: ScoreLaw) -> ScoreLaw:
        """The draws of both, of the same inputs."""
        if not np.array_equal(self.edges, other.edges) or self.counts.shape != other.counts.shape:
            raise ValueError("Laws of other inputs or with other bins cannot be added.")
        return ScoreLaw(self.counts + other.counts, self.edges)


@dataclasses.dataclass(frozen=True)
class LawBand:
    """Lower bounds on `P(S >= edge)` for all edges and all inputs at once, each input at its own risk.

    The bound at an edge takes one of few values, those of the ranks, so that a bound that is a function of it is
    computed once per rank.

    Attributes:
      level: the bounds of the ranks, float64[ranks + 1], decreasing; the last one is 0, "nothing is known".
      complement: `1 - level`, rounded up.
      width: length of the part of [0, 1] whose levels have this bound, float64[B, ranks + 1]; rows add up to at most 1.
    """

    level: Float[np.ndarray, " ranks"]
    complement: Float[np.ndarray, " ranks"]
    width: Float[np.ndarray, "inputs ranks"]


def law_band(law: ScoreLaw, alpha: float, ranks: Int64[np.ndarray, " ranks"] | None = None) -> LawBand:
    """Bound the law of a score from below.

    For each rank r, with probability at least `1 - alpha / K`: `P(S >= the r-th smallest draw) >= BetaInv(alpha / K;
    n - r + 1, r)`, a binomial bound at the RANK's count (method 11). A draw counts as the lower edge of its bin, which
    only helps, as ties do.

    Args:
      law: histograms, all of the same number of draws, which was fixed beforehand.
      alpha: risk per input in (0, 1), shared evenly by the K ranks.
      ranks: fixed before the draws; default `score_ranks(n)`.

    Returns:
      The band: with probability at least `1 - alpha` it lies below the law at every edge.

    Raises:
      ValueError: if the numbers of draws differ, or a rank or alpha is out of range.
    """
    risk_levels("alpha", alpha)
    n = np.unique(law.n)
    if n.size > 1:
        raise ValueError(f"All inputs must have the same number of draws, got {n[0]} and {n[-1]}.")
    ranks = score_ranks(int(n[0])) if ranks is None else np.unique(np.asarray(ranks, np.int64))
    if ranks.size == 0 or ranks[0] < 1 or ranks[-1] > n[0]:
        raise ValueError(f"ranks must lie in 1..{n[0]}, got {ranks.tolist()}.")
    bound: LowerBound = clopper_pearson_bound(n[0] - ranks + 1, n[0], alpha / ranks.size)
    below = np.cumsum(law.counts, axis=1)[:, :-1]  # draws below the edges 1..bins-1; above the last one nothing is known
    first = np.searchsorted(ranks, below, side="right")  # the r-th smallest lies at or above the edge iff r > below
    return LawBand(
        np.append(bound.p, 0.0),
        np.append(bound.complement, 1.0),
        _add_up(np.diff(law.edges)[:-1], first, ranks.size + 1),
    )


def _add_up(widths: np.ndarray, rank: np.ndarray, ranks: int) -> np.ndarray:
    """Sum of the widths of the edges that share a rank, [inputs, ranks], rounded down."""
    inputs = len(rank)
    flat = rank + ranks * np.arange(inputs)[:, None]
    total = np.bincount(flat.ravel(), np.broadcast_to(widths, rank.shape).ravel(), minlength=inputs * ranks)
    return total.reshape(inputs, ranks) * (1 - widths.size * 2.0**-52)
