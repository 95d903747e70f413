"""Certificates as records: the JSON object of `hybrid-rs certify`, rows for CSV and Parquet, and reading them back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid_rs_jax._files import read_text, require_pyarrow, write_csv, write_json
from hybrid_rs_jax._version import __version__
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.kernels.record import describe_smoothing
from hybrid_rs_jax.results.words import MINUS_ONE, guarantee_text, threat_model

if TYPE_CHECKING:
    from hybrid_rs_jax.certificate import Certificate

__all__ = ["SUFFIXES", "both_decisions", "certificate_record", "read_certificates", "write_certificates"]

SUFFIXES = (".json", ".csv", ".parquet")


def certificate_record(
    certificate: Certificate,
    ids: Sequence[str],
    needed_samples: Sequence[int],
    run: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`{"statement": everything that the guarantee depends on, "certificates": one object per input}`.

    Args:
      certificate: certificates of B inputs.
      ids: their B names.
      needed_samples: draws that each budget needs at `eps = 0` if all succeed, -1: no number suffices.
      run: `run.json` of the counts, where they come from a run folder.
    """
    noise = describe_smoothing(certificate.smoothing)
    parts = {"tokens": noise["kernel"] != "none", "pixels": noise["sigma"] is not None}
    own = certificate.statement()
    own.pop("discrete")
    statement = {
        "claim": own.pop("claim"),
        "guarantee": guarantee_text(
            certificate.alpha,
            certificate.tau,
            certificate.budgets,
            certificate.simultaneous,
            side=certificate.side,
            **parts,
        ),
        "threat_model": threat_model(**parts),
        **noise,
        **own,
        "risk_per_statement": certificate.risk_per_statement,
        "simultaneous": certificate.simultaneous,
        "side": certificate.side,
        "plan": None if certificate.plan is None else certificate.plan.describe(),
        "max_budget": certificate.budgets[-1],
        "needed_samples": [int(n) for n in needed_samples],
        "minus_one": MINUS_ONE,
        "package": f"hybrid_rs_jax {__version__}",
    }
    if run is not None:
        statement["run"] = {key: value for key, value in run.items() if key != "smoothing"}
    columns = (certificate.successes, certificate.n, certificate.p_a, certificate.radius, certificate.budget)
    names = ("successes", "n", "p_a", "radius", "budget")
    rows = zip(ids, *(column.tolist() for column in columns), strict=True)
    return {
        "statement": statement,
        "certificates": [dict(zip(("id", *names), row, strict=True)) for row in rows],
    }


def both_decisions(unsafe: dict[str, Any], safe: dict[str, Any], alpha: float) -> dict[str, Any]:
    """One record from two, each at risk `alpha / 2`: an input is certified unsafe, or safe, or abstains.

    Its bounds cannot say both: a lower bound above tau excludes an upper bound below it.
    """
    statement = dict(unsafe["statement"])
    parts = {"tokens": statement["kernel"] != "none", "pixels": statement["sigma"] is not None}
    statement |= {
        "claim": "the smoothed score stays on its side of tau",
        "guarantee": guarantee_text(
            alpha, statement["tau"], statement["budgets"], statement["simultaneous"], side="both", **parts
        ),
        "alpha": alpha,
        "risk": f"{statement['risk']}, half of it for each decision",
        "side": "both",
        "needed_samples_safe": safe["statement"]["needed_samples"],
    }
    rows = []
    for above, below in zip(unsafe["certificates"], safe["certificates"], strict=True):
        if above["budget"] >= 0:
            rows.append({**above, "decision": "unsafe"})
        elif below["budget"] >= 0:
            rows.append({**below, "decision": "safe"})
        else:
            rows.append({**above, "decision": "abstain"})
    return {"statement": statement, "certificates": rows}


def write_certificates(path: Path, record: Mapping[str, Any], suffix: str) -> None:
    """Write a record into the file `path` (of an `atomic_file`) in the format of `suffix`."""
    if suffix == ".json":
        write_json(path, record)
    elif suffix == ".csv":
        columns = _columns(record)
        write_csv(path, list(columns), zip(*columns.values(), strict=True))
    else:
        pyarrow, parquet = require_pyarrow()
        table = pyarrow.table(_columns(record))
        parquet.write_table(table.replace_schema_metadata({"statement": json.dumps(record["statement"])}), path)


def _columns(record: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Flat columns: `id, successes, n, p_a, budget, radius_0, ...`; counts get one column per budget if they differ."""
    rows, budgets = record["certificates"], record["statement"]["budgets"]
    columns: dict[str, list[Any]] = {"id": [row["id"] for row in rows]}
    if "decision" in rows[0]:
        columns["decision"] = [row["decision"] for row in rows]
    for name in ("successes", "n", "p_a", "budget", "radius"):
        if isinstance(rows[0][name], list):
            columns |= {f"{name}_{d}": [row[name][i] for row in rows] for i, d in enumerate(budgets)}
        else:
            columns[name] = [row[name] for row in rows]
    return columns


def read_certificates(path: Path) -> dict[str, Any]:
    """Read what `certify --json` or `certify --out FILE.json` wrote.

    Raises:
      BadInputError: if it is something else.
    """
    if path.suffix.lower() in (".csv", ".parquet"):
        raise BadInputError(f"{path} must be a run folder or a JSON file of certify, which has the statement with it.")
    try:
        record = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path} is not legal JSON, hence no result of certify: {error}.") from error
    try:
        _check_record(record)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInputError(f"{path} is not a result of certify: {_what(error)}.") from error
    return record


def _check_record(record: Any) -> None:
    statement, rows = record["statement"], record["certificates"]
    budgets = [int(d) for d in statement["budgets"]]
    for name in ("tau", "alpha"):
        float(statement[name])
    np.array(statement.get("needed_samples", []), np.int64)
    if not isinstance(statement["kernel"], str) or not rows or not budgets:
        raise ValueError("it has no kernel, no budgets or no certificates")
    statement["sigma"] = None if statement["sigma"] is None else float(statement["sigma"])
    radius = np.array([row["radius"] for row in rows], np.float64)
    if radius.shape != (len(rows), len(budgets)) or not np.all((radius >= 0) | (radius == -1)):
        raise ValueError(f"expected {len(budgets)} radii per input, each at least 0 or -1")
    for row in rows:
        if not isinstance(row["id"], str):
            raise ValueError(f"id must be a text, got {row['id']!r}")
        np.array([row["successes"], row["n"]], np.int64)
        int(row["budget"])


def _what(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)
