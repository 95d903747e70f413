"""Choose the rule of a filter: certified detection against false alarms, for flag at k of m copies.

UNSAFE_RUN and SAFE_RUN are runs of `sample` with the same model and noise, on unsafe and
on safe inputs. For each rule "flag when at least k of m fresh copies are unsafe": the
share of unsafe inputs that no attack within the target slips past, and the share of safe
inputs that are flagged. Several pairs of runs (other beta, other sigma) are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hybrid_rs_jax._files import atomic_file, check_target, json_text, path_text
from hybrid_rs_jax._text import DASH, ceil_text, counted, floor_text, setting_text, up_text
from hybrid_rs_jax.cli._values import flag, integer
from hybrid_rs_jax.cli.options import ALPHA, Level, Target, Unit
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.report.tables import print_table, say

if TYPE_CHECKING:
    from hybrid_rs_jax.results.operation import OperatingPoint, Operation

EXAMPLES = """\
examples:
  hybrid-rs operate unsafe-run safe-run --target d=2,eps=0.25 --miss-probability 0.01
  hybrid-rs operate unsafe-run safe-run --target d=3,eps=0.5 --max-alarms 0.05 --out rules.csv --plot rules.png
  hybrid-rs operate unsafe-25 safe-25 unsafe-50 safe-50 --target d=3,eps=0.25"""

#: Rows of a table that fit a terminal.
_SHOWN = 16


def operate(
    *runs: Annotated[Path, Parameter(metavar="UNSAFE_RUN SAFE_RUN")],
    target: Target,
    miss_probability: Unit = 0.01,
    alpha: Level = ALPHA,
    max_copies: Annotated[int, flag(integer(1, 10_000_000), "M")] = 100_000,
    max_alarms: Unit | None = None,
    json: bool = False,
    out: Annotated[Path, Parameter(metavar="FILE")] | None = None,
    plot: Annotated[Path, Parameter(metavar="FILE")] | None = None,
    force: bool = False,
) -> None:
    """Read pairs of runs, solve, print, write.

    Parameters
    ----------
    runs
        a run on unsafe inputs and one on safe inputs; or several such pairs
    target
        tokens and l2 budget of the attacker
    miss_probability
        what the filter may miss per request (default: 0.01)
    alpha
        risk of each certificate, and of all bounds on false alarms together (default: 0.01)
    max_copies
        most copies per request (default: 100000)
    max_alarms
        name the best rule whose bound on false alarms is at most this
    json
        print one JSON object instead of tables
    out
        also write FILE (.json or .csv)
    plot
        draw FILE (.png, .pdf or .svg)
    force
        let --out and --plot overwrite existing files
    """
    from hybrid_rs_jax.report.operation import SUFFIXES, save_operation

    if not runs or len(runs) % 2:
        raise BadInputError(f"Runs come in pairs, unsafe inputs and safe ones, got {len(runs)}.")
    if out is not None:
        check_target(out, (".json", ".csv"), force)
    if plot is not None:
        check_target(plot, SUFFIXES, force)
    settings = (*target, miss_probability, alpha, max_copies)
    found = {
        path_text(unsafe): _operation(unsafe, safe, *settings)
        for unsafe, safe in zip(runs[::2], runs[1::2], strict=True)
    }
    if out is not None:
        _write(out, found, force)
    if plot is not None:
        with atomic_file(plot, force) as picture:
            save_operation(found, picture, plot.suffix.lower())
    if json:
        print(json_text(_record(found)))
        return
    for name, operation in found.items():
        _print(name, operation, max_alarms)
    for path in (out, plot):
        if path is not None:
            say(f"Wrote {path}.")


def _operation(
    unsafe: Path, safe: Path, d: int, epsilon: float, miss_probability: float, alpha: float, max_copies: int
) -> Operation:
    from hybrid_rs_jax.cli._results import ResultOptions, certified
    from hybrid_rs_jax.results.certificate import Certificate
    from hybrid_rs_jax.results.count_files import read_counts
    from hybrid_rs_jax.results.operation import operating_points, ordinary_draws

    attacked, harmless = read_counts(unsafe), read_counts(safe)
    for path, counts in ((unsafe, attacked), (safe, harmless)):
        if counts.run is None:
            raise BadInputError(f"{path_text(path)} must be a run folder, which knows its noise and its model.")
    assert attacked.run is not None
    assert harmless.run is not None
    if attacked.run.smoothing != harmless.run.smoothing:
        raise BadInputError(
            f"{path_text(unsafe)} and {path_text(safe)} have different noise; one filter has one noise."
        )
    if attacked.run.facts.get("classifier") != harmless.run.facts.get("classifier"):
        raise BadInputError(f"{path_text(unsafe)} and {path_text(safe)} have different models; one filter has one.")
    budget = None if attacked.samples is not None else max(d, 8)
    with library_sentences():
        certificate = certified(attacked, attacked.run.smoothing, ResultOptions(alpha=alpha, max_budget=budget))
        if not isinstance(certificate, Certificate):
            raise BadInputError(f"{path_text(unsafe)} holds votes per class; a filter decides unsafe or not.")
        return operating_points(certificate, ordinary_draws(harmless), d, epsilon, miss_probability, alpha, max_copies)


def _record(found: Mapping[str, Operation]) -> dict[str, object]:
    import dataclasses

    return {"runs": [{"run": name, **dataclasses.asdict(operation)} for name, operation in found.items()]}


def _write(path: Path, found: Mapping[str, Operation], force: bool) -> None:
    from hybrid_rs_jax._files import write_csv

    with atomic_file(path, force) as temporary:
        if path.suffix.lower() == ".json":
            temporary.write_text(json_text(_record(found)) + "\n", encoding="utf-8")
            return
        names = ("copies", "flags", "tau", "detection", "alarms", "alarms_bound", "expected_copies")
        rows = (
            (run, *("" if (value := getattr(point, name)) is None else value for name in names))
            for run, operation in found.items()
            for point in operation.points
        )
        write_csv(temporary, ("run", *names), rows)


def _print(name: str, operation: Operation, max_alarms: float | None) -> None:
    target = f"d = {operation.budget}, eps = {setting_text(operation.epsilon)}"
    say(
        f"{name}: {operation.unsafe:,} unsafe and {counted(operation.safe, 'safe input')}; target {target}; "
        f"a = {setting_text(operation.miss_probability)}, alpha = {setting_text(operation.alpha)}\n"
    )
    if not operation.points:
        say(
            f"None of {counted(operation.rules, 'rule')} up to m = {operation.most_copies:,} certifies an input for "
            "this target: the score kept under attack is too small.\n"
        )
        return
    shown = _thinned(operation.points)
    print_table(["copies m", "flags k", "tau", "certified", "alarms", "at most", "copies, safe"], [*map(_cells, shown)])
    if len(shown) < len(operation.points):
        more = counted(len(operation.points) - len(shown), "more rule")
        say(f"{more} in between; --json and --out have all of them.")
    say()
    say(
        "certified: share of unsafe inputs of which it is proven that the filter misses them with probability at most "
        f"{setting_text(operation.miss_probability)} per request, under every attack within the target, given that "
        f"their certificates are right (each with probability at least 1 - alpha). alarms: estimated share of safe "
        f"inputs that are flagged, where nobody attacks; at most: its upper bound, with probability at least 1 - alpha "
        f"({DASH} and for these inputs only, where m exceeds the draws of a safe input; else for inputs like these). "
        f"For these bounds alpha was split over {counted(operation.rules, 'rule')}, so any may be chosen. copies, "
        "safe: estimated mean for a safe input, where the filter stops at the k-th unsafe copy."
    )
    say(f"The attacker: {operation.attacker}.")
    say(
        "An attacker who sends the same input R times slips through with probability up to 1 - (1 - a)^R, one half or "
        f"more from R = {_half(operation.miss_probability)} on."
    )
    if max_alarms is not None:
        best = operation.best(max_alarms)
        level = setting_text(max_alarms)
        say(
            f"No rule here has a bound on false alarms of at most {level}."
            if best is None
            else f"Best with a bound on false alarms of at most {level}: flag at {best.flags:,} of "
            f"{counted(best.copies, 'copy')}, certified detection {floor_text(100 * best.detection, 1)} %."
        )
    say()


def _cells(point: OperatingPoint) -> list[str]:
    return [
        f"{point.copies:,}",
        str(point.flags),
        up_text(point.tau),
        f"{floor_text(100 * point.detection, 1)} %",
        DASH if point.alarms is None else f"{ceil_text(100 * point.alarms, 2)} %",
        f"{ceil_text(100 * point.alarms_bound, 2)} %",
        ceil_text(point.expected_copies, 1),
    ]


def _thinned(points: tuple[OperatingPoint, ...]) -> list[OperatingPoint]:
    step = -(-len(points) // _SHOWN)
    return list(points[::step])


def _half(miss_probability: float) -> str:
    """Requests from which on an attacker may have slipped through with probability one half; very many rounded up."""
    import math

    requests = math.log(0.5) / math.log1p(-miss_probability)
    return f"{math.ceil(requests):,}" if requests < 1e9 else up_text(requests * (1 + 1e-12))
