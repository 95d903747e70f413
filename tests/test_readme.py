"""What the README tells a user to type is what the program understands."""

import re
import shlex
from pathlib import Path

import pytest

from hybrid_rs_jax.cli.app import make_app

README = Path(__file__).parent.parent / "README.md"
pytestmark = pytest.mark.skipif(not README.is_file(), reason="the README is not beside these tests")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.S)


def commands():
    lines = [line for language in ("sh", "console") for block in blocks(language) for line in block.splitlines()]
    found = [line.removeprefix("$ ").partition("#")[0] for line in lines]
    return [line for line in found if line.startswith("hybrid-rs ")]


def test_the_commands_of_the_readme_parse():
    assert len(commands()) >= 4
    for line in commands():
        words = shlex.split(line)[1:]
        make_app(words[0]).parse_args(words, exit_on_error=False, print_error=False)


def test_the_python_of_the_readme_runs(capsys):
    names = {}
    for block in blocks("python"):
        exec(block.replace("10_000", "100").replace("9_998", "99"), names)  # fewer draws, the same calls
    assert names["certificate"].radius.shape == (2, 9)
