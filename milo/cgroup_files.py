"""The only module that finds, reads and writes files of cgroups, on both hierarchies.

The driver and the task process both use it, because they may not import each other.
`milo.core.cgroup` says what the numbers mean. `milo.host.stats.cgroup_reader` reads the same files
repeatedly, by descriptors that it keeps open.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Iterable
from typing import Final

from milo import proc, process_signals
from milo.core.cgroup import CRUN_CGROUP_ROOT, NO_LIMIT_BYTES, Hierarchy, Mode
from milo.core.records import ProcessId

NEEDED: Final = ("memory", "pids")
"""Controllers without which a group of a container's own would limit nothing."""
SUPERVISOR: Final = "milo-run"
"""The group of ``milo run`` itself, beside its container's."""
NOT_CONTROLLERS: Final = ("rw", "ro", "xattr", "clone_children", "noprefix", "none")
"""What else stands among the options of a v1 cgroup file system; cgroups(7)."""


@functools.cache
def detect() -> Hierarchy:
    """Return the cgroup hierarchy that this process, and so crun, sees.

    Looked for once: a host's does not change while it runs, and the table of mounts is long.
    """
    return hierarchy_in(proc.mounts())


def hierarchy_in(mounts: Iterable[proc.Mount]) -> Hierarchy:
    """Return the hierarchy that some mounts make up.

    Only what is mounted below `CRUN_CGROUP_ROOT` counts, as it does for crun.
    """
    directories: dict[str, str] = {}
    unified = hybrid = False
    for mount in mounts:
        point = mount.point
        if point != CRUN_CGROUP_ROOT and not point.startswith(CRUN_CGROUP_ROOT + "/"):
            continue
        if mount.kind == "cgroup2":
            if point == CRUN_CGROUP_ROOT:
                unified = True
            else:
                hybrid = True
        elif mount.kind == "cgroup":
            for option in mount.super_options:
                if option not in NOT_CONTROLLERS:
                    directories.setdefault(option, point)
    if unified:
        return Hierarchy(Mode.V2, {"": CRUN_CGROUP_ROOT})
    if directories:
        return Hierarchy(Mode.HYBRID if hybrid else Mode.V1, directories)
    return Hierarchy(Mode.NONE, {})


def is_v2() -> bool:
    """Whether the host has the unified hierarchy alone."""
    return detect().mode is Mode.V2


def listed_controllers(path: str = "/proc/cgroups") -> list[str]:
    """Return the controllers that the kernel lists there as enabled; cgroups(7)."""
    try:
        with open(path, encoding="ascii") as file:
            rows = [line.split() for line in file if not line.startswith("#")]
    except OSError:
        return []
    return [row[0] for row in rows if row[3:4] == ["1"]]


def delegated() -> str:
    """Return the cgroup that is this process's alone, to make others in; empty without one.

    Relative to the hierarchy's root, on v2 alone. systemd makes such a group (`milo.cli.scope`);
    a shell's own holds the shell too.
    """
    path = proc.unified_cgroup()
    directory = detect().directory("", path) if path.strip("/") and is_v2() else None
    if directory is None or not set(NEEDED) <= {*read_words(directory, "cgroup.controllers")}:
        return ""
    files = ("", "/cgroup.procs", "/cgroup.subtree_control")
    own = all(os.access(directory + name, os.W_OK) for name in files)
    return path if own and processes(path) == {os.getpid()} else ""


def settle_below(path: str) -> None:
    """Let containers have groups of their own in ``path``, which `delegated` has returned.

    v2 knows no group with both processes and limits for others, so this process makes room.

    Raises:
        OSError: the kernel refuses.
    """
    directory = f"{CRUN_CGROUP_ROOT}{path}"
    os.mkdir(f"{directory}/{SUPERVISOR}")
    proc.write(f"{directory}/{SUPERVISOR}/cgroup.procs", "0")
    handed = {*read_words(directory, "cgroup.controllers")} & {*NEEDED, "cpu"}
    proc.write(f"{directory}/cgroup.subtree_control", " ".join(f"+{one}" for one in sorted(handed)))


def hasten_moves() -> None:
    """Have the kernel wait now for what the next move of a process to another group waits for.

    Before a move it waits for a grace period of RCU (5 to 17 ms, measured with Linux 6.18), but
    not within one after the last move: kernel/rcu/sync.c. So this moves the calling process to
    where it is already, which blocks it for so long. Does nothing where that is not permitted.
    """
    for line in proc.lines(proc.read("/proc/self/cgroup")):
        _, names, path = os.fsdecode(line).split(":", 2)
        for name in names.split(","):
            if (directory := detect().directory(name, path)) is not None:
                with contextlib.suppress(OSError):
                    proc.write(f"{directory}/cgroup.procs", "0")
                return


def hands_down(path: str, controller: str) -> bool:
    """Whether the groups in ``path`` have a controller; v2."""
    return controller in read_words(f"{CRUN_CGROUP_ROOT}{path}", "cgroup.subtree_control")


def parse_number(data: bytes | None) -> int | None:
    """Return the number of a single-value file, or None for ``max`` and for anything else."""
    word = (data or b"").strip()
    return int(word) if word.isdigit() else None


