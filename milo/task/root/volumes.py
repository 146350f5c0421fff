"""The binds that are the task's own: its directories, and what the job and Nomad ask for."""

from __future__ import annotations

import os
import stat
from typing import Final

from milo.core.config.task_options import JobMount, TaskOptions
from milo.core.container.mounts import Bind, is_inside, normalized
from milo.core.launch import Launch
from milo.errors import ConfigError
from milo.task.root import hidden_paths, rootfs

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


def job_binds(launch: Launch, options: TaskOptions) -> list[Bind]:
    """Return what Nomad and the job want to have mounted, each source without symlinks.

    What a source's path leads to is decided here; `milo.task.root.mount_check` makes sure
    that exactly this is what gets mounted.

    Raises:
        ConfigError: a source is not there or not permitted, or a value cannot be used.
    """
    binds = []
    for volume in launch.mounts:
        real = os.path.realpath(volume.host_path)
        binds.append(_bind("volume", real, volume.task_path, volume.readonly, volume.propagation))
    if options.mounts and not launch.plugin.volumes.enabled:
        raise ConfigError(
            "mounts",
            "this client does not let jobs mount directories of the host",
            "a volume block, or volumes { enabled = true } in the plugin's configuration",
        )
    for number, mount in enumerate(options.mounts):
        key = f"mounts[{number}].source"
        real = _permitted(key, mount.source, launch)
        bind = _bind(key, real, mount.target, mount.readonly, mount.propagation)
        _check_protected(key, mount, real, hidden_paths.places(launch))
        binds.append(bind)
    return binds


def _permitted(key: str, source: str, launch: Launch) -> str:
    """Return ``source`` with its symlinks resolved, if the operator permits what it leads to.

    Nothing is said about what lies elsewhere, not even whether it is there.
    """
    real = os.path.realpath(source)
    paths = launch.plugin.volumes.paths
    if any(is_inside(real, os.path.realpath(path)) for path in paths):
        return real
    what = f"{source} leads out of them" if any(is_inside(source, p) for p in paths) else source
    raise ConfigError(
        key,
        f"the client does not permit {what}" if paths else "the client permits no path",
        "a path below one of " + ", ".join(paths)
        if paths
        else "volumes { paths = [ … ] } in the plugin's configuration to name it or one above it",
    )


def _check_protected(key: str, mount: JobMount, real: str, places: tuple[str, ...]) -> None:
    for place in places:
        inside = is_inside(real, place)
        # In a mount that the host sees too, hiding the place would hide it from the host.
        if inside or (is_inside(place, real) and mount.propagation == "bidirectional"):
            raise ConfigError(
                key,
                f"{mount.source} {'lies in' if inside else 'holds'} Nomad's or Milo's own data",
                "a directory of its own",
            )


def _bind(key: str, source: str, target: str, readonly: bool, propagation: str) -> Bind:
    if propagation not in PROPAGATIONS:
        raise ConfigError(
            "propagation_mode", repr(propagation), "one of " + ", ".join(PROPAGATIONS)
        )
    try:
        mode = os.lstat(source).st_mode
    except OSError as exc:
        words = "does not exist" if isinstance(exc, FileNotFoundError) else exc.strerror
        raise ConfigError(key, f"{source} {words}", "a path of the host") from exc
    directory = stat.S_ISDIR(mode)
    if not (directory or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
        raise ConfigError(
            key, f"{source} is of another kind", "a directory, a regular file or a socket"
        )
    return Bind(
        source,
        normalized(target),
        readonly=readonly,
        directory=directory,
        recursive=directory and (not readonly or kernel_is_recursive()),
        origin="job",
        propagation=PROPAGATIONS[propagation],
    )


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
