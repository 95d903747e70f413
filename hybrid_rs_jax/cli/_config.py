"""Flags in a file: `--config run.toml` stands for them, and a run writes those that it was started with."""

from __future__ import annotations

import contextvars
import itertools
import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from hybrid_rs_jax._files import atomic_file, path_text, read_text
from hybrid_rs_jax.errors import BadInputError

__all__ = ["CONFIG_FILE", "recorded", "with_config", "write_config"]

CONFIG_FILE = "run.toml"
_FLAG = "--config"
#: What is said anew each time.
_OWN = ("out", "resume", "config", "force")
recorded: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("recorded", default=())


def with_config(argv: Sequence[str]) -> list[str]:
    """The arguments of a command with the flags of `--config FILE` in front of its own, which win.

    The file is TOML: a key per flag, without its dashes; true for a switch; a list for values that commas join. A
    table of the command's name, where there is one, is read alone, so that a file may serve several commands.

    Raises:
      BadInputError: for a file that is none, or a value that is no flag's.
    """
    joined = [f"{_FLAG}={after}" for flag, after in itertools.pairwise(argv) if flag == _FLAG]
    given = joined + [argument for argument in argv if argument.startswith(f"{_FLAG}=")]
    if not given:
        if _FLAG in argv:
            raise BadInputError(f"{_FLAG} needs a value: the path of a TOML file.")
        return list(argv)
    if len(given) > 1:
        raise BadInputError(f"{_FLAG} may stand once.")
    path = given[0].partition("=")[2]
    place = next(i for i, argument in enumerate(argv) if argument.split("=")[0] == _FLAG)
    rest = [*argv[:place], *argv[place + (1 if "=" in argv[place] else 2) :]]
    return [rest[0], *_flags(Path(path), rest[0]), *rest[1:]]


def _flags(path: Path, command: str) -> Iterator[str]:
    try:
        content = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise BadInputError(f"{path_text(path)} is not legal TOML: {error}.") from error
    tables = {name: part for name, part in content.items() if isinstance(part, dict)}
    chosen = tables.get(command) or {name: value for name, value in content.items() if name not in tables}
    if not chosen:
        raise BadInputError(f"{path_text(path)} holds no flags for {command}.")
    for name, value in chosen.items():
        flag = f"--{name.replace('_', '-')}"
        values = value if isinstance(value, list) else [value]
        if any(isinstance(each, dict | list) for each in values):
            raise BadInputError(f"{path_text(path)}: {name} must be a text, a number, true or a list, got a table.")
        if value is True:
            yield flag
        elif value is not False:
            yield f"{flag}={','.join(map(str, values))}"


def write_config(folder: Path) -> None:
    """Keep the flags of this command in a run's folder, but for those that are said anew each time."""
    argv = recorded.get()
    if not argv:
        return
    lines = [f"[{argv[0]}]"]
    for name, value in _pairs(argv[1:]):
        if name not in _OWN:
            lines.append(f"{name} = {'true' if value is None else json.dumps(value, ensure_ascii=False)}")
    with atomic_file(folder / CONFIG_FILE, True) as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _pairs(argv: Sequence[str]) -> list[tuple[str, str | None]]:
    """Flags with their values, the last of each; None for a switch."""
    found: dict[str, str | None] = {}
    name = None
    for argument in argv:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            found[name] = value if equals else None
        elif name is not None:
            found[name] = argument
    return list(found.items())
