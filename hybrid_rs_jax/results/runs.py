"""Run folders: counts together with everything that defines the noise and the classifier they came from."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hybrid_rs_jax._files import kind_of, path_text, read_text, write_csv, write_json
from hybrid_rs_jax._json import parse_json
from hybrid_rs_jax._version import __version__
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.kernels import HybridSmoothing
from hybrid_rs_jax.kernels.record import build_smoothing, describe_smoothing
from hybrid_rs_jax.results.facts import Facts, Json, frozen, thawed
from hybrid_rs_jax.results.statement import Denoising, Target, ThreatName
from hybrid_rs_jax.sampling.design import Design
from hybrid_rs_jax.sampling.ledger import LEDGER_FILE, Ledger

__all__ = ["FORMAT", "RUN_FILE", "Run", "earlier_samples", "package_versions", "read_run", "run_record", "write_run"]

FORMAT = "hybrid_rs_jax run, version 1"
RUN_FILE = "run.json"
_COLUMNS = ("id", "successes", "n")
_THREATS: tuple[ThreatName, ...] = ("append", "suffix", "anywhere", "insert", "positions", "fields", "image")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run says about its draws.

    Attributes:
      smoothing: the smoothing distribution that was drawn from.
      facts: the whole header, as it was written.
      samples: noisy copies per input, at most.
      positions: positions that carry token noise in every input; None: not said, none, or a set for each input.
      own_positions: each input has a set of its own.
      threat: what `--threat` said; None: the run does not know threats (version 0.1).
      per_budget: the budgets that have a sample, and a filter, of their own each; None: one sample for all.
      target: what early stopping was for; None: a fixed number of draws.
      classes: number of classes where votes are counted per class.
      generator: pseudo-random generator of the noise; None: version 0.1, whose pixel noise is float32 normals.
      step: grid of the pixels and of their noise.
      total_variation: distance between the noise that is drawn and the ideal one.
      off_grid: the radii are meant for attacked pixels off the grid, too.
      design: the samples of draws, conditional ones among them; None: ordinary draws alone.
    """

    smoothing: HybridSmoothing
    facts: Facts
    samples: int | None = None
    positions: tuple[int, ...] | None = None
    own_positions: bool = False
    threat: ThreatName | None = None
    per_budget: tuple[int, ...] | None = None
    target: Target | None = None
    classes: int | None = None
    generator: str | None = None
    step: float | None = None
    total_variation: float = 0.0
    off_grid: bool = False
    design: Design | None = None

    @classmethod
    def of(cls, path: Path, header: Mapping[str, object]) -> Run:
        """The run that a header describes, or one sentence about the file `path` that it was read from."""
        facts = Facts(header)
        if not isinstance(facts.get("smoothing"), Facts):
            raise BadInputError(f"{path} does not say which noise was drawn: it has no 'smoothing'.")
        positions = _whole(path, facts, "eligible_positions")
        noise = _part(path, facts, "noise")
        return cls(
            smoothing=build_smoothing(_object(facts["smoothing"])),
            facts=facts,
            samples=_integer(path, facts, "samples"),
            positions=positions,
            own_positions=isinstance(facts.get("eligible_positions"), str),
            threat=_threat(path, facts),
            per_budget=_per_budget(path, facts),
            target=_target(path, facts),
            classes=_integer(path, facts, "classes"),
            generator=_text(path, noise, "generator"),
            step=_number(path, noise, "step", 0.0),
            total_variation=_number(path, noise, "total_variation", 0.0, 1.0) or 0.0,
            off_grid=noise.get("off_grid_attackers") is True,
            design=_design(path, facts),
        )

    @property
    def plan(self) -> Facts | None:
        """The stopping plan, as its `describe` has it; None where the run names none."""
        plan = self.facts.get("plan")
        return plan if isinstance(plan, Facts) else None

    @property
    def denoising(self) -> Denoising | None:
        """The denoiser before the classifier, as `Denoised.describe` has it; None where the run names none."""
        classifier = self.facts.get("classifier")
        denoiser = classifier.get("denoiser") if isinstance(classifier, Facts) else None
        if not isinstance(classifier, Facts) or not isinstance(denoiser, Facts):
            return None
        name, digest, sigma, time = (
            denoiser.get("name"),
            denoiser.get("weights_sha256"),
            classifier.get("sigma"),
            classifier.get("time"),
        )
        return Denoising(
            name if isinstance(name, str) else "a denoiser",
            digest if isinstance(digest, str) else None,
            float(sigma) if isinstance(sigma, int | float) else None,
            float(time) if isinstance(time, int | float) else None,
        )

    def named(self, part: str) -> str | None:
        """The name that the run gives its "classifier" or "data"."""
        described = self.facts.get(part)
        name = described.get("name") if isinstance(described, Facts) else None
        return name if isinstance(name, str) else None


