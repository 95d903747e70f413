"""Progress on stderr: a bar where somebody is watching a terminal, a line a minute where a log is kept."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from hybrid_rs_jax.report.quiet import is_quiet

__all__ = ["Pace", "left_text", "progress_bar", "rate_text"]

#: Seconds between two lines in a log.
LOG_SECONDS = 60.0


class Pace:
    """How far something has come, how fast it goes, and how long it will take.

    The clock runs from the first report on: what comes before it is compilation, and tells nothing about the rest.

    Args:
      total: `done` at the end.
      unit: what is counted, as in "draws".
      clock: seconds, for tests.
    """

    def __init__(self, total: int, unit: str, clock: Callable[[], float] = time.monotonic):
        self.total, self.unit, self.done, self.note = total, unit, 0, ""
        self._clock = clock
        self._first: tuple[float, int, int] | None = None
        self._last, self.worked = 0.0, 0

    def advance(self, done: int, note: str = "", worked: int | None = None) -> None:
        """Report how far it is.

        Args:
          done: of the total, what needs no more work.
          note: shown behind the rest.
          worked: what was worked on for it, of which the rate is told; default `done`. Sampling that stops early does
            more than it works on.
        """
        self._last = self._clock()
        self.done, self.note, self.worked = done, note, done if worked is None else worked
        if self._first is None:
            self._first = self._last, done, self.worked

    @property
    def percent(self) -> int:
        """The share that is done, floored."""
        return 100 * self.done // self.total if self.total > 0 else 100

    @property
    def per_second(self) -> float | None:
        """Worked on per second since the first report; None before the second one."""
        return None if self._first is None else self._speed(self._first[2], self.worked)

    @property
    def seconds_left(self) -> float | None:
        """Seconds from now to the end at this pace; None while it is not known."""
        speed = None if self._first is None else self._speed(self._first[1], self.done)
        return None if not speed else max((self.total - self.done) / speed - (self._clock() - self._last), 0.0)

    def _speed(self, before: int, now: int) -> float | None:
        passed = 0.0 if self._first is None else self._last - self._first[0]
        return (now - before) / passed if passed > 0 and now > before else None

    def rate_text(self) -> str:
        """As in "5,300 draws/s", "0.25 draws/s" or nothing; "compiling" before the first report."""
        if self._first is None:
            return "compiling"
        return rate_text(self.per_second, self.unit)

    def left_text(self) -> str:
        """As in "about 3 min left", or nothing."""
        return left_text(self.seconds_left)

    def __str__(self) -> str:
        share = f"{self.percent} % ({self.done:,} of {self.total:,} {self.unit})"
        return "; ".join(filter(None, (share, self.rate_text(), self.left_text(), self.note)))


def rate_text(per_second: float | None, unit: str) -> str:
    """A rate in words, or nothing.

    >>> rate_text(5300.4, "draws"), rate_text(0.25, "draws")
    ('5,300 draws/s', '0.25 draws/s')
    """
    if per_second is None:
        return ""
    return f"{per_second:,.0f} {unit}/s" if per_second >= 10 else f"{per_second:.2g} {unit}/s"


def left_text(seconds: float | None) -> str:
    """Remaining time in words, or nothing.

    >>> left_text(200.0)
    'about 3 min left'
    """
    if seconds is None:
        return ""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"about {seconds / unit:,.0f} {name} left"
    return f"about {seconds:.0f} s left"


@contextlib.contextmanager
def progress_bar(title: str, total: int, unit: str, log: bool = False) -> Iterator[Callable[..., None]]:
    """Give a function to be called as `Pace.advance` is; shows share, rate and remaining time.

    Args:
      title: what is being done.
      total: `done` at the end.
      unit: what is counted.
      log: print a line every minute where stderr is not a terminal; else nothing is shown there.
    """
    pace = Pace(total, unit)
    if is_quiet():
        yield pace.advance
    elif sys.stderr.isatty():
        with _bar(title, pace):
            yield pace.advance
    elif log:
        with _log(title, pace):
            yield pace.advance
    else:
        yield pace.advance


@contextlib.contextmanager
def _bar(title: str, pace: Pace) -> Iterator[None]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task
    from rich.text import Text

    class Numbers(ProgressColumn):
        max_refresh = 0.5

        def render(self, task: Task) -> Text:
            progress.update(task.id, completed=pace.done)
            return Text("; ".join(filter(None, (f"{pace.percent} %", pace.rate_text(), pace.left_text(), pace.note))))

    console = Console(stderr=True)
    with Progress("{task.description}", BarColumn(), Numbers(), console=console, transient=True) as progress:
        progress.add_task(title, total=max(pace.total, 1))
        yield


@contextlib.contextmanager
def _log(title: str, pace: Pace) -> Iterator[None]:
    """A line a minute, by a thread: it comes while the first batch still compiles, too."""
    over = threading.Event()

    def write() -> None:
        while not over.wait(LOG_SECONDS):
            print(f"{title}: {pace}", file=sys.stderr, flush=True)

    thread = threading.Thread(target=write, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
