"""Several results side by side: the certified share and the mean radius of each, per discrete budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from hybrid_rs_jax._text import DASH, down_text, floor_text, percent_text, setting_text
from hybrid_rs_jax.kernels.record import describe_smoothing, smoothing_text
from hybrid_rs_jax.results.result import Result
from hybrid_rs_jax.results.summary import summary

__all__ = ["Compared", "cautions", "compared", "comparison_long", "comparison_record", "comparison_table"]


@dataclasses.dataclass(frozen=True, eq=False)
class Compared:
    """One result in a comparison.

    Attributes:
      name: of its run.
      result: its certificates.
      certified: int64[D], inputs certified at each of its budgets.
      mean_radius: float64[D], over all inputs, not certified counts as 0.
    """

    name: str
    result: Result
    certified: np.ndarray
    mean_radius: np.ndarray

    @property
    def noise(self) -> str:
        """The noise in a few words."""
        return smoothing_text(describe_smoothing(self.result.statements[0].noise.smoothing))

    @property
    def reached(self) -> int:
        """Number of budgets up to the last one at which an input is certified, at least 1."""
        found = np.flatnonzero(self.certified)
        return int(found[-1]) + 1 if found.size else 1


def compared(name: str, result: Result) -> Compared:
    """A result by its sums."""
    lines = summary(result).budgets
    return Compared(
        name, result, np.array([line.certified for line in lines]), np.array([line.mean for line in lines], float)
    )


def comparison_table(runs: Sequence[Compared]) -> tuple[list[str], list[list[str]]]:
    """Header and a row per run: its noise, inputs, draws, then for each budget "share, mean radius", both floored.

    Columns end with the last budget that any run certifies for an input.
    """
    numbers = _columns(runs)
    header = ["run", "kernel", "beta", "sigma", "inputs", "n", "tau", "alpha", *(f"d = {d}" for d in numbers)]
    rows = []
    for run in runs:
        fewest, most = int(run.result.n.min()), int(run.result.n.max())
        n = f"{fewest}" if fewest == most else f"{fewest}..{most}"
        risk = run.result.statements[0].risk
        tau = DASH if risk.tau is None else down_text(risk.tau)
        cells = [_cell(run, d) for d in numbers]
        settings = [str(len(run.result)), n, tau, setting_text(risk.alpha)]
        rows.append([run.name, *_noise_cells(run), *settings, *cells])
    return header, rows


def comparison_record(runs: Sequence[Compared]) -> list[dict[str, object]]:
    """One object per run, as JSON has it."""
    found = []
    for run in runs:
        risk = run.result.statements[0].risk
        noise = describe_smoothing(run.result.statements[0].noise.smoothing)
        found.append(
            {
                "run": run.name,
                "smoothing": noise,
                "tau": risk.tau,
                "alpha": risk.alpha,
                "inputs": len(run.result),
                "budgets": list(run.result.budget_numbers),
                "certified": run.certified.tolist(),
                "mean_radius": run.mean_radius.tolist(),
            }
        )
    return found


def comparison_long(runs: Sequence[Compared]) -> tuple[list[str], list[tuple[object, ...]]]:
    """Header and one row per run and budget."""
    header = ["run", "kernel", "beta", "sigma", "tau", "alpha", "d", "inputs", "certified", "share", "mean_radius"]
    rows: list[tuple[object, ...]] = []
    for run in runs:
        risk = run.result.statements[0].risk
        noise = describe_smoothing(run.result.statements[0].noise.smoothing)
        shared = (run.name, noise["kernel"], noise.get("beta", noise.get("p_delete")), noise["sigma"])
        for place, d in enumerate(run.result.budget_numbers):
            count = int(run.certified[place])
            numbers = (len(run.result), count, count / len(run.result), float(run.mean_radius[place]))
            rows.append((*shared, risk.tau, risk.alpha, d, *numbers))
    return header, rows


def cautions(runs: Sequence[Compared]) -> list[str]:
    """What makes the rows less comparable than they look, a sentence each."""
    first, said = runs[0], []
    for run in runs[1:]:
        if set(run.result.ids) != set(first.result.ids):
            said.append(f"{run.name} and {first.name} hold different inputs, so their shares are about different data.")
            break
    for what in ("tau", "alpha"):
        if len({getattr(run.result.statements[0].risk, what) for run in runs}) > 1:
            said.append(f"The runs are certified for different {what}; --{what} says one for all.")
    if len({run.result.statements[0].threat.name for run in runs}) > 1:
        said.append("The runs are about different threats: a budget d does not count the same changes.")
    return said


def _columns(runs: Sequence[Compared]) -> list[int]:
    return sorted({d for run in runs for d in run.result.budget_numbers[: run.reached]})


def _noise_cells(run: Compared) -> list[str]:
    noise = describe_smoothing(run.result.statements[0].noise.smoothing)
    share = noise.get("beta", noise.get("p_delete"))
    numbers = [DASH if value is None else setting_text(float(value)) for value in (share, noise["sigma"])]
    return [str(noise["kernel"]), *numbers]


def _cell(run: Compared, d: int) -> str:
    if d not in run.result.budget_numbers:
        return ""
    place = run.result.budget_numbers.index(d)
    count = int(run.certified[place])
    if not count:
        return DASH
    share = percent_text(count, len(run.result))
    return f"{share}, {floor_text(float(run.mean_radius[place]))}" if run.result.statements[0].noise.pixels else share
