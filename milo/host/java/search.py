"""Looks for the host's Java runtimes in a process of its own, for ``milo run``.

It looks beside what else has to be done before a start. And of an ordinary user's namespaces it
stays outside: in there all users but one are the same, so that nobody can tell root's files.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from typing import Final

import msgspec
import trio

from milo.core.launch import JavaRuntime
from milo.errors import TaskStartError
from milo.host.java.finder import JavaFinder
from milo.proc import die_with, set_process_name

CHUNK_BYTES: Final = 65536


class JavaSearch:
    """A search that goes on beside this process. Make it with `fork`."""

    def __init__(self, pid: int, reader: int) -> None:
        self._pid = pid
        self._reader = reader

    @classmethod
    def fork(cls, configured_home: str, environ: Mapping[str, str]) -> JavaSearch:
        """Begin, with what `JavaFinder.find` takes. Before there is an event loop or a thread.

        Raises:
            OSError: no pipe or no process can be made.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # see `milo.task.preparer.Preparer.fork`
        try:
            pid = os.fork()
        except OSError:
            os.close(reader)
            os.close(writer)
            raise
        if pid == 0:
            with contextlib.suppress(BaseException):
                set_process_name("milo-java")
                die_with(parent)
                found = trio.run(JavaFinder().find, configured_home, environ)
                view = memoryview(msgspec.json.encode(found))
                while view:
                    view = view[os.write(writer, view) :]
                os._exit(0)
            os._exit(1)
        os.close(writer)
        return cls(pid, reader)

    async def result(self) -> tuple[JavaRuntime, ...]:
        """Return what `JavaFinder.find` does. To be called once, before `close`.

        Raises:
            TaskStartError: the process was killed.
        """
        data = b""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._reader)
                part = os.read(self._reader, CHUNK_BYTES)
                if not part:
                    break
                data += part
        finally:
            self.close()
        try:
            return msgspec.json.decode(data, type=tuple[JavaRuntime, ...])
        except msgspec.DecodeError as exc:
            raise TaskStartError(
                "Error: The process that looks for Java was killed", recoverable=True
            ) from exc

    def close(self) -> None:
        """End the search if it still goes on. May be called again."""
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
