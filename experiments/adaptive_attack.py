"""An adaptive attack against the certificates of the demo guard (paper A.5, Table 4).

    python experiments/adaptive_attack.py --out attack
    python experiments/adaptive_attack.py --model CHECKPOINT --data unsafe.csv --out attack

With --model it is `guard_attack.py`, the white box of a vision-language checkpoint, that runs, with all of its flags.
What follows is about the demo guard.

The attack knows the noise and minimises the SMOOTHED score: token substitutions found by gradients through the noise,
l2-projected gradient steps on the pixels, in turns, from several starting points. It is given a share of the certified
radius: within it (the border is 0.99), then beyond it, up to 4 times. Beside it runs the best of as many random tries.

Three settings, sigma = 0.25 in all:
  suffix     tokens of the suffix may change, beta = 0.25, tau = 4.6e-5: the paper's task
  anywhere   any token may change, those that ask for the digit included; the rest as above
  majority   tokens of the suffix may change, beta = 0.75, tau = 0.5: here a break is easily measured

What counts as a violation. Each attacked input is scored on noise that neither the certificate nor the attack has seen,
a number of draws that is fixed beforehand. A case is flagged when the upper Clopper-Pearson limit of its score is below
the bound that the certificate claims at this very (d, eps), which within the certified radius exceeds tau. A bound
that is true is flagged with probability at most `risk`; the total over all cases and looks is 1 %. Not flagged is not
proven: a case "holds" when the LOWER limit is above the bound; the undecided ones within the radius get a second look
at more, fresh draws. (A certificate is itself wrong with probability alpha, and may then rightly be flagged.)
A case is "broken" when the upper limit, at 1 % per look, is below tau: only beyond the radius can that be. For tau =
4.6e-5 it takes more than 100,000 draws without a single Unsafe one, which are spent on a few cases per budget.

Parts are saved as they are done; a second call with the same settings goes on from there. A finished result is never
overwritten.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import _common as common
import guard_attack
import numpy as np
from _attack_cases import (
    ALPHA,
    BREAK_RISK,
    CERTIFY,
    FRACTIONS,
    MOST_TOKENS,
    RISK,
    SETTINGS,
    SIGMA,
    Setting,
    Work,
    chosen_budgets,
    draw,
    stage_key,
)
from _attack_figure import draw_figure

import hybrid_rs_jax as hrs
from hybrid_rs_jax._files import atomic_file, write_json
from hybrid_rs_jax._text import floor_text
from hybrid_rs_jax.data import demo
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report.progress import progress_bar
from hybrid_rs_jax.results.runs import package_versions

#: Where the certified bound is drawn, in certified radii.
CURVE = tuple(np.round(np.geomspace(0.4, 4.0, 41), 4).tolist())


def main(argv: list[str] | None = None) -> int:
    """Run, or print one sentence; a checkpoint is attacked by the script for these."""
    argv = sys.argv[1:] if argv is None else argv
    if any(word.partition("=")[0] == "--model" for word in argv):
        return guard_attack.main(argv)
    return common.start("adaptive_attack", run, parser().parse_args(argv))


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the result")
    made.add_argument("--seed", type=int, default=0, help="seed of all noise (default: %(default)s)")
    made.add_argument("--inputs", type=int, default=216, help="inputs of setting suffix (default: %(default)s)")
    made.add_argument(
        "--curve-inputs", type=int, default=20, help="of these, and per other setting, at every budget (%(default)s)"
    )
    made.add_argument("--samples", type=int, default=10_000, help="draws per certificate (default: %(default)s)")
    made.add_argument("--restarts", type=int, default=5, help="starting points per attack (default: %(default)s)")
    made.add_argument("--steps", type=int, default=10, help="alternations per attack (default: %(default)s)")
    made.add_argument("--final", type=int, default=2000, help="fresh draws per attacked input (default: %(default)s)")
    made.add_argument("--again", type=int, default=20_000, help="and in a second look (default: %(default)s)")
    return made


def run(args: argparse.Namespace) -> None:
    """All settings, then the result and its figure."""
    check(args)
    options = {name: value for name, value in vars(args).items() if name != "out"}
    target = args.out / "result.json"
    if target.exists():
        if json.loads(target.read_text(encoding="utf-8"))["options"] != options:
            raise BadInputError(f"{target} is a result of other settings; choose another folder.")
        print(f"{target} exists already.")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    inputs = demo.held_out_unsafe(args.inputs)
    results = {setting.name: run_setting(args, options, setting, inputs) for setting in SETTINGS}
    content = {
        "options": options,
        "sigma": SIGMA,
        "alpha": ALPHA,
        "risk_per_look": risk_per_look(args),
        "break_risk": BREAK_RISK,
        "violations": sum(row["violations"] for found in results.values() for row in found["budgets"]),
        "settings": [{name: value for name, value in found.items() if name != "cases"} for found in results.values()],
        "cases": [case for found in results.values() for case in found["cases"]],
        "packages": package_versions(),
    }
    figure = args.out / "adaptive_attack.png"
    with atomic_file(figure, force=True) as temporary:
        draw_figure(content, temporary)
    with atomic_file(target) as temporary:
        write_json(temporary, content)
    print(summary(content))
    print(f"Wrote {target} and {figure}.")


def check(args: argparse.Namespace) -> None:
    """Raise one sentence for the first number that cannot be."""
    least = {"seed": 0, "steps": 0}
    for name, value in vars(args).items():
        if name != "out" and not least.get(name, 1) <= value < 2**31:
            flag = name.replace("_", "-")
            raise BadInputError(f"--{flag} must be an integer in {least.get(name, 1)}..{2**31 - 1}, got {value}.")
    available = len(demo.held_out_unsafe(10_000))
    if not args.curve_inputs <= args.inputs <= available:
        raise BadInputError(
            f"--inputs must lie between --curve-inputs = {args.curve_inputs} and {available}, got {args.inputs}."
        )


def risk_per_look(args: argparse.Namespace) -> float:
    """`RISK` split over two looks at each case that may come up."""
    cases = args.inputs - args.curve_inputs + len(SETTINGS) * args.curve_inputs * len(FRACTIONS)
    return RISK / (2 * cases)


def run_setting(
    args: argparse.Namespace, options: Mapping[str, Any], setting: Setting, inputs: demo.DemoInputs
) -> dict[str, Any]:
    """Certify, then attack in chunks: the first at every budget, the others at the border."""
    rows = inputs.take(range(args.inputs if setting.name == "suffix" else args.curve_inputs))
    counts = part(args.out, options, f"{setting.name}-counts", lambda: certify_rows(args, setting, rows))
    certificate = common.certified(
        np.asarray(counts["successes"]),
        args.samples,
        setting.smoothing,
        common.PIXELS,
        range(MOST_TOKENS + 1),
        tau=setting.tau,
        alpha=ALPHA,
    )
    chosen = chosen_budgets(certificate)
    cases: list[dict[str, Any]] = []
    seconds = [counts["seconds"]]
    with progress_bar(f"{setting.name}: attack", len(rows), "inputs", log=True) as progress:
        for number, start in enumerate(range(0, len(rows), args.curve_inputs)):
            index = np.array([i for i in chosen if start <= i < start + args.curve_inputs], np.int64)
            if index.size:
                d = np.array([chosen[i] for i in index.tolist()])
                work = Work(args, setting, certificate, rows, index, d, number, risk_per_look(args))
                found = part(args.out, options, f"{setting.name}-{number}", work.run)
                cases += found["cases"]
                seconds.append(found["seconds"])
            progress(min(start + args.curve_inputs, len(rows)))
    return {
        **dataclasses.asdict(setting),
        "inputs": len(rows),
        "certified": len(chosen),
        "budgets": [budget_row([case for case in cases if case["fraction"] == fraction]) for fraction in FRACTIONS],
        "bound_curve": bound_curve(certificate, [i for i in chosen if i < args.curve_inputs], chosen),
        "seconds": round(sum(seconds), 1),
        "cases": cases,
    }


def certify_rows(args: argparse.Namespace, setting: Setting, rows: demo.DemoInputs) -> dict[str, Any]:
    """Counts for the certificates."""
    found = draw(setting, rows.tokens, rows.images, args.samples, stage_key(args.seed, setting, CERTIFY))
    return {"successes": found.tolist()}


def budget_row(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What came out at one budget; the curves' inputs alone for the quantiles, so that budgets compare."""
    if not cases:
        return {"cases": 0, "violations": 0}
    curve = [case for case in cases if case["random_score"] is not None]
    asked = [case["broken"] for case in cases if case["broken"] is not None]
    row: dict[str, Any] = {"fraction": cases[0]["fraction"], "cases": len(cases)}
    for name in ("violated", "held", "decisive"):
        row[name if name != "violated" else "violations"] = sum(case[name] for case in cases)
    row["undecided"] = row["cases"] - row["violations"] - row["held"]
    row |= {"asked_whether_broken": len(asked), "broken": sum(asked)}
    row["no_unsafe_draw"] = sum(case["successes"] == 0 for case in cases)
    row["weaker_random"] = sum(case["random_score"] > case["score"] for case in curve)
    row["curve_cases"] = len(curve)
    for name in ("score", "random_score", "bound"):
        values = np.array([case[name] for case in curve])
        row[name] = {"low": values.min(), "median": float(np.median(values)), "high": values.max()}
    return row


