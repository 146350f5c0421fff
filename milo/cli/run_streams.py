"""The standard streams of ``milo run``: the application's output goes out, and its input in."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Final

import trio

from milo.cli.log_files import RotatingFile
from milo.cli.output import OutputError, ReaderGoneError, warn, write_all

CHUNK_BYTES: Final = 64 * 1024


class Copy:
    """Copies what the pump delivers to ``target``, a standard stream, and to a log file.

    Where one of them fails, the application goes on and the other one is still written.
    """

    def __init__(self, source: int, target: int, file: RotatingFile | None) -> None:
        self.complete = True
        """False when output was lost, but for what a reader that has gone did not want."""
        self._source = source
        self._target = target
        self._file = file

    async def run(self) -> None:
        """Copy until the writer has gone."""
        to_terminal = self._target >= 0
        while True:
            await trio.lowlevel.wait_readable(self._source)
            try:
                data = os.read(self._source, CHUNK_BYTES)
            except BlockingIOError:
                continue
            if not data:
                return
            if self._file is not None:
                try:
                    await trio.to_thread.run_sync(self._file.write, data)
                except OSError as exc:
                    self._lose(f"Error: the log file cannot be written: {exc.strerror}")
                    self._file = None
            if to_terminal:
                try:
                    # In a thread: a terminal stopped with Ctrl-S must not stop the pumps.
                    await trio.to_thread.run_sync(write_all, self._target, data)
                except ReaderGoneError:
                    # Piped into head, say: what else comes is read, so that the application
                    # can end.
                    to_terminal = False
                except OutputError as exc:
                    self._lose(str(exc))
                    to_terminal = False

    def _lose(self, problem: str) -> None:
        self.complete = False
        text = f"{problem}. The application keeps running, but this output is lost"
        warn(text)


def input_is_wanted(*, asked: bool) -> bool:
    """Whether the application gets this process's standard input.

    It does if it was asked for, and by default when that is no terminal, as with ssh.
    """
    if asked or os.isatty(0):
        return asked
    with contextlib.suppress(OSError):
        status = os.fstat(0)
        null = stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev
        return not null
    return False


async def copy_input(target: int) -> None:
    """Copy standard input to the pipe ``target``, which is closed with its end."""
    try:
        async with trio.lowlevel.FdStream(target) as stream:
            while data := await _read():
                await stream.send_all(data)
    except trio.BrokenResourceError:
        pass  # the application reads no more


async def _read() -> bytes:
    while True:
        try:
            await trio.lowlevel.wait_readable(0)
        except PermissionError:
            await trio.lowlevel.checkpoint()  # a file, which epoll does not take, is always ready
        try:
            return os.read(0, CHUNK_BYTES)
        except BlockingIOError:
            continue
        except OSError as exc:
            warn(f"milo: standard input cannot be read any more: {exc.strerror}")
            return b""
