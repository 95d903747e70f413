"""What the scripts on the demo guard share: flags, counts that are kept as they finish, results, looks of figures."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import hybrid_rs_jax as hrs
from hybrid_rs_jax._files import atomic_file, json_text
from hybrid_rs_jax.classifiers import DemoGuard
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.data.inputs import ArrayInputs
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.kernels.record import describe_noise
from hybrid_rs_jax.report.progress import progress_bar
from hybrid_rs_jax.results.certificate import certify_counts
from hybrid_rs_jax.results.counts import Counts
from hybrid_rs_jax.results.runs import package_versions

#: A filter that runs 100,000 noisy copies misses a score above TAU with probability at most 0.01 (the papers' 4.6e-5).
TAU = hrs.detection_threshold(100_000, 0.01)
ALPHA = 0.01
#: Pixels of a picture of the demo.
PIXELS = math.prod(demo.IMAGE_SHAPE)
#: Copies per step: the fastest on CPU cores for the demo guard.
BATCH = 1000
#: Seconds between two writings of rows that come one by one.
KEPT_SECONDS = 5.0

INK, SOFT, GRID = "#1f2430", "#6b7280", "#e5e7eb"
#: Okabe and Ito's colours.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "text.color": INK,
}


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the flags that every script has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for result.json, figures, counts")
    made.add_argument("--seed", type=int, default=0, help="seed of all noise (default: %(default)s)")
    return made


def add_input_arguments(parser: argparse.ArgumentParser, samples: int, what: str) -> None:
    """How many copies of how many inputs; `what` each number of copies is for."""
    parser.add_argument("--samples", type=int, default=samples, help=f"copies per {what} (default: %(default)s)")
    parser.add_argument("--inputs", type=int, help="unsafe inputs, from the first (default: all)")


def start(name: str, run: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Run; bad input ends with one sentence and exit code 2, an interrupt with 130."""
    try:
        run(args)
    except BadInputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command goes on from what {args.out} holds.", file=sys.stderr)
        return 130
    return 0


def check_whole(args: argparse.Namespace, least: Mapping[str, int]) -> None:
    """Raise one sentence for the first integer flag below its least value; one that was not given is None."""
    for name, low in {"seed": 0, **least}.items():
        if getattr(args, name) is not None and not low <= getattr(args, name) < 2**31:
            flag = name.replace("_", "-")
            raise BadInputError(f"--{flag} must be an integer in {low}..{2**31 - 1}, got {getattr(args, name)}.")


def take_inputs(limit: int | None) -> demo.DemoInputs:
    """The held-out unsafe inputs: all, or the first so many."""
    inputs = demo.held_out_unsafe(10_000)
    if limit is not None and limit > len(inputs):
        raise BadInputError(f"--inputs must be at most {len(inputs)}, the unsafe held-out inputs, got {limit}.")
    return inputs if limit is None else inputs.take(range(limit))


def is_finished(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Does the folder hold this very result already? Makes the folder where it does not exist.

    Raises:
      BadInputError: if it holds a result of other settings, which is never overwritten.
    """
    target = folder / "result.json"
    if target.exists():
        if json.loads(target.read_text(encoding="utf-8"))["settings"] != json.loads(json.dumps(settings)):
            raise BadInputError(f"{target} is a result of other settings; choose another folder.")
        print(f"{target} is finished and left as it is.")
        return True
    folder.mkdir(parents=True, exist_ok=True)
    return False


def write_result(folder: Path, settings: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Write result.json: settings, machine, results."""
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "device": jax.devices()[0].platform}
    record = {"settings": dict(settings), "machine": machine | package_versions(), **content}
    with atomic_file(folder / "result.json") as temporary:
        temporary.write_text(json_text(record) + "\n", encoding="utf-8")
    print(f"Wrote {folder / 'result.json'} and the figures beside it.")


