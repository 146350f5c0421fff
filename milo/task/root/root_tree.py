"""The container's root without what is mounted below the task's own directories: who is where.

The host's directories are shown whole. Where the job needs a place inside of one, that one is
split: shown entry by entry, with room in between. Nothing is ever made in a directory of the host.
"""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import attrs

from milo import walk
from milo.core.container.mounts import Bind, is_inside, normalized, parents
from milo.errors import ConfigError, PathError
from milo.task.root.rootfs import SKELETON_DIRS
from milo.walk import Kind

MAX_ENTRIES: Final = 4096
"""A directory of the host with more is not split: each entry becomes a mount."""
MAX_BINDS: Final = 10_000
"""Of one container; Linux permits 100,000 mounts a namespace (sysctl fs.mount-max)."""


class Place(enum.Enum):
    """What there is at a path of the container's root."""

    FREE = enum.auto()
    DIRECTORY = enum.auto()
    OTHER = enum.auto()
    """A file, or a symlink."""
    JOB = enum.auto()
    """A mount of the job's, or something inside of one."""


class RootTree:
    """The binds and symlinks of a root, changed as the job needs it."""

    def __init__(
        self,
        binds: Iterable[Bind],
        links: Mapping[str, str],
        *,
        java_home: str = "",
        linker: Sequence[str] = (),
        hidden: Sequence[str] = (),
    ) -> None:
        """Begin with the host's part.

        ``java_home`` stays whole: it is the JDK's place when that is the host's. ``linker`` are
        the paths that lead to the JDK's dynamic linker, and stay. ``hidden`` are places of the
        host that a split directory does not show.
        """
        self.binds: dict[str, Bind] = {}
        """By destination."""
        self.links = dict(links)
        """Path to what the symlink there says. There is none where a bind needs a directory."""
        self._java_home = java_home
        self._linker = linker
        self._hidden = tuple(hidden)
        self._directories = {"/", *SKELETON_DIRS}
        for bind in binds:
            self.add(bind)
        for link in self.links:
            self._directories |= {*parents(link)}

    def add(self, bind: Bind) -> None:
        """Add a bind where `make_room` has made room."""
        self.binds[bind.destination] = bind
        for path in parents(bind.destination):  # a JDK below /var/tmp
            self.links.pop(path, None)
            self._directories.add(path)

    def link(self, path: str, target: str) -> None:
        """Add a symlink where `make_room` has made room."""
        self.links[path] = target
        self._directories |= {*parents(path)}

    def resolve(self, path: str) -> str:
        """Return ``path`` as it is without the root's own symlinks above its last part."""
        for _ in range(walk.MAX_LINKS):
            link = next((part for part in parents(path) if part in self.links), "")
            if not link:
                return path
            target = os.path.join(os.path.dirname(link), self.links[link])
            path = normalized(target + path[len(link) :])
        raise ConfigError("mount destination", f"{path!r} leads in a circle", "another path")

    def look(self, path: str) -> Place:
        """Return what is at ``path``, which `make_way` has returned."""
        if any(bind.origin != "host" for bind in self._around(path)):
            return Place.JOB
        if path in self.links:
            return Place.DIRECTORY if self._is_directory(f"{path}/.") else Place.OTHER
        bind = self.binds.get(path)
        if bind is not None:
            return Place.DIRECTORY if bind.directory else Place.OTHER
        return Place.DIRECTORY if path in self._directories else Place.FREE

    def make_way(self, path: str) -> str:
        """Return ``path`` without symlinks above it, and with nothing of the host's around it.

        Raises:
            ConfigError: something is there that cannot make way.
        """
        while True:
            path = self.resolve(path)
            if self._java_home and path != self._java_home and is_inside(path, self._java_home):
                raise _occupied(path, f"inside the JDK {self._java_home}", "a path outside of it")
            around = next(self._around(path, itself=False), None)
            if around is None:
                return path
            if around.origin != "host":
                raise _occupied(
                    path,
                    f"inside {around.destination}, another mount of the job",
                    "a path beside it, or a directory in that mount's source",
                )
            self._split(around, path)

    def make_room(self, path: str, *, directory: bool = True) -> str:
        """Return ``path`` as `make_way` does, and take away what is there and below.

        ``directory`` is what will be there instead.

        Raises:
            ConfigError: something is there that cannot go.
        """
        path = self.make_way(path)
        if not directory and path in SKELETON_DIRS:
            raise _occupied(path, "a directory, and the mount is none", "a path in it")
        if self._java_home and is_inside(self._java_home, path):
            raise _occupied(path, f"above the JDK {self._java_home}", "a path beside that")
        if any(is_inside(part, path) for part in self._linker):
            what = "above the system's libraries, which Java loads"
            raise _occupied(path, what, "a path of another name, or one below it")
        below = [bind for bind in self.binds.values() if is_inside(bind.destination, path)]
        for bind in below:
            if bind.origin != "host":
                what = "used twice" if bind.destination == path else f"above {bind.destination}"
                raise _occupied(path, what, "another path for one of the job's mounts")
            del self.binds[bind.destination]
        for link in [link for link in self.links if is_inside(link, path)]:
            del self.links[link]
        return path

    def _is_directory(self, path: str) -> bool:
        end = self.resolve(path)
        bind = next(self._around(end), None)
        if bind is None:
            return end in self._directories
        try:
            walk.follow(bind.source + end[len(bind.destination) :], Kind.DIRECTORY).close()
        except PathError:
            return False
        return True

    def _around(self, path: str, *, itself: bool = True) -> Iterator[Bind]:
        """Yield the binds that ``path`` lies in, the innermost first."""
        own = (path,) if itself else ()
        return (self.binds[part] for part in (*own, *parents(path)) if part in self.binds)

    def _split(self, bind: Bind, path: str) -> None:
        """Show a directory of the host entry by entry, for ``path`` to get room in it."""
        at = bind.destination
        if not bind.directory:
            raise _occupied(path, f"below {at}, a file of the host", "another path")
        try:
            with walk.follow(bind.source, Kind.DIRECTORY) as held:
                names, complete = held.names(MAX_ENTRIES)
        except PathError as exc:
            raise _occupied(path, f"in {at} of the host: {exc.words}", "another path") from exc
        if not complete or len(self.binds) + len(names) > MAX_BINDS:
            raise _occupied(
                path, f"in {at} of the host, which holds too much to make room", "another path"
            )
        del self.binds[at]
        self._directories.add(at)
        for name, is_directory in names:
            self._show(bind, name, directory=is_directory)

    def _show(self, around: Bind, name: str, *, directory: bool) -> None:
        source = os.path.join(around.source, name)
        at = os.path.join(around.destination, name)
        if any(is_inside(source, place) for place in self._hidden) or not _is_text(name):
            return
        if not directory:
            with contextlib.suppress(PathError), walk.follow(source) as found:
                target = found.links.get(source)
                if target is not None:
                    self.link(at, target)
                    return
                if found.kind is not Kind.FILE:
                    return
        recursive = around.recursive and directory
        self.add(
            attrs.evolve(
                around, source=source, destination=at, directory=directory, recursive=recursive
            )
        )


def _is_text(name: str) -> bool:
    """Whether a name can stand in JSON."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _occupied(path: str, what: str, expected: str) -> ConfigError:
    return ConfigError("mount destination", f"{path!r} is {what}", expected)
