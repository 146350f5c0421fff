"""The processor time of commands, measured against Python's own work.

Seconds say little on a machine that others use: with both threads of a core in use, the same work
takes up to twice the processor time. So a command is compared with a start of Python that imports
Trio, by turns and by the least of several tries, which suffers as the command does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

REFERENCE: Final = (sys.executable, "-c", "import trio")
"""It takes 0.12 s at most on a machine of today's."""
LEAST_TRIES: Final = 3
MOST_TRIES: Final = 9


def compiled(directory: Path) -> dict[str, str]:
    """Return an environment in which modules are compiled once, as where Milo is installed.

    And in which coverage is not measured, which takes as much again.
    """
    without = ("PYTHON", "COVERAGE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(without)}
    return {**kept, "PYTHONPYCACHEPREFIX": str(directory)}


def processor_s(environ: Mapping[str, str], command: Sequence[str]) -> float:
    """Return the processor time of a command, with that of the children it has waited for."""
    process = subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime


def references(
    environ: Mapping[str, str],
    bound: float,
    command: Sequence[str],
    beyond: Sequence[str] = ("true",),
) -> float:
    """Return how many times `REFERENCE` a command takes; tries again where that passes ``bound``.

    What ``beyond`` takes does not count. All are run once before, so that modules are compiled.
    """
    commands = (REFERENCE, command, beyond)
    least = [float("inf")] * len(commands)
    found = least[0]
    for number in range(MOST_TRIES + 1):
        taken = [processor_s(environ, one) for one in commands]
        if number:
            least = [min(pair) for pair in zip(least, taken, strict=True)]
            found = (least[1] - least[2]) / least[0]
        if number >= LEAST_TRIES and found < bound:
            break
    return found
