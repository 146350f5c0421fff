"""What is mounted where in a task's container."""

from __future__ import annotations

import os

import attrs

from milo.core.config.task_options import TaskOptions
from milo.core.container.mounts import Bind, is_inside, parents
from milo.core.launch import Application, Launch
from milo.errors import ConfigError
from milo.task.root import devices, hidden_paths, minimal_root, rootfs, volumes


@attrs.frozen
class Layout:
    """All that is mounted in one container besides the system's own file systems."""

    binds: tuple[Bind, ...]
    """In the order of mounting."""
    masks: tuple[str, ...]
    """Directories inside of ``binds`` that are to be hidden."""
    links: dict[str, str]
    """Symlinks of the root: path to what each says."""
    java_home: str
    """Where the application finds its JDK."""


def lay_out(launch: Launch, options: TaskOptions, app: Application) -> Layout:
    """Return what is to be mounted, from the job's words and this host's directories.

    Raises:
        ConfigError: a mount or a JDK that cannot be used.
        StateError: one of the task's directories is not there, or is a symlink.
    """
    task_binds = volumes.task_binds(launch)
    own = [bind.source for bind in task_binds]
    recursive = volumes.kernel_is_recursive()
    extra = _java_paths(app, own)
    if options.rootfs == "minimal":
        host = minimal_root.view_minimal(
            app.java, extra, recursive=recursive, beneath=launch.alloc_dir
        )
    else:
        host = rootfs.view_host(extra, recursive=recursive)
    job_binds = volumes.job_binds(launch, options) + devices.device_binds(launch.devices)
    _check_links(job_binds, rootfs.SKELETON_LINKS | host.links)
    binds = _ordered([*host.binds, *task_binds, *job_binds])
    return Layout(
        binds,
        hidden_paths.masks(binds, hidden_paths.places(launch)),
        host.links,
        _java_home_inside(app, task_binds),
    )


def _check_links(binds: list[Bind], links: dict[str, str]) -> None:
    """Refuse a destination in whose path the container's root has a symlink."""
    for bind in binds:
        path = bind.destination
        for part in (path, *parents(path)):
            if part in links:
                raise ConfigError(
                    "mount destination",
                    f"{path!r} leads through {part}, a symlink to {links[part]}",
                    "a path without symlinks, such as one below /mnt",
                )


def _ordered(binds: list[Bind]) -> tuple[Bind, ...]:
    """Return the binds with what lies in the task's directories (a JDK below /tmp) last."""
    own = [bind.destination for bind in binds if bind.origin == "task"]

    def inner(bind: Bind) -> bool:
        return bind.origin != "task" and any(is_inside(bind.destination, path) for path in own)

    return tuple(sorted(binds, key=inner))


def _java_paths(app: Application, own: list[str]) -> list[str]:
    """Return the host paths of the JDK, unless it came with the task itself."""
    if any(is_inside(app.java.home, source) for source in own):
        return []
    return [app.java.home, *app.java.binds]


def _java_home_inside(app: Application, task_binds: tuple[Bind, ...]) -> str:
    for bind in task_binds:
        if is_inside(app.java.home, bind.source):
            return os.path.normpath(bind.destination + app.java.home[len(bind.source) :])
    return app.java.home
