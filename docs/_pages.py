"""Pages that are made when the site is built, so that none can be stale: command line, API, notebooks.

`mkdocs.yml` names this file as a hook, and as an extension of the reader of docstrings. `command_page()` and
`api_pages()` are also what the tests look at.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import pkgutil
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import griffe

import hybrid_rs_jax as hrs

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = hrs.__name__
#: Rooms that are open to nobody but the package itself, and the command line, which has a page of its own.
CLOSED = (f"{PACKAGE}.cli", f"{PACKAGE}.report", f"{PACKAGE}.sampling.ledger")
#: Files, not folders, whose names are public.
FILES = (f"{PACKAGE}.certificate.core", f"{PACKAGE}.results.operation", f"{PACKAGE}.errors")


def rooms() -> list[ModuleType]:
    """The public rooms: packages that say what is public, and a few files."""
    found = [
        info.name
        for info in pkgutil.walk_packages(hrs.__path__, f"{PACKAGE}.")
        if info.ispkg and not info.name.startswith(CLOSED)
    ]
    modules = map(importlib.import_module, sorted({*found, *FILES}))
    return [hrs, *(module for module in modules if hasattr(module, "__all__"))]


def public_names() -> dict[str, object]:
    """Every public name with its room, as a user writes it."""
    return {f"{room.__name__}.{name}": getattr(room, name) for room in rooms() for name in room.__all__}


def api_pages() -> dict[str, str]:
    """Text of the API's pages by their place: one for each room, and a table of the names at top level."""
    pages: dict[str, str] = {}
    homes: dict[str, str] = {}
    for room in (*rooms()[1:], hrs):  # a name is documented where it lives; what has no room, at top level
        entries, rows = [], []
        for name in sorted(room.__all__, key=str.lower):
            value = getattr(room, name)
            if inspect.ismodule(value) or name == "__version__":
                rows.append(f"| `{name}` | {_first_line(value) if inspect.ismodule(value) else 'the version'} |")
                continue
            known = homes.get(_path(room, name))
            if known is None:
                homes[_path(room, name)] = room.__name__
                entries.append(f"::: {_path(room, name)}\n    options:\n      heading: {name}\n")
            rows.append(f"| [`{name}`][{_path(room, name)}] | {_first_line(value)} |")
        intro = (inspect.getdoc(room) or "").partition("\n\n")[0].replace("\n", " ")
        table = "\n".join(["| name | |", "|---|---|", *rows])
        place = f"api/{room.__name__}.md"
        title = "hybrid_rs_jax (hrs)" if room is hrs else room.__name__.removeprefix(f"{PACKAGE}.")
        pages[place] = f"# {title}\n\n{intro}\n\n`import {room.__name__}`\n\n{table}\n\n" + "\n".join(entries)
    return pages


def command_page() -> str:
    """Every command with its options as tables, from the help that the options themselves give."""
    from hybrid_rs_jax.cli.app import _COMMANDS

    lines = ["# Command line", "", "Made from the options themselves; `hybrid-rs COMMAND --help` prints the same.", ""]
    lines += [
        "| command | |",
        "|---|---|",
        *(f"| [{name}](#{name}) | {text} |" for name, text in _COMMANDS.items()),
        "",
    ]
    for name in _COMMANDS:
        lines += [f"## {name}", "", *_command(name)]
        for inner in _inner_commands(name):
            lines += [f"### {name} {inner}", "", *_command(name, inner)]
    return "\n".join(lines)


def notebooks() -> list[Path]:
    """The notebooks, in order."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def on_config(config: Any) -> Any:
    """Add the pages of this file to the navigation."""
    config.nav += [
        {"Notebooks": [{_title(path): f"notebooks/{path.name}"} for path in notebooks()]},
        {"Command line": "commands.md"},
        {"API": sorted(api_pages(), key=lambda place: place.removesuffix(".md"))},
    ]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages themselves."""
    from mkdocs.structure.files import File

    for place, text in {**api_pages(), "commands.md": command_page()}.items():
        files.append(File.generated(config, place, content=text))
    outside = [*notebooks(), *sorted((ROOT / "experiments" / "figures").glob("*.png"))]
    for path in outside:
        place = path.relative_to(ROOT).as_posix()
        files.append(File(place, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


on_files.mkdocs_priority = 100  # before the plugin that turns notebooks into pages


class Doctests(griffe.Extension):
    """Fences the examples of a docstring, which Markdown would take for quotations."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object, before its docstring is parsed."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^(?:>>> .*\n?)(?:.+\n?)*",
                lambda block: f"```pycon\n{block[0].rstrip()}\n```\n",
                obj.docstring.value,
                flags=re.M,
            )


def _title(notebook: Path) -> str:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"][0].lstrip("# ").strip()


def _path(room: ModuleType, name: str) -> str:
    """Where a name is defined: the same object under two names has one entry."""
    value = getattr(room, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"{value.__module__}.{value.__qualname__}"
    return f"{room.__name__}.{name}"


def _first_line(value: object) -> str:
    if not (inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value)):
        return f"a constant, `{type(value).__name__}`"
    return (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def _command(*words: str) -> list[str]:
    """A command's help: usage, text, a table for each group of flags, examples."""
    usage, _, rest = _help(words).partition("\n")
    text, examples = re.split(r"\n(?=examples:\n)|\Z", rest, maxsplit=1)[:2]
    lines = [f"`{usage.removeprefix('Usage: ')}`", ""]
    group, rows = "", 0
    for line in text.splitlines():
        flag = re.match(r"  (--[^:]*|[A-Z_]+): +(.*)" if group != "Commands" else r"  ([a-z]+): +(.*)", line)
        if heading := re.match(r"(\S.*):$", line):
            group = heading[1]
            lines += ["", f"**{group}**", "", "| | |", "|---|---|"]
            rows = 0
        elif flag:
            lines.append(f"| `{flag[1]}` | {_cell(flag[2])} |")
            rows += 1
        elif rows and line.startswith("  "):  # the text of a flag goes on
            lines[-1] = f"{lines[-1].removesuffix(' |')} {_cell(line)} |"
        else:
            lines.append(line)
            rows = 0
    return [*lines, "", *(_fenced(examples.removeprefix("examples:\n")) if examples else [])]


def _cell(text: str) -> str:
    return re.sub(r"([\[\]<>*_])", r"\\\1", text.strip()).replace("|", "\\|")


def _help(words: Sequence[str]) -> str:
    from rich.console import Console

    from hybrid_rs_jax.cli.app import make_app

    text = io.StringIO()
    make_app(words[0]).help_print(list(words), console=Console(file=text, width=10_000, highlight=False))
    return text.getvalue().strip()


def _inner_commands(name: str) -> Iterator[str]:
    from cyclopts import App

    target = getattr(importlib.import_module(f"{PACKAGE}.cli.{name}"), name)
    if isinstance(target, App):
        yield from (inner for inner in target if not inner.startswith("-"))


def _fenced(text: str) -> list[str]:
    return ["```sh", textwrap.dedent(text), "```", ""]
