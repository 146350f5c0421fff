"""The input of ``milo run``: what the application gets to read, from a pipe or as keys."""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
from functools import partial
from typing import Final

import trio

from milo.cli.output import warn
from milo.cli.terminal import follow_size, raw_terminal, size
from milo.core.exec_io import EOT
from milo.host.exec_client import set_terminal_size
from milo.task.oci.console import Console
from milo.unix_sockets import close_all

CHUNK_BYTES: Final = 64 * 1024


class Keyboard:
    """Standard input of one run, made by `of`. `close` gives the caller's terminal back."""

    def __init__(self, *, wanted: bool, terminal: bool) -> None:
        self._wanted = wanted
        self._terminal = -1
        self._ready = trio.Event()
        self._undo = contextlib.ExitStack()
        self._ends: tuple[int, ...] = ()
        if wanted and not terminal:
            self._ends = os.pipe2(os.O_CLOEXEC)
        self.console = Console(
            self._ends[0] if self._ends else None, self._begin if terminal else None
        )

    @classmethod
    def of(cls, options: argparse.Namespace, *, background: bool) -> Keyboard:
        """Return what these options of ``milo run`` ask for."""
        wanted = not background and input_is_wanted(asked=options.interactive)
        return cls(wanted=wanted, terminal=options.tty)

    def _begin(self, terminal: int) -> None:
        """Take the other end of the application's terminal, just before that runs."""
        self._terminal = terminal
        set_terminal_size(terminal, *size())
        if self._wanted and os.isatty(0):
            self._undo.enter_context(raw_terminal())
        self._ready.set()

    async def run(self) -> None:
        """Pass on what is typed, and the size of the caller's terminal."""
        if not self.console.is_terminal:
            if self._ends:
                await copy_input(self._ends[1])
            return
        await self._ready.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow_size, self._resize)
            if self._wanted:
                nursery.start_soon(partial(copy_input, os.dup(self._terminal), terminal=True))

    async def _resize(self, rows: int, columns: int) -> None:
        set_terminal_size(self._terminal, rows, columns)

    def close(self) -> None:
        """Close what the application was given, and make the caller's terminal as it was."""
        self._undo.close()
        self.console.close()
        close_all(self._ends[:1])  # the other one is closed with its end
        self._ends = ()


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


async def copy_input(target: int, *, terminal: bool = False) -> None:
    """Copy standard input to ``target``, a pipe or a terminal, and close that with its end."""
    ends_a_line = True
    try:
        async with trio.lowlevel.FdStream(target) as stream:
            while data := await _read():
                await stream.send_all(data)
                ends_a_line = data.endswith(b"\n")
            if terminal:
                # Behind a line that was begun, the first one only ends that; termios(3).
                await stream.send_all(EOT if ends_a_line else 2 * EOT)
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
