"""``milo run -d``: the run goes on in a process of its own, and the command returns."""

from __future__ import annotations

import os
import signal
import sys
from typing import Final

from milo.cli.output import say, warn

MAX_NAME_BYTES: Final = 4096


class Background:
    """Both sides of a run in the background: the caller's process, and the one that goes on."""

    def __init__(self, pid: int, pipe: int) -> None:
        self._pid = pid
        self._pipe = pipe
        self.told = False
        """Whether the caller's process has been told of the start."""

    @classmethod
    def fork(cls) -> Background:
        """Return twice, once in each process. Call it while there is one thread."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid:
            os.close(writer)
            return cls(pid, reader)
        os.close(reader)
        os.setsid()
        return cls(0, writer)

    @property
    def is_parent(self) -> bool:
        """Whether this is the caller's process."""
        return self._pid > 0

    def wait(self) -> int:
        """Return once the application runs, with 0, or with what the other process ended with.

        Who ends the wait stops it, by Ctrl-C, SIGTERM or a closed terminal: nobody has been told
        its name.
        """
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _leave)
        try:
            name = os.read(self._pipe, MAX_NAME_BYTES)
        except (KeyboardInterrupt, SystemExit):
            os.kill(self._pid, signal.SIGTERM)
            os.waitpid(self._pid, 0)
            raise
        if name:
            say(os.fsdecode(name))
            return 0
        _, status = os.waitpid(self._pid, 0)
        return os.waitstatus_to_exitcode(status) & 0xFF or 1

    def tell_start(self, name: str) -> None:
        """Let the caller's process end; from here on there is no terminal."""
        self.told = True
        sys.stdout.flush()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)
        if self._pipe >= 0:
            os.write(self._pipe, os.fsencode(name))
            os.close(self._pipe)
            self._pipe = -1

    def tell_failure(self, text: str) -> None:
        """Say why it did not start; the task's own stderr has gone into a file."""
        warn(text)


def _leave(number: int, _: object) -> None:
    """Be ended by a signal, as a shell tells of it, once what has to be done is done."""
    raise SystemExit(128 + number)
