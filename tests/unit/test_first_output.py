"""How long every command takes until its first output; see `tests.support.processor_time`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pytest

from tests.support.processor_time import compiled, references

MILO = (sys.executable, "-m", "milo")
COMMAND = 2.5
"""Times the reference, of 0.12 s at most: 0.3 s."""
HELP = 1.25
"""The same of a help text: 0.15 s."""
MISSING = "no-such-task-is-there"


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Return an environment in which modules are compiled once."""
    return compiled(tmp_path_factory.mktemp("bytecode"))


@pytest.mark.parametrize(
    "words",
    [
        *([], ["ps", "--help"], ["logs", "--help"], ["run", "--help"], ["exec", "--help"]),
        *(["doctor", "--help"], ["version"]),
    ],
    ids=lambda words: " ".join(words) or "milo",
)
def test_help(environ: Mapping[str, str], words: list[str]) -> None:
    """Of all commands, and of one."""
    assert references(environ, HELP, (*MILO, *words)) < HELP


@pytest.mark.parametrize(
    "words",
    [
        *(["ps"], ["logs", MISSING], ["stats", MISSING], ["exec", MISSING, "true"]),
        *(["stop", MISSING], ["dump", "threads", MISSING], ["gc", MISSING], ["run", "/no.jar"]),
    ],
    ids=lambda words: words[0],
)
def test_commands(environ: Mapping[str, str], words: list[str]) -> None:
    """Up to their first word, or the message that there is nothing."""
    assert references(environ, COMMAND, (*MILO, *words)) < COMMAND
