"""What a certificate costs (paper Table 3): draws and seconds per input for each way of sampling, and where they go.

    python experiments/runtime.py --out runtime
    python experiments/runtime.py --model CHECKPOINT --data unsafe.csv --samples 1000 --inputs 4 --out runtime

The demo guard on held-out unsafe inputs, or a checkpoint on --data; suffix threat, n = 10,000 copies where the number
is fixed:

  image-only, text-only  noise on one modality, one sample
  fixed                  hybrid noise, one shared sample for all token budgets d = 0..8
  frontier               the same frontier with a few looks: stops where no radius could grow by more than 0.1 sigma
  target                 one question, "is (d = 2, eps = sigma) certified?", with early stopping
  per budget             one sample per d with noise on the first d suffix positions, alpha / 9 each

Every way is run once to compile and then in turns. Times are divided into drawing the noise, the guard's forward pass,
the certificate, and the rest (scheduling, transfers), by timing compiled loops of noise alone and of noise with forward
pass in the same run. Seconds of CPU count all threads and are what compares on a busy machine; wall seconds are given
beside. Compare ratios, not seconds, between machines.

Timings are saved as they come; a second call with the same settings goes on from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import _common as common
import jax
import jax.numpy as jnp
import numpy as np
from _subject import SUFFIX, Region, Subject, add_flags, open_subject, parsed, stacked

import hybrid_rs_jax as hrs
from hybrid_rs_jax.certificate.certify import needed_bound
from hybrid_rs_jax.certificate.frontier import frontier_plan
from hybrid_rs_jax.confidence import FixedSample, SamplingPlan, SequentialTest, Verdict
from hybrid_rs_jax.errors import library_sentences

SIGMA, BETA = 0.25, 0.25
BUDGETS = tuple(range(9))
TARGET = (2, SIGMA)
LOOP = 20
#: Unsafe inputs where the user does not say how many.
INPUTS = 12


@dataclasses.dataclass(frozen=True)
class Mode:
    """One way of sampling: the noise, when to stop, and the regions with token noise, a sample each."""

    name: str
    smoothing: hrs.HybridSmoothing
    plan: SamplingPlan
    regions: tuple[Region, ...]


def modes(subject: Subject, n: int) -> tuple[Mode, ...]:
    """All ways; `n` is the number of copies, or the most where sampling may stop earlier."""
    kernel = subject.uniform(BETA)
    hybrid = hrs.HybridSmoothing(kernel, SIGMA)
    with library_sentences():
        delta = hybrid.total_variation(subject.pixels)
        need = needed_bound(*TARGET, hybrid, common.TAU, total_variation=delta)
        target = SequentialTest(float(need.p), common.ALPHA, n, float(need.complement))
        frontier = frontier_plan(hybrid, common.TAU, common.ALPHA, n, budgets=BUDGETS)
    return (
        Mode("image-only", hrs.HybridSmoothing(None, SIGMA), FixedSample(n), (SUFFIX,)),
        Mode("text-only", hrs.HybridSmoothing(kernel, None), FixedSample(n), (SUFFIX,)),
        Mode("fixed", hybrid, FixedSample(n), (SUFFIX,)),
        Mode("frontier", hybrid, frontier, (SUFFIX,)),
        Mode("target", hybrid, target, (SUFFIX,)),
        Mode("per budget", hybrid, FixedSample(n), tuple(Region("suffix", d) for d in BUDGETS)),
    )


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return common.start("runtime.py", run, parsed(parser(), argv))


def parser() -> argparse.ArgumentParser:
    """Flags."""
    made = common.new_parser(__doc__)
    made.add_argument("--samples", type=int, default=10_000, help="copies per input at most (default: %(default)s)")
    made.add_argument("--inputs", type=int, help=f"unsafe inputs, from the first (default: {INPUTS}, or all if fewer)")
    made.add_argument("--repeats", type=int, default=2, help="timed rounds (default: %(default)s)")
    add_flags(made)
    return made


def run(args: argparse.Namespace) -> None:
    """Time every way in turns, certify, write."""
    common.check_whole(args, {"samples": 1, "inputs": 1, "repeats": 1})
    subject = open_subject(args, most=INPUTS)
    settings = {
        "seed": args.seed,
        "inputs": len(subject.unsafe.ids),
        "n": args.samples,
        "repeats": args.repeats,
        "tau": common.TAU,
        "alpha": common.ALPHA,
        "sigma": SIGMA,
        "beta": BETA,
        "target": list(TARGET),
        "budgets": list(BUDGETS),
        **subject.record,
    }
    ways = modes(subject, args.samples)
    if common.is_finished(args.out, settings):
        return
    timed = Rounds(args, subject, settings)
    for number in range(args.repeats):
        for mode in ways:
            timed.measure(mode, number)
    rows = [timed.row(mode) for mode in ways]
    fixed = next(row for row in rows if row["mode"] == "fixed")
    for row in rows:
        row["cpu_relative_to_fixed"] = row["cpu_s_per_input"] / fixed["cpu_s_per_input"]
    content = {"modes": rows}
    draw_figure(args, subject, settings, content)
    common.write_result(args.out, settings, content)
    print(summary(content))


class Rounds:
    """Counts and seconds of each way in each round, kept as they come."""

    def __init__(self, args: argparse.Namespace, subject: Subject, settings: Mapping[str, Any]):
        self.args, self.subject, self.settings = args, subject, dict(settings)
        self.inputs = stacked(subject.unsafe)
        self.suffixes = self.inputs.eligible
        self._compiled: set[str] = set()
        self._found: dict[str, list[dict[str, np.ndarray]]] = {}

    def measure(self, mode: Mode, number: int) -> None:
        """One timed round, after a first one that compiles."""

        def compute() -> dict[str, Any]:
            if mode.name not in self._compiled:
                self.once(mode)
                self._compiled.add(mode.name)
            return self.once(mode)

        path = self.args.out / f"round{number}-{mode.name.replace(' ', '-')}.npz"
        self._found.setdefault(mode.name, []).append(common.saved(path, self.settings, compute))

    def once(self, mode: Mode) -> dict[str, Any]:
        """Sample, certify, and time the parts; seconds are (wall, CPU)."""
        draws, sampling = timed(lambda: self.sample(mode))
        shape = (len(mode.regions), len(self.inputs))
        n, successes = (part.reshape(shape) for part in (draws.n, draws.successes))
        certificate, certifying = timed(lambda: certified(self.subject, mode, n, successes))
        return {
            "n": n,
            "successes": successes,
            "reached": draws.verdict == Verdict.REACHED,
            "classified": draws.classified,
            "radius": certificate.radius,
            "budget": certificate.budget,
            "sampling_s": sampling,
            "certificate_s": certifying,
            "noise_s": per_copy(self.subject, mode, forward=False),
            "noise_and_forward_s": per_copy(self.subject, mode, forward=True),
        }

    def sample(self, mode: Mode) -> hrs.Draws:
        """Draw for every input with token noise in every region."""
        times = len(mode.regions)
        masks = [region.of(eligible) for region in mode.regions for eligible in self.suffixes]
        return hrs.sample(
            self.subject.guard,
            np.tile(self.inputs.tokens, (times, 1)),
            np.tile(self.inputs.images, (times, 1, 1, 1)),
            mode.smoothing,
            mode.plan,
            jax.random.key(self.args.seed),
            eligible=np.stack(masks),
            batch_size=self.subject.copies_at_once,
            mesh=getattr(self.subject.guard, "mesh", None),
        )

    def row(self, mode: Mode) -> dict[str, Any]:
        """Medians over the rounds, per input; CPU seconds where nothing else is said."""
        rounds, inputs = self._found[mode.name], len(self.inputs)
        last = rounds[-1]
        copies = int(last["classified"])

        def middle(name: str, clock: int = 1) -> float:
            return float(np.median([found[name][clock] for found in rounds]))

        noise, both = middle("noise_s") * copies, middle("noise_and_forward_s") * copies
        sampling, certifying = middle("sampling_s"), middle("certificate_s")
        return {
            "mode": mode.name,
            "draws_per_input": float(last["n"].sum(axis=0).mean()),
            "classified_per_input": copies / inputs,
            "wall_s_per_input": (middle("sampling_s", 0) + middle("certificate_s", 0)) / inputs,
            "cpu_s_per_input": (sampling + certifying) / inputs,
            "noise_s": noise / inputs,
            "forward_s": (both - noise) / inputs,
            "certificate_s": certifying / inputs,
            "rest_s": (sampling - both) / inputs,
            "mean_budget": float(np.maximum(last["budget"], 0).mean()),
            "mean_radius": np.maximum(last["radius"], 0).mean(axis=0).tolist(),
            "share_certified": (last["radius"] >= 0).mean(axis=0).tolist(),
            "target_reached": float(last["reached"].mean()) if mode.name == "target" else None,
        }


def certified(subject: Subject, mode: Mode, n: np.ndarray, successes: np.ndarray) -> hrs.Certificate:
    """Certificates of all budgets: from one sample, or from one per budget; only the plan knows its bound."""
    counts, draws = (part[0] if len(mode.regions) == 1 else part.T for part in (successes, n))
    return common.certified(counts, draws, mode.smoothing, subject.pixels, BUDGETS, plan=mode.plan)


def per_copy(subject: Subject, mode: Mode, forward: bool) -> list[float]:
    """Wall and CPU seconds per copy of a compiled loop that draws the noise, and asks the guard or not."""
    with library_sentences():
        apply, parameters = subject.guard.functional()
    shape, batch = subject.shape, subject.copies_at_once
    arguments = (shape.tokens, shape.image, mode.regions[-1].of(shape.eligible))

    def loop() -> None:
        for step in range(LOOP):
            out = one_step(apply if forward else None, mode.smoothing, batch, parameters, *arguments, np.int32(step))
        out.block_until_ready()

    loop()
    _, seconds = timed(loop)
    return [part / (LOOP * batch) for part in seconds]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def one_step(
    apply: Callable[..., Any] | None,
    smoothing: hrs.HybridSmoothing,
    batch: int,
    parameters: Any,
    tokens: Any,
    image: Any,
    mask: Any,
    step: Any,
) -> Any:
    """A batch of noisy copies, keyed as the engine does; without a guard their sum, so that no draw is left out."""

    def copy(number: Any) -> tuple[Any, Any]:
        own = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), np.uint32(0)), number)
        return smoothing.sample(own, tokens, image, mask)

    tokens, images = jax.vmap(copy)(step * batch + jnp.arange(batch, dtype=jnp.int32))
    if apply is None:
        return tokens.sum(axis=1).astype(images.dtype) + images.sum(axis=(1, 2, 3))
    return apply(parameters, tokens, images) > 0


def timed(task: Callable[[], Any]) -> tuple[Any, list[float]]:
    """What a task gives, with its wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = task()
    return found, [time.perf_counter() - wall, time.process_time() - cpu]


