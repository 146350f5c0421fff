"""What the kernel shows of containers and task processes, whatever the state directory says."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Final

import attrs

from milo import cgroup_files, walk
from milo.core.cgroup import Hierarchy
from milo.core.container import pause_program
from milo.core.container.crun import CONTAINER_PREFIX
from milo.core.records import CONTROL_SOCKET, SHORT_ID_CHARS, ProcessId
from milo.proc import comm, command_line, descriptors, identify, mounts, parent, pids
from milo.unix_sockets import socket_path

TASK_PROCESS_NAME: Final = b"milo-task"
DELETED: Final = "//deleted"
"""What the kernel appends, in mountinfo, to a mounted directory that was deleted."""

_ID: Final = f"[0-9a-f]{{{SHORT_ID_CHARS}}}"
_SOCKET: Final = re.compile(r"socket:\[([0-9]+)\]")


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
    """Whether one of the processes has its root in the state directory that was asked for, or is
    the pause process of a task there."""
    supervisor: int | None
    """The task process that is the parent of one of them."""
    changed_s: float
    """Unix time at which one of its directories was last made or changed."""


def task_processes(state_dir: str) -> Iterator[TaskProcess]:
    """Yield every task process whose control socket is, or was, below ``state_dir``."""
    pattern = re.compile(rf"{re.escape(state_dir)}/{_ID}/{re.escape(CONTROL_SOCKET)}")
    for pid in pids():
        if comm(pid) != TASK_PROCESS_NAME:
            continue
        identity = identify(pid)
        targets = [target for _, target in descriptors(pid)]
        inodes = [int(found[1]) for target in targets if (found := _SOCKET.fullmatch(target))]
        paths = [path for inode in inodes if pattern.fullmatch(path := socket_path(inode))]
        if identity is not None and paths:
            opened = [held.path for held in walk.open_files(pid) if held.kind is walk.Kind.FIFO]
            fifos = tuple(path for path in opened if path.startswith("/"))
            yield TaskProcess(identity, paths[0], fifos)


def container_groups(hierarchy: Hierarchy, state_dir: str) -> list[ContainerGroup]:
    """Return the cgroups that are named like those of Milo's containers."""
    changed_s: dict[str, float] = {}
    for root in sorted(set(hierarchy.mounts.values())):
        for path, names, _ in os.walk(root):
            for name in names:
                if re.fullmatch(CONTAINER_PREFIX + _ID, name):
                    directory = os.path.join(path, name)
                    relative = directory[len(root) :]
                    changed_s.setdefault(relative, 0.0)
                    with contextlib.suppress(OSError):
                        at_s = os.stat(directory).st_mtime
                        changed_s[relative] = max(at_s, changed_s[relative])
    place = _place(state_dir)
    return [
        _group(path, tuple(sorted(cgroup_files.processes(path, hierarchy))), state_dir, place, at_s)
        for path, at_s in sorted(changed_s.items())
    ]


def mounts_below(state_dir: str) -> list[str]:
    """Return the mount points of this namespace below ``state_dir``, the innermost first."""
    points = {entry.point for entry in mounts()}
    return sorted((point for point in points if point.startswith(f"{state_dir}/")), reverse=True)


def _group(
    path: str, pids: tuple[int, ...], state_dir: str, place: tuple[str, str], changed_s: float
) -> ContainerGroup:
    device, root = place
    name = path.rpartition("/")[2].removeprefix(CONTAINER_PREFIX)
    ours, supervisor = False, None
    pause = [pause_program.NAME.encode(), os.fsencode(f"{state_dir}/{name}")]
    for pid in pids:
        ours |= command_line(pid) == pause  # which has a root of its own
        ours |= any(
            entry.point == "/"
            and entry.device == device
            and entry.root.removesuffix(DELETED) == f"{root}/{name}/bundle/rootfs"
            for entry in mounts(pid)
        )
        above = parent(pid)
        if above is not None and comm(above) == TASK_PROCESS_NAME:
            supervisor = above
    return ContainerGroup(path, pids, ours, supervisor, changed_s)


def _place(path: str) -> tuple[str, str]:
    """Return the device of ``path``'s file system and its path inside of that."""
    path = os.path.realpath(path)
    inside = [
        entry
        for entry in mounts()
        if path == entry.point or path.startswith(entry.point.rstrip("/") + "/")
    ]
    if not inside:
        return "", ""
    # Of several mounts on one point the last one covers the others.
    entry = max(enumerate(inside), key=lambda item: (len(item[1].point), item[0]))[1]
    return entry.device, entry.root.rstrip("/") + path[len(entry.point.rstrip("/")) :]
