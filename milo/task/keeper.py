"""The keeper of a task: a spawner that forks its successor, should the task process be killed.

Between the two is a socket of the type SEQPACKET. Over it the task process passes duplicates of its
control socket and of what its streams need (SCM_RIGHTS), whenever they change. When it wants no
successor any more it says so; an end of the socket without that word is its death. No driver takes
part, so a plugin may be stopped or killed at the same moment.

Who forks a successor first takes the lock of the state directory, which its process then holds as
long as it lives: a task has one, whoever else believes that it needs another.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Sequence

from milo.core.spawning import FILTER, KEEP, LISTENER, RELEASE
from milo.unix_sockets import passing

Descriptors = tuple[tuple[str, ...], tuple[int, ...]]
"""Names and numbers."""


class Keeper:
    """What a task process has of its keeper. Nothing here raises or waits."""

    def __init__(self, channel: socket.socket | None = None) -> None:
        self.pid = 0
        """The keeper's process; 0 where there is none, so that no successor comes by itself."""
        self._channel: socket.socket | None = None
        self._descriptors: Callable[[], Descriptors] | None = None
        if channel is not None:
            self._use(channel, os.getppid())

    def begin(self, descriptors: Callable[[], Descriptors]) -> None:
        """Be kept from now on; ``descriptors`` returns what a successor needs now."""
        self._descriptors = descriptors
        self.update()

    def tell_filter(self, key: str, path: str) -> None:
        """Have it learn the filter at ``path``, which crun has compiled; see `filters`."""
        if self._channel is None or not key:
            return
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                packet = f"{FILTER} {key}".encode()
                self._channel.sendmsg([packet], passing([fd]), socket.MSG_DONTWAIT)
            finally:
                os.close(fd)

    def update(self) -> None:
        """Have the keeper keep what there is now, in place of what it has."""
        if self._channel is None or self._descriptors is None:
            return
        try:
            names, fds = self._descriptors()
            packet = f"{KEEP} {','.join(names)}".encode()
            self._channel.sendmsg([packet], passing(fds), socket.MSG_DONTWAIT)
        except OSError:
            # It is gone, or stopped so long that nothing more goes into the socket. Should it live,
            # it takes this for a death, and the lock tells it otherwise.
            self._drop()

    def change(self, channel: socket.socket, pid: int) -> None:
        """Be kept by the process ``pid`` behind ``channel`` from now on, and not by the other.

        If it is gone already the other one remains.
        """
        before, before_pid = self._channel, self.pid
        self._use(channel, pid)
        self.update()
        if self._channel is None:
            self._channel, self.pid = before, before_pid
        elif before is not None:
            _say_release(before)

    def release(self) -> None:
        """Want no successor any more: the keeper closes all that it has."""
        self._descriptors = None
        self.leave()

    def leave(self) -> None:
        """Have no keeper until there is another: see `change`."""
        if self._channel is not None:
            _say_release(self._channel)
            self._drop()

    def _use(self, channel: socket.socket, pid: int) -> None:
        self._channel, self.pid = channel, pid

    def _drop(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._channel, self.pid = None, 0


def _say_release(channel: socket.socket) -> None:
    with channel, contextlib.suppress(OSError):
        channel.send(RELEASE.encode(), socket.MSG_DONTWAIT)


def listed(names: Sequence[str], fds: Sequence[int], listener: int) -> Descriptors:
    """Return the descriptors of the streams with the control socket as the first."""
    return (LISTENER, *names), (listener, *fds)
