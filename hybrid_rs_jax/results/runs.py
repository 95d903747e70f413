"""Run folders: counts together with everything that defines the noise and the classifier they came from."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_rs_jax._files import write_csv, write_json
from hybrid_rs_jax._version import __version__
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.kernels.record import describe_smoothing
from hybrid_rs_jax.sampling.ledger import LEDGER_FILE, Ledger

if TYPE_CHECKING:
    from hybrid_rs_jax.kernels import HybridSmoothing

__all__ = ["FORMAT", "RUN_FILE", "package_versions", "read_run", "run_record", "with_noise", "write_run"]

FORMAT = "hybrid_rs_jax run, version 1"
RUN_FILE = "run.json"


def run_record(
    smoothing: HybridSmoothing,
    *,
    samples: int,
    seed: int,
    eligible: Sequence[int],
    sigma_unit: str,
    dtype: str,
    classifier: Mapping[str, Any],
    data: Mapping[str, Any],
    noise: Mapping[str, Any],
) -> dict[str, Any]:
    """What `run.json` holds: the noise, the draws, the classifier and the data.

    Args:
      smoothing: the smoothing distribution that was drawn from.
      samples: noisy copies per input.
      seed: seed of the draws.
      eligible: positions that carry token noise, which are those that an attacker may change.
      sigma_unit: in which unit, at which resolution and at which stage the pixel noise is added.
      dtype: floating type of the noisy pixels.
      classifier: name of the base classifier and digest of its weights.
      data: where the inputs come from.
      noise: how the noise is drawn, from `describe_noise`.
    """
    return {
        "format": FORMAT,
        "smoothing": describe_smoothing(smoothing),
        "noise": dict(noise),
        "sigma_unit": None if smoothing.sigma is None else sigma_unit,
        "eligible_positions": None if smoothing.discrete is None else [int(position) for position in eligible],
        "samples": samples,
        "seed": seed,
        "dtype": dtype,
        "classifier": dict(classifier),
        "data": dict(data),
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


def write_run(folder: Path, record: Mapping[str, Any], rows: Iterable[tuple[str, int, int]]) -> None:
    """Write `run.json` and `counts.csv` (rows of id, successes, n) into `folder` (of an `atomic_folder`)."""
    write_json(folder / RUN_FILE, record)
    write_csv(folder / "counts.csv", ("id", "successes", "n"), rows)


def read_run(folder: Path) -> dict[str, Any]:
    """What the ledger or `run.json` of a run folder says.

    Raises:
      BadInputError: if the folder is no run folder, or its ledger is damaged.
    """
    path = folder / LEDGER_FILE
    if path.is_file():
        with library_sentences(), Ledger.open(folder) as ledger:
            return with_noise(path, ledger.header)
    path = folder / RUN_FILE
    if not path.is_file():
        raise BadInputError(f"{folder} is not a run folder: it has no {RUN_FILE} and no {LEDGER_FILE}.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise BadInputError(f"{path} must have the format {FORMAT!r}, got {found!r}.")
    return with_noise(path, record)


def with_noise(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The record that was read from `path`, or one sentence if it does not say which noise was drawn."""
    if not isinstance(record.get("smoothing"), dict):
        raise BadInputError(f"{path} does not say which noise was drawn: it has no 'smoothing'.")
    return record
