"""The binds that are the task's own: its directories, and what the job and Nomad ask for."""

from __future__ import annotations

import os
import stat
from typing import Final

from milo.core.launch import Launch
from milo.core.mounts import Bind, is_inside, normalized
from milo.errors import ConfigError
from milo.task import rootfs

RECURSIVE_SINCE: Final = (5, 12)
"""Linux with mount_setattr(2), which read-only binds with everything below them need."""
PROPAGATIONS: Final = {
    "": "rprivate",
    "private": "rprivate",
    "host-to-task": "rslave",
    "bidirectional": "rshared",
}
"""Nomad's words for mount propagation (volume_mount's propagation_mode) to the kernel's."""


def task_binds(launch: Launch) -> tuple[Bind, ...]:
    pairs = (
        (f"{launch.shared_dir}", "/alloc"),
        (f"{launch.task_dir}/local", "/local"),
        (f"{launch.task_dir}/secrets", "/secrets"),
        (f"{launch.task_dir}/tmp", "/tmp"),  # noqa: S108
    )
    for source, _ in pairs:
        rootfs.check_directory(source)
    return tuple(
        Bind(source, destination, readonly=False, origin="task") for source, destination in pairs
    )


def job_binds(launch: Launch) -> list[Bind]:
    binds = []
    for mount in launch.mounts:
        if mount.propagation not in PROPAGATIONS:
            raise ConfigError(
                "propagation_mode", repr(mount.propagation), "one of " + ", ".join(PROPAGATIONS)
            )
        if not os.path.exists(mount.host_path):
            raise ConfigError("volume", f"{mount.host_path} does not exist", "a path of the host")
        directory = os.path.isdir(mount.host_path)
        binds.append(
            Bind(
                os.path.realpath(mount.host_path),
                normalized(mount.task_path),
                readonly=mount.readonly,
                directory=directory,
                recursive=directory and (not mount.readonly or kernel_is_recursive()),
                origin="job",
                propagation=PROPAGATIONS[mount.propagation],
            )
        )
    return binds


def make_inner_mount_points(binds: tuple[Bind, ...]) -> None:
    """Make the mount points that lie in the task's own directories, on the host.

    Each part is opened without following symlinks, which an earlier run may have planted; crun
    would follow them, and make directories where they lead.

    Raises:
        ConfigError: a part of the path is a symlink or of the wrong kind.
        OSError: the file system refuses.
    """
    own = [bind for bind in binds if bind.origin == "task"]
    for bind in binds:
        for outer in own:
            if bind is outer or not is_inside(bind.destination, outer.destination):
                continue
            parts = bind.destination[len(outer.destination) :].strip("/").split("/")
            fd = os.open(outer.source, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                for number, part in enumerate(parts, 1):
                    fd = _enter(fd, part, bind, directory=bind.directory or number < len(parts))
            finally:
                os.close(fd)


def _enter(parent: int, name: str, bind: Bind, *, directory: bool) -> int:
    """Return a descriptor of ``name``, made if it is missing, and close ``parent``."""
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent))
    except FileExistsError:
        pass
    mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    if not (stat.S_ISDIR(mode) if directory else stat.S_ISREG(mode)):
        raise ConfigError(
            "mount destination",
            f"{name!r} in {bind.destination} is no {'directory' if directory else 'file'}",
            "a path that is free",
        )
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    os.close(parent)
    return fd


def kernel_is_recursive() -> bool:
    parts = os.uname().release.split(".")
    try:
        return (int(parts[0]), int(parts[1].partition("-")[0])) >= RECURSIVE_SINCE
    except (ValueError, IndexError):
        return False
