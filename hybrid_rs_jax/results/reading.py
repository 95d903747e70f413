"""Results back from JSON, equal to what was written. Files of version 0.1 are read as far as they were right.

The counts, the run and the settings are read; the statement is put together from them anew, so that no sentence of a
file is believed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hybrid_rs_jax._files import path_text, read_text
from hybrid_rs_jax._json import parse_json
from hybrid_rs_jax.certificate.certify import distinct_bounds, largest_budget
from hybrid_rs_jax.certificate.classes import checked_sample_votes, checked_votes, class_bounds
from hybrid_rs_jax.certificate.samples import Sample
from hybrid_rs_jax.confidence import plan_from
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.kernels import Edits, HybridSmoothing
from hybrid_rs_jax.kernels.edits import Budget
from hybrid_rs_jax.kernels.record import build_smoothing, describe_smoothing
from hybrid_rs_jax.results.building import build_statement
from hybrid_rs_jax.results.certificate import Certificate, Decisions
from hybrid_rs_jax.results.classes import ClassCertificate
from hybrid_rs_jax.results.counts import Column, Counts
from hybrid_rs_jax.results.runs import Run
from hybrid_rs_jax.results.statement import Needs, Provisional, Statement

__all__ = ["read_certificates"]

Object = Mapping[str, object]


def read_certificates(path: Path) -> Certificate | Decisions | ClassCertificate:
    """Read what `certify --json`, `certify --out FILE.json` or `Certificate.save` wrote.

    Args:
      path: a JSON file.

    Returns:
      The result, equal to the one that was written; its statement is read, not computed again.

    Raises:
      BadInputError: if it is something else.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import hybrid_rs_jax as hrs
    >>> found = hrs.certify([98], 100, hrs.HybridSmoothing(None, 0.5), 0.5, 0.01, budgets=[0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found.save(Path(folder) / "found.json")
    ...     again = read_certificates(Path(folder) / "found.json")
    >>> bool((again.radius == found.radius).all())
    True
    """
    if path.suffix.lower() in (".csv", ".parquet", ".tex"):
        raise BadInputError(
            f"{path_text(path)} must be a run folder or a JSON file of certify, which has the statement with it."
        )
    content = parse_json(read_text(path), f"{path_text(path)}, hence no result of certify,")
    try:
        return _Stored.of(path, content).result()
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, BadInputError):
            raise
        raise BadInputError(f"{path_text(path)} is not a result of certify: {_what(error)}.") from error


@dataclasses.dataclass(frozen=True)
class _Stored:
    """The content of a file, with readers that say what they miss."""

    path: Path
    statement: Object
    rows: Sequence[Object]

    @classmethod
    def of(cls, path: Path, content: object) -> _Stored:
        whole = _object(content, "it")
        statement, rows = _object(whole["statement"], "statement"), _list(whole["certificates"], "certificates")
        if not rows:
            raise ValueError("it has no certificates")
        return cls(path, statement, [_object(row, "a certificate") for row in rows])

    def result(self) -> Certificate | Decisions | ClassCertificate:
        if "classes" in self.statement:
            return self._classes()
        if self.statement.get("side", "above") == "both":
            return self._decisions()
        side = "below" if self.statement.get("side") == "below" else "above"
        return self._certificate(side, 1, self.statement)

    @property
    def smoothing(self) -> HybridSmoothing:
        if not isinstance(self.statement["kernel"], str):
            raise ValueError("its kernel must be a name")
        sigma = self.statement["sigma"]
        return build_smoothing(
            {**self.statement, "sigma": None if sigma is None else _number(sigma, "sigma", 0.0, 1e300)}
        )

    @property
    def budgets(self) -> tuple[Budget, ...]:
        return self.smoothing.check_budgets([_budget(d) for d in _list(self.statement["budgets"], "budgets")])

    @property
    def samples(self) -> tuple[Sample, ...] | None:
        if "samples" not in self.statement:
            return None
        found = []
        for stored in _list(self.statement["samples"], "samples"):
            each = _object(stored, "a sample")
            covers, sets = _integer(each["covers"], "covers", 1), _integer(each["sets"], "sets", 1)
            forced = None if each["forced"] is None else _budget(each["forced"])
            found.append(Sample(covers, _number(each["share"], "share", 0.0, 1.0 + 2.0**-40), forced, sets))
        return tuple(found)

    @property
    def tau(self) -> float:
        return _number(self.statement["tau"], "tau", 0.0, 1.0)

    @property
    def alpha(self) -> float:
        return _number(self.statement["alpha"], "alpha", 0.0, 1.0)

    @property
    def counts(self) -> Counts:
        ids = [row["id"] for row in self.rows]
        if not all(isinstance(name, str) for name in ids):
            raise ValueError(f"id must be a text, got {next(name for name in ids if not isinstance(name, str))!r}")
        n = self._integers("n")
        votes = self._integers("votes") if "votes" in self.rows[0] else None
        run = self._run()
        plan = self.statement.get("plan")
        skipped = _object(self.statement.get("skipped") or {}, "skipped")
        return Counts(
            ids=tuple(map(str, ids)),
            successes=np.zeros(n.shape, np.int64) if votes is not None else self._integers("successes"),
            n=n,
            ties=self._integers("ties") if "ties" in self.rows[0] else None,
            budgets=self.budgets if n.ndim == 2 and self.samples is None else None,
            run=run,
            plan=None if plan is None else plan_from(_object(plan, "plan")),
            votes=votes,
            provisional=self._provisional(run, n),
            skipped=tuple((name, str(reason)) for name, reason in skipped.items()),
            unfinished=tuple(map(str, _list(self.statement.get("unfinished") or [], "unfinished"))),
            others=self._others(),
            samples=self.samples,
            most=self._integers("most") if "most" in self.rows[0] else None,
            total_variation=0.0 if run is not None else self._total_variation(),
        )

    def _certificate(self, side: str, decisions: int, needs: Object) -> Certificate:
        counts, above = self.counts, side == "above"
        statement = build_statement(
            counts, self.smoothing, self.tau, self.alpha, self.budgets, "above" if above else "below", decisions
        )
        bound, complement = self._bounds("p_a" if above else "upper_bound", above, _again(counts, statement))
        radius, budget = self._radius("radius"), self._integers("budget", -1)
        if decisions == 2:
            if counts.labels is not None:
                radius = self._radius("radius_unsafe" if above else "radius_safe")
            else:
                mine = np.array([row["decision"] == ("unsafe" if above else "safe") for row in self.rows])
                radius = np.where(mine[:, None], radius, -1.0)
            budget = largest_budget(radius, self.budgets)
        known = dataclasses.replace(statement, package=self._package(), known_needs=_needs(needs))
        return Certificate(counts, radius, budget, bound, complement, known)

    def _decisions(self) -> Decisions:
        if "decisions" not in self.statement:
            raise BadInputError(
                f"{path_text(self.path)} was written by version 0.1, which mixed the bounds of two decisions in one "
                "column; certify its counts again with --decision both."
            )
        needs = _object(self.statement["decisions"], "decisions")
        return Decisions.of(
            self._certificate("above", 2, _object(needs["unsafe"], "unsafe")),
            self._certificate("below", 2, _object(needs["safe"], "safe")),
        )

    def _classes(self) -> ClassCertificate:
        counts = self.counts
        statement = build_statement(counts, self.smoothing, None, self.alpha, self.budgets)
        top, other = _class_bounds_again(counts, self.alpha)
        return ClassCertificate(
            counts,
            self._radius("radius"),
            self._integers("budget", -1),
            self._integers("label"),
            *self._bounds("p_a", True, top),
            *self._bounds("p_b", False, other),
            dataclasses.replace(statement, package=self._package()),
        )

    def _run(self) -> Run | None:
        run = self.statement.get("run")
        if not run:
            return None
        return Run.of(self.path, {"smoothing": describe_smoothing(self.smoothing), **_object(run, "run")})

    def _total_variation(self) -> float:
        noise = _object(self.statement.get("noise") or {}, "noise")
        return _number(noise.get("total_variation", 0.0), "total_variation", -5e-324, 1.0)

    def _provisional(self, run: Run | None, n: np.ndarray) -> Provisional | None:
        stored = self.statement.get("provisional")
        if stored is not None:
            fields = _object(stored, "provisional")
            earlier = tuple(_integer(x, "earlier", 0) for x in _list(fields["earlier"], "earlier"))
            return Provisional(
                _integer(fields["planned"], "planned", 0), _integer(fields["partial"], "partial", 0), earlier
            )
        if run is None or "provisional" in self.statement or self.statement.get("plan") is not None:
            return None
        # version 0.1 certified runs that were cut short or extended without a word
        earlier = tuple(x for x in _list(run.facts.get("extended_from") or [], "extended_from") if isinstance(x, int))
        partial = 0 if run.samples is None else int((n.reshape(len(n), -1) < run.samples).any(axis=1).sum())
        return Provisional(run.samples or int(n.max()), partial, earlier) if earlier or partial else None

    def _others(self) -> tuple[Column, ...]:
        if "columns" not in self.rows[0]:
            return ()
        columns = [_object(row["columns"], "columns") for row in self.rows]
        return tuple(Column(name, tuple(str(row[name]) for row in columns)) for name in columns[0])

    def _package(self) -> str:
        return str(self.statement.get("package", "an unknown version"))

    def _bounds(self, name: str, lower: bool, again: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """A bound and its complement, which is that of the counts (`again`) where they give this very bound.

        Version 0.1 wrote every bound as p_a.
        """
        bound = self._reals(name if name in self.rows[0] else "p_a")
        if not np.all((bound >= 0) & (bound <= 1)):
            raise ValueError(f"{name} must be in [0, 1]")
        if bound.shape != again[0].shape:
            raise ValueError(f"{name} must have the shape of the counts")
        outward = np.clip(np.nextafter(1 - bound, 2 if lower else -1), 0, 1)
        return bound, np.where(bound == again[0], again[1], outward)

    def _radius(self, name: str) -> np.ndarray:
        radius = self._reals(name)
        wanted = (len(self.rows), len(self.budgets))
        if radius.shape != wanted or not np.all((radius >= 0) | (radius == -1)):
            raise ValueError(f"expected {len(self.budgets)} radii per input, each at least 0 or -1")
        return radius

    def _reals(self, name: str) -> np.ndarray:
        return np.array([row[name] for row in self.rows], np.float64)

    def _integers(self, name: str, least: int = 0) -> np.ndarray:
        values = np.array([row[name] for row in self.rows])
        if values.dtype.kind != "i" or np.any(values < least):
            raise ValueError(f"{name} must be integers of at least {least}")
        return values.astype(np.int64)


def _again(counts: Counts, statement: Statement) -> tuple[np.ndarray, np.ndarray]:
    """The bounds that the counts give, and their complements."""
    side, plan, risk = statement.side, counts.plan, statement.risk
    successes, n = counts.certain(side), counts.n
    if counts.samples is None:
        p, rest, back = distinct_bounds(successes, n, risk.per_statement, side, plan)
        return p[back], rest[back]
    columns = []
    for place, sample in enumerate(counts.samples):
        p, rest, back = distinct_bounds(successes[:, place], n[:, place], sample.risk(risk.own), side, plan)
        columns.append((p[back], rest[back]))
    return np.stack([p for p, _ in columns], 1), np.stack([rest for _, rest in columns], 1)


def _class_bounds_again(
    counts: Counts, alpha: float
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The bounds that votes per class give: of the class that leads, and of the others."""
    if counts.samples is None:
        votes, draws = checked_votes(counts.votes, counts.n)
        _, top, other = class_bounds(votes, draws, alpha, 0 if counts.ties is None else counts.ties)
        return top, other
    votes, draws = checked_sample_votes(counts.votes, counts.n, len(counts.samples))
    label = votes.sum(axis=1).argmax(axis=1)
    found = [
        class_bounds(votes[:, place], draws[:, place], sample.risk(alpha), label=label)[1:]
        for place, sample in enumerate(counts.samples)
    ]
    tops, others = zip(*found, strict=True)
    top, other = ((np.stack([p for p, _ in x], 1), np.stack([q for _, q in x], 1)) for x in (tops, others))
    return top, other


def _needs(stored: Object) -> Needs | None:
    """None where the file does not say it for this side and this plan (version 0.1)."""
    if "needed_share_complement" not in stored:
        return None
    draws = tuple(_integer(n, "needed_samples", -1) for n in _list(stored["needed_samples"], "needed_samples"))
    complement = _number(stored["needed_share_complement"], "needed_share_complement", -2.0, 2.0)
    share = stored["needed_share"]
    return Needs(draws, 1.0 if share is None else _number(share, "needed_share", 0.0, 2.0), complement)


def _budget(stored: object) -> Budget:
    if isinstance(stored, Mapping):
        return Edits(**{str(name): _integer(number, str(name), 0) for name, number in stored.items()})
    return _integer(stored, "a budget", 0)


def _object(value: object, name: str) -> Object:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be an object")
    return value


def _list(value: object, name: str) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{name} must be a list")
    return value


def _integer(value: object, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r:.80}")
    return value


def _number(value: object, name: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
        raise ValueError(f"{name} must be a number in ({low}, {high}), got {value!r:.80}")
    return float(value)


def _what(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
