"""What the suites' measuring of coverage costs processes that fork, and what it sees of them."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from coverage import CoverageData

CONFIG = Path(__file__).parents[2] / "pyproject.toml"
FORKS = 3
PROGRAM = f"""\
import os

def last():
    return "only the last process comes here"

def go(more):
    if more:
        if (pid := os.fork()) == 0:
            go(more - 1)
            os._exit(0)
        os.waitpid(pid, 0)
    else:
        last()

go({FORKS})
"""
LAST_LINE = PROGRAM[: PROGRAM.index("    return")].count("\n") + 1


@pytest.fixture
def measured(tmp_path: Path) -> list[Path]:
    """The files that coverage has written, with Milo's configuration, for a chain of forks."""
    program = tmp_path / "chain/forks.py"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    config = tmp_path / "coverage.toml"
    patch = tomllib.loads(CONFIG.read_text())["tool"]["coverage"]["run"]["patch"]
    options = f"source = ['chain']\nparallel = true\nbranch = true\npatch = {patch}\n"
    config.write_text(f"[tool.coverage.run]\n{options}")
    env = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")}
    subprocess.run(
        [sys.executable, "-m", "coverage", "run", f"--rcfile={config}", program],
        env={**env, "COVERAGE_FILE": str(tmp_path / "data")},
        cwd=tmp_path,
        check=True,
    )
    return list(tmp_path.glob("data.*"))


def test_each_process_saves_once(measured: list[Path]) -> None:
    """A child does not start what measures again, nor save what its ancestors have begun.

    Coverage's own patch of fork adds one start and one save with each generation to those of the
    one before: a task process, which is the third, had four of each, and the tests of containers
    took twice their processor time.
    """
    assert len(measured) == FORKS + 1


def test_the_last_process_is_seen(measured: list[Path]) -> None:
    """A line that only the last child runs, which ends with os._exit, counts as run."""
    seen = set()
    for path in measured:
        data = CoverageData(str(path))
        data.read()
        for name in data.measured_files():
            seen |= set(data.lines(name) or ())
    assert LAST_LINE in seen
