"""The processes that a driver has for a task, and what a task has on the disk."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.agent import Agent


def processes() -> list[int]:
    """Return the ids of all processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def children(pid: int) -> list[int]:
    """Return the ids of a process's children."""
    return [child for child in processes() if parent(child) == pid]


def name(pid: int) -> str:
    """Return a process's name; empty when it has ended."""
    return _read(f"/proc/{pid}/comm").strip()


def parent(pid: int) -> int:
    """Return the id of a process's parent; 0 when it has ended."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[1]) if fields else 0


def jvms(allocs: list[str]) -> dict[str, int]:
    """Return the JVM of each allocation whose task has one, by the allocation's id."""
    found: dict[str, int] = {}
    for pid in processes():
        if name(pid) == "java":
            words = _read(f"/proc/{pid}/environ").split("\0")
            found |= {alloc: pid for alloc in allocs if f"NOMAD_ALLOC_ID={alloc}" in words}
    return found


def beside(jvm: int) -> list[int]:
    """Return what a driver runs beside a task's JVM: its parent, and others that it shares with.

    That is Nomad's executor, or Milo's task process and the pause process, which is process 1 of
    the JVM's namespace of process ids.
    """
    namespace = _namespace(jvm)
    own = [] if namespace == _namespace(os.getpid()) else processes()
    return [parent(jvm), *(pid for pid in own if pid != jvm and _namespace(pid) == namespace)]


def collectors(one: Agent) -> list[int]:
    """Return Nomad's log collectors: a process of the agent's for each task, whatever driver."""
    return [pid for pid in _of_agent(one) if "logmon" in _read(f"/proc/{pid}/cmdline").split("\0")]


def once_a_node(one: Agent) -> list[int]:
    """Return what Milo runs for all tasks of a node: its driver, and its driver's children."""
    drivers = [pid for pid in _of_agent(one) if name(pid) == "milo"]
    return [*drivers, *(child for pid in drivers for child in children(pid))]


def _of_agent(one: Agent) -> list[int]:
    assert one.process is not None
    return children(one.process.pid)


def disk(base: Path) -> tuple[int, int, int]:
    """Return the bytes below an allocation's directory, those that it alone has, and the files.

    Nomad makes hard links of the chroot's files where it can.
    """
    seen: set[int] = set()
    used = own = 0
    device = base.stat().st_dev
    for directory, names, files in os.walk(base):
        names[:] = [name for name in names if os.lstat(f"{directory}/{name}").st_dev == device]
        for path in (directory, *(f"{directory}/{name}" for name in files)):
            found = os.lstat(path)
            if found.st_ino not in seen and found.st_dev == device:
                seen.add(found.st_ino)
                used += found.st_blocks * 512
                own += 0 if found.st_nlink > 1 and path != directory else found.st_blocks * 512
    return used, own, len(seen)


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
