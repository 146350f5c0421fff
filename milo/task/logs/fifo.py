"""Finds and opens Nomad's log FIFOs without following what a task may have put in their place.

A task owns the directory of its FIFOs. It may replace a FIFO, or a directory above it, by a
symlink at any time (CVE-2026-6959 and CVE-2026-8052 were that fault elsewhere). So below the
allocation's directory no symlink is followed, and a file is opened only after it was found to be a
FIFO: `milo.walk`.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import select
import struct
import termios
from collections.abc import Callable, Iterator

import trio

from milo import proc, walk
from milo.errors import FifoError, PathError, Reason

PIPE_BYTES = 1 << 20
"""Wanted capacity of each log pipe, 1 MiB: what Linux lets everyone have by default
(``/proc/sys/fs/pipe-max-size``), and what the pump's pause was measured with."""

FIRST_PAUSE_S = 0.010
LAST_PAUSE_S = 0.250
"""Between attempts to open a FIFO: short while logmon is starting, then four a second."""


class LogTarget(enum.Enum):
    """Where one of the task's streams goes."""

    FIFO = "fifo"
    DEV_NULL = "/dev/null"
    """Log collection is disabled: the container gets /dev/null itself and there is no pump."""


def check_log_path(path: str, *, beneath: str) -> LogTarget:
    """Say what the log path ``path`` is, without opening it.

    Opening and closing would be an end of file to logmon, which then never reads again.
    Raises `FifoError` when it is neither /dev/null nor a FIFO that may be written to.
    """
    if path == os.devnull:
        return LogTarget.DEV_NULL
    with _held(path, beneath) as held:
        if not held.may(os.W_OK):
            raise FifoError(path, f"permission denied for user id {os.geteuid()}")
    return LogTarget.FIFO


def open_fifo_writer(path: str, *, beneath: str) -> int | None:
    """Open the FIFO at ``path`` to write, without blocking; None while it has no reader.

    No component below the trusted directory ``beneath`` may be a symlink; of a path that
    does not lie below it, the parent directory is trusted. The descriptor is non-blocking
    and close-on-exec, and the caller's. Raises `FifoError` for anything but a FIFO that may
    be written to, which is then never opened at all.
    """
    with _held(path, beneath) as held:
        try:
            return held.open(os.O_WRONLY)
        except PathError as error:
            if error.errno == errno.ENXIO:
                return None
            raise


def raise_capacity(fd: int, wanted_bytes: int = PIPE_BYTES) -> int:
    """Enlarge the pipe behind ``fd`` as far as the host allows; return its capacity in bytes.

    Never shrinks it and never fails: an unprivileged user has a limit and a quota.
    """
    capacity = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    while wanted_bytes > capacity:
        try:
            return fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, wanted_bytes)
        except OSError:
            wanted_bytes //= 2
    return capacity


def waiting_bytes(fd: int) -> int:
    """How many bytes the pipe behind ``fd``, either of its ends, holds."""
    answer = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))
    return int(struct.unpack("i", answer)[0])


def growing_pauses() -> Iterator[float]:
    """Yield for ever the seconds to pause between attempts: 10 ms, doubled up to 250 ms."""
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, LAST_PAUSE_S)


