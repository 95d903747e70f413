"""The command line of a converter: a file of PyTorch in, a folder of safetensors out, one sentence for bad input."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hybrid_rs_jax.errors import BadInputError, library_sentences

__all__ = ["at_least_one", "converter_parser", "run_converter"]


def converter_parser(module: str, description: str, example: str, file: str) -> argparse.ArgumentParser:
    """Flags that every converter has: the file, the folder, `--half`.

    Args:
      module: what stands behind `python -m`.
      description: what is converted to what.
      example: arguments behind the module.
      file: which kind of file is read.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, epilog=f"Example: python -m {module} {example}"
    )
    made.add_argument("file", type=Path, help=f"the {file} file")
    made.add_argument("out", type=Path, help="folder to write; must not exist, or be empty")
    made.add_argument("--half", action="store_true", help="store float16")
    return made


def at_least_one(flag: str, value: int | None) -> None:
    """Refuse a size below 1; None is one that was not given."""
    if value is not None and value < 1:
        raise BadInputError(f"{flag} must be at least 1, got {value}.")


def run_converter(
    parser: argparse.ArgumentParser,
    write: Callable[[argparse.Namespace], int],
    reader: Callable[[Path], str],
    argv: Sequence[str] | None,
) -> int:
    """Parse, convert, say what was written; bad input ends with one sentence and exit code 2.

    Args:
      parser: of `converter_parser`, with the converter's own flags.
      write: checks the flags, reads, converts, writes; returns how many parameters were written.
      reader: what reads the written folder, as code.
      argv: arguments, or None for those of the process.
    """
    args = parser.parse_args(argv)
    try:
        with library_sentences():
            count = write(args)
    except BadInputError as error:
        print(f"{parser.prog.rpartition('.')[2]}: {error}", file=sys.stderr)
        return 2
    print(f"Wrote {args.out}: {count:,} parameters. Read it with {reader(args.out)}.")
    return 0
