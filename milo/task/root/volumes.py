"""The binds that are the task's own: its directories, and what the job and Nomad ask for."""

from __future__ import annotations

import os
from typing import Final

import attrs

from milo import walk
from milo.core.config.task_options import JobMount, TaskOptions
from milo.core.container.mounts import Bind, is_inside, normalized
from milo.core.launch import Launch
from milo.core.versions import version_numbers
from milo.errors import ConfigError, PathError, Reason, StateError
from milo.task.root import hidden_paths
from milo.walk import Kind

RECURSIVE_SINCE: Final = (5, 12)
"""Linux with mount_setattr(2), which read-only binds with everything below them need."""
PROPAGATIONS: Final = {
    "": "rprivate",
    "private": "rprivate",
    "host-to-task": "rslave",
    "bidirectional": "rshared",
}
"""Nomad's words for mount propagation (volume_mount's propagation_mode) to the kernel's."""


@attrs.frozen
class _Source:
    """What a source's path leads to."""

    path: str
    """Without symlinks, as far as there is anything."""
    kind: Kind | None = None
    problem: str = ""


def job_binds(launch: Launch, options: TaskOptions) -> list[Bind]:
    """Return what Nomad and the job want to have mounted, each source without symlinks.

    What a source's path leads to is decided here; `milo.task.root.mount_check` makes sure
    that exactly this is what gets mounted.

    Raises:
        ConfigError: a source is not there or not permitted, or a value cannot be used.
    """
    binds = []
    for volume in launch.mounts:
        source = _look_up(volume.host_path)
        binds.append(_bind("volume", source, volume.task_path, volume.readonly, volume.propagation))
    for number, mount in enumerate(options.mounts):
        key = f"mounts[{number}].source"
        found = _permitted(key, mount.source, launch)
        bind = _bind(key, found, mount.target, mount.readonly, mount.propagation)
        _check_protected(key, mount, found.path, hidden_paths.places(launch))
        binds.append(bind)
    return binds


def _look_up(path: str) -> _Source:
    try:
        with walk.follow(path) as held:
            return _Source(held.path, held.kind)
    except PathError as exc:
        return _Source(exc.reached, problem=exc.words)


def _permitted(key: str, source: str, launch: Launch) -> _Source:
    """Return what ``source`` leads to, if the operator permits that.

    Nothing is said about what lies elsewhere, not even whether it is there.
    """
    found = _look_up(source)
    paths = launch.plugin.volumes.paths
    if any(is_inside(found.path, walk.real_path(path)) for path in paths):
        return found
    what = f"the client does not permit {source}" if paths else "the client permits no path"
    if any(is_inside(source, path) for path in paths):
        what = f"the client does not permit what {source} leads to"
    raise ConfigError(
        key,
        what,
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


def _bind(key: str, source: _Source, target: str, readonly: bool, propagation: str) -> Bind:
    if propagation not in PROPAGATIONS:
        raise ConfigError(
            "propagation_mode", repr(propagation), "one of " + ", ".join(PROPAGATIONS)
        )
    if source.problem:
        raise ConfigError(key, f"{source.path}: {source.problem}", "a path of the host")
    directory = source.kind is Kind.DIRECTORY
    if source.kind not in (Kind.DIRECTORY, Kind.FILE, Kind.SOCKET):
        raise ConfigError(
            key, f"{source.path} is {source.kind}", "a directory, a regular file or a socket"
        )
    return Bind(
        source.path,
        normalized(target),
        readonly=readonly,
        directory=directory,
        recursive=directory and (not readonly or kernel_is_recursive()),
        origin="job",
        propagation=PROPAGATIONS[propagation],
    )


def make_inner_mount_points(binds: tuple[Bind, ...], alloc_dir: str) -> None:
    """Make the mount points that lie in the task's own directories, on the host.

    Below ``alloc_dir`` no symlink is followed, which an earlier run may have planted; crun
    would follow it, and make directories where it leads.

    Raises:
        ConfigError: a part of the path is a symlink or of the wrong kind.
        StateError: the file system refuses.
    """
    own = [bind for bind in binds if bind.origin == "task"]
    for bind in binds:
        around = [o for o in own if o is not bind and is_inside(bind.destination, o.destination)]
        if not around:
            continue
        outer = max(around, key=lambda bind: len(bind.destination))
        *parts, last = bind.destination[len(outer.destination) :].strip("/").split("/")
        try:
            at = walk.hold(outer.source, beneath=alloc_dir, kind=Kind.DIRECTORY)
            for part in parts:
                with at:
                    at = enter_or_make(at, part, Kind.DIRECTORY)
            with at:
                enter_or_make(at, last, Kind.DIRECTORY if bind.directory else Kind.FILE).close()
        except PathError as exc:
            if exc.reason in (Reason.KIND, Reason.SYMLINK):
                raise ConfigError(
                    "mount destination",
                    f"{os.path.basename(exc.part)!r} in {bind.destination}: {exc.words}",
                    "a path that is free",
                ) from exc
            raise StateError(exc.part, exc.words) from exc


def enter_or_make(parent: walk.Held, name: str, kind: Kind) -> walk.Held:
    """Hold ``name``, made if it is missing."""
    try:
        return parent.enter(name, kind)
    except PathError as exc:
        if exc.reason is not Reason.MISSING:
            raise
    if kind is Kind.DIRECTORY:
        return parent.make_directory(name, 0o755)
    os.close(parent.make_file(name, 0o644))
    return parent.enter(name, kind)


def kernel_is_recursive() -> bool:
    return version_numbers(os.uname().release) >= RECURSIVE_SINCE
