"""The lists of tests for the virtual machine name tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.vm import run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["short.txt", "left_out.txt"])
def test_listed_tests_exist(name: str) -> None:
    """Each line names a file of tests, or a function in one."""
    for listed in run.listed(name):
        path, _, function = listed.partition("::")
        text = (ROOT / path).read_text()
        wanted = function.partition("[")[0]
        assert re.search(rf"def {wanted}\(", text) if wanted else "def test_" in text, listed


def test_what_is_left_out_has_a_reason() -> None:
    """Nothing is left out in silence."""
    lines = (ROOT / "tests/vm/left_out.txt").read_text().splitlines()
    assert all(len(line.split()) > 2 for line in lines if line and not line.startswith("#"))


def test_without_an_agent_only_integration_is_run() -> None:
    """Where there is no Nomad, no acceptance test is chosen, in either form."""
    for short in (True, False):
        chosen = [one for one in run.selection(short, False) if not one.startswith("--deselect")]
        assert chosen
        assert all(one.startswith("tests/integration") for one in chosen)
