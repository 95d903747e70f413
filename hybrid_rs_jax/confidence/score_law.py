"""The law of a score with values in [0, 1], bounded from below at every level at once (method 11)."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int64, Shaped

from hybrid_rs_jax._checks import check_draws, check_probability, check_risk, check_whole
from hybrid_rs_jax.confidence._clopper_pearson import clopper_pearson_bound
from hybrid_rs_jax.confidence._staged import StagedLooks

__all__ = ["BINS", "MOST_BINS", "RANKS", "LawBand", "ScoreLaw", "law_band", "score_edges", "score_ranks"]

#: As many as a ledger takes.
MOST_BINS = 2**20
BINS = 1024
RANKS = 30


def score_edges(bins: int = BINS) -> Float[np.ndarray, " edges"]:
    """Edges of bins that are equally wide in the angle: `sin^2(pi j / (2 bins))`, fine where cosines are near one.

    Args:
      bins: their number, in 1..2^20.

    Returns:
      float64[bins + 1], from 0 to 1, increasing.

    Raises:
      ValueError: if there are fewer or more.

    >>> score_edges(2).round(3).tolist()
    [0.0, 0.5, 1.0]
    """
    bins = check_whole("bins", bins, 1, MOST_BINS)
    edges = np.sin(np.arange(bins + 1) * (np.pi / (2 * bins))) ** 2
    edges[0], edges[-1] = 0.0, 1.0
    return edges


def score_ranks(n: int, number: int = RANKS) -> Int64[np.ndarray, " ranks"]:
    """Ranks at which the law of `n` draws is bounded: geometric, dense in the lower tail, fixed before the draws.

    Args:
      n: draws, at least 1.
      number: of ranks, at least 1; fewer come back where they coincide.

    Returns:
      int64, increasing, within 1..n.

    Raises:
      ValueError: if a number is below 1.

    >>> score_ranks(1000, 5).tolist()
    [1, 6, 32, 178, 1000]
    """
    n, number = check_whole("n", n, 1), check_whole("number", number, 1)
    return np.unique(np.rint(np.geomspace(1, n, number)).astype(np.int64))


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreLaw:
    """Histograms of a score with values in [0, 1]: integers, so that draws can be merged in any order.

    Args:
      counts: draws in each bin, integers [B, bins], one histogram per input; or [B, D, bins], one for each of D budgets
        whose draws have a law of their own (conditional draws).
      edges: edges of the bins, float64[bins + 1], from 0 to 1, chosen before the draws; bin j holds the values in
        `[edges[j], edges[j + 1])`, the last one also 1.
      plan: the looks, chosen before the draws, at one of which the draws of each input were stopped, whatever made them
        stop; None: their number was fixed beforehand. The risk of a bound is shared by the looks.

    Raises:
      ValueError: if the edges do not grow from 0 to 1, the shapes do not fit, a histogram holds no draw, or a number of
        draws is no look of the plan.
    """

    counts: Shaped[np.ndarray, "*laws bins"]
    edges: Float[np.ndarray, " edges"]
    plan: StagedLooks | None = None

    def __post_init__(self) -> None:
        edges, counts = _checked_edges(self.edges), np.asarray(self.counts)
        bins = edges.size - 1
        if counts.dtype.kind not in "iu" or counts.ndim not in (2, 3) or counts.shape[-1] != bins:
            raise ValueError(
                f"counts must be integers [inputs, {bins}] or [inputs, budgets, {bins}], got {counts.dtype} "
                f"{list(counts.shape)}."
            )
        counts = check_draws("counts", counts, 0).astype(np.int64)
        if np.any(counts.sum(axis=-1) < 1):
            raise ValueError("counts must hold at least one draw for each input, got none for one of them.")
        if self.plan is not None:
            self.plan.share(counts.sum(axis=-1))
        object.__setattr__(self, "counts", counts)
        object.__setattr__(self, "edges", edges)

    @classmethod
    def of(cls, values: object, edges: Float[np.ndarray, " edges"] | None = None) -> ScoreLaw:
        """The histograms of draws.

        Args:
          values: scores in [0, 1], [inputs, draws] or [inputs, budgets, draws].
          edges: of the bins, chosen beforehand; default `score_edges()`.

        Raises:
          ValueError: if a value is not in [0, 1], or there are no draws.

        >>> ScoreLaw.of([[0.1, 0.9, 1.0]], score_edges(2)).counts.tolist()
        [[1, 2]]
        """
        scores = check_probability("values", values)
        edges = score_edges() if edges is None else _checked_edges(edges)
        if scores.ndim not in (2, 3):
            raise ValueError(
                f"values must have shape [inputs, draws] or [inputs, budgets, draws], got {list(scores.shape)}."
            )
        bins, laws = edges.size - 1, int(np.prod(scores.shape[:-1]))
        at = np.minimum(np.searchsorted(edges, scores, side="right") - 1, bins - 1).reshape(laws, -1)
        flat = at + bins * np.arange(laws)[:, None]
        return cls(np.bincount(flat.ravel(), minlength=bins * laws).reshape(*scores.shape[:-1], bins), edges)

    @property
    def n(self) -> Int64[np.ndarray, "*laws"]:
        """Draws of each input, int64[B] or [B, D]."""
        return self.counts.sum(axis=-1)

    def __len__(self) -> int:
        return len(self.counts)

    def __add__(self, other: ScoreLaw) -> ScoreLaw:
        """The draws of both, of the same inputs; not of inputs that stopped at a look."""
        if self.plan is not None or other.plan is not None:
            raise ValueError("Laws of draws that were stopped at a look cannot be added.")
        if not np.array_equal(self.edges, other.edges) or self.counts.shape != other.counts.shape:
            raise ValueError("Laws of other inputs or with other bins cannot be added.")
        return ScoreLaw(self.counts + other.counts, self.edges)


@dataclasses.dataclass(frozen=True)
class LawBand:
    """Lower bounds on `P(S >= edge)` for all edges of a law at once.

    The bound at an edge takes one of few values, those of the ranks, so that a bound that is a function of it is
    computed once per rank.

    Attributes:
      level: the bounds of the ranks, float64[ranks + 1], decreasing; the last one is 0, "nothing is known".
      complement: `1 - level`, rounded up.
      width: length of the part of [0, 1] whose levels have this bound, float64[*laws, ranks + 1]; rows add up to at
        most 1.
    """

    level: Float[np.ndarray, " ranks"]
    complement: Float[np.ndarray, " ranks"]
    width: Float[np.ndarray, "*laws ranks"]


def law_band(law: ScoreLaw, alpha: float, ranks: Int64[np.ndarray, " ranks"] | None = None) -> LawBand:
    """Bound the law of a score from below.

    For each rank r, with probability at least `1 - alpha / K`: `P(S >= the r-th smallest draw) >= BetaInv(alpha / K;
    n - r + 1, r)`, a binomial bound at the RANK's count (method 11). A draw counts as the lower edge of its bin, which
    only helps, as ties do. Of a law that was stopped at a look, `alpha` is first shared by the looks of its plan: the
    bands of all looks hold together (union bound), hence the one at the stop.

    Args:
      law: histograms, all of the same number of draws, which was fixed beforehand or is a look of its plan.
      alpha: risk of each histogram, in (0, 1), shared evenly by the K ranks.
      ranks: fixed before the draws; default `score_ranks(n)`.

    Returns:
      The band: with probability at least `1 - alpha` it lies below the law at every edge.

    Raises:
      ValueError: if the numbers of draws differ, or a rank or alpha is out of range.

    >>> band = law_band(ScoreLaw.of(np.full((1, 1000), 0.9)), alpha=0.01)
    >>> bool((np.diff(band.level) <= 0).all()), float(band.level[-1])
    (True, 0.0)
    """
    alpha = float(check_risk(alpha))
    n = np.unique(law.n)
    if n.size > 1:
        raise ValueError(f"All inputs must have the same number of draws, got {n[0]} and {n[-1]}.")
    ranks = score_ranks(int(n[0])) if ranks is None else np.unique(check_draws("ranks", ranks))
    if ranks.size == 0 or ranks[-1] > n[0]:
        raise ValueError(f"ranks must lie in 1..{n[0]}, got {ranks.tolist()}.")
    risk = alpha if law.plan is None else alpha * float(law.plan.share(n[0]))
    bound = clopper_pearson_bound(n[0] - ranks + 1, n[0], risk / ranks.size)
    below = np.cumsum(law.counts, axis=-1)[
        ..., :-1
    ]  # draws below the edges 1..bins-1; nothing is known of the last one
    first = np.searchsorted(ranks, below, side="right")  # the r-th smallest lies at or above the edge iff r > below
    return LawBand(
        np.append(bound.p, 0.0),
        np.append(bound.complement, 1.0),
        _add_up(np.diff(law.edges)[:-1], first, ranks.size + 1),
    )


def _checked_edges(edges: object) -> np.ndarray:
    values = np.asarray(edges, np.float64)
    if values.ndim != 1 or values.size < 2 or values[0] != 0 or values[-1] != 1 or not np.all(np.diff(values) > 0):
        raise ValueError("edges must be numbers that grow from 0 to 1, one more than there are bins.")
    return values


def _add_up(widths: np.ndarray, rank: np.ndarray, ranks: int) -> np.ndarray:
    """Sum of the widths of the edges that share a rank, [*laws, ranks], rounded down."""
    laws = rank.reshape(-1, widths.size)
    flat = laws + ranks * np.arange(len(laws))[:, None]
    total = np.bincount(flat.ravel(), np.broadcast_to(widths, laws.shape).ravel(), minlength=ranks * len(laws))
    # a width is a rounded difference (one unit), and so is each sum: of at most that many terms
    return total.reshape(*rank.shape[:-1], ranks) * (1 - (widths.size + 2) * 2.0**-52)
