"""The driver's side of the spawner: asks for task processes, and replaces a spawner that died."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Sequence
from typing import Final, Protocol

import trio

import milo
from milo.errors import ControlError
from milo.unix_sockets import passing

ANSWER_TIMEOUT_S: Final = 10.0
SPAWNED_FD: Final = 3
"""Where an executed spawner finds its socket."""
REPLACE_PAUSE_S: Final = 1.0
"""From one spawner to the next but one: one that cannot live must not keep a core busy."""
CODE: Final = "import sys; sys.path.insert(0, sys.argv[1]); from milo.spawner import main; main()"
"""What an executed spawner runs; its argument is the directory that the package lies in."""


class _Process(Protocol):
    """What `milo.spawner.fork_spawner` returns."""

    @property
    def pid(self) -> int: ...

    @property
    def sock(self) -> socket.socket: ...


class SpawnerClient:
    """Has task processes forked, one request at a time."""

    def __init__(self, process: _Process | None = None) -> None:
        self._sock: trio.socket.SocketType | None = None
        self.pid = 0
        self._children: set[int] = set()
        self._first = process
        self._lock = trio.Lock()

    async def attend(self) -> None:
        """Keep a spawner at hand, until cancelled: a new one takes 0.15 s until it can fork.

        So long nobody would read the output of a task whose own process was killed.
        """
        while True:
            began_s = trio.current_time()
            async with self._lock:
                with contextlib.suppress(OSError):
                    if self._sock is None:
                        self._sock = self._open()
                pid = self.pid
            await _until_ended(pid)
            async with self._lock:
                if self.pid == pid:
                    self.close()
            await trio.sleep_until(began_s + REPLACE_PAUSE_S)

    async def spawn(self, mode: str, state_dir: str, fds: Sequence[int]) -> int:
        """Have a task process forked for ``state_dir`` and return its id.

        ``mode`` is that of `milo.task.main.main`. ``fds`` are duplicated into it: the
        listening control socket first. A spawner that has died is replaced once. A request
        that has been sent is seen through: cancellation has an effect before and after it.

        Raises:
            ControlError: no process could be forked.
        """
        async with self._lock:
            try:
                return await self._request(f"{mode} {state_dir}", fds)
            except (OSError, EOFError):
                self.close()
            try:
                return await self._request(f"{mode} {state_dir}", fds)
            except (OSError, EOFError) as exc:
                self.close()
                raise ControlError(f"Error: The spawner of task processes died: {exc}") from exc

    def close(self) -> None:
        """Let the spawner go; its task processes stay."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._first is not None:
            self._children.add(self._first.pid)
            self._first.sock.close()
            self._first = None
        self._reap()

    def _reap(self) -> None:
        """Take the status of spawners that have ended, so that no zombie stays."""
        for pid in list(self._children):
            try:
                done, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                done = pid
            if done:
                self._children.discard(pid)

    async def _request(self, request: str, fds: Sequence[int]) -> int:
        if self._sock is None:
            self._sock = self._open()
        # Not cancelled half-way: the answer would be taken for that of the next request, and the
        # process that was forked meanwhile would be nobody's.
        with trio.move_on_after(ANSWER_TIMEOUT_S, shield=True) as scope:
            await self._sock.sendmsg([os.fsencode(request)], passing(fds))
            answer = (await self._sock.recv(4096)).decode()
        if scope.cancelled_caught:
            # A late answer would be taken for that of the next request.
            self.close()
            raise ControlError(f"Error: The spawner did not answer in {ANSWER_TIMEOUT_S:g} s")
        if not answer:
            raise EOFError("it closed its socket")
        if answer.startswith("error"):
            raise ControlError(f"Error: {answer.removeprefix('error: ')}")
        return int(answer)

    def _open(self) -> trio.socket.SocketType:
        if self._first is not None:
            process, self._first = self._first, None
            self.pid = process.pid
            self._children.add(self.pid)
            return trio.socket.from_stdlib_socket(process.sock)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.pid = _execute_spawner(theirs)
        self._children.add(self.pid)
        self._reap()  # a spawner that was killed has ended by the time it is replaced
        return trio.socket.from_stdlib_socket(ours)


async def _until_ended(pid: int) -> None:
    """Return once the child ``pid`` has ended; never where the kernel has no pidfds (Linux 5.3)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:
        await trio.sleep_forever()
    try:
        await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)


def _execute_spawner(sock: socket.socket) -> int:
    """Start a spawner as a new program: a fork of a process with an event loop is not clean."""
    package_parent = os.path.dirname(os.path.dirname(os.path.abspath(milo.__file__)))
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-c", CODE, package_parent],
        {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, sock.fileno(), SPAWNED_FD),
        ],
    )
