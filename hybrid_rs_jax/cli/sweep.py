"""Sweep grids of p_A, d, epsilon, sigma and beta into one long table.

Each row is the worst-case smoothed score (a certified lower bound) for one point of the
grid; with --radius, the certified radius. The table is written block by block, so its
size is bounded by the disk, not by the memory; FILE appears when it is complete.

A GRID is a list 0.9,0.99,0.999, or start:stop:count, or log:start:stop:count. Numbers are
about ideal Gaussian noise, and about beta as it is drawn: the nearest multiple of 2^-32.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

from hybrid_rs_jax._files import atomic_file, check_target
from hybrid_rs_jax._text import counted
from hybrid_rs_jax._version import __version__
from hybrid_rs_jax.cli._values import (
    LARGEST,
    MAX_BUDGET,
    SMALLEST,
    flag,
    integer_grid,
    number_grid,
)
from hybrid_rs_jax.cli.options import ALPHA, TAU, Cardinalities, KernelName, Level, Symbols, Unit
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.report.long_table import LongTableWriter
from hybrid_rs_jax.report.progress import progress_bar
from hybrid_rs_jax.report.tables import say

EXAMPLES = """\
examples:
  hybrid-rs sweep --p-a 0.9,0.99,0.999 --epsilon 0:2:50 --sigma 0.25,0.5,1 --beta 0.25 \\
      --vocab-size 32000 --out sweep.parquet
  hybrid-rs sweep --radius --tau 0.5 --samples log:100:100000:4 --sigma 0.5 --beta 0.1:0.5:5 \\
      --vocab-size 32000 --out radii.csv"""

SUFFIXES = (".csv", ".parquet")
MOST_CELLS = 10**9
#: Cells that are computed and held at a time.
BLOCK = 1 << 18
WORKERS = 2

Probabilities = Annotated[np.ndarray, flag(number_grid(lambda x: 0 <= x <= 1, "in [0, 1]"), "GRID")]
Draws = Annotated[np.ndarray, flag(integer_grid(1, 2**53), "GRID")]
Budgets = Annotated[np.ndarray, flag(integer_grid(0, MAX_BUDGET), "GRID")]
Distances = Annotated[np.ndarray, flag(number_grid(lambda x: 0 <= x <= LARGEST, f"in 0..{LARGEST:g}"), "GRID")]
Deviations = Annotated[
    np.ndarray, flag(number_grid(lambda x: SMALLEST <= x <= LARGEST, f"in {SMALLEST:g}..{LARGEST:g}"), "GRID")
]
Units = Annotated[np.ndarray, flag(number_grid(lambda x: 0 < x < 1, "in (0, 1)"), "GRID")]


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """The axes of the grid, and what is computed on it."""

    p_a: Probabilities | None = None
    """clean probabilities"""
    samples: Draws | None = None
    """numbers of draws, all of them successes, instead of --p-a"""
    budgets: Budgets | None = None
    """discrete budgets d (default: 0:8:9)"""
    epsilon: Distances | None = None
    """l2 budgets in the unit of the inputs, that of sigma (default: 0)"""
    sigma: Deviations | None = None
    """standard deviations of the pixel noise"""
    no_pixel_noise: bool = False
    """text-only: tokens alone carry noise"""
    beta: Units | None = None
    """probabilities that a token is replaced"""
    kernel: KernelName = "uniform"
    """token noise (default: uniform)"""
    vocab_size: Symbols | None = None
    """symbols that the noise draws from"""
    cardinalities: Cardinalities | None = None
    """symbols per field (categorical)"""
    radius: bool = False
    """certified radius at --tau instead of worst-case scores"""
    tau: Unit | None = None
    """threshold for --radius (default: 4.6e-05)"""
    alpha: Level | None = None
    """risk for --samples (default: 0.01)"""

    def check(self) -> None:
        """Refuse what is missing, and flags that mean nothing together."""
        from hybrid_rs_jax.cli.options import check_noise

        check_noise(
            self.kernel,
            beta=self.beta,
            vocab_size=self.vocab_size,
            cardinalities=self.cardinalities,
            sigma=self.sigma,
            no_pixel_noise=self.no_pixel_noise,
        )
        if (self.p_a is None) == (self.samples is None):
            raise BadInputError("One of --p-a and --samples is needed, and not both.")
        for idle, name, partner in (
            (self.radius and self.epsilon is not None, "--epsilon", "a sweep without --radius"),
            (not self.radius and self.tau is not None, "--tau", "--radius"),
            (self.samples is None and self.alpha is not None, "--alpha", "--samples"),
            (self.sigma is None and self.epsilon is not None and self.epsilon.any(), "--epsilon above 0", "--sigma"),
        ):
            if idle:
                raise BadInputError(f"{name} has a meaning only with {partner}.")
        fields, largest = self.cardinalities, int(self.discrete_budgets.max())
        if fields is not None and largest > len(fields):
            raise BadInputError(f"--budgets must be at most the number of fields {len(fields)}, got {largest}.")

    @property
    def discrete_budgets(self) -> np.ndarray:
        """Budgets d; without token noise 0 alone."""
        default = np.arange(1 if self.kernel == "none" else 9)
        if self.budgets is None and self.cardinalities is not None:
            default = default[: len(self.cardinalities) + 1]
        return default if self.budgets is None else self.budgets

    @property
    def threshold(self) -> float:
        """Tau of --radius."""
        return TAU if self.tau is None else self.tau


def sweep(
    options: SweepOptions | None = None,
    *,
    out: Annotated[Path, Parameter(metavar="FILE")],
    force: bool = False,
) -> None:
    """Compute block by block, two at a time, and write each one as soon as it is there.

    Parameters
    ----------
    out
        table to write (.csv or .parquet)
    force
        overwrite an existing FILE
    """
    options = options or SweepOptions()
    options.check()
    check_target(out, SUFFIXES, force)
    grid = Grid.of(options)
    if grid.cells > MOST_CELLS:
        raise BadInputError(f"The grid has {grid.cells:,} cells; at most {MOST_CELLS:,} are computed in one sweep.")
    about: dict[str, object] = {
        "kernel": options.kernel,
        "vocab_size": options.vocab_size,
        "cardinalities": options.cardinalities,
    }
    about |= {"tau": options.threshold} if options.radius else {}
    about |= {"package": f"hybrid_rs_jax {__version__}"}
    with (
        library_sentences(),
        atomic_file(out, force) as path,
        LongTableWriter(path, out.suffix.lower(), grid.columns, about) as table,
        progress_bar("sweep", grid.cells, "cells") as progress,
    ):
        done = 0
        for block, values in _in_order(grid.blocks(), functools.partial(_solve, options)):
            table.write(block.index, block.constants, values)
            done += values.size
            progress(done)
    say(f"Wrote {counted(grid.cells, 'row')} to {out}.")


@dataclasses.dataclass(frozen=True)
class Block:
    """Rows that share beta, sigma and tau: leading columns, these constants, and `1 - p_a` with all its digits."""

    index: dict[str, np.ndarray]
    constants: dict[str, float]
    complement: np.ndarray


@dataclasses.dataclass(frozen=True)
class Grid:
    """The axes of a sweep. The rows of one (beta, sigma) run over score, d and epsilon, the last one fastest."""

    scores: dict[str, np.ndarray]
    complement: np.ndarray
    axes: dict[str, np.ndarray]
    beta: np.ndarray | None
    sigma: np.ndarray | None
    result: str
    tau: float | None = None

    @classmethod
    def of(cls, options: SweepOptions) -> Grid:
        """The grid that the flags describe."""
        epsilon = np.zeros(1) if options.epsilon is None else options.epsilon
        axes = {"d": options.discrete_budgets, **({} if options.radius else {"epsilon": epsilon})}
        if options.p_a is not None:
            scores, complement = {"p_a": options.p_a}, 1 - options.p_a
        else:
            from hybrid_rs_jax.confidence import clopper_pearson_bound

            alpha = ALPHA if options.alpha is None else options.alpha
            bound = clopper_pearson_bound(options.samples, options.samples, alpha)
            scores, complement = {"samples": np.asarray(options.samples), "p_a": bound.p}, bound.complement
        result = "radius" if options.radius else "worst_case"
        tau = options.threshold if options.radius else None
        return cls(scores, complement, axes, options.beta, options.sigma, result, tau)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the score axis and of the others."""
        return (self.complement.size, *(axis.size for axis in self.axes.values()))

    @property
    def cells(self) -> int:
        """Rows of the table."""
        return math.prod(self.shape) * math.prod(axis.size for axis in (self.beta, self.sigma) if axis is not None)

    @property
    def columns(self) -> dict[str, type]:
        """Names and dtypes; without sigma in a text-only sweep, without beta in an image-only one, tau of a radius."""
        constants = [("sigma", self.sigma), ("beta", self.beta), ("tau", self.tau)]
        names = [*self.scores, *self.axes, *(name for name, value in constants if value is not None), self.result]
        return {name: np.int64 if name in ("samples", "d") else np.float64 for name in names}

    def blocks(self) -> Iterator[Block]:
        """Rows in order, at most `BLOCK` of them at a time."""
        rows = math.prod(self.shape)
        pieces: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
        for beta in [None] if self.beta is None else self.beta.tolist():
            for sigma in [None] if self.sigma is None else self.sigma.tolist():
                settings = (("sigma", sigma), ("beta", beta), ("tau", self.tau))
                constants = {name: value for name, value in settings if value is not None}
                if rows <= BLOCK:
                    pieces = pieces or [self._piece(0, rows)]
                    yield Block(pieces[0][0], constants, pieces[0][1])
                    continue
                for start in range(0, rows, BLOCK):
                    index, complement = self._piece(start, min(start + BLOCK, rows))
                    yield Block(index, constants, complement)

    def _piece(self, start: int, stop: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        score, *rest = np.unravel_index(np.arange(start, stop), self.shape)
        index = {name: values[score] for name, values in self.scores.items()}
        index |= {name: axis[at] for (name, axis), at in zip(self.axes.items(), rest, strict=True)}
        return index, self.complement[score]


def _solve(options: SweepOptions, block: Block) -> np.ndarray:
    from hybrid_rs_jax.certificate import certified_radius, worst_case_probability
    from hybrid_rs_jax.kernels.record import build_smoothing

    noise = {"kernel": options.kernel, "vocab_size": options.vocab_size, "cardinalities": options.cardinalities}
    numbers = {name: value for name, value in block.constants.items() if name != "tau"}
    smoothing = build_smoothing({**noise, "sigma": None, **numbers})
    p, d = block.index["p_a"], block.index["d"]
    if options.radius:
        return np.asarray(certified_radius(p, d, smoothing, options.threshold, complement=block.complement))
    epsilon = block.index["epsilon"]
    return np.asarray(worst_case_probability(p, d, epsilon, smoothing, complement=block.complement))


def _in_order(blocks: Iterator[Block], solve: Callable[[Block], np.ndarray]) -> Iterator[tuple[Block, np.ndarray]]:
    """Solve a few blocks ahead of the one that is being written, and give them in order."""
    with ThreadPoolExecutor(WORKERS) as pool:
        ahead: collections.deque[tuple[Block, Future[np.ndarray]]] = collections.deque()
        for block in blocks:
            ahead.append((block, pool.submit(solve, block)))
            if len(ahead) > WORKERS:
                first, values = ahead.popleft()
                yield first, values.result()
        for last, values in ahead:
            yield last, values.result()
