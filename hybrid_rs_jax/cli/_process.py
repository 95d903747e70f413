"""The edges of the process: its streams, its signals, its environment, and the errors that nobody foresaw.

A command is run inside of `guarded`, which turns whatever happens into an exit status and at most one sentence on
stderr. Inside of it stdout and stderr take everything: where they are closed, nobody reads; where they are full, what
does not fit is lost and said at the end, after the command has written its files.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

from hybrid_rs_jax.errors import BadInputError, who_raised

__all__ = ["DEBUG_VARIABLE", "guarded", "is_out_of_memory"]

#: Set to anything but 0, it does what --debug does.
DEBUG_VARIABLE = "HYBRID_RS_DEBUG"
# Exit statuses; what is above 128 is 128 + the number of a signal, as shells have it.
_DONE, _FAULT, _BAD_INPUT, _INTERRUPTED, _NO_READER, _TERMINATED = 0, 1, 2, 130, 141, 143
_LONGEST_WORD = 300
# Two signals within so many seconds are one.
_SAME_SECONDS = 1.0
_AGAIN = "run again with --debug for the traceback."
_OUT_OF_DEVICE_MEMORY = "RESOURCE_EXHAUSTED"


def guarded(command: Callable[[], int], debug: bool = False) -> int:
    """Run a command and give the exit status of the process; nothing but SystemExit leaves.

    Args:
      command: what to run; gives its status.
      debug: show the traceback of an error, too.
    """
    _own_environment()
    with _open_streams(), _signals_as_errors():
        stdout, stderr = _Patient(sys.stdout), _Patient(sys.stderr)
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            status = _run(command, debug)
            stdout.flush()
            if stdout.error is not None and status == _DONE:
                status = _unprinted(stdout.error)
            stderr.flush()
        stdout.settle()
        stderr.settle()
    return status


def _run(command: Callable[[], int], debug: bool) -> int:
    try:
        return command()
    except BadInputError as error:
        return _told(f"error: {error}", _BAD_INPUT, debug)
    except KeyboardInterrupt as error:
        if isinstance(error, _Terminated) or isinstance(error.__cause__, _Terminated):  # the second of a run
            return _told("terminated.", _TERMINATED, debug)
        return _told("interrupted.", _INTERRUPTED, debug)
    except Exception as error:
        if is_out_of_memory(error):
            return _told(_memory_text(error), _BAD_INPUT, debug)
        if (others := _fault_of_others(error)) is not None:
            return _told(f"error: {others}", _BAD_INPUT, debug)
        return _told(f"this is a fault of hybrid-rs: {_said(error)}; {_AGAIN}", _FAULT, debug)


def _told(sentence: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    head, *items = sentence.splitlines()
    if items and head.endswith(":"):
        sentence = f"{head} {'; '.join(item.strip() for item in items)}"
    words = (word if len(word) <= _LONGEST_WORD else f"{word[: _LONGEST_WORD // 2]}..." for word in sentence.split())
    print(f"hybrid-rs: {' '.join(words)}", file=sys.stderr)  # a value of any length must not bury the sentence
    return status


def _fault_of_others(error: Exception) -> str | None:
    """What the user's own classifier raised, or what JAX says about a variable of the environment."""
    if (whom := who_raised(error)) is not None:
        return f"{whom} raised {_said(error)}; {_AGAIN}"
    for word in re.findall(r"\bjax[._]\w+", str(error), re.IGNORECASE):
        if (value := os.environ.get(name := word.replace(".", "_").upper())) is not None:
            return f"the environment variable {name} must be legal to JAX, got {value!r}; correct or unset it."
    return None


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_out_of_memory(error: Exception) -> bool:
    """Whether the machine had too little memory, or a device, of which JAX says so by a word."""
    return isinstance(error, MemoryError) or _OUT_OF_DEVICE_MEMORY in str(error)


def _memory_text(error: BaseException) -> str:
    text = str(error).splitlines()[0][:200].rstrip(".") if str(error).strip() else "nothing more is known"
    return f"error: there is not enough memory ({text}); a smaller --batch-size or fewer inputs at once need less."


def _unprinted(error: OSError) -> int:
    """What was printed did not reach its reader."""
    if isinstance(error, BrokenPipeError) or error.errno == errno.EPIPE:
        return _NO_READER  # who closed the pipe has seen enough
    reason = error.strerror or str(error)
    print(f"hybrid-rs: error: what was printed could not be written to stdout: {reason}.", file=sys.stderr)
    return _BAD_INPUT


class _Patient:
    """A stream that takes everything: after the first error of its file it goes on to nowhere, and keeps the error."""

    def __init__(self, stream: Any):
        self._stream = stream
        self.error: OSError | None = None
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="replace")  # a terminal that knows no Greek is no reason to fail

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def settle(self) -> None:
        """Keep Python from complaining once more while it shuts down, about what still waits in the buffer."""
        if self.error is not None:
            with contextlib.suppress(AttributeError, ValueError, OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def _attempt(self, action: Callable[[], object]) -> None:
        if self.error is None:
            try:
                action()
            except OSError as error:
                self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _open_streams() -> Iterator[None]:
    """Where the process was started with stdin, stdout or stderr closed, let them lead nowhere.

    Not only for `print`: the next file that is opened would get the number 1, and whatever writes to stdout without
    asking Python (XLA does) would write into that file.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    with contextlib.ExitStack() as streams:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:
                nowhere = streams.enter_context(open(os.devnull, "w", encoding="utf-8"))
                setattr(sys, name, nowhere)
                streams.callback(setattr, sys, name, None)
        yield


class _Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: end like an interrupt, so that temporary files are removed on the way out."""


@contextlib.contextmanager
def _signals_as_errors() -> Iterator[None]:
    """Let signals that end a program unwind the stack, once; in threads, and where others handle them, not."""
    ended, terminated = -math.inf, False

    def stop(signum: int, frame: types.FrameType | None) -> None:
        nonlocal ended, terminated
        interrupt, now = signum == signal.SIGINT, time.monotonic()
        # `timeout` sends it twice, and the second would cut the clearing up short; a Ctrl-C that comes later is meant
        if now - ended < _SAME_SECONDS or (terminated and not interrupt):
            return
        ended, terminated = now, terminated or not interrupt
        raise KeyboardInterrupt if interrupt else _Terminated

    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if hasattr(signal, "SIGHUP"):
        usual[signal.SIGHUP] = signal.SIG_DFL
    in_main = threading.current_thread() is threading.main_thread()
    handled = {name: own for name, own in usual.items() if in_main and signal.getsignal(name) is own}
    for name in handled:
        signal.signal(name, stop)
    try:
        yield
    finally:
        for name, own in handled.items():
            signal.signal(name, own)


def _own_environment() -> None:
    """What the environment asks of JAX, where a command line cannot do with it; too late once JAX is imported.

    The CPU is kept beside what JAX_PLATFORMS names: bounds are computed there, whatever draws the noise. Guards
    against transfers are for finding them, and loading a network is one.
    """
    if "jax" in sys.modules:
        return
    for name in [name for name in os.environ if name.startswith("JAX_TRANSFER_GUARD")]:
        del os.environ[name]
    platforms = [name.strip() for name in os.environ.get("JAX_PLATFORMS", "").split(",") if name.strip()]
    if platforms and "cpu" not in platforms:
        os.environ["JAX_PLATFORMS"] = ",".join([*platforms, "cpu"])
