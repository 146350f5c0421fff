"""Makes sure that what crun mounted is what Milo has checked.

crun takes mount sources and destinations as paths, and resolves them itself, a moment after
Milo has looked at them. Whoever can write to a directory on the way may exchange it in between
for a symlink to somewhere else. So each source is held open from the check on, and when the
container has been created, but nothing of the task has run in it yet, the thing that is mounted
has to be the one that is held.
"""

from __future__ import annotations

from collections.abc import Iterable

from milo import proc, walk
from milo.core.container.mounts import Bind, is_inside
from milo.errors import PathError, Reason, StateError


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
        self._held: list[tuple[str, str, walk.Held]] = []
        try:
            for source, destination in pairs:
                self._held.append((source, destination, _hold(alloc_dir, source)))
        except BaseException:
            self.close()
            raise

    def verify(self, pid: int) -> None:
        """Compare with what the created container's first process ``pid`` has mounted.

        Raises:
            StateError: a source, or a mount point in the task's directories, was exchanged.
        """
        root = proc.root(pid)
        for source, destination, held in self._held:
            with _hold(root, root + destination) as mounted:
                if not mounted.is_same(held):
                    raise StateError(source, "something else took its place while it was mounted")

    def close(self) -> None:
        """Let go of everything; may be called again."""
        while self._held:
            self._held.pop()[2].close()


def _hold(base: str, path: str) -> walk.Held:
    """Hold what is at ``path``, with no symlink below the trusted ``base``."""
    try:
        return walk.hold(path, beneath=base)
    except PathError as exc:
        words = exc.words
        if exc.reason in (Reason.SYMLINK, Reason.NOT_DIRECTORY):
            words = "a part of the path is a symlink or no directory, and is not followed"
        raise StateError(path, words) from exc
