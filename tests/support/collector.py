"""A stand-in for logmon that a test can make stop reading, go away and come back."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from tests.support.waiting import fail_after, move_on_after


class Collector:
    """The reader of one FIFO, which reads only when it is told to."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.data = bytearray()
        """Everything read so far, over all openings."""
        self.fd: int | None = None
        self.open()

    def open(self) -> None:
        """Begin to be a reader of whatever FIFO the path names."""
        assert self.fd is None
        self.fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self) -> None:
        """Go away, as a logmon that was killed."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    async def read_until(self, text: bytes, timeout_s: float = 20.0) -> None:
        """Read until ``text`` has arrived."""
        with move_on_after(timeout_s):
            while text not in self.data[-(1 << 20) :]:
                assert await self._read(), f"end of file before {text!r}"
        assert text in self.data, f"{text!r} did not arrive; {bytes(self.data[-1000:])!r}"

    async def read_to_the_end(self, timeout_s: float = 20.0) -> None:
        """Read until the writer has come and gone."""
        with fail_after(timeout_s):
            while not self.data:
                await self._read()
            while await self._read():
                pass

    async def _read(self) -> bool:
        """Read once, waiting for something to be there; False at an end of file."""
        assert self.fd is not None
        await trio.lowlevel.wait_readable(self.fd)
        try:
            data = os.read(self.fd, 1 << 20)
        except BlockingIOError:
            return True
        self.data += data
        if not data:
            # Before its first writer a FIFO reads as ended too.
            await trio.sleep(0.01)
        return bool(data)
