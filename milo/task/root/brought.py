"""What templates and artifacts have put beside ``local/``, and the directory that holds all of it.

To Nomad's java driver the task's directory is the root, so ``config/application.yml`` is found at
``./config`` and at ``/config``. Here it is mounted at `TASK_ROOT`, which is the working directory,
and what the job has brought is linked into the root at its own place.
"""

from __future__ import annotations

import heapq
import os
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from milo import walk
from milo.core.container.mounts import TASK_ROOT, Bind, is_inside, parents
from milo.core.launch import SHARED_DIRECTORY, Launch
from milo.core.text import shortened
from milo.errors import ConfigError, PathError, Reason, StateError
from milo.task.root.root_tree import Place, RootTree
from milo.task.root.volumes import enter_or_make
from milo.walk import Held, Kind

OWN: Final = ("local", "secrets", "tmp", SHARED_DIRECTORY)
"""At the container's root, and at their places in the task's directory."""
PINNED: Final = ("dev", "proc")
PRIVATE: Final = "private"
"""Nomad's own, no task's."""
NOMADS: Final = (*OWN, *PINNED, PRIVATE)
"""What Nomad makes, mounts, changes or unmounts by its path in a task's directory, as root and
through symlinks (client/allocdir of Nomad 2.0.5: Build, Unmount). A mount point cannot be renamed,
removed or replaced from inside, so each of these is one in the container."""
LOGS: Final = f"/{SHARED_DIRECTORY}/logs"

MAX_ENTRIES: Final = 1000
"""Of one directory that are linked; what else is in it is seen below `TASK_ROOT` alone."""
MAX_READ: Final = 100_000
"""Entries of one directory that are looked at to choose those."""
MAX_LINKS: Final = 4000
MAX_DEPTH: Final = 16
SHOWN: Final = 3


def guard(launch: Launch) -> None:
    """Keep a task from what Nomad goes to by path in its directories, before it starts.

    All may make files in them, and each user rename or remove its own; Nomad's are root's. So what
    is in `NOMADS`, and the log directory, also hold against who got a descriptor of the directory
    and has no mount in it, as another allocation's task.

    Raises:
        ConfigError: an artifact or a template lies where it could not be seen.
        StateError: one of Nomad's directories is not one, or the file system refuses.
    """
    try:
        with _hold_own(launch.task_dir, launch) as held:
            _own(held, 0o1777)
            for name in (SHARED_DIRECTORY, *PINNED, PRIVATE):
                with enter_or_make(held, name, Kind.DIRECTORY) as made:
                    # An artifact with chown = true may have made it the task's user's.
                    _own(made, made.status.st_mode & 0o1777)
                    if name == SHARED_DIRECTORY:
                        _check_shared(made)
        with _hold_own(launch.shared_dir, launch) as held:
            _own(held, 0o1777)
            with enter_or_make(held, "logs", Kind.DIRECTORY) as logs:
                _own(logs, logs.status.st_mode & 0o777)
    except PathError as exc:
        raise _unusable(exc) from exc


def _hold_own(path: str, launch: Launch) -> Held:
    return walk.hold(path, beneath=launch.alloc_dir, kind=Kind.DIRECTORY)


