"""One stream for the tests of the log path: a pipe, a FIFO, a pump between them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path

import trio
import trio.testing

from milo.task.logs.fifo import FifoSink, waiting_bytes
from milo.task.logs.idle_wait import IdleWait
from milo.task.logs.pump import Pump, open_pipe
from milo.task.logs.pump_policy import EventKind, PumpEvent, PumpPolicy


def descriptors() -> set[str]:
    """The open descriptors of this process."""
    return set(os.listdir("/proc/self/fd"))


async def settle() -> None:
    """Return once every other Trio task waits for something that is not there yet."""
    await trio.testing.wait_all_tasks_blocked()


def serve_idle(idle: IdleWait | None) -> None:
    """Have the pumps of this run of Trio use ``idle``, which was made before it began."""
    if idle is not None:
        trio.lowlevel.add_instrument(idle)
        idle.before_run()


class Rig:
    """A container's pipe (``write_fd`` is the container's end) and a FIFO with its reader."""

    idle: IdleWait | None = None
    """What the next test's pumps leave the wait for output to; None if they wait themselves."""

    def __init__(
        self, directory: Path, policy: PumpPolicy | None = None, *, name: str = "stdout"
    ) -> None:
        if IdleWait.current() is None:
            serve_idle(self.idle)
        self.path = directory / f".app.{name}.fifo"
        if not self.path.exists():
            os.mkfifo(self.path, 0o600)
        self.read_fd, self.write_fd = open_pipe()
        os.set_blocking(self.write_fd, False)  # here, where a test must not wait
        self.sink = FifoSink(str(self.path), beneath=str(directory))
        self.events: list[PumpEvent] = []
        self.pump = Pump(name, self.read_fd, self.sink, policy or PumpPolicy(), self.events.append)
        self.reader: int | None = None

    @property
    def waiting_bytes(self) -> int:
        """What is in the container's pipe, and not in the FIFO yet."""
        return waiting_bytes(self.read_fd)

    @property
    def kinds(self) -> list[EventKind]:
        return [event.kind for event in self.events]

    def open_reader(self) -> None:
        self.reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)

    def close_reader(self) -> None:
        assert self.reader is not None
        os.close(self.reader)
        self.reader = None

    def write(self, data: bytes) -> int:
        """Write as the container does; return how much there was room for."""
        try:
            return os.write(self.write_fd, data)
        except BlockingIOError:
            return 0

    def end_source(self) -> None:
        """The last process of the container that held the stream ends."""
        os.close(self.write_fd)
        self.write_fd = -1

    def read(self) -> bytes:
        """Read all that is in the FIFO now; the end of it is nothing too."""
        assert self.reader is not None
        data = bytearray()
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.reader, 1 << 20):
                data += chunk
        return bytes(data)

    async def read_exactly(self, count: int) -> bytes:
        assert self.reader is not None
        data = bytearray()
        while len(data) < count:
            await trio.lowlevel.wait_readable(self.reader)
            data += os.read(self.reader, 1 << 20)
        return bytes(data)

    async def write_all(self, data: bytes) -> None:
        """Write everything, waiting for room."""
        view = memoryview(data)
        while view:
            await trio.lowlevel.wait_writable(self.write_fd)
            view = view[self.write(bytes(view[:65536])) :]

    def fill_fifo(self) -> int:
        """Fill the FIFO up past the pump, so that it can take nothing; return the size."""
        assert self.sink.fd is not None
        size = fcntl.fcntl(self.sink.fd, fcntl.F_GETPIPE_SZ) - waiting_bytes(self.sink.fd)
        return os.write(self.sink.fd, bytes(size))

    def close(self) -> None:
        self.sink.close()
        for fd in (self.read_fd, self.write_fd, -1 if self.reader is None else self.reader):
            if fd >= 0:
                os.close(fd)


@contextlib.asynccontextmanager
async def running(*rigs: Rig) -> AsyncIterator[None]:
    """Run the pumps; wait at the end of the block until they have returned by themselves."""
    async with trio.open_nursery() as nursery:
        for rig in rigs:
            nursery.start_soon(rig.pump.run)
        await settle()
        yield
