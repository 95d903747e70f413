"""README and pages of docs/: their Python and their commands run, and what they say is printed is printed."""

import ast
import contextlib
import io
import json
import re
import shlex
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from chat_server import ChatServer

from hybrid_rs_jax.cli import main
from hybrid_rs_jax.cli.app import make_app

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
pytestmark = pytest.mark.skipif(not PAGES, reason="the pages are not beside these tests")


class Block(NamedTuple):
    """A fenced block: its language, the file that it is (or ""), its text."""

    language: str
    title: str
    text: str


def blocks(path):
    found = re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', path.read_text(encoding="utf-8"), re.S | re.M)
    return [Block(*block) for block in found]


def commands(text):
    joined = text.replace("\\\n", " ")
    lines = [line.removeprefix("$ ").strip() for line in joined.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("hybrid-rs ")]


def run(block, names):
    """What a block prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if block.language == "python":
            exec(compile(ast.parse(block.text), "<page>", "exec"), names)
        for words in commands(block.text) if block.language in ("sh", "console") else ():
            assert main(words) == 0, words
    return printed.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_from_top_to_bottom_and_prints_what_it_says(page, tmp_path, monkeypatch, chat):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    names, printed = {"__name__": "page"}, ""
    for block in blocks(page):
        text = block.text.replace("http://127.0.0.1:8000/v1", chat)
        block = block._replace(text=text.replace("CHECKPOINT", str(ROOT / "experiments" / "tiny_guard")))
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "text":
            assert printed.split() == block.text.split()
        else:
            printed = run(block, names)
            said = [line for line in block.text.splitlines() if not line.startswith(("$", "#"))]
            if block.language == "console":
                assert printed.split() == " ".join(said).split()
    for name in set(sys.modules) - before:  # files of the page, which another page may have too
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def chat():
    server = ChatServer()
    yield server.url
    server.close()
