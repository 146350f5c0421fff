"""Makes sure that what crun mounted is what Milo has checked.

crun takes mount sources and destinations as paths, and resolves them itself, a moment after
Milo has looked at them. Whoever can write to a directory on the way may exchange it in between
for a symlink to somewhere else. So each source is held open from the check on, and when the
container has been created, but nothing of the task has run in it yet, the thing that is mounted
has to be the one that is held.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Final

from milo import proc
from milo.core.container.mounts import Bind, is_inside
from milo.errors import StateError

_WALK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class MountCheck:
    """The sources of some binds, held by descriptors. `close` lets go of them."""

    def __init__(self, binds: Iterable[Bind], *, alloc_dir: str, java_home: str) -> None:
        """Hold the sources of what a task or another user of the host may be able to exchange.

        That is the task's own directories, below the trusted ``alloc_dir``, what the job
        mounts, and the JDK, whose ``java_home`` had no symlinks in it when it was found.

        Raises:
            StateError: a source is not there, or a part of its path is a symlink.
        """
        pairs = [(one.source, one.destination) for one in binds if one.origin in ("task", "job")]
        if not any(is_inside(java_home, source) for source, _ in pairs):
            pairs.append((java_home, java_home))
        self._held: list[tuple[str, str, int]] = []
        try:
            for source, destination in pairs:
                base = alloc_dir if is_inside(source, alloc_dir) else "/"
                self._held.append((source, destination, _hold(base, source)))
        except BaseException:
            self.close()
            raise

    def verify(self, pid: int) -> None:
        """Compare with what the created container's first process ``pid`` has mounted.

        Raises:
            StateError: a source, or a mount point in the task's directories, was exchanged.
        """
        root = proc.root(pid)
        for source, destination, fd in self._held:
            mounted = _hold(root, root + destination)
            try:
                if not os.path.samestat(os.fstat(mounted), os.fstat(fd)):
                    raise StateError(source, "something else took its place while it was mounted")
            finally:
                os.close(mounted)

    def close(self) -> None:
        """Let go of everything; may be called again."""
        while self._held:
            os.close(self._held.pop()[2])


def _hold(base: str, path: str) -> int:
    """Return a descriptor of ``path``; below the trusted ``base`` no symlink is followed."""
    fd = -1
    try:
        fd = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        names = [name for name in path[len(base) :].split("/") if name]
        for number, name in enumerate(names, 1):
            directory = os.O_DIRECTORY if number < len(names) else 0
            inner = os.open(name, _WALK | directory, dir_fd=fd)
            os.close(fd)
            fd = inner
        if stat.S_ISLNK(os.fstat(fd).st_mode):
            raise NotADirectoryError("")
    except OSError as exc:
        if fd >= 0:
            os.close(fd)
        words = exc.strerror or "Not a directory"
        if isinstance(exc, NotADirectoryError):
            words = "a part of the path is a symlink or no directory, and is not followed"
        raise StateError(path, words) from exc
    return fd
