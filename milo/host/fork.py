"""Work in a process of its own, forked, that hands back a few bytes."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Final

import trio

from milo.proc import die_with, set_process_name

CHUNK_BYTES: Final = 65536


class Fork:
    """A child that does one thing; `close` ends it."""

    def __init__(self, name: str, work: Callable[[], bytes]) -> None:
        """Begin ``work``, as the process ``name``. No event loop may run here.

        Raises:
            OSError: no pipe or no process can be made.
        """
        self._reader, writer = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        # One that is ignored, as whoever started `milo run` may have it, leaves no status.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            self._pid = os.fork()
        except OSError:
            os.close(self._reader)
            os.close(writer)
            raise
        if self._pid == 0:
            with contextlib.suppress(BaseException):
                set_process_name(name)
                die_with(parent)
                view = memoryview(work())
                while view:
                    view = view[os.write(writer, view) :]
                os._exit(0)
            os._exit(1)
        os.close(writer)

    async def result(self) -> bytes:
        """Return what the work has, empty when it has failed. Once, before `close`."""
        data = b""
        while True:
            await trio.lowlevel.wait_readable(self._reader)
            part = os.read(self._reader, CHUNK_BYTES)
            if not part:
                return data
            data += part

    def close(self) -> None:
        """End the child if it goes on. May be called again."""
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
