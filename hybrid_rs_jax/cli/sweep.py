"""Sweep grids of p_A, d, epsilon, sigma and beta into one long table.

Each row is the worst-case smoothed score (a certified lower bound) for one point of the
grid; with --radius, the certified radius. The table is written block by block, so its
size is bounded by the disk, not by the memory; FILE appears when it is complete.

A GRID is a list 0.9,0.99,0.999, or start:stop:count, or log:start:stop:count.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

import hybrid_rs_jax as hrs
from hybrid_rs_jax._files import atomic_file, check_target
from hybrid_rs_jax.cli import _arguments as arguments
from hybrid_rs_jax.cli import _grids as grids
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.kernels.record import KERNELS, build_smoothing
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `sweep`."""
    score = parser.add_mutually_exclusive_group(required=True)
    score.add_argument(
        "--p-a", type=grids.float_grid(lambda x: 0 <= x <= 1, "in [0, 1]"), metavar="GRID", help="clean probabilities"
    )
    score.add_argument(
        "--samples",
        type=grids.integer_grid(1, 2**53),
        metavar="GRID",
        help="numbers of draws, all of them successes, instead of --p-a",
    )
    parser.add_argument(
        "--budgets",
        type=grids.integer_grid(0, arguments.MAX_BUDGET),
        default="0:8:9",
        metavar="GRID",
        help="discrete budgets d (default: %(default)s)",
    )
    parser.add_argument(
        "--epsilon",
        type=grids.float_grid(lambda x: 0 <= x <= arguments.LARGEST, "in 0..1e+12"),
        metavar="GRID",
        help="l2 budgets in the unit of the inputs, that of sigma (default: 0)",
    )
    parser.add_argument(
        "--sigma",
        type=grids.float_grid(lambda x: arguments.SMALLEST <= x <= arguments.LARGEST, "in 1e-12..1e+12"),
        metavar="GRID",
        help="standard deviations of the pixel noise",
    )
    parser.add_argument("--no-pixel-noise", action="store_true", help="text-only: tokens alone carry noise")
    parser.add_argument(
        "--beta",
        type=grids.float_grid(lambda x: 0 < x < 1, "in (0, 1)"),
        metavar="GRID",
        help="probabilities that a token is replaced",
    )
    parser.add_argument(
        "--kernel", choices=tuple(KERNELS), default="uniform", help="token noise (default: %(default)s)"
    )
    parser.add_argument(
        "--vocab-size", type=arguments.integer(2, 2**31 - 1), metavar="V", help="symbols that the noise draws from"
    )
    parser.add_argument(
        "--cardinalities", type=arguments.cardinalities, metavar="K,K,...", help="symbols per field (categorical)"
    )
    parser.add_argument("--radius", action="store_true", help="certified radius at --tau instead of worst-case scores")
    parser.add_argument("--tau", type=arguments.open_unit, metavar="T", help="threshold for --radius (default: 4.6e-5)")
    parser.add_argument("--alpha", type=arguments.open_unit, metavar="A", help="risk for --samples (default: 0.01)")
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="table to write (.csv or .parquet)")
    parser.add_argument("--force", action="store_true", help="overwrite an existing FILE")


def run(args: argparse.Namespace) -> None:
    """Compute block by block, two at a time, and write each one as soon as it is there."""
    given = {name: getattr(args, name) for name in ("beta", "sigma", "vocab_size", "cardinalities")}
    arguments.check_noise_flags(args.kernel, given)
    arguments.check_pixel_noise(args.sigma is not None, args.no_pixel_noise)
    _check_mode(args)
    check_target(args.out, SUFFIXES, args.force)
    grid = Grid.of(args)
    if grid.cells > MOST_CELLS:
        raise BadInputError(f"The grid has {grid.cells:,} cells; at most {MOST_CELLS:,} are computed in one sweep.")
    about = {"kernel": args.kernel, "vocab_size": args.vocab_size, "cardinalities": args.cardinalities}
    about |= {"tau": _tau(args)} if args.radius else {}
    about |= {"package": f"hybrid_rs_jax {hrs.__version__}"}
    with (
        library_sentences(),
        atomic_file(args.out, args.force) as path,
        LongTableWriter(path, args.out.suffix.lower(), grid.columns, about) as table,
        progress_bar("sweep", grid.cells, "cells") as progress,
    ):
        done = 0
        for block, values in _in_order(grid.blocks(), functools.partial(_solve, args)):
            table.write(block.index, block.constants, values)
            done += values.size
            progress(done)
    say(f"Wrote {grid.cells:,} rows to {args.out}.")


