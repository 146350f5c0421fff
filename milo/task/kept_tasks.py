"""The tasks that a spawner is the keeper of: see `milo.task.keeper`, the task process's side.

A task process that is gone without a word gets a successor, within a bound; one that has said that
it needs none is forgotten. All here are plain descriptors, which no destructor closes: the spawner
forks, and its child closes what is not its own by number.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Final, Protocol

import attrs

from milo.core.records import CONTROL_SOCKET, EXIT_FILE, FIFO_SUFFIX
from milo.core.spawning import FILTER, KEEP, LISTENER, LOCK_TIMEOUT_S, adopt_mode
from milo.files import take_lock
from milo.proc import lives
from milo.task.oci import filters
from milo.task.preparer import read_record
from milo.unix_sockets import bound_socket, close_all, listen, passed_descriptors

MAX_PACKET_BYTES: Final = 4096
MAX_DESCRIPTORS: Final = 16
MAX_DEATHS: Final = 10
DEATHS_WINDOW_S: Final = 60.0
"""A task whose processes die more often than that is left to a driver."""
LOCK_PAUSE_S: Final = 0.001
LOOK_S: Final = 0.1
"""Between two looks at a task whose lock another process has had for longer."""
LOCK_PATIENCE_S: Final = 60.0
"""How long one may have the lock of an application that has ended and not serve the task."""

Fork = Callable[[str, str, list[int]], tuple[int, int]]
"""Forks a task process: mode, state directory, descriptors. Returns its id, and its channel; raises
OSError."""


class Poller(Protocol):
    """What there is of `select.poll` here."""

    def register(self, fd: int, events: int, /) -> object:
        """As `select.poll.register`."""

    def unregister(self, fd: int, /) -> None:
        """As `select.poll.unregister`."""


@attrs.define
class KeptTask:
    """One task, from the fork of its process until that has said its last word."""

    state_dir: str
    socket: tuple[int, int, int] | None
    """The control socket that its process serves, as `bound_socket` has it."""
    descriptors: dict[str, int] = attrs.field(factory=dict)
    """Empty until the application runs."""
    deaths_s: list[float] = attrs.field(factory=list)
    """When its processes died, as `time.monotonic` has it."""
    dead_since_s: float | None = None

    def keep(self, descriptors: dict[str, int]) -> None:
        """Keep these from now on.

        A FIFO is held until there is another descriptor of it: its last writer's close would be an
        end of file for Nomad's log collector.
        """
        before, self.descriptors = self.descriptors, descriptors
        for name, fd in before.items():
            if name not in descriptors and name.endswith(FIFO_SUFFIX):
                descriptors[name] = fd
            else:
                os.close(fd)

    def is_over(self, now_s: float) -> bool:
        """Whether the task, whose process is dead, gets no successor from here."""
        self.deaths_s = [at_s for at_s in self.deaths_s if now_s - at_s < DEATHS_WINDOW_S]
        if len(self.deaths_s) >= MAX_DEATHS:
            return True
        return os.path.exists(os.path.join(self.state_dir, EXIT_FILE))

    def is_served(self, waited_s: float) -> bool:
        """Whether another process, which has its lock, has its streams as well.

        It may only just have been forked by a driver, which on a busy host takes seconds. Until
        then what is kept here is all that holds the application's output and the log's FIFOs.
        ``waited_s`` is how long its own process has been dead.
        """
        record = read_record(self.state_dir)
        if record is not None and lives(record.supervisor):
            return True
        ended = record is None or not lives(record.container)
        return ended and waited_s >= LOCK_PATIENCE_S

    def forget(self) -> None:
        """Close all that is kept."""
        close_all(self.descriptors.values())
        self.descriptors = {}


class KeptTasks:
    """All of them. The spawner calls `hear` for what ``poller`` finds, after `patience_s` at most.

    The sockets of all task processes that live are registered with ``poller``.
    """

    def __init__(self, fork: Fork, poller: Poller) -> None:
        self._fork = fork
        self._poller = poller
        self._tasks: dict[int, KeptTask] = {}
        self._dead: list[KeptTask] = []
        self._looked_s = 0.0
        self.highest = -1
        """No descriptor here has ever had a higher number."""

    def __bool__(self) -> bool:
        return bool(self._tasks or self._dead)

    @property
    def patience_s(self) -> float | None:
        """How soon `attempt` is to be called, whatever happens; None: not at all."""
        if not self._dead:
            return None
        latest_s = max(task.dead_since_s or 0.0 for task in self._dead)
        return LOCK_PAUSE_S if time.monotonic() - latest_s < LOCK_TIMEOUT_S else LOOK_S

    def add(self, state_dir: str, channel: int) -> None:
        """Be the keeper of a task, whose process has the other end of ``channel``."""
        self._attend(channel, KeptTask(state_dir, bound_socket(_socket_of(state_dir))))

    def hear(self, channel: int) -> None:
        """Take in a message of a task process, or its end."""
        task = self._tasks[channel]
        packet, fds = _receive(channel)
        word, _, names = packet.decode(errors="replace").partition(" ")
        if word == KEEP and len(names.split(",")) == len(fds):
            task.keep(dict(zip(names.split(","), fds, strict=True)))
            self.highest = max(self.highest, *fds)
            return
        if word == FILTER and len(fds) == 1:
            filters.learn(names, fds[0])
            close_all(fds)
            return
        close_all(fds)
        del self._tasks[channel]
        self._poller.unregister(channel)
        os.close(channel)
        if packet or LISTENER not in task.descriptors:
            task.forget()  # it is over, or the application does not run yet
            return
        task.dead_since_s = time.monotonic()
        self._dead.append(task)
        self.attempt()

    def attempt(self) -> None:
        """Fork a successor for each task that needs one and is held by nobody else."""
        looks = time.monotonic() - self._looked_s >= LOOK_S
        if looks:
            self._looked_s = time.monotonic()
        for task in list(self._dead):
            assert task.dead_since_s is not None
            now_s = time.monotonic()
            if task.is_over(now_s):
                self._forget(task)
                continue
            try:
                lock = take_lock(task.state_dir)
            except OSError:
                self._forget(task)
                continue
            if lock is not None:
                self._succeed(task, lock)
                continue
            waited_s = now_s - task.dead_since_s
            if waited_s >= LOCK_TIMEOUT_S and looks and task.is_served(waited_s):
                self._forget(task)

    def _succeed(self, task: KeptTask, lock: int) -> None:
        """Fork the successor, and be its keeper; what is kept is so until it has said more."""
        try:
            self._find_socket(task)
        except OSError:
            os.close(lock)
            self._forget(task)
            return
        names = [name for name in task.descriptors if name != LISTENER]
        fds = [task.descriptors[LISTENER], lock, *(task.descriptors[name] for name in names)]
        try:
            _, channel = self._fork(adopt_mode(names), task.state_dir, fds)
        except OSError:
            self._forget(task)  # a driver tries again, as long as the application runs
            return
        finally:
            os.close(lock)
        self._dead.remove(task)
        task.deaths_s.append(time.monotonic())
        self._attend(channel, task)

    def _find_socket(self, task: KeptTask) -> None:
        """See to it that the socket which is kept is where drivers look for it; raises OSError.

        One that wanted to fork a successor itself has put another one there, and been ended, or
        its task process, before that was served. Who has the lock may replace it.
        """
        path = _socket_of(task.state_dir)
        if task.socket is None or bound_socket(path) == task.socket:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        before, task.descriptors[LISTENER] = task.descriptors[LISTENER], listen(path).detach()
        os.close(before)
        task.socket = bound_socket(path)
        self.highest = max(self.highest, task.descriptors[LISTENER])

    def _attend(self, channel: int, task: KeptTask) -> None:
        self._tasks[channel] = task
        self.highest = max(self.highest, channel)
        self._poller.register(channel, select.POLLIN)

    def _forget(self, task: KeptTask) -> None:
        self._dead.remove(task)
        task.forget()


def _socket_of(state_dir: str) -> str:
    return os.path.join(state_dir, CONTROL_SOCKET)


def _receive(channel: int) -> tuple[bytes, list[int]]:
    """Return the next packet of a task process and what came with it; empty at its end."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, channel)
    try:
        packet, rights, _, _ = sock.recvmsg(
            MAX_PACKET_BYTES,
            socket.CMSG_SPACE(MAX_DESCRIPTORS * 4),
            socket.MSG_CMSG_CLOEXEC,
        )
    except OSError:  # a reset, where it had not read all that it was sent
        return b"", []
    finally:
        sock.detach()
    return packet, passed_descriptors(rights)
