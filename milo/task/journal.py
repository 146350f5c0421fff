"""The messages of a task process, sent to the connected drivers and written to a bounded file."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Final

from milo.core import control
from milo.core.text import printable

MAX_FILE_BYTES: Final = 256 * 1024


class Journal:
    """Log lines and task events of one task.

    ``publish`` sends a message to the connected drivers, or keeps it for one to come.
    """

    def __init__(self, path: str, publish: Callable[[control.Message], None]) -> None:
        self._path = path
        self.publish = publish

    def log(self, level: str, text: str, **fields: object) -> None:
        """Write a line; ``level`` is one of hclog's (trace, debug, info, warn, error)."""
        values = {key: str(value) for key, value in fields.items()}
        self._write(f"[{level}] {text} {values or ''}")
        line = control.Log(level=level, text=control.cut(text), fields=values, at_s=time.time())
        self.publish(line)

    def event(self, text: str) -> None:
        """Say something to the user of the task, in ``nomad alloc status``."""
        self._write(f"[event] {text}")
        self.publish(control.Event(text=control.cut(text), at_s=time.time()))

    def _write(self, line: str) -> None:
        # A full or read-only state directory must not stop a task that runs.
        with contextlib.suppress(OSError):
            fd = os.open(
                self._path,
                os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC,
                0o600,
            )
            try:
                if os.fstat(fd).st_size < MAX_FILE_BYTES:
                    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                    os.write(fd, f"{stamp} {printable(line)}\n".encode())
            finally:
                os.close(fd)
