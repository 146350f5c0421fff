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
FIRST_LINE = 1
LAST_LINE = PROGRAM[: PROGRAM.index("    return")].count("\n") + 1


@pytest.fixture
def measured(tmp_path: Path) -> list[Path]:
    """The files that coverage has written, with Milo's configuration, for a chain of forks."""
    program = tmp_path / "chain/forks.py"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    config = tmp_path / "coverage.toml"
    run = tomllib.loads(CONFIG.read_text())["tool"]["coverage"]["run"]
    options = f"patch = {run['patch']}\nplugins = {run['plugins']}\n"
    options += "source = ['chain']\nparallel = true\nbranch = true\n"
    config.write_text(f"[tool.coverage.run]\n{options}")
    env = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")}
    subprocess.run(
        [sys.executable, "-m", "coverage", "run", f"--rcfile={config}", program],
        env={**env, "COVERAGE_FILE": str(tmp_path / "data"), "PYTHONPATH": str(CONFIG.parent)},
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
    assert LAST_LINE in set().union(*map(lines, measured))


def test_each_process_saves_its_own_lines(measured: list[Path]) -> None:
    """Neither the imports of the first process, nor what one between has run, is saved again.

    A forked child took 0.14 s of processor time to save all that the spawner had imported.
    """
    assert sorted(FIRST_LINE in lines(path) for path in measured) == [False] * FORKS + [True]
    assert sorted(LAST_LINE in lines(path) for path in measured) == [False] * FORKS + [True]


def lines(path: Path) -> set[int]:
    """Return the numbers of the lines that were run, as a file of coverage's says."""
    data = CoverageData(str(path))
    data.read()
    return {line for name in data.measured_files() for line in data.lines(name) or ()}
