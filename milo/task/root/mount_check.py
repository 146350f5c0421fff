"""Checks that what crun mounted is what Milo has checked.

crun gets the sources and destinations of mounts as paths and resolves them after Milo has checked
them. Whoever can write to a directory on the way may meanwhile exchange it for a symlink to
somewhere else. So Milo holds each source open from the check on. When the container is created and
nothing of the task has run in it yet, it compares what is mounted with what it holds. The same is
done for the working directory: crun enters it with root's rights, and before 1.15 follows
symlinks.
"""

from __future__ import annotations

from collections.abc import Sequence

from milo import proc, walk
from milo.core.container.mounts import Bind, innermost, is_inside
from milo.errors import PathError, Reason, StateError
from milo.unix_sockets import close_all


class MountCheck:
    """What crun is given as paths, held by descriptors. `close` lets go of it."""

    def __init__(
        self, binds: Sequence[Bind], *, alloc_dir: str, java_home: str, root: str, work_dir: str
    ) -> None:
        """Hold the sources of what a task or another user of the host may be able to exchange.

        That is the task's own directories, below the trusted ``alloc_dir``, what the job
        mounts, and the JDK, whose ``java_home`` had no symlinks in it when it was found. Beside
        them the working directory, which is the container's ``work_dir``; ``root`` is the host's
        directory that is the container's root.

        Raises:
            StateError: one of these is not there, or a part of its path is a symlink.
        """
        pairs = [(one.source, one.destination) for one in binds if one.origin in ("task", "job")]
        if not any(is_inside(java_home, source) for source, _ in pairs):
            pairs.append((java_home, java_home))
        self._held: list[tuple[str, str, walk.Held]] = []
        self._work_dir: walk.Held | None = None
        try:
            for source, destination in pairs:
                self._held.append((source, destination, _hold(alloc_dir, source)))
            self._work_dir = _hold_work_dir(work_dir, binds, alloc_dir, root)
        except BaseException:
            self.close()
            raise

    @classmethod
    def received(cls, pairs: Sequence[tuple[str, str]], fds: Sequence[int]) -> MountCheck:
        """Return the check of another process: its `pairs`, and duplicates of its `descriptors`.

        These are this object's from now on, also when this fails.

        Raises:
            OSError: a descriptor cannot be looked at.
        """
        check = cls.__new__(cls)
        check._held, check._work_dir = [], None
        left = list(fds)
        try:
            for source, destination in pairs[:-1]:
                check._held.append((source, destination, walk.Held(left.pop(0), source)))
            check._work_dir = walk.Held(left.pop(0), pairs[-1][0])
        except BaseException:
            check.close()
            raise
        finally:
            close_all(left)
        return check

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Source and destination of each mount that is compared; last, the working directory."""
        assert self._work_dir is not None
        mounts = ((source, destination) for source, destination, _ in self._held)
        return (*mounts, (self._work_dir.path, ""))

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What is held of each of `pairs`."""
        assert self._work_dir is not None
        return (*(held.fd for _, _, held in self._held), self._work_dir.fd)

    def verify(self, pid: int) -> None:
        """Compare with what the created container's first process ``pid`` has mounted.

        Raises:
            StateError: a source, a mount point in the task's directories, or the working
                directory was exchanged.
        """
        root = proc.root(pid)
        for source, destination, held in self._held:
            with _hold(root, root + destination) as mounted:
                if not mounted.is_same(held):
                    raise StateError(source, "something else took its place while it was mounted")

        assert self._work_dir is not None
        with _hold_link(proc.work_dir(pid)) as entered:
            if not entered.is_same(self._work_dir):
                raise StateError(self._work_dir.path, "something else took its place as work_dir")

    def close(self) -> None:
        """Let go of everything; may be called again."""
        if self._work_dir is not None:
            self._work_dir.close()
        while self._held:
            self._held.pop()[2].close()


def hold_inside(pid: int, path: str) -> walk.Held:
    """Hold a directory of the container of process ``pid``, with no symlink on the way to it.

    Raises `StateError`.
    """
    root = proc.root(pid)
    held = _hold(root, root + path.rstrip("/")) if path.strip("/") else _hold_link(root)
    if held.kind is not walk.Kind.DIRECTORY:
        with held:
            raise StateError(path, "it is no directory")
    return held


def _hold_link(link: str) -> walk.Held:
    """Hold the directory that a link of the kernel's own leads to, in another mount namespace."""
    try:
        return walk.hold_directory(link)
    except PathError as exc:
        raise StateError(link, exc.words) from exc


def _hold_work_dir(path: str, binds: Sequence[Bind], alloc_dir: str, root: str) -> walk.Held:
    if bind := innermost(binds, path):
        return _hold(alloc_dir, bind.source + path[len(bind.destination) :])
    return _hold(root, root + path) if path != "/" else walk.follow(root)


def _hold(base: str, path: str) -> walk.Held:
    """Hold what is at ``path``, with no symlink below the trusted ``base``."""
    try:
        return walk.hold(path, beneath=base)
    except PathError as exc:
        words = exc.words
        if exc.reason in (Reason.SYMLINK, Reason.NOT_DIRECTORY):
            words = "a part of the path is a symlink or no directory, and is not followed"
        raise StateError(path, words) from exc
