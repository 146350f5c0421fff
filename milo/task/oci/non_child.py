"""A container's first process that another task process started, and that is not a child here.

Its exit status goes to its parent. Here only the fact that it has ended can be seen.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from typing import Final

import trio

from milo import walk
from milo.core.records import ProcessId
from milo.errors import PathError
from milo.proc import lives

LOOK_S: Final = 0.05
"""How often a process is looked at where the kernel has no pidfds (before Linux 5.3)."""


class NonChildProcess:
    """One process, told from a later one with the same number by the time of its start."""

    def __init__(self, identity: ProcessId) -> None:
        self.identity = identity
        self._pidfd: int | None = None
        with contextlib.suppress(OSError):
            self._pidfd = os.pidfd_open(identity.pid)
        if not self.alive():
            # The number was free, or is another's by now.
            self.close()

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return lives(self.identity)

    def signal(self, number: int) -> None:
        """Send a signal; raises ProcessLookupError when it has ended."""
        if self._pidfd is not None:
            signal.pidfd_send_signal(self._pidfd, number)
        elif self.alive():
            os.kill(self.identity.pid, number)
        else:
            raise ProcessLookupError(f"process {self.identity.pid} has ended")

    async def wait(self) -> None:
        """Return once it has ended; how it ended is not known."""
        await trio.lowlevel.checkpoint()
        if self._pidfd is not None:
            await trio.lowlevel.wait_readable(self._pidfd)
            return
        while self.alive():  # noqa: ASYNC110 - the kernel has no event for it
            await trio.sleep(LOOK_S)

    def close(self) -> None:
        """Let go of it."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def reopen_pipe(pids: Iterable[int], inode: int) -> int | None:
    """Open the read end of a pipe by a descriptor that one of ``pids`` has of it.

    The number of a pipe's inode, on the kernel's file system of pipes, says that it is the one
    that Milo made, whatever the container did with its descriptors. Nothing else that it may
    have put there is opened. None when nobody has the pipe open any more.
    """
    wanted = (_pipe_device(), inode)
    for pid in pids:
        with contextlib.closing(walk.open_files(pid)) as files:
            for held in files:
                if (held.status.st_dev, held.status.st_ino) == wanted:
                    with contextlib.suppress(PathError):
                        return held.open(os.O_RDONLY)
    return None


def _pipe_device() -> int:
    """Return the number of the file system that all pipes without a name are in."""
    read, write = os.pipe()
    try:
        return os.fstat(read).st_dev
    finally:
        os.close(read)
        os.close(write)
