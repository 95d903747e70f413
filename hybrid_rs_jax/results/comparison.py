"""Several results side by side: the certified share and the mean radius of each, per discrete budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from hybrid_rs_jax._text import DASH, down_text, floor_text, joined, percent_text, setting_text
from hybrid_rs_jax.kernels.record import describe_smoothing, smoothing_text
from hybrid_rs_jax.results.result import Result
from hybrid_rs_jax.results.sentences import claim
from hybrid_rs_jax.results.summary import summary

__all__ = [
    "CELL",
    "By",
    "Compared",
    "cautions",
    "compared",
    "comparison_long",
    "comparison_record",
    "comparison_table",
    "in_order",
    "value_of",
    "varied",
]

#: What a cell of the table says.
CELL = (
    "A cell is the share of inputs certified at d, and the mean radius over all inputs (one not certified counts as 0)."
)
#: A setting that runs are held side by side by.
By = Literal["sigma", "beta", "model"]
SETTINGS: tuple[By, ...] = ("sigma", "beta", "model")


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
    def smoothing(self) -> dict[str, object]:
        """The noise, as a run has it."""
        return describe_smoothing(self.result.statements[0].noise.smoothing)

    @property
    def share(self) -> object:
        """The share of tokens that the noise replaces or deletes, a list where each field has its own; None: none."""
        return self.smoothing.get("beta", self.smoothing.get("p_delete"))

    @property
    def noise(self) -> str:
        """The noise in a few words."""
        return smoothing_text(self.smoothing)

    @property
    def model(self) -> str:
        """The classifier, as the run names it."""
        run = self.result.counts.run
        return (None if run is None else run.named("classifier")) or "not said"

    @property
    def claim(self) -> str:
        """What is certified of an input."""
        return joined(dict.fromkeys(map(claim, self.result.statements)), "or")

    @property
    def provisional(self) -> bool:
        """It holds only if no vote had a part in when the draws ended."""
        return any(statement.provisional is not None for statement in self.result.statements)

    def beside(self, by: By, settings: Sequence[By]) -> str:
        """The values of all settings but one, in a few words."""
        names = {"sigma": "sigma = ", "beta": "beta = ", "model": ""}
        values = ((each, value_of(self, each)) for each in settings if each != by)
        return ", ".join(f"{names[name]}{_setting(value)}" for name, value in values)

    def share_at(self, d: int) -> float:
        """Certified share at a budget; nan where the result does not have it."""
        return self._at(d, self.certified / len(self.result))

    def mean_radius_at(self, d: int) -> float:
        """Mean radius at a budget; nan where the result does not have it."""
        return self._at(d, self.mean_radius)

    def _at(self, d: int, values: np.ndarray) -> float:
        numbers = self.result.budget_numbers
        return float(values[numbers.index(d)]) if d in numbers else float("nan")

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


def value_of(run: Compared, by: By) -> float | str:
    """A setting of a run; the share of replaced or deleted tokens is its beta, and "none" stands for no noise."""
    if by == "model":
        return run.model
    value = run.smoothing["sigma"] if by == "sigma" else run.share
    return float(value) if isinstance(value, int | float) else "none" if value is None else _setting(value)


def varied(runs: Sequence[Compared]) -> list[By]:
    """The settings in which the runs differ."""
    return [by for by in SETTINGS if len({value_of(run, by) for run in runs}) > 1]


def in_order(runs: Sequence[Compared], by: By) -> list[Compared]:
    """The runs by a setting, equal ones as they were."""
    return sorted(runs, key=lambda run: (isinstance(value := value_of(run, by), str), value))


def _setting(value: object) -> str:
    """A setting as a table has it; a beta for each field in brackets."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_setting, value))}]"
    return setting_text(float(value)) if isinstance(value, int | float) else str(value)


