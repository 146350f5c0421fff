"""What a container's own cgroup tells at its end, and who is still in it."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

import trio

from milo.core import cgroup
from milo.core.cgroup import Mode
from milo.core.records import MemoryPeak
from milo.task.oci.cgroup_placement import detect

GONE_TIMEOUT_S: Final = 10.0
"""How long a process may take to end after SIGKILL (one in the kernel may take a while)."""
FIRST_PAUSE_S: Final = 0.001
LAST_PAUSE_S: Final = 0.05


def oom_kills(cgroup_path: str) -> int:
    """Return how many processes of a container the kernel's OOM killer has ended.

    memory.events counts since the group was made, so each container needs one of its own.
    """
    directory = detect().directory("memory", cgroup_path)
    if directory is None:
        return 0
    # v2: memory.events; v1: memory.oom_control (Linux 4.13 and later).
    found = {
        **cgroup.parse_keyed(_read(f"{directory}/memory.oom_control")),
        **cgroup.parse_keyed(_read(f"{directory}/memory.events")),
    }
    return found.get("oom_kill", 0)


def memory_peak(cgroup_path: str) -> MemoryPeak:
    """Return the most memory that a container has used, and its limit; 0 is not known, or none.

    On v2 the kernel tells the peak since Linux 5.19.
    """
    hierarchy = detect()
    directory = hierarchy.directory("memory", cgroup_path)
    v2 = hierarchy.mode is Mode.V2
    peak = _read(f"{directory}/{'memory.peak' if v2 else 'memory.max_usage_in_bytes'}")
    limit = _read(f"{directory}/{'memory.max' if v2 else 'memory.limit_in_bytes'}")
    limit_bytes = cgroup.parse_value(limit) or 0
    return MemoryPeak(
        peak_bytes=cgroup.parse_value(peak) or 0,
        limit_bytes=limit_bytes if limit_bytes < cgroup.NO_LIMIT_BYTES else 0,
    )


def processes(cgroup_path: str) -> set[int]:
    """Return the ids of the processes in a container's own cgroup."""
    hierarchy = detect()
    found: set[int] = set()
    if not cgroup_path.strip("/"):  # the host's own
        return found
    for controller in hierarchy.mounts:
        directory = hierarchy.directory(controller, cgroup_path)
        if directory is not None:
            found |= {int(pid) for pid in _read(f"{directory}/cgroup.procs").split()}
    return found


async def end_all(cgroup_path: str) -> bool:
    """Kill whatever is in a container's own cgroup, and return when it is gone.

    Returns:
        Whether nothing is left: a process that the kernel holds may outlast `GONE_TIMEOUT_S`.
    """
    pause_s = FIRST_PAUSE_S
    with trio.move_on_after(GONE_TIMEOUT_S):
        while processes(cgroup_path):
            kill_remaining(cgroup_path)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)
        return True
    return False


def kill_remaining(cgroup_path: str) -> None:
    """Send SIGKILL to all at once, so that none is missed that another is just forking."""
    hierarchy = detect()
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
        for pid in processes(cgroup_path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    finally:
        if frozen:
            _write(f"{directory}/{name}", thaw)


def _write(path: str, text: str) -> bool:
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            return os.write(fd, text.encode()) > 0
        finally:
            os.close(fd)
    return False


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
        return file.read()
    return ""
