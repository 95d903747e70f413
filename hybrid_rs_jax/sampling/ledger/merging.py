"""Several ledgers become one: runs on different inputs, or on different parts of the samples of the same inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from hybrid_rs_jax._files import atomic_folder, check_target_folder
from hybrid_rs_jax._text import joined
from hybrid_rs_jax.errors import LedgerError
from hybrid_rs_jax.sampling.ledger import schema
from hybrid_rs_jax.sampling.ledger.counts import Stream
from hybrid_rs_jax.sampling.ledger.schema import InputRow, writing
from hybrid_rs_jax.sampling.ledger.store import OTHER_NOISE, Ledger, create_file

__all__ = ["merge"]


def merge(target: Path, sources: Sequence[Path]) -> None:
    """Copy the counts of several runs with the same header into a new run folder.

    The sources are only read, and may be in use by a writer: what is committed at that moment is copied. An input that
    one source skipped and another one has draws of is in use. The parts of one sample can come from several sources
    where the number of draws is fixed; a plan that stops early decides on each input in one run.

    Args:
      target: the new run folder, which must not exist (or be empty).
      sources: run folders.

    Raises:
      LedgerError: if a source cannot be read or is of version 0.1, the headers differ (one line per field), an input
        has another digest or index, a draw is in two sources, or none holds a draw; the target is then not made.
      BadInputError: if the target exists, or its folder cannot be written.

    >>> import tempfile
    >>> from hybrid_rs_jax.sampling.ledger import SHARED, CountRow
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     parts = [Path(folder) / name for name in ("a", "b")]
    ...     for place, part in enumerate(parts):
    ...         with Ledger.create(part, {"samples": 5}) as ledger:
    ...             ledger.register([(f"input-{place}", place, "0" * 64)])
    ...             ledger.append([CountRow(place, SHARED, 0, 5, (4,), 0)])
    ...     merge(Path(folder) / "all", parts)
    ...     with Ledger.open(Path(folder) / "all") as joined:
    ...         print(joined.counts().ids)
    {0: 'input-0', 1: 'input-1'}
    """
    target, folders = Path(target).absolute(), [Path(source) for source in sources]
    if not folders:
        raise LedgerError("sources must name at least one run folder, got none.")
    with contextlib.ExitStack() as cleanup:
        runs = [cleanup.enter_context(Ledger.open(folder)) for folder in folders]
        for run in runs:
            _check_same_header(runs[0], run)
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        check_target_folder(target)
        with atomic_folder(target) as folder:
            create_file(folder, max((run._history for run in runs), key=len))
            with Ledger._writer(folder, contextlib.ExitStack()) as merged, merged._transaction():
                _copy(merged, runs)


def _check_same_header(one: Ledger, other: Ledger) -> None:
    names = (f"{one.path.parent}", f"{other.path.parent}")
    if other.version != schema.VERSION:
        raise LedgerError(f"{names[1]} was drawn by version 0.1, {OTHER_NOISE}: it cannot be merged.")
    if found := schema.differences(one.header, other.header):
        lines = "\n  ".join(each.text(*(f"{name} has" for name in names)) for each in found)
        raise LedgerError(f"{names[0]} and {names[1]} are different runs, which cannot be merged:\n  {lines}")


def _copy(merged: Ledger, runs: Sequence[Ledger]) -> None:
    """All draws first, then the reasons of the inputs that no source has in use."""
    plan = merged.header.get("plan")
    joinable = not isinstance(plan, dict) or plan.get("plan") == "fixed"
    drawn: dict[tuple[int, Stream], Ledger] = {}
    skipped: dict[int, InputRow] = {}
    in_use: set[int] = set()
    for run in runs:
        with run._snapshot():
            inputs = list(schema.read_inputs(run._connection, run.path))
            rows = [schema.count_row(row) for row in schema.read_ranges(run._connection, run.path)]
        gone = {row.key: row for row in inputs if row.skipped is not None}
        try:
            for known in inputs:
                if known.digest is not None:
                    merged._register(known.id, known.key, known.digest)
            for row in rows:
                if drawn.setdefault((row.index, row.stream), run) is not run and not joinable:
                    raise LedgerError(
                        f"{merged._name(row)} has draws in both, and its plan stops early, so all of its draws must "
                        "come from one run."
                    )
                merged._add(row)
        except LedgerError as error:
            raise LedgerError(f"{run.path.parent} cannot be merged with the runs named before it: {error}") from error
        skipped = gone | skipped
        in_use |= {row.index for row in rows} - gone.keys()
    if not drawn:
        raise LedgerError(f"There is nothing to merge: no draw is in {joined([str(run.path.parent) for run in runs])}.")
    for index, known in skipped.items():
        if index not in in_use and known.skipped is not None:
            merged._skip(index, known.id, known.skipped)
