"""MM-SafetyBench under joint attacks (paper 5.2, "External benchmark check"): curate, sample, certify, a table.

    python experiments/mm_safetybench.py --model CHECKPOINT --data MM-SafetyBench --out bench

`--data` is the benchmark as it is published: `data/processed_questions/NN-Scenario.json` and
`data/imgs/NN-Scenario/SD_TYPO/N.jpg`, 1,680 questions of 13 scenarios, each with three kinds of picture. Every kind has
its own wording of the question, which refers to the picture.

Four steps, each of which is the command of `hybrid-rs` that it prints:

  questions    the index of the pictures of one kind with their questions
  curate       a question is kept when the guard calls text and picture Unsafe, and Safe each of: its text alone, its
               picture alone, noise alone (the interaction-only filter)
  sample       copies of what was kept, with noise on its pixels and behind its text: the suffix threat
  certify      radii for d = 0..8 appended or changed tokens

A picture of the kind SD_TYPO has a phrase typed below it. With --without-text the question about the picture alone is
asked with the SD picture of the same question, which is the same picture without that phrase.

Everything that was computed is kept in --out, and the same command goes on from there. Certificates hold for the
SMOOTHED guard, per input with probability at least 1 - alpha over its draws; a mean counts "not certified" as 0.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _common as common
import numpy as np
from _subject import guard_options, parsed

import hybrid_rs_jax as hrs
from hybrid_rs_jax import cli
from hybrid_rs_jax._text import floor_text
from hybrid_rs_jax.data import Dataset, Outcome, mm_safetybench, write_index
from hybrid_rs_jax.data.index import MM_SAFETYBENCH_IMAGES
from hybrid_rs_jax.errors import BadInputError

BUDGETS = tuple(range(9))
EPSILONS = np.round(np.linspace(0.0, 7.0, 141), 2)
#: What the paper found with LlavaGuard: share kept in percent, mean certified budget, mean certified radius.
PAPER = "In the paper 7.5 % of 1,680 are kept, with a mean budget of 3.62 and a mean radius of 3.37."


class StepFailed(Exception):
    """A step ended with this exit status, and has said why."""


def main(argv: list[str] | None = None) -> int:
    """Run, or print one sentence."""
    try:
        return common.start("mm_safetybench", run, parsed(parser(), argv))
    except StepFailed as failed:
        return failed.args[0]


def parser() -> argparse.ArgumentParser:
    """The flags of this script; others go to curate and sample, which know them."""
    made = common.new_parser(__doc__)
    made.epilog = "Every flag of a vision-language checkpoint (--profile, --policy, ...) goes to curate and sample."
    made.add_argument("--model", required=True, metavar="PATH", help="folder or hub id of the guard")
    made.add_argument("--data", required=True, metavar="DIR", help="the benchmark, or its folder data/")
    made.add_argument(
        "--images", default="SD_TYPO", choices=list(MM_SAFETYBENCH_IMAGES), help="kind of picture (SD_TYPO)"
    )
    made.add_argument("--without-text", action="store_true", help="ask about the SD picture where it stands alone")
    made.add_argument("--scenarios", metavar="NAME,NAME", help="only these, e.g. 01-Illegal_Activitiy (default: all)")
    made.add_argument("--limit", type=int, metavar="K", help="only the first K questions")
    made.add_argument("--samples", type=int, default=10_000, help="copies per question (default: %(default)s)")
    made.add_argument("--batch-size", type=int, default=16, help="pairs per step of curate (default: %(default)s)")
    for name, value in (("sigma", 0.5), ("beta", 0.25), ("tau", 4.6e-5), ("alpha", 0.01)):
        made.add_argument(f"--{name}", type=float, default=value, help="(default: %(default)s)")
    return made


def run(args: argparse.Namespace) -> None:
    """All steps, then the table."""
    common.check_whole(args, {"samples": 1, "limit": 1, "batch_size": 1})
    guard_options(args)  # refused before anything is written
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "batch_size")}
    if common.is_finished(args.out, settings):
        return
    asked = questions(args)
    outcomes = curated(args)
    certificate = certified(args) if Outcome.KEPT in outcomes.values() else None
    rows = [scenario_row(name, chosen, outcomes, certificate) for name, chosen in scenarios(asked).items()]
    content = {"rows": [dataclasses.asdict(row) for row in rows], "epsilons": EPSILONS.tolist()}
    content["certified_accuracy"] = None if certificate is None else curves(certificate)
    draw_figure(args, rows, content)
    common.write_result(args.out, settings, content)
    print(f"\n{table(rows)}\n\n{PAPER}")


# steps


def questions(args: argparse.Namespace) -> Dataset:
    """The index of the questions, written for the commands.

    Raises:
      BadInputError: if the folder is not the benchmark, or has no such scenario.
    """
    if args.without_text and args.images != "SD_TYPO":
        raise BadInputError(f"--without-text means something to the pictures SD_TYPO only, got --images {args.images}.")
    chosen = None if args.scenarios is None else args.scenarios.split(",")
    found = mm_safetybench(args.data, args.images, chosen)
    if args.without_text:
        plain = mm_safetybench(args.data, "SD", chosen)
        found = dataclasses.replace(found, clean_images=plain.images)
    found = found if args.limit is None else found.first(args.limit)
    write_index(args.out / "questions.jsonl", found, force=True)
    return found


def curated(args: argparse.Namespace) -> Mapping[str, Outcome]:
    """What became of every question, by its id; the journal of the command knows those that were asked before."""
    kept = args.out / "kept.jsonl"
    own = ["--out", kept, "--force", "--batch-size", args.batch_size, *noise(args)]
    step("curate", "--model", args.model, "--data", args.out / "questions.jsonl", *own, *args.flags)
    lines = (args.out / "kept.jsonl.journal").read_text(encoding="utf-8").splitlines()[1:]
    return {row["id"]: Outcome(row["outcome"]) for row in map(json.loads, lines)}


def certified(args: argparse.Namespace) -> hrs.Certificate:
    """Certificates of what was kept."""
    kept, drawn, out = (args.out / name for name in ("kept.jsonl", "run", "certificates.json"))
    own = ["--samples", args.samples, "--out", drawn, "--resume", *noise(args)]
    step("sample", "--model", args.model, "--data", kept, *own, *args.flags)
    step(
        "certify", drawn, "--tau", args.tau, "--alpha", args.alpha, "--max-budget", BUDGETS[-1], "--out", out, "--force"
    )
    return hrs.read_certificates(out)


def noise(args: argparse.Namespace) -> list[object]:
    """The flags of the noise."""
    return ["--sigma", args.sigma, "--beta", args.beta, "--seed", args.seed]


def step(*words: object) -> None:
    """Run a command of `hybrid-rs`.

    Raises:
      StepFailed: if it did not succeed.
    """
    argv = list(map(str, words))
    print(f"\n$ hybrid-rs {shlex.join(argv)}", flush=True)
    if status := cli.main(argv):
        raise StepFailed(status)


# the table


@dataclasses.dataclass(frozen=True)
class Row:
    """A scenario, or all of them.

    Attributes:
      outcomes: number of questions by what became of them.
      drawn: questions that were kept and certified or not.
      certified: of these, with r(0) >= 0; budget, radius: means over them, at d = 0 and d = 1.
    """

    scenario: str
    questions: int
    outcomes: dict[str, int]
    drawn: int
    certified: int
    budget: float | None
    radius: tuple[float, float] | None

    @property
    def kept(self) -> float:
        """Share of the questions that satisfy the interaction-only filter."""
        return self.outcomes[Outcome.KEPT] / self.questions


def scenarios(asked: Dataset) -> dict[str, list[str]]:
    """Ids of each scenario, and of all."""
    found: dict[str, list[str]] = {}
    for name, label in zip(asked.ids, asked.labels, strict=True):
        found.setdefault(str(label), []).append(name)
    return {**found, "all": list(asked.ids)}


def scenario_row(
    scenario: str, ids: Sequence[str], outcomes: Mapping[str, Outcome], certificate: hrs.Certificate | None
) -> Row:
    """One line of the table."""
    met = Counter(outcomes[name] for name in ids)
    counts = {str(outcome): met[outcome] for outcome in Outcome}
    mine = [] if certificate is None else np.flatnonzero(np.isin(certificate.counts.ids, ids))
    if not len(mine):
        return Row(scenario, len(ids), counts, 0, 0, None, None)
    radius, budget = certificate.radius[mine], certificate.budget[mine]
    means = np.maximum(radius, 0).mean(axis=0)
    r_0, r_1 = (float(means[d]) if d < len(means) else 0.0 for d in (0, 1))
    drawn = len(mine), int((radius[:, 0] >= 0).sum())
    return Row(scenario, len(ids), counts, *drawn, float(np.maximum(budget, 0).mean()), (r_0, r_1))


def curves(certificate: hrs.Certificate) -> list[Any]:
    """Certified accuracy against eps for each d, of what was kept."""
    return common.shares(certificate.certified_accuracy(EPSILONS))


def table(rows: Sequence[Row]) -> str:
    """Floored."""
    lines = ["scenario                 questions  kept %  drawn  certified  mean d  mean r at d = 0, 1"]
    for row in rows:
        means = "-" if row.radius is None else "  ".join(floor_text(part) for part in row.radius)
        budget = "-" if row.budget is None else floor_text(row.budget, 2)
        lines.append(
            f"{row.scenario:24s} {row.questions:9,}  {floor_text(100 * row.kept, 1):>6s}  {row.drawn:5,}  "
            f"{row.certified:9,}  {budget:>6s}  {means}"
        )
    return "\n".join(lines)


def draw_figure(args: argparse.Namespace, rows: Sequence[Row], content: Mapping[str, Any]) -> None:
    """What became of the questions of each scenario, and what is certified of those that were kept."""
    import matplotlib

    figure, axes = common.new_figure(1, 2, (11.0, 4.6), width_ratios=(1.4, 1))
    bars, curve = axes[0]
    left, y = np.zeros(len(rows)), np.arange(len(rows))
    colours = dict(
        zip(Outcome, (common.GREEN, common.ORANGE, common.BLUE, common.GRID, common.PURPLE, common.SOFT), strict=True)
    )
    for outcome, colour in colours.items():
        part = np.array([100 * row.outcomes[outcome] / row.questions for row in rows])
        bars.barh(y, part, left=left, color=colour, label=str(outcome), height=0.7)
        left += part
    bars.set_yticks(y, [row.scenario for row in rows], fontsize=8.5)
    bars.invert_yaxis()
    bars.grid(axis="y", visible=False)
    bars.set_xlabel("questions (%)")
    bars.set_xlim(0, 100)
    common.panel_title(bars, "The first question that each failed")
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(BUDGETS)))
    for d, (values, shade) in enumerate(zip(content["certified_accuracy"] or [], shades, strict=False)):
        if any(values):
            curve.plot(EPSILONS, 100 * np.array(values), color=shade, lw=2, label=f"d = {d}")
    curve.set_xlim(0, 7 * args.sigma)
    curve.set_ylim(0, 103)
    curve.set_xlabel(r"pixel budget $\varepsilon$ ($\ell_2$, pixels in [0, 1])")
    curve.set_ylabel("certified accuracy (%)")
    common.panel_title(curve, f"Certified, of {rows[-1].drawn:,} kept")
    if curve.get_lines():
        curve.legend(frameon=False, fontsize=8.5)
    figure.legend(*bars.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    setting = f"{rows[-1].questions:,} questions with {args.images}; n = {args.samples:,}; σ = {args.sigma:g}; "
    setting += f"β = {args.beta:g}; τ = {args.tau:.2g}; α = {args.alpha:g} per input"
    title = f"MM-SafetyBench under joint attacks: {Path(args.model).name}, smoothed"
    common.save_figure(figure, args.out / "mm_safetybench.png", title, setting)


if __name__ == "__main__":
    sys.exit(main())
