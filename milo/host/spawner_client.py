"""The driver's side of the spawner: asks for task processes, and replaces a spawner that died."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence
from typing import Final, Protocol

import trio

import milo
from milo.core.spawning import END_OF_PATH, KEEP, SPAWNED_FD
from milo.core.text import printable
from milo.errors import SpawnerError
from milo.unix_sockets import passing

ANSWER_TIMEOUT_S: Final = 30.0
"""It takes 2 ms (measured), and over 10 s was seen where a host was short of all it has."""
REPLACE_PAUSE_S: Final = 1.0
"""From one spawner to the next but one: one that cannot live must not keep a core busy."""
MAX_REPLACE_PAUSE_S: Final = 30.0
"""When each one fails, as while Milo's own files are being replaced."""
MAX_WORDS_BYTES: Final = 2000
CODE: Final = "import sys; sys.path.insert(0, sys.argv[1]); from milo.spawner import main; main()"
"""What an executed spawner runs; its argument is the directory that the package lies in."""


_log = logging.getLogger(__name__)


class _Process(Protocol):
    """What `milo.spawner_process.fork_spawner` returns."""

    @property
    def pid(self) -> int: ...

    @property
    def sock(self) -> socket.socket: ...


class SpawnerClient:
    """Has task processes forked, one request at a time."""

    def __init__(self, process: _Process | None = None) -> None:
        self._sock: trio.socket.SocketType | None = None
        self.pid = 0
        self.changed = trio.Event()
        """Set, and replaced, when there is another spawner, which keeps no task yet."""
        self.restarts = 0
        """How often a spawner was executed in place of one that had ended."""
        self._children: set[int] = set()
        self._stderr = -1
        """A memfd with what the executed spawner has printed before it served."""
        self._told = ""
        self._first = process
        self._lock = trio.Lock()

    async def attend(self) -> None:
        """Keep a spawner at hand, until cancelled: a new one takes 0.15 s until it can fork.

        So long nobody would read the output of a task whose own process was killed.
        """
        pause_s = REPLACE_PAUSE_S
        while True:
            began_s, failed = trio.current_time(), False
            async with self._lock:
                try:
                    if self._sock is None:
                        self._sock = self._open()
                except OSError as exc:
                    failed = bool(self._failure(exc))
                pid = self.pid
            if not failed:
                await _until_ended(pid)
                async with self._lock:
                    if self.pid == pid:
                        failed = bool(self._failure())
            pause_s = min(2 * pause_s, MAX_REPLACE_PAUSE_S) if failed else REPLACE_PAUSE_S
            await trio.sleep_until(began_s + pause_s)

    async def spawn(self, mode: str, state_dir: str, fds: Sequence[int]) -> int:
        """Have a task process forked for ``state_dir`` and return its id.

        ``mode`` is that of `milo.task.main.main`. ``fds`` are duplicated into it: the
        listening control socket first. A spawner that has died is replaced once. A request
        that has been sent is seen through: cancellation has an effect before and after it.

        Raises:
            SpawnerError: no process could be forked.
        """
        request = f"{mode} {state_dir}"
        async with self._lock:
            try:
                return await self._request(request, fds)
            except (OSError, EOFError) as exc:
                self._failure(exc)
            try:
                return await self._request(request, fds)
            except (OSError, EOFError) as exc:
                words = self._failure(exc)
                raise SpawnerError(f"The spawner of task processes died: {words}") from exc

    async def keep(self, state_dir: str, channel: int) -> int:
        """Let the spawner keep the task of ``state_dir``, and return the spawner's id.

        The task process gets the other end of ``channel``. No spawner is executed for this: the
        next one is told by `changed`.

        Raises:
            SpawnerError: there is none, or it has died.
        """
        async with self._lock:
            if self._sock is None:
                raise SpawnerError("There is no spawner of task processes")
            try:
                return await self._request(f"{KEEP} {state_dir}{END_OF_PATH}", [channel])
            except (OSError, EOFError) as exc:
                raise SpawnerError(f"The spawner of task processes died: {exc}") from exc

    def close(self) -> None:
        """Let the spawner go; its task processes stay."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._first is not None:
            self._children.add(self._first.pid)
            self._first.sock.close()
            self._first = None
        if self._stderr >= 0:
            os.close(self._stderr)
            self._stderr = -1
        self._reap()

    def _failure(self, exc: Exception | None = None) -> str:
        """Let a spawner go that has failed; log what it printed, once, and return the last line.

        Where it printed nothing, that is the text of ``exc``.
        """
        printed = "" if self._stderr < 0 else _end_of(self._stderr)
        self.close()
        words = printed or str(exc or "")
        if words and words != self._told:
            _log.error("the spawner of task processes failed: %s", words)
        self._told = words
        return words.rpartition("\n")[2]

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
            raise SpawnerError(f"The spawner did not answer in {ANSWER_TIMEOUT_S:g} s")
        if not answer:
            raise EOFError("it closed its socket")
        if answer.startswith("error"):
            raise SpawnerError(answer.removeprefix("error: "))
        return int(answer)

    def _open(self) -> trio.socket.SocketType:
        sock = self._open_any()
        changed, self.changed = self.changed, trio.Event()
        changed.set()
        return sock

    def _open_any(self) -> trio.socket.SocketType:
        if self._first is not None:
            process, self._first = self._first, None
            self.pid = process.pid
            self._children.add(self.pid)
            return trio.socket.from_stdlib_socket(process.sock)
        is_another = bool(self.pid)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._stderr = os.memfd_create("milo-spawner-stderr")
        with theirs:
            try:
                self.pid = _execute_spawner(theirs, self._stderr)
            except OSError:
                ours.close()
                raise
        self.restarts += is_another
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


def _end_of(fd: int) -> str:
    """Return the end of a file, without blank lines around it."""
    start = max(0, os.fstat(fd).st_size - MAX_WORDS_BYTES)
    lines = os.pread(fd, MAX_WORDS_BYTES, start).decode(errors="replace").strip().splitlines()
    return "\n".join(map(printable, lines))


def _execute_spawner(sock: socket.socket, stderr: int) -> int:
    """Start a spawner as a new program: a fork of a process with an event loop is not clean."""
    package_parent = os.path.dirname(os.path.dirname(os.path.abspath(milo.__file__)))
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-c", CODE, package_parent],
        {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, stderr, 2),
            (os.POSIX_SPAWN_DUP2, sock.fileno(), SPAWNED_FD),
        ],
    )