def saved(path: Path, settings: Mapping[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, np.ndarray]:
    """Arrays that `compute` gives, from `path` where an earlier call with the same settings left it.

    Raises:
      BadInputError: if the file belongs to other settings: it is never overwritten.
    """
    if (arrays := _read_arrays(path, settings)) is not None:
        return arrays
    arrays = {name: np.asarray(value) for name, value in compute().items()}
    _write_arrays(path, settings, arrays)
    return arrays


def _read_arrays(path: Path, settings: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """What an earlier call left; None where there was none."""
    if not path.exists():
        return None
    with np.load(path) as file:
        if str(file["settings"]) != json.dumps(settings, sort_keys=True):
            raise BadInputError(f"{path} holds draws of other settings; choose another folder.")
        return {name: file[name] for name in file.files if name != "settings"}


def _write_arrays(path: Path, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays with the settings that they belong to; an earlier state of them is replaced."""
    with atomic_file(path, force=True) as temporary, temporary.open("wb") as file:
        text = np.array(json.dumps(settings, sort_keys=True))
        np.savez_compressed(file, **({"settings": text} | dict(arrays)))  # type: ignore[arg-type]


def row_by_row(path: Path, settings: Mapping[str, Any], total: int, row: Callable[[int], int], name: str) -> np.ndarray:
    """`row(i)` of each of `total` rows, int64; what is done stands in `path` every few seconds, and is done once.

    Raises:
      BadInputError: if the file belongs to other settings: it is never overwritten.
    """
    known = _read_arrays(path, settings)
    values = [] if known is None else known["values"].tolist()
    last = time.monotonic()
    with progress_bar(name, total, "inputs", log=True) as progress:
        for number in range(len(values), total):
            values.append(row(number))
            if time.monotonic() - last > KEPT_SECONDS:
                _write_arrays(path, settings, {"values": np.array(values)})
                last = time.monotonic()
            progress(number + 1)
    return np.array(values, np.int64)


def drawn(
    folder: Path,
    name: str,
    smoothing: hrs.HybridSmoothing,
    inputs: demo.DemoInputs | ArrayInputs,
    masks: Sequence[np.ndarray],
    n: int,
    seed: int,
    forced: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Votes for Unsafe of the demo guard, kept in `folder/counts-NAME.npz`.

    Args:
      folder: where the counts are kept.
      name: of the setting.
      smoothing: the noise.
      inputs: B inputs.
      masks: M masks of positions that carry token noise, bool[16] each; every input is drawn with each of them.
      n: copies per input and mask.
      seed: one seed gives one set of draws.
      forced: positions that are resampled in every draw, bool[16]; None: ordinary draws.

    Returns:
      successes int64[M, B]; seconds: wall and CPU.
    """
    guard = DemoGuard.load()
    settings = {
        "smoothing": repr(smoothing),
        "noise": describe_noise(smoothing, inputs.images[0].size),
        "inputs": inputs.ids,
        "masks": [np.flatnonzero(mask).tolist() for mask in masks],
        "n": n,
        "seed": seed,
        "classifier": guard.describe(),
        **({} if forced is None else {"forced": np.flatnonzero(forced).tolist()}),
    }

    def draw() -> dict[str, Any]:
        wall, cpu = time.perf_counter(), time.process_time()
        times = len(masks)
        with progress_bar(name, n * len(inputs) * times, "copies", log=True) as progress:
            successes = hrs.sample_counts(
                guard,
                np.tile(inputs.tokens, (times, 1)),
                np.tile(inputs.images, (times, 1, 1, 1)),
                smoothing,
                n,
                jax.random.key(seed),
                eligible=np.repeat(np.stack(masks), len(inputs), axis=0),
                forced=forced,
                batch_size=BATCH,
                progress=progress,
            )
        return {
            "successes": successes.reshape(times, len(inputs)),
            "seconds": [time.perf_counter() - wall, time.process_time() - cpu],
        }

    return saved(folder / f"counts-{name}.npz", settings, draw)


def certified(
    counts: np.ndarray,
    n: int | np.ndarray,
    smoothing: hrs.HybridSmoothing,
    pixels: int,
    budgets: Sequence[int],
    *,
    tau: float = TAU,
    alpha: float = ALPHA,
    **options: Any,
) -> hrs.Certificate:
    """Certificates of our own draws, whose noise is a little off the ideal one: the difference is subtracted.

    Args:
      counts, n, smoothing, budgets, tau, alpha, options: as for `hrs.certify`.
      pixels: numbers in a picture (a row of numbers is one), each of which carries noise.
    """
    delta = smoothing.total_variation(pixels)
    return hrs.certify(counts, n, smoothing, tau, alpha, budgets, total_variation=delta, **options)


def certified_samples(
    counts: Counts,
    smoothing: hrs.HybridSmoothing,
    pixels: int,
    budgets: Sequence[int],
    *,
    tau: float = TAU,
    alpha: float = ALPHA,
) -> hrs.Certificate:
    """`certified` for counts that know their samples, conditional ones among them."""
    whole = dataclasses.replace(counts, total_variation=smoothing.total_variation(pixels))
    return certify_counts(whole, smoothing, tau, alpha, budgets)


def suffix_and_all() -> tuple[np.ndarray, np.ndarray]:
    """Masks of the two threats: tokens of the suffix may change, or all of them."""
    return demo.suffix_mask(), np.ones(demo.LENGTH, bool)


def uniform(beta: float) -> hrs.UniformKernel:
    """The uniform kernel on the demo's alphabet."""
    return hrs.UniformKernel(beta, demo.VOCAB_SIZE)


def shares(curve: np.ndarray) -> list[Any]:
    """A curve for JSON: six digits, rounded down."""
    return (np.floor(np.asarray(curve) * 1e6) / 1e6).tolist()


def new_figure(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """A figure with its axes [rows, columns], in the common style."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, **options)


def panel_title(ax: Any, text: str) -> None:
    """A panel's title, at its left."""
    ax.set_title(text, loc="left", fontsize=10)


def save_figure(figure: Any, path: Path, title: str, setting: str) -> None:
    """Write a PNG with a title and, below it, what the numbers depend on."""
    figure.suptitle(f"{title}\n{setting}", x=0.012, ha="left", fontsize=10.5)
    with atomic_file(path, force=True) as temporary:
        figure.savefig(temporary, format="png", dpi=95)
