"""What a reader copies from the documentation is what a shell takes, and nothing else."""

from __future__ import annotations

import re
import shlex
from itertools import dropwhile
from pathlib import Path

import pytest

from milo.cli.parser import build_parser
from milo.cli.parsing import commands_of

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LANGUAGES = {"sh", "hcl", "json", "yaml", "text", "promql", "java", "xml", "properties"}
PROGRAMS = {
    *("milo", "./milo", "dist/milo", ".venv/bin/milo", "./dev", ".venv/bin/python", "nomad"),
    *("java", "mvn", "tar", "apt-get", "systemctl", "ln", "curl", "cp", "mkdir", "git", "gradle"),
}
"""What a line to copy may begin with; a line of output begins with something else."""


def name_of(path: Path) -> str:
    """Return a page's path in the project."""
    return str(path.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the page's blocks of code, each with its language."""
    return re.findall(r"^ *```(.*)\n((?:.*\n)*?) *```$", page.read_text(), re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Return the words of each line to copy, without ``sudo`` and variables before the program."""
    text = "".join(text for language, text in blocks(page) if language == "sh")
    lines = text.replace("\\\n", " ").splitlines()
    return [
        list(dropwhile(lambda word: word == "sudo" or "=" in word, shlex.split(line)))
        for line in lines
        if line.strip()
    ]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_each_block_says_what_it_is(page: Path) -> None:
    """A block has one of the languages; none is ``console``, which mixes prompts and output."""
    assert {language for language, _ in blocks(page)} <= LANGUAGES


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_to_copy_are_commands(page: Path) -> None:
    """Without prompts and output, and without comments, which not every shell takes."""
    for words in commands(page):
        assert words[0] in PROGRAMS, words
        assert not any("#" in word for word in words), words


def test_commands_of_milo_exist() -> None:
    """Each ``milo COMMAND`` to copy is one that the parser knows."""
    known = set(commands_of(build_parser()))
    shown = {
        words[1] for page in PAGES for words in commands(page) if Path(words[0]).name == "milo"
    }
    assert {"run", "install", "doctor"} <= shown <= known
