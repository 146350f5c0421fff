"""What the kernel shows of containers and task processes, whatever the state directory says."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from typing import Final

import attrs

from milo.core.cgroup import Hierarchy
from milo.core.container.crun import CONTAINER_PREFIX
from milo.core.records import CONTROL_SOCKET, SHORT_ID_CHARS, ProcessId
from milo.proc import parent, start_ticks

TASK_PROCESS_NAME: Final = "milo-task"
DELETED: Final = "//deleted"
"""What the kernel appends, in mountinfo, to a mounted directory that was deleted."""

_ID: Final = f"[0-9a-f]{{{SHORT_ID_CHARS}}}"


@attrs.frozen
class TaskProcess:
    """A living task process."""

    identity: ProcessId
    socket_path: str
    """Of its control socket, which may be gone."""
    fifos: tuple[str, ...]
    """Paths of the FIFOs that it has open, as they were when it opened them."""


@attrs.frozen
class ContainerGroup:
    """The cgroup of one container, over all hierarchies."""

    path: str
    """Relative to the hierarchies' roots."""
    pids: tuple[int, ...]
    ours: bool
    """Whether one of the processes has its root in the state directory that was asked for."""
    supervisor: int | None
    """The task process that is the parent of one of them."""
    changed_s: float
    """Unix time at which one of its directories was last made or changed."""


@attrs.frozen
class MountEntry:
    """A line of /proc/<pid>/mountinfo; proc(5)."""

    device: str
    root: str
    point: str


def task_processes(state_dir: str) -> Iterator[TaskProcess]:
    """Yield every task process whose control socket is, or was, below ``state_dir``."""
    pattern = re.compile(rf"{re.escape(state_dir)}/{_ID}/{re.escape(CONTROL_SOCKET)}")
    paths = {}
    for line in _read("/proc/net/unix").splitlines():
        fields = line.split(None, 7)
        if len(fields) == 8 and pattern.fullmatch(fields[7]):
            paths[f"socket:[{fields[6]}]"] = fields[7]
    for pid in _pids():
        if _read(f"/proc/{pid}/comm").strip() != TASK_PROCESS_NAME:
            continue
        ticks = start_ticks(pid)
        links = list(_links(pid))
        found = [paths[target] for _, target in links if target in paths]
        if ticks is not None and found:
            fifos = tuple(target for path, target in links if _is_named_fifo(path, target))
            yield TaskProcess(ProcessId(pid, ticks), found[0], fifos)


def container_groups(hierarchy: Hierarchy, state_dir: str) -> list[ContainerGroup]:
    """Return the cgroups that are named like those of Milo's containers."""
    roots = sorted(set(hierarchy.mounts.values()))
    pids: dict[str, set[int]] = {}
    changed_s: dict[str, float] = {}
    for root in roots:
        for path, names, _ in os.walk(root):
            for name in names:
                if re.fullmatch(CONTAINER_PREFIX + _ID, name):
                    directory = os.path.join(path, name)
                    relative = directory[len(root) :]
                    text = _read(f"{directory}/cgroup.procs")
                    pids.setdefault(relative, set()).update(map(int, text.split()))
                    with contextlib.suppress(OSError):
                        at_s = os.stat(directory).st_mtime
                        changed_s[relative] = max(at_s, changed_s.get(relative, 0.0))
    place = _place(state_dir)
    return [
        _group(path, tuple(sorted(found)), place, changed_s.get(path, 0.0))
        for path, found in sorted(pids.items())
    ]


def mounts_below(state_dir: str) -> list[str]:
    """Return the mount points of this namespace below ``state_dir``, the innermost first."""
    points = {entry.point for entry in mount_entries("self")}
    return sorted((point for point in points if point.startswith(f"{state_dir}/")), reverse=True)


def mount_entries(pid: int | str) -> list[MountEntry]:
    """Return the mounts that a process sees; none when it is gone."""
    entries = []
    for line in _read(f"/proc/{pid}/mountinfo").splitlines():
        fields = line.split()
        if len(fields) > 4:
            entries.append(MountEntry(fields[2], _plain(fields[3]), _plain(fields[4])))
    return entries


def _group(
    path: str, pids: tuple[int, ...], place: tuple[str, str], changed_s: float
) -> ContainerGroup:
    device, root = place
    name = path.rpartition("/")[2].removeprefix(CONTAINER_PREFIX)
    ours, supervisor = False, None
    for pid in pids:
        ours |= any(
            entry.point == "/"
            and entry.device == device
            and entry.root.removesuffix(DELETED) == f"{root}/{name}/bundle/rootfs"
            for entry in mount_entries(pid)
        )
        above = parent(pid)
        if above is not None and _read(f"/proc/{above}/comm").strip() == TASK_PROCESS_NAME:
            supervisor = above
    return ContainerGroup(path, pids, ours, supervisor, changed_s)


def _place(path: str) -> tuple[str, str]:
    """Return the device of ``path``'s file system and its path inside of that."""
    path = os.path.realpath(path)
    inside = [
        entry
        for entry in mount_entries("self")
        if path == entry.point or path.startswith(entry.point.rstrip("/") + "/")
    ]
    if not inside:
        return "", ""
    # Of several mounts on one point the last one covers the others.
    entry = max(enumerate(inside), key=lambda item: (len(item[1].point), item[0]))[1]
    return entry.device, entry.root.rstrip("/") + path[len(entry.point.rstrip("/")) :]


def _is_named_fifo(path: str, target: str) -> bool:
    with contextlib.suppress(OSError):
        return target.startswith("/") and stat.S_ISFIFO(os.stat(path).st_mode)
    return False


def _links(pid: int) -> Iterator[tuple[str, str]]:
    """Yield each descriptor of a process, as a path below /proc, with what it is."""
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{name}"
            with contextlib.suppress(OSError):
                yield path, os.readlink(path)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _plain(field: str) -> str:
    r"""Undo mountinfo's escapes: \040 for a blank, and the like."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""
