"""How --help shows flags: each begins a line, and what it says is wrapped under it."""

from __future__ import annotations

import io
import textwrap
from typing import Any

from cyclopts.help import HelpPanel, PlainFormatter
from rich.console import Console, ConsoleOptions

__all__ = ["HangingFormatter"]

_INDENT, _HANGING = "  ", "      "


class HangingFormatter(PlainFormatter):
    """Plain text; a description is one paragraph, wherever the lines of its docstring end."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print the flags of a panel; commands stand as in plain text."""
        if panel.format != "parameter":
            super().__call__(console, options, panel)
            return
        if not panel.entries:
            return
        lines = [f"{panel.title}:"]
        for entry in panel.entries:
            notes = [f"[choices: {', '.join(entry.choices)}]"] if entry.choices else []
            notes += ["[required]"] if entry.required else []
            said = " ".join([_words(entry.description), *notes])
            text = f"{', '.join(entry.display_labels_with_metavar)}: {said}"
            lines += _wrapped(text, console.width)
        console.print("\n".join(lines), "", sep="\n", highlight=False, markup=False, soft_wrap=True)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=_INDENT,
        subsequent_indent=_HANGING,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _words(shown: Any) -> str:
    """The words of what Rich would show, with one blank between two."""
    console = Console(file=io.StringIO(), width=1 << 16, no_color=True, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print("" if shown is None else shown)
    return " ".join(captured.get().split())
