"""How fast a run goes, in a small file beside its ledger, so that others can see it too."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from pathlib import Path

from hybrid_rs_jax._files import atomic_file, kind_of, read_text, write_json
from hybrid_rs_jax._json import parse_json
from hybrid_rs_jax.errors import BadInputError

__all__ = ["PACE_FILE", "RunPace"]

PACE_FILE = "progress.json"


@dataclasses.dataclass(frozen=True)
class RunPace:
    """What the session that draws, or drew last, has said of itself. Nothing rests on it.

    Attributes:
      settled, draws: of the most draws that all inputs could take, those that are drawn, or not needed; and all.
      classified: noisy copies that this session has classified.
      per_second: of these; None before two batches. seconds_left: to the end at this pace.
      retries: requests that this session repeated; None: the classifier sends none.
      at: when this was written, UTC.

    >>> RunPace(50, 100, 50, 5.0, 10.0, None, "2026-01-01T12:00:00+00:00").age("2026-01-01T12:01:00+00:00")
    60.0
    """

    settled: int
    draws: int
    classified: int
    per_second: float | None
    seconds_left: float | None
    retries: int | None
    at: str

    @staticmethod
    def now() -> str:
        """The time, as `at` has it."""
        return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

    def age(self, now: str) -> float:
        """Seconds between the two."""
        return (datetime.datetime.fromisoformat(now) - datetime.datetime.fromisoformat(self.at)).total_seconds()

    def write(self, folder: Path) -> None:
        """Write it; what cannot be written is not, since a run does not end for this."""
        with contextlib.suppress(BadInputError, OSError), atomic_file(folder / PACE_FILE, True) as path:
            write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: Path) -> RunPace | None:
        """What is there; None where nothing is, or nothing of this kind."""
        path = folder / PACE_FILE
        if kind_of(path) != "file":
            return None
        try:
            content = parse_json(read_text(path), str(path))
            found = cls(**content)  # type: ignore[arg-type]
            found.age(found.at)
        except (BadInputError, TypeError, ValueError):
            return None
        numbers = (found.settled, found.draws, found.per_second or 0.0, found.seconds_left or 0.0, found.retries or 0)
        return found if all(isinstance(number, int | float) for number in numbers) else None
