"""The mounts of a task's container, and the rules for where one may be. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs

from milo.core.container.confinement import SHM_SIZE_BYTES
from milo.errors import ConfigError

MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
)
"""podman's and docker's lists together: host state that tells tenants about each other."""

READONLY_PATHS: Final = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)

SYSTEM_DESTINATIONS: Final = ("/dev", "/proc", "/sys")
"""Mounted by this module itself; nothing else may be mounted on or below them."""

TASK_ROOT: Final = "/task"
"""The task's own directory, whole, and the working directory of a job that names none. It is not
the root, as under Nomad's java driver: a job's ``lib/`` would hide the system's."""


@attrs.frozen
class Bind:
    """A bind mount of a host path."""

    source: str
    destination: str
    readonly: bool = True
    directory: bool = True
    recursive: bool = False
    """With what is mounted below it. A read-only bind is then read-only all the way down,
    which takes Linux 5.12 (mount_setattr)."""
    origin: str = "host"
    """``host``: a part of the host's own system, read-only. ``task``: one of the task's own
    directories. ``job``: asked for by the job; its destination is the job's words."""
    propagation: str = "rprivate"
    device: bool = False
    """Whether it is a device node, to be opened as the device cgroup permits."""


def check_binds(binds: tuple[Bind, ...]) -> None:
    """Refuse mount destinations that would change something outside of the container.

    crun creates a missing mount point through whatever is mounted there already, on the host
    and even when that mount is to be read-only (measured), so a destination may not lie inside
    a bind of the host's. Inside the task's own directories it may, where `milo.task.oci.bundle`
    has made the mount point itself; see `own_first` for those that others write to meanwhile.

    Raises:
        ConfigError: with the destination and what would be allowed.
    """
    seen: dict[str, Bind] = {}
    above: dict[str, str] = {}
    for bind in binds:
        path = bind.destination
        if path != normalized(path) or path == "/":
            raise ConfigError(
                "mount destination", repr(path), "an absolute path below / without '.' and '..'"
            )
        if any(is_inside(path, system) for system in SYSTEM_DESTINATIONS):
            raise ConfigError(
                "mount destination", repr(path), "a path outside of /dev, /proc and /sys"
            )
        if path in seen:
            raise ConfigError("mount destination", f"{path!r} is used twice", "another path")
        if path in above:
            raise ConfigError(
                "mount destination", f"{path!r} would hide {above[path]}", "another path"
            )
        for parent in parents(path):
            other = seen.get(parent)
            if other is not None and (other.origin != "task" or other.readonly):
                raise ConfigError(
                    "mount destination",
                    f"{path!r} lies inside {parent}",
                    "a path that nothing else is mounted above, or one below /local",
                )
            above.setdefault(parent, path)
        seen[path] = bind


def own_first(binds: Sequence[Bind]) -> tuple[list[Bind], list[Bind]]:
    """Return what is mounted in the task's own directories, with these, and all other binds.

    What others may exchange while crun mounts there leads to nothing but these directories and
    the empty root, as long as nothing else is mounted; `milo.task.root.mount_check` then finds it.
    """
    own = {bind.destination for bind in binds if bind.origin == "task"}
    first: list[Bind] = []
    others: list[Bind] = []
    for bind in binds:
        inner = bind.origin != "host" and not own.isdisjoint(
            (bind.destination, *parents(bind.destination))
        )
        (first if inner else others).append(bind)
    return first, others


def innermost(binds: Sequence[Bind], path: str) -> Bind | None:
    """Return the bind that ``path`` lies in; of two at the same place the later one is on top."""
    around = [bind for bind in binds if is_inside(path, bind.destination)]
    return max(reversed(around), key=lambda bind: len(bind.destination), default=None)


def parents(path: str) -> Iterator[str]:
    """Yield the directories above ``path``, absolute and normalized, but not ``/``."""
    while (path := path.rpartition("/")[0]) != "":
        yield path


def normalized(path: str) -> str:
    """Return ``path`` without ``.``, empty and ``..`` parts, made absolute."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if parts:
                parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def is_inside(path: str, directory: str) -> bool:
    """Whether ``path`` is ``directory`` or below it; both absolute and normalized."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def system_mounts(
    *, sysfs: bool = True, cgroups: bool = True, terminal_group: bool = True
) -> list[dict[str, Any]]:
    """Return the file systems of every container: /proc, /dev and /sys, minimal or read-only.

    See `milo.core.container.rights.Rights`: without ``sysfs`` the host's is bound, without
    ``cgroups`` none are mounted.
    """
    strict = ["nosuid", "noexec", "nodev"]

    def mount(destination: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
        return {"destination": destination, "type": kind, "source": source, "options": options}

    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    if terminal_group:
        terminals.append("gid=5")
    sys = mount("/sys", "sysfs", "sysfs", [*strict, "ro"])
    if not sysfs:
        options = ["rbind", *strict, "ro", "rro", "rnosuid", "rnodev", "rnoexec", "rprivate"]
        sys.update(type="bind", source="/sys", options=options)
    result = [
        mount("/proc", "proc", "proc", strict),
        mount(
            "/dev", "tmpfs", "tmpfs", ["nosuid", "noexec", "strictatime", "mode=755", "size=64k"]
        ),
        mount("/dev/pts", "devpts", "devpts", terminals),
        mount("/dev/shm", "tmpfs", "shm", [*strict, "mode=1777", f"size={SHM_SIZE_BYTES}"]),  # noqa: S108
        mount("/dev/mqueue", "mqueue", "mqueue", strict),
        sys,
    ]
    if cgroups:
        # So that the JVM finds its own limits; with the cgroup namespace it sees only these.
        options = [*strict, "relatime", "ro"]
        result.append(mount("/sys/fs/cgroup", "cgroup", "cgroup", options))
    return result


def bind_mount(bind: Bind) -> dict[str, Any]:
    """Return the OCI mount object of a bind; never with setuid programs.

    Nor with device nodes, but for one that is bound itself: read-only, so that its owner and mode
    stay the host's, while the device may be written to.
    """
    options = ["rbind" if bind.recursive else "bind", "nosuid", bind.propagation]
    options += ["noexec"] if bind.device else ["nodev"]
    if bind.readonly:
        options.append("ro")
    # crun sets flags recursively on directories only. It opens them for that, so no directory that
    # its task can exchange is opened without need.
    if bind.recursive and bind.directory:
        options += ["rnosuid", "rnodev", *(["rro"] if bind.readonly else [])]
    return {
        "destination": bind.destination,
        "type": "bind",
        "source": bind.source,
        "options": options,
    }


def mask_mount(path: str) -> dict[str, Any]:
    """Return the OCI mount object that hides a directory behind an empty, read-only one."""
    options = ["ro", "nosuid", "nodev", "noexec", "mode=555", "size=4k"]
    return {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": options}
