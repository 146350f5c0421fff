"""The driver's view of the state directory: one subdirectory a task."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Collection, Container, Iterator
from typing import Final, TypeVar

from milo import proc, walk
from milo.core import records
from milo.core.launch import Launch
from milo.errors import PathError, StateError
from milo.files import read_file, write_file
from milo.unix_sockets import listen

MAX_ENTRIES: Final = 1000
"""Of a task's directory, which has some twenty."""

SWEPT: Final = 8

NAMES_A_SWEEP: Final = 64
"""So many directories are found out about for each sweep, in the long run."""

T = TypeVar("T")


class StateStore:
    """Makes, finds and removes task directories below ``state_dir`` (default /run/milo).

    Every method raises `StateError` when the file system refuses.
    """

    def __init__(self, state_dir: str, owners: Collection[int] | None = None) -> None:
        """``owners`` may change what is above it; None: root, and this process's user."""
        self.root = state_dir
        self._unswept: list[str] = []
        """Those that the next sweeps look at, the next ones last."""
        self._names = self._sweeps = 0
        """How many were here when they were found, and sweeps that there were since the last."""
        self._owners = proc.trusted_users() if owners is None else owners

    def prepare(self, option: str = "state_dir") -> None:
        """Make the root, for root's eyes only, and refuse one that others could have made.

        ``option`` is what says where it is.
        """
        if problem := self._problem_above():
            raise self._changeable(problem, option)
        try:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            found = os.lstat(self.root)
        except OSError as exc:
            raise StateError(self.root, f"{exc.strerror}. Set {option} to a usable one") from exc
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise StateError(self.root, f"it is no directory of this user's. Set another {option}")
        # Those who know a name may pass: containers in user namespaces do; see privileges.py.
        if found.st_mode & 0o066:
            with contextlib.suppress(OSError):
                os.chmod(self.root, 0o700)
        if problem := walk.writable_by_others(self.root, owners=self._owners):
            raise self._changeable(problem, option)

    def _problem_above(self) -> str:
        """Return why nothing is to be made where the root would be; empty also if it is there."""
        place = os.path.abspath(self.root)
        while not os.path.lexists(place):
            place = os.path.dirname(place)
        with contextlib.suppress(PathError), walk.follow(place) as held:
            # What is made in a sticky directory is its maker's; it is looked at afterwards.
            if place != self.root and not held.status.st_mode & stat.S_ISVTX:
                return walk.writable_by_others(place, owners=self._owners)
        return ""

    def _changeable(self, problem: str, option: str) -> StateError:
        words = f"{problem}. Set {option} to a place that no other user can change"
        return StateError(self.root, words)

    def task_dir(self, task_id: str) -> str:
        """Return the directory of a task, which may not be there."""
        return os.path.join(self.root, records.short_id(task_id))

    def make(self, launch: Launch) -> None:
        """Make the directory of ``launch`` and write what its task process is to read."""
        self.prepare()
        try:
            os.mkdir(launch.state_dir, 0o700)
        except OSError as exc:
            raise StateError(launch.state_dir, f"{exc.strerror}") from exc
        write_file(os.path.join(launch.state_dir, records.LAUNCH_FILE), records.encode(launch))

    def listen(self, state_dir: str) -> socket.socket:
        """Return a listening control socket, made here so that nobody has to wait for it."""
        path = os.path.join(state_dir, records.CONTROL_SOCKET)
        try:
            return listen(path)
        except OSError as exc:
            raise StateError(path, f"no socket can be made there: {exc.strerror}") from exc

    def read_task(self, state_dir: str) -> records.TaskRecord | None:
        """Return the record of the task in ``state_dir``, or None when there is none."""
        return _read(state_dir, records.TASK_FILE, records.TaskRecord)

    def read_exit(self, state_dir: str) -> records.ExitRecord | None:
        """Return how the task in ``state_dir`` ended, or None when that is not written."""
        return _read(state_dir, records.EXIT_FILE, records.ExitRecord)

    def write_exit(self, state_dir: str, record: records.ExitRecord) -> None:
        """Write how the task in ``state_dir`` ended anew."""
        write_file(os.path.join(state_dir, records.EXIT_FILE), records.encode(record))

    def read_launch(self, state_dir: str) -> Launch | None:
        """Return the launch in ``state_dir``, or None when there is none."""
        return _read(state_dir, records.LAUNCH_FILE, Launch)

    def directories(self) -> Iterator[str]:
        """Yield the directory of every task that left anything here, sorted."""
        try:
            with os.scandir(self.root) as entries:
                names = sorted(
                    entry.name
                    for entry in entries
                    if len(entry.name) == records.SHORT_ID_CHARS and entry.is_dir()
                )
        except OSError:
            return
        for name in names:
            yield os.path.join(self.root, name)

    def unclaimed(self, claimed: Container[str]) -> list[str]:
        """Return the paths here that may be directories of tasks, and are not in ``claimed``.

        A driver asks at each start and end, with almost all claimed: of a thousand tasks a quarter
        of a millisecond, where `directories` takes two.
        """
        try:
            names = os.listdir(self.root)
        except OSError:
            return []
        prefix = os.path.join(self.root, "")
        return [
            prefix + name
            for name in names
            if len(name) == records.SHORT_ID_CHARS and prefix + name not in claimed
        ]

    def remove(self, state_dir: str, *, keep_exit: bool) -> None:
        """Remove a task's directory, all but its exit record when ``keep_exit``."""
        if os.path.dirname(state_dir) != self.root:
            raise StateError(state_dir, f"it is not directly below {self.root}")
        name = os.path.basename(state_dir)
        with contextlib.suppress(PathError), walk.hold_directory(self.root) as root:
            if not keep_exit or not os.path.exists(os.path.join(state_dir, records.EXIT_FILE)):
                root.remove_tree(name)
                return
            with root.enter(name, walk.Kind.DIRECTORY) as directory:
                for inner, is_directory in directory.names(MAX_ENTRIES)[0]:
                    if inner != records.EXIT_FILE:
                        with contextlib.suppress(PathError):
                            remove = directory.remove_tree if is_directory else directory.remove
                            remove(inner)

    def sweep(self, claimed: Callable[[], Collection[str]]) -> None:
        """Remove what is left of tasks that ended and whose allocation is gone.

        Never a directory in ``claimed``, nor that of a task process that still runs. One call looks
        at `SWEPT` directories, and the next one at those after them: more than what ends between
        two calls, and no more where a thousand tasks have ended whose allocations are kept. Nor
        does each call find out which there are: where a thousand tasks run, one in 16 does.
        """
        if not self._unswept:
            self._sweeps += 1
            if self._sweeps * NAMES_A_SWEEP < self._names:
                return
            living = claimed()
            self._unswept = sorted(self.unclaimed(living), reverse=True)
            self._names, self._sweeps = len(living) + len(self._unswept), 0
        for _ in range(min(SWEPT, len(self._unswept))):
            path = self._unswept.pop()
            with contextlib.suppress(StateError):
                ended = self.read_exit(path)
                if ended is None or os.path.isdir(ended.alloc_dir) or path in claimed():
                    continue
                task = self.read_task(path)
                if task is None or not proc.lives(task.supervisor):
                    self.remove(path, keep_exit=False)


def _read(state_dir: str, name: str, kind: type[T]) -> T | None:
    path = os.path.join(state_dir, name)
    data = read_file(path)
    return None if data is None else records.decode(data, kind, where=path)
