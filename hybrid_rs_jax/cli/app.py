"""The command line: `hybrid-rs COMMAND ...`.

Exit status:

    0    done
    1    a fault of hybrid-rs itself: one line that says so, and --debug (or HYBRID_RS_DEBUG=1) for the traceback
    2    bad input, with one sentence on stderr; also no memory, or a full disk under what is printed
    130  interrupted; 143 terminated; 141 the reader of a pipe went away (files are written all the same)
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter
from rich.console import Console

from hybrid_rs_jax._text import joined
from hybrid_rs_jax._version import __version__
from hybrid_rs_jax.cli import _process
from hybrid_rs_jax.cli._cache import use_cache
from hybrid_rs_jax.cli._config import recorded, with_config
from hybrid_rs_jax.cli._help import HangingFormatter
from hybrid_rs_jax.errors import BadInputError
from hybrid_rs_jax.report.quiet import quietly

__all__ = ["called", "main", "make_app"]

_T = TypeVar("_T")

#: Each command with the first line of its help; its module is imported when it is called.
_COMMANDS = {
    "demo": "Certify a small built-in guard on real images: no download, about a minute",
    "sample": "Draw noisy copies of each input, classify them, and keep the counts in a ledger",
    "certify": "Certify inputs from their Monte Carlo counts",
    "plan": "Plan a run: the p_A and the draws that a budget needs, before anything is spent",
    "operate": "Choose the rule of a filter: certified detection against false alarms, for flag at k of m copies",
    "sweep": "Sweep grids of p_A, d, epsilon, sigma and beta into one long table",
    "plot": "Plot the certified frontier and the certified accuracy",
    "compare": "Compare runs: the certified share and the mean radius per budget, one row per run",
    "report": "Write one HTML page of the certificates: guarantee, frontier, every input, settings",
    "pack": "Turn texts and pictures into a NumPy archive that every model takes",
    "status": "How far a run is: inputs done, begun, left, and skipped with their reasons",
    "merge": "Join runs over disjoint inputs or disjoint draws into one",
    "features": "Certify the features of an encoder: the cosine between clean and attacked smoothed features",
    "serve": "The smoothed filter behind an address: flag a request when K of M noisy copies are unsafe",
    "doctor": "Try a model out on its data: shapes, answers, what it looks at, memory, speed, and the bill",
    "curate": "Keep the inputs that a checkpoint calls unsafe only as a pair of text and picture",
}
# Belong to the process and not to a command, so that they may stand anywhere.
_DEBUG, _QUIET = "--debug", "--quiet"
_TOP_FLAGS = ("--help", "-h", "--version")
#: Columns of a help text.
_WIDTH = 110
_HELP = """\
Certified robustness of multimodal classifiers under joint token and pixel attacks
(hybrid randomized smoothing). What is certified is the SMOOTHED classifier: the vote
over noisy copies of an input, not the classifier's answer on the input itself."""
_EPILOGUE = """\
Start with:  hybrid-rs demo
Then:        hybrid-rs report hybrid-rs-demo
Each command explains itself:  hybrid-rs certify --help
After any command --debug shows the traceback of an error, --no-cache compiles all anew, --quiet leaves out progress
and sentences, and --config FILE.toml stands for flags; a run keeps its own in RUN/run.toml."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
      argv: arguments without the program's name; default `sys.argv[1:]`.

    Returns:
      The exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = _DEBUG in arguments or os.environ.get(_process.DEBUG_VARIABLE, "0") not in ("", "0")
    rest = [argument for argument in arguments if argument != _DEBUG]
    return _process.guarded(lambda: _run(rest), debug)


def make_app(command: str | None = None) -> App:
    """The commands; `command` with its flags and its whole text, the others by their first line."""
    made = _new_app(name="hybrid-rs", help=_HELP, help_epilogue=_EPILOGUE + "\n", version=f"hybrid-rs {__version__}\n")
    for name, line in _COMMANDS.items():
        if name == command:
            module = importlib.import_module(f"hybrid_rs_jax.cli.{name}")
            target = getattr(module, name)
            if isinstance(target, App):  # a command of commands, which has its texts
                made.command(target)
            else:
                made.command(target, name=name, help=module.__doc__, help_epilogue=module.EXAMPLES + "\n")
        else:
            made.command(f"hybrid_rs_jax.cli.{name}:{name}", name=name, help=line)
    return made


def _run(argv: list[str]) -> int:
    argv = use_cache(argv)
    if not argv:
        raise BadInputError(f"a command is needed: {', '.join(_COMMANDS)}; see hybrid-rs --help.")
    command = argv[0]
    if command.startswith("-"):
        if command not in _TOP_FLAGS:
            raise BadInputError(f"Unknown option: {command}{_nearest(command, _TOP_FLAGS)}.")
    elif command not in _COMMANDS:
        raise BadInputError(f"Unknown command {command!r}{_nearest(command, _COMMANDS)}; see hybrid-rs --help.")
    quiet = _QUIET in argv
    argv = with_config([argument for argument in argv if argument != _QUIET])
    recorded.set(tuple(argv))
    with quietly(quiet):
        _call(make_app(command), argv)
    return 0


def called(target: Callable[..., _T], flags: Sequence[str]) -> _T:
    """Call a function of options with flags that are read as those of a command: for scripts beside the package.

    Raises:
      BadInputError: one sentence, for a flag that is unknown or out of range.
    """
    made = _new_app(help_flags=(), version_flags=())
    made.default(target)
    return _call(made, flags)


def _new_app(**texts: Any) -> App:
    """A parser that reads flags and sets texts as all commands do."""
    return App(
        **texts,
        help_format="plaintext",
        help_formatter=HangingFormatter(),
        console=Console(width=_WIDTH, highlight=False),
        suppress_keyboard_interrupt=False,  # the process says what was kept
        default_parameter=Parameter(negative=(), show_env_var=False, show_default=False, allow_repeating=True),
    )


def _call(app: App, flags: Sequence[str]) -> Any:
    """What the command gives; what the parser refuses is bad input."""
    try:
        return app(list(flags), exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        raise BadInputError(_sentence(error)) from error


def _sentence(error: CycloptsError) -> str:
    """What the parser refuses, with the flag first: `--tau must lie in (0, 1), got 2.`."""
    text = str(error)
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        need = "needs a value" if error.keyword else "is needed"
        guess = re.search(r" Did you mean .*$", text)
        text = f"{error.argument.name} {need}.{guess[0] if guess else ''}"
    text = re.sub(r"^Invalid value for (\S+): (?=must )", r"\1 ", text)
    text = re.sub(r'^Invalid value "(.*)" for (\S+)\. Choose from: (.*?)\.( Did you mean .*)?$', _choice, text)
    text = re.sub(r"^Unused Tokens: \[(.*)\]\.?$", r"These arguments mean nothing here: \1", text)
    text = re.sub(r"\.? Did you mean (.*)\?$", r" (did you mean \1?)", text)
    return text if text.endswith(".") else text + "."


def _choice(match: re.Match[str]) -> str:
    value, flag, choices, guess = match.groups("")
    wanted = joined(choices.replace('"', "").split(", "), "or")
    return f"{flag} must be {wanted}, got {value}.{guess}".replace('"', "")


def _nearest(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), 1)
    return f" (did you mean {near[0]}?)" if near else ""
