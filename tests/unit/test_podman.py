"""docs/podman.md, held to what a real podman has: same flag, same meaning, or it says otherwise."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

import pytest

from milo.cli.parser import build_parser
from milo.cli.parsing import commands_of
from tests.support import podman

PAGE = (Path(__file__).parents[2] / "docs/podman.md").read_text()
OPTION = re.compile(r"`(--?[A-Za-z][a-z0-9-]*)")
COMMANDS = ("run", "ps", "logs", "exec", "stop", "stats", "version")
OTHERWISE = {("run", "-h"), ("run", "--rootfs"), ("logs", "-n")}
"""What takes a value in one of them alone: the page has why."""


@functools.cache
def own_options(command: str) -> dict[str, bool]:
    """Return the spellings of a command's options, and whether each takes a value."""
    parser = commands_of(build_parser())[command]
    return {word: action.nargs != 0 for action in parser._actions for word in action.option_strings}


def section(title: str) -> str:
    """Return a part of the page."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_flag_of_both_takes_a_value_in_both_or_in_none(command: str) -> None:
    """But for those of `OTHERWISE`."""
    theirs, own = podman.recorded()["options"][command], own_options(command)
    shared = theirs.keys() & own.keys()
    different = {(command, name) for name in shared if theirs[name] != own[name]}
    assert different == {pair for pair in OTHERWISE if pair[0] == command}


def test_every_option_of_podman_run_is_told_of() -> None:
    """In the table of what is there, or in the one of what is not."""
    told = set(OPTION.findall(section("milo run")))
    theirs = podman.recorded()["options"]["run"]
    assert {name for name in theirs if name.startswith("--")} - told == set()


def test_no_option_is_ascribed_to_podman_that_it_has_not() -> None:
    """In the first column of both tables."""
    first = [line.split("|")[1] for line in section("milo run").splitlines() if line[:1] == "|"]
    assert set(OPTION.findall("\n".join(first))) <= podman.recorded()["options"]["run"].keys()


def test_every_command_of_podman_is_told_of() -> None:
    """Beside `milo`'s that does the same, or with why there is none."""
    told = set(re.findall(r"`([a-z][a-z-]*)", section("Other commands"))) | {"run", "help"}
    assert set(podman.recorded()["commands"]) - told == set()


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "run"])
def test_the_options_of_other_commands_are_told_of(command: str) -> None:
    """Those that both have, and those that podman alone has."""
    lines = section("Other commands").splitlines()
    told = {
        name
        for line in lines
        if re.match(rf"\| `{command}\b", line)
        for name in OPTION.findall(line)
    }
    theirs = podman.recorded()["options"][command]
    assert {name for name in theirs if name.startswith("--") and name != "--help"} - told == set()


@pytest.mark.skipif(shutil.which("podman") is None, reason="compares with the podman on PATH")
def test_the_record_is_a_real_podmans() -> None:
    """Of the version that it names; another has more options, and none of another kind."""
    found, recorded = podman.asked(), podman.recorded()
    if found["version"] == recorded["version"]:
        assert found == recorded
    for command, options in recorded["options"].items():
        for name in options.keys() & found["options"][command].keys():
            assert found["options"][command][name] == options[name], (command, name)
