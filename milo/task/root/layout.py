"""What is mounted where in a task's container."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

import attrs

from milo import walk
from milo.core.config.task_options import TaskOptions
from milo.core.container.mounts import TASK_ROOT, Bind, is_inside
from milo.core.container.spec import HOME
from milo.core.launch import SHARED_DIRECTORY, Application, Launch
from milo.errors import ConfigError, PathError, Reason
from milo.task.root import (
    brought,
    devices,
    hidden_paths,
    libraries,
    minimal_root,
    rootfs,
    volumes,
)
from milo.task.root.root_tree import RootTree
from milo.task.root.rootfs import SKELETON_DIRS
from milo.walk import Kind


def check_brought(launch: Launch) -> None:
    """Refuse a file of an artifact or template where the task needs a directory.

    Raises:
        ConfigError: with its name. What else is wrong there is told by `brought.guard`.
    """
    for name in (*brought.PINNED, brought.PRIVATE, SHARED_DIRECTORY):
        try:
            path = f"{launch.task_dir}/{name}"
            walk.hold(path, beneath=launch.alloc_dir, kind=Kind.DIRECTORY).close()
        except PathError as exc:
            if exc.reason is Reason.KIND:
                raise ConfigError(
                    "destination",
                    f"{name} of an artifact or template is a file, and the task's directory has "
                    "a directory of that name",
                    "a path of another name",
                ) from exc


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
    note: str = ""
    """A sentence for the task's user on what it has brought and cannot have; may be empty."""


def lay_out(
    launch: Launch, options: TaskOptions, app: Application, own_mount: Bind | None = None
) -> Layout:
    """Return what is to be mounted, from the job's words and this host's directories.

    ``own_mount`` is Milo's own, where nothing of the job's is.

    Raises:
        ConfigError: a mount or a JDK that cannot be used.
        StateError: one of the task's directories is not there, or is a symlink.
    """
    task_binds = brought.task_binds(launch)
    own = [bind.source for bind in task_binds]
    recursive = volumes.kernel_is_recursive()
    extra = _java_paths(app, own)
    if options.rootfs == "minimal":
        host = minimal_root.view_minimal(
            app.java, extra, recursive=recursive, beneath=launch.alloc_dir
        )
    else:
        host = rootfs.view_host(extra, recursive=recursive)
    hidden = hidden_paths.places(launch)
    java_home = "" if any(is_inside(app.java.home, source) for source in own) else app.java.home
    links = rootfs.SKELETON_LINKS | host.links
    wanted = volumes.job_binds(launch, options)
    linker = libraries.dynamic_linker(app.java, beneath=launch.alloc_dir) if wanted else ()
    tree = RootTree(host.binds, links, java_home=java_home, linker=linker, hidden=hidden)
    own_part = _OwnPart(task_binds)
    system = {f"/{path.split('/')[1]}" for path in (*tree.binds, *tree.links, *SKELETON_DIRS)}
    for bind in wanted:
        own_part.place(bind, tree, system)
    for bind in devices.device_binds(launch.devices):
        tree.add(attrs.evolve(bind, destination=tree.make_room(bind.destination)))
    if own_mount is not None:
        tree.add(own_mount)
    note = brought.link_into(tree, launch)
    binds = _ordered([*tree.binds.values(), *own_part.binds])
    return Layout(
        binds,
        (*hidden_paths.masks(binds, hidden), f"{TASK_ROOT}/{brought.PRIVATE}"),
        tree.links,
        _java_home_inside(app, task_binds),
        note,
    )


class _OwnPart:
    """What is mounted in the task's own directories, with these."""

    def __init__(self, binds: Iterable[Bind]) -> None:
        self.binds = list(binds)

    def place(self, bind: Bind, tree: RootTree, system: Collection[str]) -> None:
        """Put a mount of the job's at its place, and where a relative path would look for it.

        ``system`` are the directories at the root in which nobody looks by a relative path.

        Raises:
            ConfigError: something is there that cannot make room for it.
        """
        path = tree.resolve(bind.destination)
        first = path.removeprefix(TASK_ROOT).split("/")[1:2]
        if first and first[0] in brought.OWN:
            path = path.removeprefix(TASK_ROOT)
        if path == HOME:  # a larger or a faster one, which is pinned like the task's own
            both = (HOME, TASK_ROOT + HOME)
            self.binds = [one for one in self.binds if one.destination not in both]
        elif path in [one.destination for one in self.binds] or brought.is_closed(path):
            raise ConfigError(
                "mount destination",
                f"{path!r} is taken by the task's own directory of that name",
                "another path, such as one below /local, /alloc/data or /mnt",
            )
        if any(is_inside(path, one.destination) for one in self.binds if one.origin == "task"):
            self.binds.append(attrs.evolve(bind, destination=path))
        else:
            path = tree.make_room(path, directory=bind.directory)
            tree.add(attrs.evolve(bind, destination=path))
        relative = TASK_ROOT + path
        in_system = is_inside(path, TASK_ROOT) or f"/{path.split('/')[1]}" in system
        if not in_system and not brought.is_closed(relative):
            self.binds.append(attrs.evolve(bind, destination=relative))


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
