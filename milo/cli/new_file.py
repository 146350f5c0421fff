"""A new file where the caller wants it: whole, or not there at all.

Its directory may be another user's, or a task's: it is looked up once and then held, so that
nothing that is exchanged on the way later leads the file, or the caller's rights, elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Final

from milo import proc, walk
from milo.errors import MiloError, PathError, Reason
from milo.walk import Held, Kind

PRIVATE: Final = 0o600
ANYBODYS: Final = 0o666
"""Less what the umask takes."""
DIRECTORY_MODE: Final = 0o755


class NewFileError(MiloError):
    """It cannot be made or written; nothing of it is left."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"Error: {path} cannot be written: {problem}")


class NewFile:
    """A file that is being written."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    def write(self, data: bytes) -> None:
        """Append ``data``; raises `NewFileError`: the disk is full, say."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as exc:
            raise NewFileError(self.path, exc.strerror or str(exc)) from exc

    def status(self) -> os.stat_result:
        """Return what tells this file from any other."""
        return os.fstat(self._fd)


class Target:
    """Where a file is to be made, now or later."""

    def __init__(self, path: str) -> None:
        """Hold the directory of the absolute ``path``.

        Raises:
            NewFileError: there is none, or another user's symlink leads to it.
        """
        self.path = path
        directory, self._name = os.path.split(path)
        try:
            self._directory = hold_directory(directory)
        except PathError as exc:
            problem = f"{exc.part}: {exc.words}"
            if exc.reason is Reason.MISSING:
                problem = f"there is no directory {directory}. Make it, or give another path"
            raise NewFileError(path, problem) from exc

    def close(self) -> None:
        """Let go of the directory; may be called again."""
        self._directory.close()

    def is_there(self) -> bool:
        """Whether something has the name already, a symlink that leads nowhere too."""
        try:
            self._directory.enter(self._name).close()
        except PathError as exc:
            return exc.reason is not Reason.MISSING
        return True

    def may_be_made(self) -> bool:
        """Whether this process may make files in the directory."""
        return self._directory.may(os.W_OK | os.X_OK)

    def remove(self, made: os.stat_result) -> None:
        """Remove the file again if it is the one that was ``made``; nobody else's."""
        with contextlib.suppress(PathError), self._directory.enter(self._name, Kind.FILE) as held:
            if os.path.samestat(made, held.status):
                self._directory.remove(self._name)

    @contextlib.contextmanager
    def new_file(self, mode: int = PRIVATE) -> Iterator[NewFile]:
        """Make the file, for its owner alone by default; it is removed when the block fails.

        Raises:
            NewFileError: there is one already, or none can be made there.
        """
        try:
            fd = self._directory.make_file(self._name, mode)
        except PathError as exc:
            problem = exc.words
            if exc.errno == errno.EEXIST:
                problem = "it is there already. Give the path of a new file"
            elif exc.reason is Reason.MISSING:  # as in /proc
                problem = f"{os.path.dirname(self.path)} takes no new file"
            raise NewFileError(self.path, problem) from exc
        file = NewFile(self.path, fd)
        try:
            yield file
        except BaseException:
            self.remove(file.status())
            raise
        finally:
            os.close(fd)


@contextlib.contextmanager
def new_file(path: str, mode: int = PRIVATE) -> Iterator[NewFile]:
    """Make a file at the absolute ``path``, as `Target.new_file` does; raises `NewFileError`."""
    with contextlib.closing(Target(path)) as target, target.new_file(mode) as file:
        yield file


def hold_directory(path: str, *, make: bool = False) -> Held:
    """Hold the directory at the absolute ``path``, to make files in; ``make`` what is missing.

    Symlinks are followed, but for those of other users than root and the caller: they would
    choose where the caller's rights are used. Raises `PathError`.
    """
    try:
        return walk.follow(path, Kind.DIRECTORY, _refuse_links_of_others)
    except PathError as exc:
        parent, name = os.path.split(path)
        if exc.reason is not Reason.MISSING or not make or not name:
            raise
    with hold_directory(parent, make=True) as held:
        try:
            return held.make_directory(name, DIRECTORY_MODE)
        except PathError as exc:
            if exc.errno != errno.EEXIST:
                raise
            return held.enter(name, Kind.DIRECTORY)  # somebody else was first


def _refuse_links_of_others(held: Held) -> None:
    owner = held.status.st_uid
    if held.kind is Kind.SYMLINK and owner not in proc.trusted_users():
        words = f"it is a symlink of the user {owner}, which is not followed to write there"
        raise PathError(held.path, Reason.SYMLINK, words)
