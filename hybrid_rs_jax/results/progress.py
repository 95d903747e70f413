"""How far a run is, from its folder: done, left, skipped and why."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hybrid_rs_jax._files import kind_of
from hybrid_rs_jax.errors import BadInputError, library_sentences
from hybrid_rs_jax.results.columns import planned_ids
from hybrid_rs_jax.results.count_files import read_counts
from hybrid_rs_jax.results.features import read_feature_run
from hybrid_rs_jax.results.pace import RunPace
from hybrid_rs_jax.results.runs import read_run
from hybrid_rs_jax.sampling.ledger import LEDGER_FILE, Ledger

__all__ = ["RunStatus", "run_status"]


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """A run at one moment; a writer may be at work.

    Attributes:
      inputs: inputs that the run was asked for; None: the run does not say.
      done: inputs whose draws are complete.
      begun: inputs with draws that are not complete.
      skipped: (id, reason) of the inputs that were given up.
      draws: all draws that are kept; ties: those at rounding level.
      pace: how fast the session at work goes, or the last one went; None: not known.
    """

    inputs: int | None
    done: int
    begun: int
    skipped: tuple[tuple[str, str], ...]
    draws: int
    ties: int
    pace: RunPace | None = None

    @property
    def left(self) -> int | None:
        """Inputs that are neither done nor skipped; None: not known."""
        return None if self.inputs is None else max(self.inputs - self.done - len(self.skipped), self.begun)

    def record(self) -> dict[str, object]:
        """As JSON has it."""
        skipped = [{"id": name, "reason": reason} for name, reason in self.skipped]
        return {
            "inputs": self.inputs,
            "done": self.done,
            "begun": self.begun,
            "left": self.left,
            "skipped": skipped,
            "draws": self.draws,
            "ties": self.ties,
            "pace": None if self.pace is None else dataclasses.asdict(self.pace),
        }


def run_status(folder: Path) -> RunStatus:
    """The status of a run folder.

    Raises:
      BadInputError: if it is none, or its ledger is damaged.
    """
    read_run(folder)
    if kind_of(folder / LEDGER_FILE) != "file":
        counts = read_counts(folder)
        return RunStatus(len(counts), len(counts), 0, (), int(counts.n.sum()), 0)
    with library_sentences(), Ledger.open(folder) as ledger:
        kept = ledger.counts()
    try:
        if any(stream.kind == "law" for stream in kept.streams):
            done = len(read_feature_run(folder).ids)
        else:
            whole = read_counts(folder, partial=True)
            done = len(whole) - (0 if whole.provisional is None else whole.provisional.partial)
    except BadInputError:  # no input is finished: nothing could be certified yet
        done = 0
    planned = planned_ids(folder)
    begun = len(kept.ids) - len(kept.undrawn) - done
    return RunStatus(planned, done, max(begun, 0), tuple(kept.skipped), kept.draws, kept.ties, RunPace.read(folder))
