"""What an experiment on a guard is about: the demo guard and its inputs, or a checkpoint and data of the user."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import _common as common
import numpy as np

import hybrid_rs_jax as hrs
from hybrid_rs_jax._files import kind_of
from hybrid_rs_jax.classifiers import DemoGuard
from hybrid_rs_jax.cli._sources import DEMO_DATA, is_checkpoint, open_source
from hybrid_rs_jax.cli._vlm_inputs import GuardInputs
from hybrid_rs_jax.cli.app import called
from hybrid_rs_jax.cli.options import GuardOptions
from hybrid_rs_jax.confidence import FixedSample
from hybrid_rs_jax.data import demo, open_data
from hybrid_rs_jax.data.inputs import ArrayInputs, Input, Inputs
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError
from hybrid_rs_jax.kernels import run_key
from hybrid_rs_jax.kernels.record import describe_noise
from hybrid_rs_jax.report.progress import progress_bar
from hybrid_rs_jax.sampling._batch import batch_for
from hybrid_rs_jax.sampling.engine import Row, data_mesh
from hybrid_rs_jax.sampling.ledger import LEDGER_FILE, SHARED, Ledger
from hybrid_rs_jax.sampling.run import sample_run

__all__ = [
    "EVERYWHERE",
    "SUFFIX",
    "Chosen",
    "Region",
    "Several",
    "Subject",
    "add_flags",
    "open_subject",
    "parsed",
    "stacked",
]

#: Inputs that are decided at once without noise.
_DECIDED = 16


@dataclasses.dataclass(frozen=True)
class Region:
    """Positions of an input that carry token noise: all, or those behind its trusted text, or the first of these."""

    name: str
    most: int | None = None

    def of(self, suffix: np.ndarray) -> np.ndarray:
        """The positions, given those behind the trusted text: bool[L] both."""
        if self.name == "all":
            return np.ones_like(suffix)
        return suffix if self.most is None else suffix & (np.cumsum(suffix) <= self.most)

    def __str__(self) -> str:
        return self.name if self.most is None else f"{self.name}, the first {self.most}"


SUFFIX, EVERYWHERE = Region("suffix"), Region("all")


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A guard with inputs; `eligible` of an input are the positions behind its trusted text.

    Attributes:
      guard: the base classifier.
      name, inputs_name: in words, for titles.
      unsafe, safe: inputs that can be used; no safe ones where the user gave none.
      vocab_size: size of the noise alphabet.
      unit: unit, resolution and stage of the pixel noise.
      record: what settings say of a checkpoint and its data; empty for the demo.
    """

    guard: Any
    name: str
    inputs_name: str
    unsafe: Inputs[Input]
    safe: Inputs[Input] | None
    vocab_size: int
    unit: str
    record: Mapping[str, object]

    @cached_property
    def shape(self) -> Input:
        """An input that shows the shapes of all."""
        return self.unsafe.read(0)

    @property
    def pixels(self) -> int:
        """Numbers in a picture, each of which carries noise."""
        return self.shape.image.size

    @cached_property
    def copies_at_once(self) -> int:
        """Copies per step: of the demo guard what is fastest, of a checkpoint as many as memory holds."""
        if not self.record:
            return common.BATCH
        row = Row(*self.shape.arrays, 0)
        return batch_for(self.guard, row, 1, self.guard.mesh or data_mesh())

    def uniform(self, beta: float) -> hrs.UniformKernel:
        """The uniform kernel on the alphabet."""
        return hrs.UniformKernel(beta, self.vocab_size)

    def decisions(self, inputs: Inputs[Input]) -> np.ndarray:
        """What the guard says of each input without noise, True = Unsafe."""
        found = []
        for first in range(0, len(inputs.ids), _DECIDED):
            rows = [inputs.read(number) for number in range(first, min(first + _DECIDED, len(inputs.ids)))]
            found.append(np.asarray(self.guard(*_arrays(rows)[:2])))
        return np.concatenate(found)

    def drawn(
        self,
        folder: Path,
        name: str,
        smoothing: hrs.HybridSmoothing,
        inputs: Inputs[Input],
        regions: Sequence[Region],
        n: int,
        seed: int,
    ) -> dict[str, np.ndarray]:
        """Votes for Unsafe, kept in `folder/counts-NAME.npz`; those of a checkpoint in a ledger as they come.

        Returns:
          successes int64[regions, inputs]; seconds: wall and CPU; timed: copies that these seconds are for, fewer than
          all where a run was resumed.
        """
        if not self.record:
            masks = [region.of(self.shape.eligible) for region in regions]
            found = common.drawn(folder, name, smoothing, stacked(inputs), masks, n, seed)
            return {**found, "timed": np.int64(n * len(inputs.ids) * len(regions))}
        settings = {
            **self.record,
            "smoothing": repr(smoothing),
            "noise": describe_noise(smoothing, self.pixels),
            "inputs": list(inputs.ids),
            "regions": list(map(str, regions)),
            "n": n,
            "seed": seed,
        }

        def draw() -> dict[str, Any]:
            return self._run(folder / f"run-{name}", name, settings, smoothing, _Masked(inputs, regions), n, seed)

        return common.saved(folder / f"counts-{name}.npz", settings, draw)

    def _run(
        self,
        folder: Path,
        name: str,
        settings: Mapping[str, object],
        smoothing: hrs.HybridSmoothing,
        inputs: _Masked,
        n: int,
        seed: int,
    ) -> dict[str, Any]:
        """Draw into a ledger, or go on with the one that is there: a kill costs a second of work."""
        wall, cpu, total = time.perf_counter(), time.process_time(), len(inputs.ids)
        opened = Ledger.create if kind_of(folder / LEDGER_FILE) is None else Ledger.resume
        with opened(folder, settings) as ledger, progress_bar(name, n * total, "copies", log=True) as advance:
            done = sample_run(
                ledger,
                self.guard,
                inputs,
                range(total),
                smoothing,
                FixedSample(n),
                run_key(seed),
                batch_size=self.copies_at_once,
                mesh=self.guard.mesh,
                report=lambda progress: advance(progress.settled),
            )
            counts = ledger.counts()
        if counts.skipped:
            raise BadInputError(f"{counts.skipped[0][0]} could be used, and now it cannot: {counts.skipped[0][1]}")
        return {
            "successes": counts.streams[SHARED].counts[:, 0].reshape(len(inputs.regions), -1),
            "seconds": [time.perf_counter() - wall, time.process_time() - cpu],
            "timed": done.classified,
        }


