"""Starts and ends task processes for the driver: the spawner forks them, one for each task."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Mapping
from typing import Final

import trio

from milo.core import records
from milo.core.spawning import CLEAN, LOCK_TIMEOUT_S, RUN_KEPT, adopt_mode
from milo.errors import NoAnswerError, StateError
from milo.files import take_lock
from milo.host.spawner_client import SpawnerClient
from milo.host.state_store import StateStore
from milo.host.task_client import TaskClient
from milo.proc import lives
from milo.process_signals import signal_process

GONE_TIMEOUT_S: Final = 10.0
"""How long a process may take to end, by itself or when it was killed: one in the kernel may
take a while."""
LOOK_S: Final = 0.02

_log = logging.getLogger(__name__)


class TaskProcesses:
    """Has task processes forked. Each serves the control socket that is made for it here."""

    def __init__(self, spawner: SpawnerClient) -> None:
        self._spawner = spawner

    async def start(self, state_dir: str) -> None:
        """Have a process forked that runs the task of ``state_dir``.

        Raises:
            SpawnerError: no process could be forked.
            StateError: no socket can be made there.
        """
        with _store(state_dir).listen(state_dir) as listener:
            await self._spawner.spawn(RUN_KEPT, state_dir, [listener.fileno()])

    async def adopt(self, state_dir: str, descriptors: Mapping[str, int]) -> None:
        """Have a successor forked for a task whose own process is gone.

        It gets duplicates of ``descriptors``; what is missing it opens itself where it can. Where
        somebody else has forked one meanwhile there is nothing to do. Raises as `start`.
        """
        lock = await _lock(state_dir)
        if lock is None:
            return
        try:
            _unlink_socket(state_dir)
            with _store(state_dir).listen(state_dir) as listener:
                await self._spawner.spawn(
                    adopt_mode(descriptors),
                    state_dir,
                    [listener.fileno(), lock, *descriptors.values()],
                )
        finally:
            os.close(lock)

    async def keep(self, state_dir: str, client: TaskClient) -> None:
        """Have the spawner fork a successor of the task process of ``client``, should it die.

        One of an older Milo cannot be kept. Raises as `start`, and ControlError.
        """
        if client.keeper is None or client.keeper == self._spawner.pid:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            pid = await self._spawner.keep(state_dir, ours.fileno())
            await client.keep(theirs.fileno(), pid)

    async def clean(self, state_dir: str) -> None:
        """Have a process forked that removes the container, and wait for the process's end.

        Raises:
            SpawnerError: no process could be forked.
        """
        with contextlib.suppress(StateError):
            _unlink_socket(state_dir)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with trio.socket.from_stdlib_socket(ours) as end, theirs:
            await self._spawner.spawn(CLEAN, state_dir, [theirs.fileno()])
            theirs.close()
            await end.recv(1)


async def _lock(state_dir: str) -> int | None:
    """Return the lock of ``state_dir``; None when another task process serves it.

    It is that of the process that was killed for a moment longer than its socket. Raises
    `StateError` when there is no such directory.
    """
    with trio.move_on_after(LOCK_TIMEOUT_S):
        while True:
            try:
                lock = take_lock(state_dir)
            except OSError as exc:
                raise StateError(state_dir, f"{exc.strerror}") from exc
            if lock is not None:
                return lock
            await trio.sleep(LOOK_S)
    return None


def container_lives(state_dir: str) -> bool:
    """Whether the application that the task process of ``state_dir`` has written down runs.

    Raises `StateError` when that record is not readable.
    """
    record = _store(state_dir).read_task(state_dir)
    return record is not None and lives(record.container)


def end_is_seen(state_dir: str) -> bool:
    """Whether the task process has written down how the application ended, and gone no further.

    A successor ends what it had begun, and tells that end. Raises as `container_lives`.
    """
    record = _store(state_dir).read_task(state_dir)
    return record is not None and record.ended is not None


async def end_silent(state_dir: str, silence: Exception) -> None:
    """Let the task process of ``state_dir`` end, or kill it: two may not serve one task.

    ``silence`` is the error of the attempt to talk to it. A process that is there and does not
    answer (`NoAnswerError`: stopped, or stuck in the kernel) is killed at once. One that has
    closed its connections is ending by itself, which takes it a moment.
    """
    record = None
    with contextlib.suppress(StateError):
        record = _store(state_dir).read_task(state_dir)
    if record is None:
        return
    if not isinstance(silence, NoAnswerError) and await _until_gone(record.supervisor):
        return
    if lives(record.supervisor):
        _log.error("the process of task %s does not answer and is killed", record.task_id)
        signal_process(record.supervisor, signal.SIGKILL)
        await _until_gone(record.supervisor)


async def _until_gone(process: records.ProcessId) -> bool:
    """Wait until ``process`` has ended; False when it lives on after `GONE_TIMEOUT_S`."""
    with trio.move_on_after(GONE_TIMEOUT_S):
        while lives(process):  # noqa: ASYNC110 - the kernel has no event for it
            await trio.sleep(LOOK_S)
        return True
    return False


def _store(state_dir: str) -> StateStore:
    return StateStore(os.path.dirname(state_dir))


def _unlink_socket(state_dir: str) -> None:
    """Remove a socket whose server is gone; nobody else may come to serve it."""
    path = os.path.join(state_dir, records.CONTROL_SOCKET)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise StateError(path, f"{exc.strerror}") from exc