def comparison_table(runs: Sequence[Compared]) -> tuple[list[str], list[list[str]]]:
    """Header and a row per run: its noise, inputs, draws, then for each budget "share, mean radius", both floored.

    Columns end with the last budget that any run certifies for an input.
    """
    numbers, models = _columns(runs), "model" in varied(runs)
    header = [
        "run",
        *(["model"] if models else []),
        "kernel",
        "beta",
        "sigma",
        "inputs",
        "n",
        "tau",
        "alpha",
        *(f"d = {d}" for d in numbers),
    ]
    rows = []
    for run in runs:
        fewest, most = int(run.result.n.min()), int(run.result.n.max())
        n = f"{fewest}" if fewest == most else f"{fewest}..{most}"
        risk = run.result.statements[0].risk
        tau = DASH if risk.tau is None else down_text(risk.tau)
        cells = [_cell(run, d) for d in numbers]
        settings = [str(len(run.result)), n, tau, setting_text(risk.alpha)]
        rows.append([run.name, *([run.model] if models else []), *_noise_cells(run), *settings, *cells])
    return header, rows


def comparison_record(runs: Sequence[Compared]) -> list[dict[str, object]]:
    """One object per run, as JSON has it."""
    found = []
    for run in runs:
        risk = run.result.statements[0].risk
        found.append(
            {
                "run": run.name,
                "model": run.model,
                "smoothing": run.smoothing,
                "claim": run.claim,
                "provisional": run.provisional,
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
    header = [
        "run",
        "model",
        "kernel",
        "beta",
        "sigma",
        "tau",
        "alpha",
        "d",
        "inputs",
        "certified",
        "share",
        "mean_radius",
    ]
    rows: list[tuple[object, ...]] = []
    for run in runs:
        risk = run.result.statements[0].risk
        shared = (run.name, run.model, run.smoothing["kernel"], run.share, run.smoothing["sigma"])
        for place, d in enumerate(run.result.budget_numbers):
            count = int(run.certified[place])
            numbers = (len(run.result), count, count / len(run.result), float(run.mean_radius[place]))
            rows.append((*shared, risk.tau, risk.alpha, d, *numbers))
    return header, rows


def cautions(runs: Sequence[Compared]) -> list[str]:
    """What certified means, and what makes the rows less comparable than they look, a sentence each."""
    first, said = runs[0], []
    for run in runs[1:]:
        if set(run.result.ids) != set(first.result.ids):
            said.append(f"{run.name} and {first.name} hold different inputs, so their shares are about different data.")
            break
    for what in ("tau", "alpha"):
        if len({getattr(run.result.statements[0].risk, what) for run in runs} - {None}) > 1:
            said.append(f"The runs are certified for different {what}; --{what} certifies run folders for the same.")
    said += _claims(runs)
    if len({run.result.statements[0].threat.name for run in runs}) > 1:
        said.append("The runs are about different threats: a budget d does not count the same changes.")
    return said


def _claims(runs: Sequence[Compared]) -> list[str]:
    """What certified means, and where that has a condition."""
    names: dict[str, list[str]] = {}
    for run in runs:
        names.setdefault(run.claim, []).append(run.name)
    said = [f"Certified: {claimed}." for claimed in names]
    if len(names) > 1:
        said = [f"Certified in {joined(own)}: {claimed}." for claimed, own in names.items()]
    if condition := [run.name for run in runs if run.provisional]:
        said.append(f"PROVISIONAL, true only if no vote had a part in when the draws ended: {joined(condition)}.")
    return said


def _columns(runs: Sequence[Compared]) -> list[int]:
    return sorted({d for run in runs for d in run.result.budget_numbers[: run.reached]})


def _noise_cells(run: Compared) -> list[str]:
    numbers = [DASH if value is None else _setting(value) for value in (run.share, run.smoothing["sigma"])]
    return [str(run.smoothing["kernel"]), *numbers]


def _cell(run: Compared, d: int) -> str:
    if d not in run.result.budget_numbers:
        return ""
    place = run.result.budget_numbers.index(d)
    count = int(run.certified[place])
    if not count:
        return DASH
    share = percent_text(count, len(run.result))
    return f"{share}, {floor_text(float(run.mean_radius[place]))}" if run.result.statements[0].noise.pixels else share