@dataclasses.dataclass(frozen=True)
class Several:
    """Data sets one after the other."""

    parts: tuple[Inputs[Input], ...]

    @cached_property
    def _places(self) -> list[tuple[Inputs[Input], int]]:
        return [(part, number) for part in self.parts for number in range(len(part.ids))]

    @property
    def ids(self) -> list[str]:
        """Names of all."""
        return [name for part in self.parts for name in part.ids]

    def read(self, index: int) -> Input:
        """One input."""
        part, number = self._places[index]
        return part.read(number)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Inputs of a data set by their numbers in it, their names behind a word of their own."""

    inputs: Inputs[Input]
    numbers: Sequence[int]
    word: str = ""

    @property
    def ids(self) -> list[str]:
        """Their names."""
        return [self.word + self.inputs.ids[number] for number in self.numbers]

    def read(self, index: int) -> Input:
        """One input."""
        return self.inputs.read(self.numbers[index])


@dataclasses.dataclass(frozen=True)
class _Masked:
    """Every input once per region, with token noise there."""

    inputs: Inputs[Input]
    regions: Sequence[Region]

    @property
    def ids(self) -> list[str]:
        return [f"{region}: {name}" for region in self.regions for name in self.inputs.ids]

    def read(self, index: int) -> Input:
        region, number = divmod(index, len(self.inputs.ids))
        found = self.inputs.read(number)
        return dataclasses.replace(found, eligible=self.regions[region].of(found.eligible))


def stacked(inputs: Inputs[Input]) -> ArrayInputs:
    """All inputs in memory."""
    return ArrayInputs(list(inputs.ids), *_arrays([inputs.read(number) for number in range(len(inputs.ids))]))


def _arrays(rows: Sequence[Input]) -> Iterator[np.ndarray] | Any:
    return tuple(np.stack(part) for part in zip(*(row.arrays for row in rows), strict=True))


def add_flags(parser: argparse.ArgumentParser, safe: bool = False, default: str = "the demo guard") -> None:
    """The flags of a model and data of the user's own; with `safe` those of safe inputs, too."""
    about = "With them all flags of a vision-language checkpoint mean what they do in `hybrid-rs sample --help`: "
    own = parser.add_argument_group(
        "a checkpoint and data of your own", f"{about}--profile, --policy, --text-length, ..."
    )
    own.add_argument("--model", metavar="PATH", help=f"folder or hub id of a guard (default: {default})")
    own.add_argument("--data", metavar="DATA", help="its unsafe inputs: a folder, .csv or .jsonl of texts and pictures")
    if safe:
        own.add_argument("--safe-data", metavar="DATA", help="its safe inputs, for false alarms")


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The parser's own flags, and as `flags` the others, for `guard_options`."""
    args, args.flags = parser.parse_known_args(argv)
    return args