def run_record(
    smoothing: HybridSmoothing,
    *,
    samples: int,
    seed: int,
    eligible: Sequence[int],
    sigma_unit: str,
    dtype: str,
    classifier: Mapping[str, object],
    data: Mapping[str, object],
    noise: Mapping[str, object] | None = None,
    threat: ThreatName | None = None,
    design: Design | None = None,
) -> dict[str, object]:
    """What `run.json`, or the header of a ledger, holds: the noise, the draws, the classifier and the data.

    Args:
      smoothing: the smoothing distribution that was drawn from.
      samples: noisy copies per input.
      seed: seed of the draws.
      eligible: positions that carry token noise, which are those that an attacker may change.
      sigma_unit: in which unit, at which resolution and at which stage the pixel noise is added.
      dtype: floating type of the noisy pixels.
      classifier: name of the base classifier and digest of its weights.
      data: where the inputs come from.
      noise: how the noise is drawn: generator, step of the grid, total variation from the ideal noise.
      threat: which changes the budgets count.
      design: the samples of draws; None: ordinary draws alone.
    """
    return {
        "format": FORMAT,
        "smoothing": describe_smoothing(smoothing),
        "sigma_unit": None if smoothing.sigma is None else sigma_unit,
        "eligible_positions": None if smoothing.discrete is None else [int(position) for position in eligible],
        "samples": samples,
        "seed": seed,
        "dtype": dtype,
        "classifier": dict(classifier),
        "data": dict(data),
        **({} if noise is None else {"noise": dict(noise)}),
        **({} if threat is None else {"threat": threat}),
        **({} if design is None else {"draws": design.describe()}),
        "packages": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Versions of what the draws depend on."""
    names = ("jax", "jaxlib", "flax", "numpy", "scipy")
    return {
        "hybrid_rs_jax": __version__,
        **{name: importlib.metadata.version(name) for name in names},
        "python": platform.python_version(),
    }


def write_run(
    folder: Path, record: Mapping[str, object], rows: Iterable[tuple[object, ...]], columns: Sequence[str] = _COLUMNS
) -> None:
    """Write `run.json` and `counts.csv` into `folder` (of an `atomic_folder`); a run with a design has a column sample.

    Args:
      folder: exists.
      record: of `run_record`.
      rows: of the table, one per input (and sample).
      columns: their names.
    """
    write_json(folder / RUN_FILE, {name: thawed(frozen(value)) for name, value in record.items()})
    write_csv(folder / "counts.csv", tuple(columns), rows)


def earlier_samples(ledger: Ledger) -> tuple[int, ...]:
    """The numbers of draws that a run was set to before it was extended."""
    return tuple(n for header in ledger.history[:-1] if isinstance(n := header.get("samples"), int))


def read_run(folder: Path) -> Run:
    """What the ledger or `run.json` of a run folder says.

    Raises:
      BadInputError: if the folder is no run folder, or its ledger is damaged.
    """
    path = folder / LEDGER_FILE
    if kind_of(path) == "file":
        with library_sentences(), Ledger.open(folder) as ledger:
            return Run.of(path, ledger.header)
    path = folder / RUN_FILE
    if kind_of(path) != "file":
        raise BadInputError(f"{path_text(folder)} is not a run folder: it has no {RUN_FILE} and no {LEDGER_FILE}.")
    record = parse_json(read_text(path), str(path))
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise BadInputError(f"{path} must have the format {FORMAT!r}, got {found!r}.")
    return Run.of(path, record)


def _threat(path: Path, facts: Facts) -> ThreatName | None:
    name = facts.get("threat")
    if name is None:
        return None
    for known in _THREATS:
        if name == known:
            return known
    raise BadInputError(f"{path}: threat must be one of {', '.join(_THREATS)}, got {name!r}.")


def _design(path: Path, facts: Facts) -> Design | None:
    draws = _part(path, facts, "draws")
    if not draws:
        return None
    try:
        return Design.of(_object(draws))
    except ValueError as error:
        raise BadInputError(f"{path}: {error}.") from error


def _per_budget(path: Path, facts: Facts) -> tuple[int, ...] | None:
    if facts.get("mode") != "per budget":
        return None
    return tuple(sorted(_whole(path, facts, "budgets") or ()))


def _target(path: Path, facts: Facts) -> Target | None:
    aim = _part(path, facts, "aim")
    if not aim:
        return None
    tau, alpha = _number(path, aim, "tau", 0.0, 1.0), _number(path, aim, "alpha", 0.0, 1.0)
    if tau is None or alpha is None:
        raise BadInputError(f"{path}: aim must name tau and alpha, got {thawed(aim)}.")
    d, epsilon = _integer(path, aim, "d"), _number(path, aim, "epsilon", 0.0)
    return Target(tau, alpha, d, epsilon, _number(path, aim, "tolerance", 0.0))


def _object(value: Json) -> dict[str, object]:
    plain = thawed(value)
    return plain if isinstance(plain, dict) else {}


def _part(path: Path, facts: Facts, name: str) -> Facts:
    value = facts.get(name)
    if value is not None and not isinstance(value, Facts):
        raise BadInputError(f"{path}: {name} must be an object, got {thawed(value)!r}.")
    return value or Facts({})


def _integer(path: Path, facts: Facts, name: str) -> int | None:
    value = facts.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise BadInputError(f"{path}: {name} must be a non-negative integer, got {thawed(value)!r}.")


def _number(path: Path, facts: Facts, name: str, low: float, high: float = float("inf")) -> float | None:
    value = facts.get(name)
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value < high:
        return float(value)
    raise BadInputError(f"{path}: {name} must be a number of at least {low} and below {high}, got {thawed(value)!r}.")


def _text(path: Path, facts: Facts, name: str) -> str | None:
    value = facts.get(name)
    if value is None or isinstance(value, str):
        return value
    raise BadInputError(f"{path}: {name} must be a text, got {thawed(value)!r}.")


def _whole(path: Path, facts: Facts, name: str) -> tuple[int, ...] | None:
    """A list of non-negative integers; None where there is none, or a text stands for it."""
    value = facts.get(name)
    if value is None or isinstance(value, str):
        return None
    if isinstance(value, tuple):
        numbers = tuple(x for x in value if isinstance(x, int) and not isinstance(x, bool) and x >= 0)
        if len(numbers) == len(value):
            return numbers
    raise BadInputError(f"{path}: {name} must be non-negative integers, got {thawed(value)!r}.")
