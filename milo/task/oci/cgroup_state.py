"""What a container's cgroup shows at its end, and which processes are still in it."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

import trio

from milo import cgroup_files, proc
from milo.core.cgroup import Mode
from milo.core.records import MemoryPeak

GONE_TIMEOUT_S: Final = 10.0
"""How long a process may take to end after SIGKILL (one in the kernel may take a while)."""
FIRST_PAUSE_S: Final = 0.001
LAST_PAUSE_S: Final = 0.05


def memory_peak(cgroup_path: str) -> MemoryPeak:
    """Return the most memory that a container has used, and its limit; 0 is not known, or none."""
    return MemoryPeak(
        peak_bytes=cgroup_files.memory_peak_bytes(cgroup_path),
        limit_bytes=cgroup_files.memory_limit_bytes(cgroup_path),
    )


async def end_all(cgroup_path: str) -> bool:
    """Kill whatever is in a container's own cgroup, and return when it is gone.

    Returns:
        Whether nothing is left: a process that the kernel holds may outlast `GONE_TIMEOUT_S`.
    """
    pause_s = FIRST_PAUSE_S
    with trio.move_on_after(GONE_TIMEOUT_S):
        while cgroup_files.processes(cgroup_path):
            kill_remaining(cgroup_path)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)
        return True
    return False


def kill_remaining(cgroup_path: str) -> None:
    """Send SIGKILL to all at once, so that none is missed that another is just forking."""
    hierarchy = cgroup_files.detect()
    directory = hierarchy.directory("freezer", cgroup_path)
    if not cgroup_path.strip("/"):  # the host's own
        return
    if hierarchy.mode is Mode.V2 and _write(f"{directory}/cgroup.kill", "1"):
        return
    # v1, and v2 before Linux 5.14: what is frozen neither forks nor makes room for another
    # process with its number.
    name, freeze, thaw = ("freezer.state", "FROZEN", "THAWED")
    if hierarchy.mode is Mode.V2:
        name, freeze, thaw = ("cgroup.freeze", "1", "0")
    frozen = directory is not None and _write(f"{directory}/{name}", freeze)
    try:
        for pid in cgroup_files.processes(cgroup_path, hierarchy):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    finally:
        if frozen:
            _write(f"{directory}/{name}", thaw)


def _write(path: str, text: str) -> bool:
    try:
        proc.write(path, text)
    except OSError:
        return False
    return True