def parse_keyed(data: bytes | None) -> dict[str, int]:
    """Return a flat-keyed file (``memory.stat``, ``cpu.stat``); what is no number is left out."""
    found: dict[str, int] = {}
    for line in proc.lines(data):
        key, _, value = line.partition(b" ")
        if value.isdigit():
            found[os.fsdecode(key)] = int(value)
    return found


def read_number(directory: str | None, name: str) -> int | None:
    """Return what `parse_number` finds in a file, None also without a directory or file."""
    return None if directory is None else parse_number(proc.read(f"{directory}/{name}"))


def read_keyed(directory: str | None, name: str) -> dict[str, int]:
    """Return what `parse_keyed` finds in a file, nothing also without a directory or file."""
    return {} if directory is None else parse_keyed(proc.read(f"{directory}/{name}"))


def read_words(directory: str | None, name: str) -> list[str]:
    """Return the words of a file, such as the names of controllers."""
    data = None if directory is None else proc.read(f"{directory}/{name}")
    return [os.fsdecode(word) for word in (data or b"").split()]


def memory_limit_bytes(cgroup_path: str) -> int:
    """Return the memory limit of a group, 0 where it has none.

    ``cgroup_path`` is relative to the hierarchy's root, as crun was given it; here and below.
    """
    hierarchy = detect()
    name = "memory.max" if hierarchy.mode is Mode.V2 else "memory.limit_in_bytes"
    limit = read_number(hierarchy.directory("memory", cgroup_path), name) or 0
    return limit if limit < NO_LIMIT_BYTES else 0


def memory_in_use_bytes(cgroup_path: str) -> int:
    """Return what a group uses of its limit and the kernel cannot take back at once.

    That is all but cached files that nobody has used lately. 0 where the kernel does not tell.
    """
    hierarchy = detect()
    v2 = hierarchy.mode is Mode.V2
    directory = hierarchy.directory("memory", cgroup_path)
    used = read_number(directory, "memory.current" if v2 else "memory.usage_in_bytes") or 0
    idle = "inactive_file" if v2 else "total_inactive_file"
    return max(0, used - read_keyed(directory, "memory.stat").get(idle, 0))


def memory_peak_bytes(cgroup_path: str) -> int:
    """Return the most memory that a group has used, 0 where the kernel does not tell.

    On v2 it does since Linux 5.19.
    """
    hierarchy = detect()
    name = "memory.peak" if hierarchy.mode is Mode.V2 else "memory.max_usage_in_bytes"
    return read_number(hierarchy.directory("memory", cgroup_path), name) or 0


def cpu_quota(cgroup_path: str) -> tuple[int, int]:
    """Return how many microseconds of CPU time a group may use in how many; 0 is no quota."""
    hierarchy = detect()
    directory = hierarchy.directory("cpu", cgroup_path)
    if hierarchy.mode is Mode.V2:
        words = [word.encode() for word in read_words(directory, "cpu.max")]
        quota_us, period_us = (parse_number(word) for word in (*words, b"", b"")[:2])
    else:
        quota_us = read_number(directory, "cpu.cfs_quota_us")
        period_us = read_number(directory, "cpu.cfs_period_us")
    return quota_us or 0, period_us or 0


def oom_kills(cgroup_path: str) -> int:
    """Return how many processes of a group the kernel's OOM killer has ended.

    It counts since the group was made, so each container needs one of its own.
    """
    hierarchy = detect()
    # Linux 4.13 and later.
    name = "memory.events" if hierarchy.mode is Mode.V2 else "memory.oom_control"
    return read_keyed(hierarchy.directory("memory", cgroup_path), name).get("oom_kill", 0)


def open_oom_notices(cgroup_path: str) -> int:
    """Return a descriptor that becomes readable about when the OOM killer ends a process.

    On v1 a moment before, on v2 also each time that the group has been at its limit: look at
    `oom_kills` afterwards. What is read from it says no more. Raises OSError where the kernel has
    no such notices.
    """
    hierarchy = detect()
    directory = hierarchy.directory("memory", cgroup_path)
    if directory is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    if hierarchy.mode is Mode.V2:
        return proc.open_notices(f"{directory}/memory.events", proc.IN_MODIFY)
    notices = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        # cgroup-v1/memory.rst, "OOM Control".
        control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            proc.write(f"{directory}/cgroup.event_control", f"{notices} {control}")
        finally:
            os.close(control)
    except OSError:
        os.close(notices)
        raise
    return notices


def signal_member(process: ProcessId, cgroup_path: str, number: int) -> bool:
    """Send a signal to ``process`` if it is in a group; False if it is not, or has ended.

    For processes of which only a peer has told, who could name any process of the host.
    """
    # Alive before and after, it was the same process that was found in the group.
    return (
        proc.lives(process)
        and process.pid in processes(cgroup_path)
        and process_signals.signal_process(process, number)
    )


def processes(cgroup_path: str, hierarchy: Hierarchy | None = None) -> set[int]:
    """Return the ids of the processes in a group, in whatever controller it has them.

    None are in the host's own groups, so that nobody ends them by mistake.
    """
    if not cgroup_path.strip("/"):
        return set()
    hierarchy = hierarchy or detect()
    directories = {hierarchy.directory(name, cgroup_path) for name in hierarchy.mounts}
    return {
        int(word)
        for directory in directories
        for word in read_words(directory, "cgroup.procs")
        if word.strip("0")  # 0 is a process outside of this PID namespace
    }
