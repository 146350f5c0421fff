"""What `milo ps` calls the task of a ``milo run``.

Of two runs that begin at once neither has a record yet by which the other could tell. So each holds
a lock for its name: of a byte, at a place that the name decides, in one file. The kernel gives it
back when the run ends, however it ends, with what it has forked.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import re
import struct
from argparse import Namespace
from typing import Final, Self

from milo.cli.arguments import WrongValueError
from milo.errors import ConfigError
from milo.host import state_dirs
from milo.host.tasks import HostTask, list_tasks

MAX_CHARS: Final = 64
LOCKS: Final = ".names"
_FLOCK: Final = struct.Struct("hhqqi")
"""``struct flock`` of 64-bit Linux: type, whence, start, length, process; fcntl(2)."""


class RunName:
    """The name of one run, which no other can choose until it is closed."""

    def __init__(self, text: str, fd: int) -> None:
        self.text = text
        self._fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give it back."""
        os.close(self._fd)

    @classmethod
    def choose(cls, options: Namespace) -> RunName:
        """Return the name: the one that is asked for, or one made of the JAR's that is free.

        One in the background also leaves out the names of those that have ended: their logs are
        still there.

        Raises:
            ConfigError: the name is none, or a running task of ``milo run`` has it.
            StateError: there can be no directory for runs.
        """
        if options.name and not re.fullmatch(
            rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_CHARS - 1}}}", options.name
        ):
            raise WrongValueError(
                "--name", repr(options.name), "letters, digits, '.', '_' and '-', 64 at most"
            )
        path = os.path.join(state_dirs.make_run_directory(), LOCKS)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            return cls(_choose(options, fd), fd)
        except BaseException:
            os.close(fd)
            raise


def _choose(options: Namespace, locks: int) -> str:
    if options.name:
        # In this order: who has the lock first writes a record before it gives it back.
        if not _lock(locks, options.name) or any(
            task.name == options.name and _lives(task) for task in _known()
        ):
            raise ConfigError(
                "--name",
                f"a task {options.name!r} runs already",
                f"another name, or first: milo stop {options.name}",
            )
        return str(options.name)
    stem = os.path.basename(options.jar).rpartition(".")[0]
    name = re.sub("[^A-Za-z0-9_.-]+", "-", stem).strip("-.")[: MAX_CHARS - 6] or "run"
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    taken = {task.name for task in _known() if options.detach or _lives(task)}
    return next(
        one for one in itertools.chain([name], numbered) if one not in taken and _lock(locks, one)
    )


def _known() -> list[HostTask]:
    return list_tasks(state_dirs.of_runs().trusted)


def _lives(task: HostTask) -> bool:
    return task.running or (task.exit is None and task.supervised)


def _lock(fd: int, name: str) -> bool:
    """Lock a name; return False where another run has it."""
    digest = hashlib.sha256(name.encode()).digest()
    place = int.from_bytes(digest[:8], "big") >> 2  # off_t is signed, and the end counts, too
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0))
    except BlockingIOError:
        return False
    return True
