"""Finds what no living allocation owns: for ``milo gc``. Looks, and changes nothing.

The rule, when in doubt: keep.

- A state directory whose allocation's directory is gone is an orphan, whatever runs for it:
  nobody can own it any more. If the directory above is gone as well, the agent's data
  directory may just not be mounted: kept.
- While the allocation's directory is there, a directory with a living container or task
  process, or with the record of an exit, is the allocation's: its exit is still to be told.
  With none of the three nothing can be recovered from it: an orphan, once it is a minute old
  (StartTask may be at it).
- A directory that cannot be read is kept. One without any record is an orphan when nobody
  serves its socket and it is a minute old.
- A task process without a state directory is an orphan when the log FIFOs that it has open
  have all been deleted: until then its driver may be connected to it, and work.
- A container without a state directory is an orphan when its task process is one or has
  gone: nobody can recover it. (The kernel has taken its mounts away with the directory.) So
  is a cgroup of Milo's that has neither processes nor a state directory, once it is a minute
  old.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from typing import Final

import attrs

from milo import cgroup_files, walk
from milo.core import records
from milo.core.container.crun import CONTAINER_PREFIX
from milo.core.launch import Launch
from milo.errors import PathError, Reason, StateError
from milo.host.leftovers.traces import (
    ContainerGroup,
    TaskProcess,
    container_groups,
    mounts_below,
    task_processes,
)
from milo.host.state_store import StateStore
from milo.proc import lives, root

YOUNG_S: Final = 60.0
"""What StartTask and a takeover take at the very most between two signs of life."""


@attrs.frozen
class Orphan:
    """One thing that nobody owns."""

    path: str
    """A state directory, a cgroup relative to the hierarchy's root, or a mount point; of a
    process its number."""
    reason: str
    """For people: what it is, and why it is an orphan."""
    routine: bool = False
    """Every ended task leaves one, and a driver removes it by itself."""


@attrs.frozen
class Kept:
    """A state directory or process that looks lost, and is kept because that is not sure."""

    path: str
    reason: str


@attrs.frozen
class Findings:
    """What one look has found."""

    directories: tuple[Orphan, ...] = ()
    processes: tuple[tuple[Orphan, records.ProcessId], ...] = ()
    groups: tuple[Orphan, ...] = ()
    mounts: tuple[Orphan, ...] = ()
    kept: tuple[Kept, ...] = ()

    @property
    def orphans(self) -> tuple[Orphan, ...]:
        """All of them, in the order in which they are removed."""
        processes = tuple(orphan for orphan, _ in self.processes)
        return self.mounts + self.directories + processes + self.groups

    def also_in(self, other: Findings) -> Findings:
        """Return what both looks have found."""
        paths = {orphan.path for orphan in other.orphans}
        identities = {identity for _, identity in other.processes}
        return Findings(
            tuple(orphan for orphan in self.directories if orphan.path in paths),
            tuple(found for found in self.processes if found[1] in identities),
            tuple(orphan for orphan in self.groups if orphan.path in paths),
            tuple(orphan for orphan in self.mounts if orphan.path in paths),
            self.kept,
        )


def look(state_dir: str) -> Findings:
    """Return what nobody owns below ``state_dir``, and of what once belonged there."""
    store = StateStore(state_dir)
    directories, kept = [], []
    for path in store.directories():
        verdict = judge_directory(store, path)
        if isinstance(verdict, Orphan):
            directories.append(verdict)
        elif verdict is not None:
            kept.append(verdict)
    orphaned = {orphan.path for orphan in directories}
    processes, groups = [], []
    for process in task_processes(state_dir):
        found = judge_process(process)
        if isinstance(found, Orphan):
            processes.append((found, process.identity))
        elif found is not None:
            kept.append(found)
    ended = {identity.pid for _, identity in processes}
    for group in container_groups(cgroup_files.detect(), state_dir):
        name = os.path.basename(group.path).removeprefix(CONTAINER_PREFIX)
        judged = None if _is_claimed(store, name) else _judge_group(group, ended)
        if isinstance(judged, Orphan):
            groups.append(judged)
    mounts = [
        Orphan(point, "an unused mount")
        for point in mounts_below(state_dir)
        if _owner(state_dir, point) in orphaned or not _owner(state_dir, point)
    ]
    return Findings(tuple(directories), tuple(processes), tuple(groups), tuple(mounts), tuple(kept))


def judge_directory(store: StateStore, path: str) -> Orphan | Kept | None:
    """Return what is to be done with a state directory; None when it is somebody's."""
    try:
        launch = store.read_launch(path)
        task = store.read_task(path)
        exit_record = store.read_exit(path)
    except StateError as exc:
        return Kept(path, f"its owner is unknown. {str(exc).removeprefix('Error: ')}")
    signs = list(_signs_of_life(path, task))
    runs = f"; {' and '.join(signs)}" if signs else ""
    if launch is None and exit_record is None:
        if signs:
            return Kept(path, f"it does not say which task owns it{runs}")
        return _unless_young(Orphan(path, "it does not say which task owns it, and it is unused"))
    alloc_dir = _alloc_dir(launch, exit_record)
    whose = _whose(launch, exit_record)
    if not _exists(alloc_dir, task):
        if not os.path.isdir(os.path.dirname(alloc_dir)):
            return Kept(
                path,
                f"{whose}: the directory of its allocation was in {os.path.dirname(alloc_dir)}, "
                f"which does not exist and may not be mounted{runs}",
            )
        return Orphan(
            path,
            f"{whose}: the directory of its allocation is gone{runs}",
            routine=launch is None and not signs,
        )
    if signs or exit_record is not None:
        return None
    return _unless_young(
        Orphan(
            path, f"{whose}: its container and its task process are gone and left no exit record"
        )
    )


