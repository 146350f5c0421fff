"""The lists of tests for the virtual machine name tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.vm import run
from tests.vm.kernel import EMULATED, USER

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(path.name for path in run.HERE.glob("*.txt")))
def test_listed_tests_exist(name: str) -> None:
    """Each line names a file of tests, or a function in one."""
    for listed in run.listed(name):
        path, _, function = listed.partition("::")
        if (ROOT / path).is_dir():
            continue
        text = (ROOT / path).read_text()
        wanted = function.partition("[")[0]
        assert re.search(rf"def {wanted}\(", text) if wanted else "def test_" in text, listed


def test_what_is_left_out_has_a_reason() -> None:
    """Nothing is left out in silence."""
    lists = run.HERE.glob("left_out*.txt")
    lines = [line for path in lists for line in path.read_text().splitlines()]
    assert all(len(line.split()) > 2 for line in lines if line and not line.startswith("#"))


def test_without_an_agent_only_integration_is_run() -> None:
    """Where there is no Nomad, no acceptance test is chosen, in either form."""
    for form in ("short", "full"):
        chosen = [one for one in run.selection(form, False) if not one.startswith("--")]
        assert chosen
        assert all(one.startswith("tests/integration") for one in chosen)


def test_a_kernel_in_user_mode_leaves_out_more() -> None:
    """What it cannot do is left out of its full form, and of no other."""
    emulated, user = run.selection("full", True), run.selection("full", True, USER)
    assert set(emulated) < set(user)
    assert "--deselect=tests/integration/test_limits.py::test_reserved_cores" in user


def test_one_series_in_user_mode_leaves_out_its_own() -> None:
    """What one kernel's fault is left out with that kernel alone."""
    bomb = "--deselect=tests/integration/test_limits.py::test_fork_bomb_is_held"
    assert bomb in run.impossible(USER, "6.12.113")
    assert bomb not in run.impossible(USER, "6.1.176")
    assert run.impossible(EMULATED, "6.12.113") == []


def test_a_file_that_is_left_out_is_not_even_imported() -> None:
    """The machine may not have what it imports; a test of a file is only not chosen."""
    chosen = run.selection("full", True)
    assert "--ignore=tests/integration/test_site_in_a_browser.py" in chosen
    assert "--deselect=tests/acceptance" in run.selection("full", True, USER)
    assert "--deselect=tests/acceptance/test_signals.py::test_every_signal_arrives" in chosen