class FifoSink:
    """The write end of one of Nomad's FIFOs, opened once there is a reader.

    ``fd`` is an already open write end that the sink takes over, as a successor process
    does. Whoever made the sink closes it, both streams' together: logmon ends at the first
    end of file.
    """

    def __init__(self, path: str, *, beneath: str, fd: int | None = None) -> None:
        self.path = path
        self.beneath = beneath
        self.fd: int | None = None
        self.capacity = 0
        """In bytes; 0 while not open."""
        self.on_open: Callable[[], None] | None = None
        """Called whenever the sink has opened a FIFO: who keeps a duplicate needs a new one."""
        if fd is not None:
            self._take(fd)

    def _take(self, fd: int) -> None:
        self.fd = fd
        self.capacity = raise_capacity(fd)
        if self.on_open is not None:
            self.on_open()

    def try_open(self) -> bool:
        """Open the FIFO if it has a reader; return whether it is open now.

        Raises `FifoError` as `open_fifo_writer` does.
        """
        if self.fd is None:
            fd = open_fifo_writer(self.path, beneath=self.beneath)
            if fd is not None:
                self._take(fd)
        return self.fd is not None

    def has_reader(self) -> bool:
        """Whether the FIFO is open and somebody has its other end open."""
        if self.fd is None:
            return False
        poll = select.poll()
        poll.register(self.fd, 0)  # POLLERR is always reported: here it means no reader
        return not poll.poll(0)

    def replaced(self) -> bool:
        """Whether the path now names another FIFO than the one that is open.

        Raises `FifoError` when it names no FIFO any more.
        """
        if self.fd is None:
            return False
        ours = os.fstat(self.fd)
        with _held(self.path, self.beneath) as held:
            return not os.path.samestat(ours, held.status)

    def reopen(self) -> int | None:
        """Change over to the FIFO that the path names now; None if that has no reader yet.

        What the old FIFO still holds, and nobody can read any more, is moved to the new one
        first. Returns the number of bytes that did not fit there and are lost (none, when
        the new FIFO is empty and as large). Raises `FifoError`.
        """
        new = open_fifo_writer(self.path, beneath=self.beneath)
        if new is None:
            return None
        old, orphaned = self.fd, not self.has_reader()
        self._take(new)
        if old is None:
            return 0
        try:
            return _rescue(old, new) if orphaned else 0
        finally:
            os.close(old)

    async def write_all(self, data: bytes) -> None:
        """Write ``data`` to the open FIFO, waiting while it is full.

        Raises BrokenPipeError when the reader has gone. A cancellation may leave part of
        the data written.
        """
        assert self.fd is not None, "the FIFO is not open"
        await trio.lowlevel.checkpoint()
        while data:
            try:
                data = data[os.write(self.fd, data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.fd)

    def close(self) -> None:
        """Close the FIFO, if it is open; the sink may be opened again."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd, self.capacity = None, 0


async def write_text(
    stdout_path: str, stderr_path: str, text: str, *, beneath: str, timeout_s: float = 2.0
) -> bool:
    """Write ``text`` to the task's stderr, for a task that has no process to say it.

    Both FIFOs are opened together and closed together (logmon counts itself running only
    while both streams are). Returns whether the text was written whole within ``timeout_s``
    seconds; trouble with a FIFO is never raised.
    """
    if stderr_path == os.devnull:
        return False
    stdout = FifoSink(stdout_path, beneath=beneath)
    stderr = FifoSink(stderr_path, beneath=beneath)
    written = False
    with contextlib.ExitStack() as stack:
        stack.callback(stdout.close)
        stack.callback(stderr.close)
        with trio.move_on_after(timeout_s):
            try:
                for pause in growing_pauses():  # pragma: no branch  (endless)
                    if all([_open_if_any(stdout), stderr.try_open()]):
                        break
                    await trio.sleep(pause)
                await stderr.write_all(text.rstrip("\n").encode() + b"\n")
                written = True
            except (FifoError, BrokenPipeError):
                written = False
    return written


def _open_if_any(stdout: FifoSink) -> bool:
    """Open stdout; one that cannot be opened at all does not keep the text from stderr."""
    if stdout.path == os.devnull:
        return True
    try:
        return stdout.try_open()
    except FifoError:
        return True


@contextlib.contextmanager
def _held(path: str, beneath: str) -> Iterator[walk.Held]:
    """Hold the FIFO at ``path``, not opened. Raises `FifoError`, also for what is done with it."""
    try:
        root = beneath.rstrip("/")
        if not root or not path.startswith(f"{root}/"):
            root = os.path.dirname(path)
        with walk.hold(path, beneath=root, kind=walk.Kind.FIFO) as held:
            yield held
    except PathError as error:
        words = error.words
        if error.reason is Reason.NOT_DIRECTORY:
            part = os.path.basename(error.part)
            words = f"{part!r} in it is a symlink or no directory, and is not followed"
        raise FifoError(path, words) from error


def _rescue(old: int, new: int) -> int:
    """Move what the FIFO ``old`` holds, which has no reader, to ``new``; return what is left."""
    reader = proc.reopen(old, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while (left := waiting_bytes(reader)) > 0:
                os.splice(reader, new, left, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
        return waiting_bytes(reader)
    finally:
        os.close(reader)