def _own(held: Held, mode: int) -> None:
    """Make a directory this process's user's, who is root under Nomad."""
    fd = held.open(os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fchown(fd, os.geteuid(), os.getegid())
        os.fchmod(fd, mode)
    except OSError as exc:
        raise StateError(held.path, f"the task's directory: {exc.strerror}") from exc
    finally:
        os.close(fd)


def _check_shared(held: Held) -> None:
    """Refuse what lies where the allocation's shared directory is mounted.

    An empty ``logs`` belongs there: Nomad unmounts it at the end of every task, and complains
    where it is missing.
    """
    enter_or_make(held, "logs", Kind.DIRECTORY).close()
    others = [name for name, _ in held.names(MAX_ENTRIES)[0] if name != "logs"]
    if others:
        path = f"{SHARED_DIRECTORY}/{shortened(min(others))}"
        raise ConfigError(
            "destination",
            f"{path} of an artifact or template lies below the allocation's shared directory, "
            "where the task would not see it",
            f'"${{NOMAD_ALLOC_DIR}}/{shortened(min(others))}"',
        )


def _unusable(exc: PathError) -> StateError:
    words = f"the task's directory: {exc.words}"
    if exc.reason in (Reason.SYMLINK, Reason.KIND, Reason.NOT_DIRECTORY):
        words = "a directory is expected here, and no symlink"
    return StateError(exc.part, words)


def task_binds(launch: Launch) -> tuple[Bind, ...]:
    """Return the binds of the task's own directories.

    The log directory is read-only. Nomad's log collector, which is root, opens the log files in
    it by their paths, at each start and each rotation, and follows symlinks: who could make one
    there would have it write the task's output to any file of the host (seen with Nomad 2.0.5).

    Raises:
        StateError: one of them is missing, a symlink or something else.
    """
    sources = {f"/{name}": f"{launch.task_dir}/{name}" for name in OWN}
    sources[f"/{SHARED_DIRECTORY}"] = launch.shared_dir
    logs = f"{launch.shared_dir}/logs"
    pinned = {f"/{name}": f"{launch.task_dir}/{name}" for name in PINNED}
    for source in (*sources.values(), logs, *pinned.values()):
        try:
            walk.hold(source, beneath=launch.alloc_dir, kind=Kind.DIRECTORY).close()
        except PathError as exc:
            if source != logs or exc.reason is not Reason.MISSING:
                raise _unusable(exc) from exc
        else:
            if source == logs:
                sources[LOGS] = logs
    inner = {TASK_ROOT + at: source for at, source in (sources | pinned).items()}
    return tuple(
        Bind(source, destination, readonly=source == logs, origin="task")
        for destination, source in (sources | {TASK_ROOT: launch.task_dir} | inner).items()
    )


def is_closed(path: str) -> bool:
    """Whether nothing may be mounted at ``path`` in the container, as Nomad goes there as root."""
    closed = (LOGS, *(f"{TASK_ROOT}/{name}" for name in (*PINNED, PRIVATE)))
    return any(is_inside(path, place) for place in closed)


def places(launch: Launch, own: Sequence[str] = OWN) -> dict[str, str]:
    """Return the host's paths of the task's directories by their names at the container's root."""
    found = {name: f"{launch.task_dir}/{name}" for name in own}
    if SHARED_DIRECTORY in own:
        found[SHARED_DIRECTORY] = launch.shared_dir
    return found | {TASK_ROOT[1:]: launch.task_dir}


def from_root(launch: Launch, path: str) -> str:
    """Return the absolute path of what a task without ``work_dir`` finds at the relative ``path``.

    What is at the root too is told from there.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    in_task = not parts or parts[0] == "*" or has(launch, parts[0])
    return "/".join((TASK_ROOT if in_task else "", *parts))


def hold(
    launch: Launch,
    path: str,
    own: Sequence[str] = OWN,
    volumes: Mapping[str, str] = types.MappingProxyType({}),
    kind: Kind | None = Kind.FILE,
) -> walk.Held:
    """Hold what the task finds at the absolute ``path`` in its own directories.

    Of those at the root only ``own`` are looked into. ``volumes`` are more places of
    `milo.walk.hold_in_container`. Raises `PathError`.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if parts[:1] == [TASK_ROOT[1:]] and parts[1:2] and parts[1] in OWN:
        del parts[0]
    elif parts and parts[0] not in volumes and has(launch, parts[0]):
        parts.insert(0, TASK_ROOT[1:])
    held = walk.hold_in_container({**places(launch, own), **volumes}, "/".join(parts), kind)
    if not is_inside(held.path, f"{launch.task_dir}/{PRIVATE}"):
        return held
    with held:
        raise PathError(path, Reason.OUTSIDE, "it is Nomad's own")


def has(launch: Launch, name: str) -> bool:
    """Whether the task's directory has ``name`` besides what Nomad makes there."""
    if name in NOMADS:
        return False
    try:
        with walk.hold(f"{launch.task_dir}/{name}", beneath=launch.alloc_dir):
            return True
    except PathError as exc:
        return exc.reason is Reason.SYMLINK


def link_into(tree: RootTree, launch: Launch) -> str:
    """Link what the task has brought into its root; return a sentence on what cannot be there.

    The job's own mounts stay, and so do the host's directories: what both have is merged.

    Raises:
        StateError: the task's directory cannot be read.
    """
    try:
        with _hold_own(launch.task_dir, launch) as held:
            linker = _Linker(tree)
            linker.link(held, "", 0)
    except PathError as exc:
        raise _unusable(exc) from exc
    notes = []
    if linker.taken:
        notes.append(
            f"Seen below {TASK_ROOT}, the working directory, and not at the root, where something "
            f"else is: {_some(linker.taken)}"
        )
    if linker.cut:
        notes.append(
            f"Seen in full below {TASK_ROOT}, the working directory, and in part at the root, "
            f"where a task has at most {MAX_ENTRIES} entries of one directory, {MAX_LINKS} in all "
            f"and {MAX_DEPTH} levels, root's own and the oldest first: {_some(linker.cut)}"
        )
    return ". ".join(notes)


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(shortened(path) for path in sorted(paths)[:SHOWN]) + more


def linked_from(path: str, links: Mapping[str, str]) -> str:
    """Return where ``path``, at the container's root, lies in the task's directory, if it does.

    ``links`` are the root's symlinks.
    """
    for link in (path, *parents(path)):
        if links.get(link, "").startswith(f"{TASK_ROOT}/"):
            return links[link] + path[len(link) :]
    return path


def _roots_and_oldest(entries: Iterator[os.DirEntry[str]], limit: int) -> list[os.DirEntry[str]]:
    """Choose what the job has brought, as well as that can be told, before what the task made.

    Nomad makes files as this process's user, where a job names no other, before the task runs.
    """

    def order(entry: os.DirEntry[str]) -> tuple[bool, bool, int, str]:
        is_file = not entry.is_dir(follow_symlinks=False)
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:  # it is gone
            return True, is_file, sys.maxsize, entry.name
        return status.st_uid != os.geteuid(), is_file, status.st_mtime_ns, entry.name

    return heapq.nsmallest(limit, islice(entries, MAX_READ), key=order)


class _Linker:
    def __init__(self, tree: RootTree) -> None:
        self.taken: list[str] = []
        """At the root something else is there."""
        self.cut: list[str] = []
        """Directories that hold more than is linked."""
        self._tree = tree
        self._left = MAX_LINKS

    def link(self, held: Held, at: str, depth: int) -> None:
        """Link the entries of the task's directory ``at``."""
        entries, complete = held.names(MAX_ENTRIES)
        entries.sort()
        if not complete:
            entries, _ = held.names(MAX_ENTRIES, _roots_and_oldest)
        is_cut = not complete or depth > MAX_DEPTH or len(entries) > self._left
        if is_cut:
            self.cut.append(at or "/")
        if depth > MAX_DEPTH:
            return
        entries = entries[: max(self._left, 0)]
        self._left -= len(entries)
        both = [self._link(at, *entry) for entry in entries]
        # What lies deeper takes what is left of the links.
        for name, path in filter(None, both):
            try:
                with held.enter(name, Kind.DIRECTORY) as inner:
                    self.link(inner, path, depth + 1)
            except PathError as exc:
                if exc.reason is not Reason.MISSING:
                    raise

    def _link(self, at: str, name: str, is_directory: bool) -> tuple[str, str] | None:
        """Link one entry; return the name and the path of a directory that is at the root too."""
        path = f"{at}/{name}"
        if not at and (name in NOMADS or path == TASK_ROOT or name == "sys"):
            if name not in NOMADS:
                self.taken.append(path)
            return None
        try:
            place = self._tree.make_way(path)
            found = self._tree.look(place)
        except ConfigError:
            self.taken.append(path)
            return None
        if found is Place.DIRECTORY and is_directory:
            return name, path
        if found is Place.DIRECTORY:
            self.taken.append(path)
        elif found is not Place.JOB:
            self._tree.links.pop(place, None)
            self._tree.binds.pop(place, None)
            self._tree.link(place, TASK_ROOT + path)
        return None