def _unless_young(orphan: Orphan) -> Orphan | Kept:
    """Keep what has changed within `YOUNG_S`: somebody may be at it."""
    newest = 0.0
    for entry in (orphan.path, *(found.path for found in os.scandir(orphan.path))):
        with contextlib.suppress(OSError):
            newest = max(newest, os.lstat(entry).st_mtime)
    if abs(time.time() - newest) < YOUNG_S:
        return Kept(orphan.path, f"{orphan.reason}; it changed less than {YOUNG_S:g} s ago")
    return orphan


def _signs_of_life(path: str, task: records.TaskRecord | None) -> Iterator[str]:
    if task is not None and lives(task.supervisor):
        yield f"its task process {task.supervisor.pid} is running"
    elif _served(path):
        yield "its task process is running"
    if task is not None and task.container is not None and lives(task.container):
        yield f"its application is running (process {task.container.pid})"


def _served(path: str) -> bool:
    """Whether somebody has the control socket open, in whatever namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.setblocking(False)
        try:
            sock.connect(os.path.join(path, records.CONTROL_SOCKET))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # its queue is full, say
    return True


def _exists(alloc_dir: str, task: records.TaskRecord | None) -> bool:
    """Whether the allocation's directory is there, for us or for the task's own process."""
    if os.path.isdir(alloc_dir):
        return True
    if task is None or not lives(task.supervisor):
        return False
    return os.path.isdir(root(task.supervisor.pid) + alloc_dir)


def _alloc_dir(launch: Launch | None, exit_record: records.ExitRecord | None) -> str:
    if launch is not None:
        return launch.alloc_dir
    return "" if exit_record is None else exit_record.alloc_dir


def _whose(launch: Launch | None, exit_record: records.ExitRecord | None) -> str:
    if launch is not None:
        return f"task {launch.task_name!r} of allocation {launch.alloc_id}"
    return f"exit record of {'' if exit_record is None else exit_record.task_id}"


def judge_process(process: TaskProcess) -> Orphan | Kept | None:
    """Judge a task process, which may serve a state directory that is there."""
    if os.path.isdir(os.path.dirname(process.socket_path)):
        return None
    what = f"task process whose state directory {os.path.dirname(process.socket_path)} is gone"
    name = str(process.identity.pid)
    if process.fifos and not any(_is_anything(path) for path in process.fifos):
        return Orphan(name, f"{what}; the log FIFOs of its allocation are gone too")
    return Kept(f"process {name}", f"{what}; its allocation may still exist")


def _is_anything(path: str) -> bool:
    """Whether there is anything at a path, or in the way to it, that a task can change."""
    try:
        walk.hold(path).close()
    except PathError as exc:
        return exc.reason is not Reason.MISSING
    return True


def _judge_group(group: ContainerGroup, ended: set[int]) -> Orphan | None:
    """Judge the cgroup of a container that no state directory claims.

    ``ended`` are the task processes that are orphans; of the others something is said already.
    """
    if not group.pids and abs(time.time() - group.changed_s) < YOUNG_S:
        return None  # a driver with another state directory may be about to use it
    if not group.pids:
        return Orphan(group.path, "an empty cgroup of a container that is gone")
    if not group.ours:
        return None  # of another state directory
    if group.supervisor is not None and group.supervisor not in ended:
        return None
    return Orphan(group.path, f"container without a state directory (processes {_few(group.pids)})")


def _is_claimed(store: StateStore, name: str) -> bool:
    """Whether a state directory stands for the container ``name``; an exit record does not."""
    path = os.path.join(store.root, name)
    return any(
        os.path.lexists(os.path.join(path, file))
        for file in (records.LAUNCH_FILE, records.TASK_FILE)
    )


def _owner(state_dir: str, point: str) -> str:
    """Return the task's directory that a mount point lies in or on, if it is there."""
    name = point[len(state_dir) :].strip("/").partition("/")[0]
    path = os.path.join(state_dir, name)
    if not re.fullmatch(f"[0-9a-f]{{{records.SHORT_ID_CHARS}}}", name):
        return path  # nothing of Milo's, so nothing to remove
    return path if os.path.isdir(path) else ""


def _few(pids: tuple[int, ...]) -> str:
    return ", ".join(map(str, pids[:5])) + (" ..." if len(pids) > 5 else "")
