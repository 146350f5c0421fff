"""Tells when somebody opens a FIFO that has lost its reader.

A FIFO without a reader polls as writable, so readiness says nothing of the next one: inotify(7)
does. A descriptor of it is open only while a reader is waited for, because a user may have few
(sysctl ``fs.inotify.max_user_instances``, 128 by default).
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

import trio

from milo import proc

_READ_BYTES: Final = 4096


class ReaderNotices:
    """The notices of one FIFO. They may be had or not: without them, time has to be waited for."""

    def __init__(self) -> None:
        self._fd: int | None = None

    @property
    def awaited(self) -> bool:
        """Whether `wait` can be called."""
        return self._fd is not None

    def begin(self, fifo_fd: int) -> bool:
        """Have notice from now on of who opens that FIFO; return whether this is new.

        The reader may then have come a moment earlier, so it is to be looked for once more.
        """
        if self._fd is not None:
            return False
        with contextlib.suppress(OSError):
            self._fd = proc.open_notices(proc.descriptor_path(fifo_fd), proc.IN_OPEN)
        return self._fd is not None

    async def wait(self) -> None:
        """Return once somebody has opened the FIFO; that may be for anything, and be over."""
        assert self._fd is not None, "no notice is to be had"
        await trio.lowlevel.wait_readable(self._fd)
        os.read(self._fd, _READ_BYTES)

    def close(self) -> None:
        """Have no more notices; `begin` may be called again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