def _guard_options(*, guard: GuardOptions | None = None) -> GuardOptions:
    return guard or GuardOptions()


def guard_options(args: argparse.Namespace) -> GuardOptions:
    """The flags of a vision-language checkpoint.

    Raises:
      BadInputError: one sentence, for a flag that is unknown or out of range.
    """
    return called(_guard_options, args.flags)


def open_subject(args: argparse.Namespace, options: GuardOptions | None = None, *, most: int | None = None) -> Subject:
    """The guard and inputs of the flags: the first `--inputs`, or by default all, or `most` of them.

    Args:
      args: from `parsed`.
      options: the flags of the guard; None: those among `args`.
      most: inputs by default.

    Raises:
      BadInputError: if one of them cannot be opened, or there are fewer inputs.
    """
    options, safe_data = options or guard_options(args), getattr(args, "safe_data", None)
    if args.model is None:
        options.refuse("demo")
        for flag, value in (("--data", args.data), ("--safe-data", safe_data)):
            if value is not None:
                raise BadInputError(f"{flag} needs --model, the guard that is asked about it.")
        return _demo(args.inputs or most)
    if not is_checkpoint(args.model):
        raise BadInputError(f"--model must be the folder or the hub id of a checkpoint, got {args.model}.")
    if args.data is None:
        raise BadInputError(f"--data is needed for --model {args.model}: a folder, .csv or .jsonl of unsafe inputs.")
    source = open_source(args.model, args.data, options)
    guard = source.classifier
    if guard.text_length == 0:
        raise BadInputError(
            f"--model {args.model} judges pictures alone, and this experiment is about text and picture."
        )
    unsafe, digest = _usable(source.inputs, args.data, args.inputs, most)
    record = {"classifier": dict(source.model), "data": Path(args.data).name, "inputs_sha256": digest}
    safe = None
    if safe_data is not None:
        if safe_data in DEMO_DATA:
            raise BadInputError(f"--safe-data must be a folder, a .csv or a .jsonl file, got {safe_data}.")
        safe, digest = _usable(GuardInputs(open_data(safe_data), guard), safe_data, None, None, "safe: ")
        record |= {"safe_data": Path(safe_data).name, "safe_sha256": digest}
    named = Path(args.model).name, f"unsafe inputs of {Path(args.data).name}"
    return Subject(guard, *named, unsafe, safe, guard.vocab_size, source.sigma_unit, record)


def _demo(limit: int | None) -> Subject:
    """The demo guard on held-out inputs."""
    held_out = demo.load_demo("held_out")
    unsafe = common.take_inputs(limit)
    parts = (unsafe, held_out.take(np.flatnonzero(~held_out.labels)))
    inputs = [ArrayInputs(part.ids, part.tokens, part.images, demo.suffix_mask()) for part in parts]
    unit = "pixels in [0, 1] at 8 x 8, noise not clipped"
    return Subject(DemoGuard.load(), "the demo guard", "held-out unsafe inputs", *inputs, demo.VOCAB_SIZE, unit, {})


def _usable(
    inputs: Inputs[Input], data: str, limit: int | None, most: int | None, word: str = ""
) -> tuple[Chosen, str]:
    """The first inputs that can be used, and the SHA-256 of what they hold; others are named on the screen."""
    numbers, refused, whole = [], [], hashlib.sha256()
    wanted = most if limit is None else limit
    for number, name in enumerate(inputs.ids):
        if wanted is not None and len(numbers) == wanted:
            break
        try:
            whole.update(inputs.read(number).digest().encode())
        except UnreadableInputError as error:
            refused.append(f"{name}: {error}")
            print(f"Skipped {refused[-1]}", flush=True)
        else:
            numbers.append(number)
    if not numbers:
        raise BadInputError(f"None of the {len(inputs.ids)} inputs of {data} can be used; the first one: {refused[0]}")
    if limit is not None and len(numbers) < limit:
        raise BadInputError(f"--inputs must be at most {len(numbers)}, the inputs of {data} to be used, got {limit}.")
    return Chosen(inputs, numbers, word), whole.hexdigest()
