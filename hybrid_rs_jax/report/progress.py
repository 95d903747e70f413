"""Progress on stderr: a bar where somebody is watching a terminal, a line now and then where a log is kept."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

__all__ = ["progress_bar"]

#: Seconds between two lines in a log.
LOG_SECONDS = 60.0


@contextlib.contextmanager
def progress_bar(title: str, total: int, unit: str, log: bool = False) -> Iterator[Callable[..., None]]:
    """Give a function to be called as `advance(done, note="", rate=None)`; shows rate and remaining time.

    Args:
      title: what is being done.
      total: `done` at the end.
      unit: what is counted.
      log: print a line every minute where stderr is not a terminal; else nothing is shown there.
    """
    if not sys.stderr.isatty():
        yield _Log(title, total, unit) if log else lambda done, note="", rate=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            rate = task.fields.get("rate") or (f"{task.speed:,.0f} {unit}/s" if task.speed else f"- {unit}/s")
            return Text(rate)

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total, note="", rate=None)

        def advance(done: int, note: str = "", rate: str | None = None) -> None:
            progress.update(task, completed=done, note=note, rate=rate)

        yield advance


class _Log:
    """One line a minute, for batch jobs."""

    def __init__(self, title: str, total: int, unit: str):
        self._title, self._total, self._unit = title, total, unit
        self._begin = self._last = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, note: str = "", rate: str | None = None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = done
        if now - self._last < LOG_SECONDS:
            return
        self._last = now
        gained = done - self._first
        left = (self._total - done) * (now - self._begin) / gained / 60 if gained else None
        parts = [f"{self._title}: {done:,} of {self._total:,} {self._unit}"]
        parts += [rate] if rate else []
        parts += [f"about {left:,.0f} min left"] if left is not None else []
        parts += [note] if note else []
        print("; ".join(parts), file=sys.stderr, flush=True)