@dataclasses.dataclass(frozen=True)
class Block:
    """Rows that share beta and sigma: leading columns, the two constants, and `1 - p_a` with all its digits."""

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

    @classmethod
    def of(cls, args: argparse.Namespace) -> Grid:
        """The grid that the flags describe."""
        epsilon = np.zeros(1) if args.epsilon is None else args.epsilon
        axes = {"d": args.budgets, **({} if args.radius else {"epsilon": epsilon})}
        if args.samples is None:
            scores, complement = {"p_a": args.p_a}, 1 - args.p_a
        else:
            from hybrid_rs_jax.confidence import clopper_pearson_bound

            bound = clopper_pearson_bound(
                args.samples, args.samples, arguments.ALPHA if args.alpha is None else args.alpha
            )
            scores, complement = {"samples": args.samples, "p_a": bound.p}, bound.complement
        return cls(scores, complement, axes, args.beta, args.sigma, "radius" if args.radius else "worst_case")

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
        """Names and dtypes; without sigma in a text-only sweep, without beta in an image-only one."""
        noise = [name for name, axis in (("sigma", self.sigma), ("beta", self.beta)) if axis is not None]
        names = [*self.scores, *self.axes, *noise, self.result]
        return {name: np.int64 if name in ("samples", "d") else np.float64 for name in names}

    def blocks(self) -> Iterator[Block]:
        """Rows in order, at most `BLOCK` of them at a time."""
        rows = math.prod(self.shape)
        pieces: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
        for beta in [None] if self.beta is None else self.beta.tolist():
            for sigma in [None] if self.sigma is None else self.sigma.tolist():
                constants = {k: v for k, v in (("sigma", sigma), ("beta", beta)) if v is not None}
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


def _solve(args: argparse.Namespace, block: Block) -> np.ndarray:
    noise = {"kernel": args.kernel, "vocab_size": args.vocab_size, "cardinalities": args.cardinalities, "sigma": None}
    smoothing = build_smoothing({**noise, **block.constants})
    p, d = block.index["p_a"], block.index["d"]
    if args.radius:
        return np.asarray(hrs.certified_radius(p, d, smoothing, _tau(args), complement=block.complement))
    epsilon = block.index["epsilon"]
    return np.asarray(hrs.worst_case_probability(p, d, epsilon, smoothing, complement=block.complement))


def _tau(args: argparse.Namespace) -> float:
    return arguments.TAU if args.tau is None else args.tau


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


def _check_mode(args: argparse.Namespace) -> None:
    for idle, flag, partner in (
        (args.radius and args.epsilon is not None, "--epsilon", "a sweep without --radius"),
        (not args.radius and args.tau is not None, "--tau", "--radius"),
        (args.samples is None and args.alpha is not None, "--alpha", "--samples"),
        (args.sigma is None and args.epsilon is not None and args.epsilon.any(), "--epsilon above 0", "--sigma"),
    ):
        if idle:
            raise BadInputError(f"{flag} has a meaning only with {partner}.")
    fields = args.cardinalities
    if fields is not None and args.budgets.max() > len(fields):
        raise BadInputError(f"--budgets must be at most the number of fields {len(fields)}, got {args.budgets.max()}.")