def bound_curve(certificate: hrs.Certificate, rows: Sequence[int], chosen: Mapping[int, int]) -> dict[str, list[float]]:
    """Median and range over inputs of the certified bound at each multiple of the certified radius."""
    d = np.array([chosen[i] for i in rows])
    radius = certificate.radius[rows, d]
    bound = hrs.worst_case_probability(
        certificate.p_a[rows][:, None],
        d[:, None],
        radius[:, None] * np.asarray(CURVE),
        certificate.smoothing,
        complement=certificate.complement[rows][:, None],
    )
    low, median, high = np.quantile(bound, (0, 0.5, 1), axis=0)
    return {"fraction": list(CURVE), "low": low.tolist(), "median": median.tolist(), "high": high.tolist()}


def part(folder: Path, options: Mapping[str, Any], name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gives, from `parts/name.json` if that was made with the same options.

    Raises:
      BadInputError: if the file belongs to other options: it is never overwritten.
    """
    path = folder / "parts" / f"{name}.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["options"] != options:
            raise BadInputError(f"{path} belongs to other settings; choose another folder.")
        return found
    path.parent.mkdir(exist_ok=True)
    begin = time.perf_counter()
    content = {"options": dict(options), **make()}
    content["seconds"] = time.perf_counter() - begin
    with atomic_file(path) as temporary:
        write_json(temporary, content)
    return content


def summary(content: Mapping[str, Any]) -> str:
    """A few lines per setting."""
    lines = []
    for setting in content["settings"]:
        tau = f"tau = {setting['tau']:g}, beta = {setting['beta']}"
        lines.append(f"{setting['name']} ({tau}): {setting['certified']} of {setting['inputs']} inputs certified")
        for row in setting["budgets"]:
            if not row["cases"]:
                continue
            score, weak, bound = (row[name]["median"] for name in ("score", "random_score", "bound"))
            lines.append(
                f"  eps = {row['fraction']:4} r: {row['cases']:3} cases, {row['violations']} violations, "
                f"{row['held']} hold, {row['undecided']} open; median score {score:.4f} (random {weak:.4f}), "
                f"bound {floor_text(bound, 5)}; broken {row['broken']} of {row['asked_whether_broken']} asked"
            )
    lines.append(f"{content['violations']} violations in {len(content['cases'])} cases.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
