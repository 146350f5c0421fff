"""The little that Milo does itself to cgroups; crun makes and removes the container's own."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

from milo import cgroup_files, proc
from milo.core import cgroup
from milo.core.cgroup import Mode
from milo.core.launch import Launch
from milo.errors import StateError
from milo.task.children import Placement

MAKE_ATTEMPTS: Final = 5
"""Each failure takes another task's end in the very microseconds between two calls."""


def settle(pid: int, placement: Placement, cpuset_cpus: str = "") -> None:
    """Put the created container's process where Nomad wants it; before ``crun start``.

    Sets the OOM score, because crun before 1.9 takes 0 for "leave it" and the container would
    keep the agent's -1000, out of the memory killer's reach. Then it joins the cpuset group,
    whose processors a driver has to set where they are the task's own: ``cpuset_cpus``.

    Raises:
        StateError: the kernel refuses, or the process is gone.
    """
    score = placement.oom_score_adj
    try:
        proc.set_oom_score_adj(pid, score)
    except OSError as exc:
        raise StateError(
            f"process {pid}", f"the kernel refuses oom_score_adj {score}: {exc.strerror}"
        ) from exc
    for directory in placement.cgroups:
        if cpuset_cpus:
            _write(f"{directory}/cpuset.cpus", cpuset_cpus)
        _write(f"{directory}/cgroup.procs", str(pid))


def placement_of(launch: Launch) -> Placement:
    """Return where the processes of a task belong that crun does not put there itself.

    On cgroup v1 that is the cpuset group that Nomad keeps for the task: the one that all tasks
    without cores of their own share, which Nomad resizes as cores are reserved, or the task's
    own. Both are Nomad's to remove.
    """
    joins = launch.cpuset_cgroup and cgroup_files.detect().mode is not Mode.V2
    return Placement(launch.resources.oom_score_adj, (launch.cpuset_cgroup,) if joins else ())


def leave_cpuset(cgroup_path: str, placement: Placement) -> None:
    """Remove a container's own cpuset group, once its processes have joined Nomad's (cgroup v1).

    Else ``crun exec`` moves each command to that one, where all processors are.

    Raises:
        StateError: the kernel refuses.
    """
    own = cgroup_files.detect().directory("cpuset", cgroup_path)
    if placement.cgroups and own is not None and cgroup_path.strip("/"):
        try:
            os.rmdir(own)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise StateError(own, f"it cannot be removed: {exc.strerror}") from exc


def join(pid: int, cgroup_path: str) -> None:
    """Move a process into a container's own cgroup, in every hierarchy where there is one.

    Raises:
        StateError: the kernel refuses, or the process is gone.
    """
    hierarchy = cgroup_files.detect()
    for controller in hierarchy.mounts if cgroup_path else ():
        directory = hierarchy.directory(controller, cgroup_path)
        if directory is not None and os.path.isdir(directory):
            _write(f"{directory}/cgroup.procs", str(pid))


def weigh(shares: int, cgroup_path: str, cgroup_parent: str) -> None:
    """Give a container its share of the CPU beside other tasks; 0 shares leave the default.

    ``shares`` are written to Nomad's group of the task too: that one competes with the other
    tasks', while the container is alone in it. On v2 as a weight, whatever crun made of them.

    Raises:
        StateError: the kernel refuses.
    """
    if shares <= 0:
        return
    hierarchy = cgroup_files.detect()
    v2 = hierarchy.mode is Mode.V2
    value = cgroup.shares_to_weight(shares) if v2 else shares
    for path in (cgroup_path, cgroup_parent):
        directory = hierarchy.directory("cpu", path)
        if path.strip("/") and directory is not None:
            file = f"{directory}/{'cpu.weight' if v2 else 'cpu.shares'}"
            # Without the controller there is no such file, and no share to give.
            if os.path.exists(file):
                _write(file, str(value))


def make_parents(cgroup_parent: str) -> None:
    """Make Nomad's scope in the v1 controllers where Nomad has none, as crun would.

    Made here, since `remove_leftovers` of another task may remove the level above while it is
    empty, and crun does not try again.

    Raises:
        StateError: the kernel refuses.
    """
    for directory in cgroup.parent_directories(cgroup_files.detect(), cgroup_parent):
        for attempt in range(MAKE_ATTEMPTS):
            try:
                os.makedirs(directory, exist_ok=True)
            except OSError as exc:
                gone = exc.errno in (errno.ENOENT, errno.ENODEV) and attempt + 1 < MAKE_ATTEMPTS
                if not gone:
                    raise StateError(directory, f"no cgroup there: {exc.strerror}") from exc
            else:
                break


def remove_leftovers(cgroup_path: str, cgroup_parent: str = "") -> tuple[str, ...]:
    """Remove what is left of a container's cgroups after ``crun delete``, if it is empty.

    ``cgroup_path`` is the container's own (`milo.task.oci.bundle.Bundle`), ``cgroup_parent``
    Nomad's (`milo.core.launch.Launch`). What Nomad made stays; see
    `milo.core.cgroup.leftover_directories`.

    Returns:
        What could not be removed, because processes or groups are still inside.
    """
    if not cgroup_path:
        return ()
    hierarchy = cgroup_files.detect()
    remaining = []
    for directory in cgroup.leftover_directories(hierarchy, cgroup_path, cgroup_parent):
        try:
            os.rmdir(directory)
        except OSError as exc:
            if exc.errno != errno.ENOENT:
                remaining.append(directory)
    for number, directory in enumerate(cgroup.unified_directories(hierarchy, cgroup_path)):
        with contextlib.suppress(OSError):
            if number == 0:
                with contextlib.suppress(OSError):
                    # An ordinary file where no hierarchy is mounted; the kernel keeps its own.
                    os.unlink(f"{directory}/cgroup.procs")
            os.rmdir(directory)
    return tuple(remaining)


def _write(path: str, text: str) -> None:
    try:
        proc.write(path, text)
    except OSError as exc:
        raise StateError(path, f"the kernel refuses {text!r}: {exc.strerror}") from exc
