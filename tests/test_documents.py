"""README and pages of docs/: their Python and their commands run, and what they say is printed is printed."""

import ast
import contextlib
import importlib
import importlib.util
import io
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from chat_server import ChatServer

from hybrid_rs_jax.cli import main
from hybrid_rs_jax.cli.app import make_app

griffe = pytest.importorskip("griffe", reason="pip install mkdocstrings-python")
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
        for words in commands(block.text) if block.language == "bash" else ():  # too dear to run here
            make_app(words[0]).parse_args(words, exit_on_error=False, print_error=False)
    return printed.getvalue()


def words(text):
    """Words, numbers among them to twelve digits: the last ones are another compiler's affair."""
    return re.sub(r"\d+\.\d{12,}", lambda found: f"{float(found[0]):.12g}", text).split()


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
            assert words(printed) == words(block.text)
        else:
            printed = run(block, names)
            said = [line for line in block.text.splitlines() if not line.startswith(("$", "#"))]
            if block.language == "console":
                assert words(printed) == words(" ".join(said))
    for name in set(sys.modules) - before:  # files of the page, which another page may have too
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def chat():
    server = ChatServer()
    yield server.url
    server.close()


@pytest.fixture(scope="module")
def made():
    """The file that makes pages at the build."""
    spec = importlib.util.spec_from_file_location("_pages", ROOT / "docs" / "_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_on_a_page_of_the_api(made):
    pages = made.api_pages()
    names = made.public_names()
    assert len(names) > 150
    for name in names:
        room, _, short = name.rpartition(".")
        assert f"`{short}`" in pages[f"api/{room}.md"], name
    entries = re.findall(r"^::: (\S+)$", "".join(pages.values()), re.M)
    assert len(entries) == len(set(entries))
    assert {made.hrs.__name__, "hybrid_rs_jax.attacks"} <= {room.__name__ for room in made.rooms()}


def test_every_command_is_on_the_page_of_the_command_line_with_its_flags(made):
    page = made.command_page()
    for name in importlib.import_module("hybrid_rs_jax.cli.app")._COMMANDS:
        assert f"\n## {name}\n" in page
    for flag in ("--threat", "--denoiser PATH", "--miss-probability", "--similarity", "--flags"):
        assert f"`{flag}" in page, flag


def test_the_site_has_a_place_for_every_page():
    places = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert sorted(places) == [page.name for page in PAGES]


def test_links_of_the_readme_lead_somewhere_and_its_plan_is_what_is_printed():
    readme = ROOT / "README.md"
    links = re.findall(r"\]\(([^)#]+)\)", readme.read_text(encoding="utf-8"))
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []
    plan = next(block for block in blocks(readme) if block.text.startswith("$ hybrid-rs plan"))
    table = "\n".join(plan.text.splitlines()[1:])
    assert table in "\n".join(line.rstrip() for line in run(plan, {}).splitlines())
