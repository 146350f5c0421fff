"""What the plugin imports before its handshake line, for which the agent waits at each start."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from milo.plugin.handshake import COOKIE_NAME, COOKIE_VALUE, SOCKET_DIR_NAME

ROOT: Final = Path(__file__).parents[2]
LINE: Final = re.compile(r"import time: +(\d+) \| +\d+ \| *(\S+)")
ANNOUNCED: Final = "announced"
LAUNCHER: Final = f"""\
import sys
sys.path.insert(0, {str(ROOT)!r})
import milo.plugin.handshake as handshake
announce = handshake.announce
def announced(plugin_socket):
    print({ANNOUNCED!r}, file=sys.stderr, flush=True)
    announce(plugin_socket)
handshake.announce = announced
from milo.entry import main
main()
"""
PYTHON_ITSELF: Final = "site"
"""What is imported last before the program; what an environment adds to it is not Milo's."""
ROUNDS: Final = 5
BUDGETS: Final = {
    "milo": 0.3,
    "attr": 0.7,
    "msgspec": 0.2,
    "typing_extensions": 0.2,
    "outcome": 0.15,
    "sortedcontainers": 0.15,
    "idna": 0.15,
    "sniffio": 0.1,
    "attrs": 0.1,
    "Python's own": 2.4,
}
"""The time that each package may take, as a multiple of Trio's in the same runs: half as much again
as it takes on a busy machine (2026-11-27)."""


def package_of(module: str) -> str:
    """Return the key of `BUDGETS` for a module."""
    parts = module.split(".")
    if parts[0] == "milo":
        return "milo"
    # Not there: the module copy looks for one of Jython's, platform for one of Windows'.
    return "Python's own" if parts[0] in {*sys.stdlib_module_names, "org", "_wmi"} else parts[0]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Each module that a plugin imports before its handshake: the least microseconds of its own."""
    base = tmp_path_factory.mktemp("s")
    launcher = base / "milo"
    launcher.write_text(LAUNCHER)
    env = {COOKIE_NAME: COOKIE_VALUE, SOCKET_DIR_NAME: str(base)}
    least: dict[str, int] = {}
    for number in range(ROUNDS):
        errors = base / f"stderr{number}"
        words = [sys.executable, "-I", "-X", "importtime", str(launcher)]
        with (
            errors.open("wb") as stderr,
            subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=stderr) as process,
        ):
            assert process.stdout is not None
            try:
                assert process.stdout.readline().startswith(b"1|2|unix|")
            finally:
                process.kill()
        counts = False
        for line in errors.read_text().splitlines():
            if line == ANNOUNCED:
                break
            if found := LINE.match(line):
                if found[2] == PYTHON_ITSELF:
                    counts = True
                elif counts:
                    least[found[2]] = min(int(found[1]), least.get(found[2], sys.maxsize))
    return least


def test_nothing_is_imported_early_that_serves_later(imported: dict[str, int]) -> None:
    """Neither the tasks' code nor the driver's, and no package that has no budget."""
    own = {name for name in imported if name.startswith("milo.")}
    early = {"entry", "plugin", "plugin.handshake", "plugin.main", "spawner_process"}
    assert own == {f"milo.{name}" for name in early}
    assert {package_of(name) for name in imported} <= {*BUDGETS, "trio"}


@pytest.mark.alone
def test_each_package_keeps_its_budget(imported: dict[str, int]) -> None:
    """As a multiple of Trio's own time, the least of several starts of each module."""
    spent: Counter[str] = Counter()
    for name, microseconds in imported.items():
        spent[package_of(name)] += microseconds
    shares = {name: spent[name] / spent["trio"] for name in BUDGETS}
    over = {name: f"{share:.2f}" for name, share in shares.items() if share > BUDGETS[name]}
    print({name: f"{share:.2f}" for name, share in shares.items()})
    assert not over, f"{over} times Trio's {spent['trio']} us; see python -X importtime"
