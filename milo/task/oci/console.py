"""What the application has for standard input: nothing, a descriptor, or a pseudo terminal.

crun makes a terminal inside of the container and sends its other end; runc's docs/terminals.md.
What is printed there goes through the stream of standard output, as if it had been printed to that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from typing import Final

import trio

from milo.unix_sockets import close_all, passed_descriptors

CHUNK_BYTES: Final = 64 * 1024
DRAIN_TIMEOUT_S: Final = 5.0
"""For the terminal's last words to pass, when the application has ended."""
ANSWER_S: Final = 1.0


class Console:
    """Standard input of one application. `close` has to be called, in the end, by its maker.

    ``stdin`` is a descriptor for it, and stays the caller's. With ``made`` it has a terminal for
    all three standard streams; ``made`` gets the other end, before the application runs.
    """

    def __init__(self, stdin: int | None = None, made: Callable[[int], None] | None = None) -> None:
        self.stdin = stdin
        self.is_terminal = made is not None
        self._made = made
        self._fd = -1
        self._output = -1
        self._printed = trio.Event()

    @contextlib.contextmanager
    def offered(self, path: str) -> Iterator[str]:
        """Yield the path for crun's ``--console-socket``; take the terminal when the block ends.

        Without a terminal, the path is empty. Raises OSError when crun has sent none.
        """
        if self._made is None:
            yield ""
            return
        with listening(path) as console:
            yield path
            self._fd = receive_terminal(console)
        os.set_blocking(self._fd, False)
        self._made(self._fd)

    def connect(self, output: int) -> None:
        """Have what is printed on the terminal go to the pipe ``output``, which is duplicated."""
        if self.is_terminal:
            self._output = os.dup(output)

    async def run(self) -> None:
        """Pass on what is printed, until nobody has the terminal open any more."""
        try:
            if self._output >= 0:
                output, self._output = self._output, -1
                async with trio.lowlevel.FdStream(output) as pipe:
                    while data := await self._read():
                        await pipe.send_all(data)
        finally:
            self._printed.set()

    async def _read(self) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            try:
                return os.read(self._fd, CHUNK_BYTES)
            except BlockingIOError:
                continue
            except OSError as exc:
                if exc.errno == errno.EIO:  # how a terminal ends
                    return b""
                raise

    async def drained(self) -> None:
        """Return when all that the ended application has printed was passed on."""
        with trio.move_on_after(DRAIN_TIMEOUT_S):
            await self._printed.wait()

    def close(self) -> None:
        """Close the terminal: whoever still has it open gets SIGHUP."""
        close_all(fd for fd in (self._fd, self._output) if fd >= 0)
        self._fd = self._output = -1


@contextlib.contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """Yield a socket at ``path`` for crun to send a terminal to; afterwards it is gone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
        console.bind(path)
        try:
            console.listen(1)
            yield console
        finally:
            os.unlink(path)


def receive_terminal(console: socket.socket) -> int:
    """Take the terminal that crun has sent by now; raises OSError when it has not."""
    console.settimeout(ANSWER_S)
    sender, _ = console.accept()
    with sender:
        sender.settimeout(ANSWER_S)
        _, rights, _, _ = sender.recvmsg(4096, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    fds = passed_descriptors(rights)
    if len(fds) != 1:
        close_all(fds)
        raise OSError(errno.EPROTO, "crun sent no terminal")
    return fds[0]