def draw_figure(
    args: argparse.Namespace, subject: Subject, settings: Mapping[str, Any], content: Mapping[str, Any]
) -> None:
    """Seconds per input, divided; draws per input; and what is certified for them."""
    figure, axes = common.new_figure(1, 3, (11.0, 4.0), width_ratios=(1.25, 1, 1))
    rows = content["modes"]
    names = [row["mode"] for row in rows]
    y, left = np.arange(len(rows)), np.zeros(len(rows))
    for field, colour, label in (
        ("noise_s", common.BLUE, "noise"),
        ("forward_s", common.ORANGE, "forward pass"),
        ("rest_s", common.SOFT, "rest"),
        ("certificate_s", common.GREEN, "certificate"),
    ):
        part = np.array([max(0.0, row[field]) for row in rows])
        axes[0, 0].barh(y, part, left=left, color=colour, label=label, height=0.65)
        left += part
    for place, row, end in zip(y, rows, left, strict=True):
        text = f"{row['cpu_s_per_input']:.2g} s ({row['cpu_relative_to_fixed']:.2g}x)"
        axes[0, 0].annotate(text, (end, place), xytext=(4, -3), textcoords="offset points", fontsize=8.5)
    axes[0, 0].set_xlabel("CPU seconds per input")
    axes[0, 0].set_xlim(0, left.max() * 1.35)
    axes[0, 0].legend(frameon=False, fontsize=8.5, loc="upper right")
    axes[0, 1].barh(y, [row["draws_per_input"] for row in rows], color=common.BLUE, height=0.65)
    axes[0, 1].set_xscale("log")
    axes[0, 1].set_xlabel("draws per input (log scale)")
    for place, row in zip(y, rows, strict=True):
        text = f"{row['draws_per_input']:,.0f}"
        axes[0, 1].annotate(
            text,
            (row["draws_per_input"], place),
            xytext=(-4, -3),
            textcoords="offset points",
            ha="right",
            color="white",
        )
    axes[0, 1].set_xlim(left=min(row["draws_per_input"] for row in rows) / 5)
    for ax in axes[0, :2]:
        ax.set_yticks(y, names)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
    markers, sizes = ("^", "v", "o", "s", "*", "D"), (9, 5, 5, 4, 6, 5)
    colours = (common.GREEN, common.SOFT, common.BLUE, common.ORANGE, common.INK, common.PURPLE)
    for row, marker, colour, size in zip(rows, markers, colours, sizes, strict=True):
        where = np.array(row["share_certified"]) > 0
        d, radius = np.array(BUDGETS)[where], np.array(row["mean_radius"])[where]
        clip = not d.size  # an unclipped line of no points has no place in the layout
        axes[0, 2].plot(d, radius, color=colour, marker=marker, ms=size, label=row["mode"], clip_on=clip)
    axes[0, 2].set_xlabel("token budget $d$")
    axes[0, 2].set_ylabel(r"mean certified radius ($\ell_2$)")
    axes[0, 2].set_ylim(bottom=0)
    axes[0, 2].set_xlim(-0.3, max(BUDGETS))
    axes[0, 2].legend(frameon=False, fontsize=8.5, loc="upper right")
    for ax, text in zip(axes[0], ("What it costs", "What is drawn", "What it proves"), strict=True):
        common.panel_title(ax, text)
    where = f"{subject.name} on {jax.devices()[0].platform}, {settings['inputs']} {subject.inputs_name}"
    setting = (
        f"{where}; at most n = {settings['n']:,} per sample; σ = {SIGMA:g}; β = {BETA:g}; "
        f"τ = {settings['tau']:.2g}; α = {settings['alpha']:g}; target: d = 2, ε = σ"
    )
    common.save_figure(figure, args.out / "runtime.png", "Cost of a certificate per input, by way of sampling", setting)


def summary(content: Mapping[str, Any]) -> str:
    """The table."""
    lines = [
        "mode         draws/input  CPU s   wall s  x fixed | noise  forward  rest   certificate | budget  r_0   r_1"
    ]
    for row in content["modes"]:
        parts = "  ".join(f"{row[name]:6.3f}" for name in ("noise_s", "forward_s", "rest_s", "certificate_s"))
        lines.append(
            f"{row['mode']:12s} {row['draws_per_input']:11,.0f}  {row['cpu_s_per_input']:6.3f}  "
            f"{row['wall_s_per_input']:6.3f}  {row['cpu_relative_to_fixed']:6.3f}  | {parts}  | "
            f"{row['mean_budget']:.2f}  {row['mean_radius'][0]:.3f}  {row['mean_radius'][1]:.3f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
