"""The command line: `hybrid-rs COMMAND ...`.

Exit status:

    0    done
    1    a fault of hybrid-rs itself: one line that says so, and --debug (or HYBRID_RS_DEBUG=1) for the traceback
    2    bad input, with one sentence on stderr; also no memory, or a full disk under what is printed
    130  interrupted; 143 terminated; 141 the reader of a pipe went away (files are written all the same)
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from hybrid_rs_jax._version import __version__
from hybrid_rs_jax.cli import _process, certify, curate, demo, doctor, merge, plan, plot, report, sample, sweep
from hybrid_rs_jax.errors import BadInputError

__all__ = ["main"]

_COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "sample": sample,
    "certify": certify,
    "plan": plan,
    "sweep": sweep,
    "plot": plot,
    "report": report,
    "merge": merge,
    "doctor": doctor,
    "curate": curate,
}
_DESCRIPTION = """\
Certified robustness of multimodal classifiers under joint token and pixel attacks
(hybrid randomized smoothing). What is certified is the SMOOTHED classifier: the vote
over noisy copies of an input, not the classifier's answer on the input itself."""
# Belongs to the process and not to a command, so that it may stand anywhere.
_DEBUG = "--debug"
_EPILOG = """\
Start with:  hybrid-rs demo
Then:        hybrid-rs report hybrid-rs-demo
Each command explains itself:  hybrid-rs certify --help
After any command --debug shows the traceback of an error."""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one sentence on stderr."""

    def error(self, message: str) -> NoReturn:
        raise BadInputError(_sentence(message))


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


def _run(argv: Sequence[str]) -> int:
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    if args.command is None:
        raise BadInputError(f"a command is needed: {', '.join(_COMMANDS)}; see hybrid-rs --help.")
    _COMMANDS[args.command].run(args)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hybrid-rs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"hybrid-rs {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, module in _COMMANDS.items():
        text = (module.__doc__ or "").strip()
        command = commands.add_parser(
            name,
            help=text.splitlines()[0].rstrip("."),
            description=text,
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
    return parser


def _sentence(message: str) -> str:
    """`argument --tau: must lie ...` becomes `--tau must lie ...`."""
    message = re.sub(r"^argument (\S+?)(/\S+)?: (?=must |expected |not allowed )", r"\1 ", message)
    message = re.sub(r"^argument (\S+?): ", r"\1: ", message)
    return message if message.endswith(".") else message + "."
