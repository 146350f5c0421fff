"""The terminal of whoever runs a command: its size, and its keys one by one."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import tty
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import trio

NO_SIZE: Final = (24, 80)
"""Rows and columns where there is no terminal to ask, as old ones had them."""


@contextlib.contextmanager
def raw_terminal() -> Iterator[None]:
    """Hand every key on, Ctrl-C included; afterwards the terminal is as before."""
    before = None
    with contextlib.suppress(termios.error):  # it is being closed
        before = termios.tcgetattr(0)
        tty.setraw(0)
    try:
        yield
    finally:
        if before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, before)


def size() -> tuple[int, int]:
    """Return the rows and the columns of the terminal."""
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            columns, rows = os.get_terminal_size(fd)
            return rows, columns
    return NO_SIZE


async def follow_size(tell: Callable[[int, int], Awaitable[None]]) -> None:
    """Tell its rows and columns now, and each time that they change."""
    with trio.open_signal_receiver(signal.SIGWINCH) as changes:
        await tell(*size())
        async for _ in changes:
            await tell(*size())
