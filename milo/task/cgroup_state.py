"""What a container's own cgroup tells at its end, and who is still in it."""

from __future__ import annotations

import contextlib
import os
import signal

from milo.core import cgroup
from milo.core.cgroup import Mode
from milo.core.records import MemoryPeak
from milo.task.cgroups import detect


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
    for controller in hierarchy.mounts:
        directory = hierarchy.directory(controller, cgroup_path)
        if directory is not None:
            found |= {int(pid) for pid in _read(f"{directory}/cgroup.procs").split()}
    return found


def kill_remaining(cgroup_path: str) -> None:
    """Send SIGKILL to whatever is still in a container's own cgroup, which may be nothing."""
    for pid in processes(cgroup_path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
        return file.read()
    return ""
