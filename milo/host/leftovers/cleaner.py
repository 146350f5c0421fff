"""Removes what tasks left: containers, task processes, cgroups and state directories."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Collection, Mapping
from typing import Final

import trio

from milo.core import control, records
from milo.core.launch import Launch
from milo.errors import ControlError, MiloError, NewerVersionError, StateError
from milo.host.spawner_client import SpawnerClient
from milo.host.state_store import StateStore
from milo.host.task_client import TaskClient
from milo.proc import signal_process, start_ticks

CLEAN_TIMEOUT_S: Final = 60.0
"""In all. crun's own bound is 10 s for a delete."""
END_TIMEOUT_S: Final = 30.0
"""What a task process may take: 5 s of draining, 10 s of crun, and a host under load."""
GONE_TIMEOUT_S: Final = 10.0
"""How long a killed process may take to end: one in the kernel may take a while."""
LOOK_S: Final = 0.02

_log = logging.getLogger(__name__)


class Cleaner:
    """Cleans up after tasks that no living `ManagedTask` stands for."""

    def __init__(self, spawner: SpawnerClient) -> None:
        self._spawner = spawner

    async def remove_unclaimed(
        self, store: StateStore, launch: Launch, claimed: Collection[str]
    ) -> dict[str, int]:
        """Remove what an earlier start of the same task left, but nothing in ``claimed``.

        Returns duplicates of the FIFOs that it had open, by name, for the caller to close: with
        their last writer Nomad's log collector ends, and is not always started again.
        """
        fifos: dict[str, int] = {}
        for path in store.directories():
            if path in claimed:
                continue
            try:
                old = store.read_launch(path)
            except StateError as exc:
                _log.warning("a state directory is not readable: %s", exc)
                old = None
            same = old is not None and old.is_same_task(launch)
            if same or path == store.task_dir(launch.task_id):
                _log.warning("removing an earlier instance of the task: %s", path)
                fifos = join_fifos(fifos, await _lend_fifos(path))
                await self.clean(path, keep_exit=False)
        return fifos

    async def clean(self, state_dir: str, *, keep_exit: bool = True) -> None:
        """Kill whatever runs for ``state_dir`` and remove it. Never raises a MiloError."""
        if not os.path.isdir(state_dir):
            return
        store = StateStore(os.path.dirname(state_dir))
        try:
            if os.path.exists(os.path.join(state_dir, records.LAUNCH_FILE)):
                await self._end(store, state_dir)
            store.remove(state_dir, keep_exit=keep_exit)
        except (MiloError, OSError) as exc:
            _log.error("cleaning up %s failed: %s", state_dir, exc)

    async def _end(self, store: StateStore, state_dir: str) -> None:
        """Have the task's own process end it, or a new process if that one is gone or stuck.

        Raises:
            ControlError: neither did; everything is where it was, to be tried again.
        """
        with trio.move_on_after(CLEAN_TIMEOUT_S) as scope:
            try:
                client = await TaskClient.connect(state_dir, lambda _: None)
            except NewerVersionError:
                pass  # a newer task process ends by itself with its container
            except ControlError:
                await end_supervisor(store, state_dir)
            else:
                if await _ask_to_end(client):
                    return
                await end_supervisor(store, state_dir)
            with contextlib.suppress(StateError):
                _unlink_socket(state_dir)
            await self._clean_up(state_dir)
        if scope.cancelled_caught:
            raise ControlError(f"Error: It took more than {CLEAN_TIMEOUT_S:g} s")

    async def _clean_up(self, state_dir: str) -> None:
        """Have a process forked that removes the container, and wait for the process's end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with trio.socket.from_stdlib_socket(ours) as end, theirs:
            await self._spawner.spawn("clean", state_dir, [theirs.fileno()])
            theirs.close()
            await end.recv(1)

    async def spawn(self, store: StateStore, mode: str, state_dir: str) -> None:
        """Have a task process forked that serves the control socket of ``state_dir``."""
        with store.listen(state_dir) as listener:
            await self._spawner.spawn(mode, state_dir, [listener.fileno()])

    async def adopt(self, state_dir: str, descriptors: Mapping[str, int]) -> None:
        """Have a successor forked for a task whose own process is gone.

        It gets duplicates of ``descriptors``; what is missing it opens itself where it can.
        """
        _unlink_socket(state_dir)
        with StateStore(os.path.dirname(state_dir)).listen(state_dir) as listener:
            await self._spawner.spawn(
                f"adopt:{','.join(descriptors)}",
                state_dir,
                [listener.fileno(), *descriptors.values()],
            )


def join_fifos(some: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    """Return both dictionaries of descriptors as one, and close what is there twice."""
    for name in some.keys() & more.keys():
        os.close(some[name])
    return {**some, **more}


async def _lend_fifos(state_dir: str) -> dict[str, int]:
    """Return duplicates of the FIFOs that a task process has open, if there is one."""
    try:
        client = await TaskClient.connect(state_dir, lambda _: None, role=control.ROLE_OBSERVER)
    except (ControlError, NewerVersionError):
        return {}
    found: dict[str, int] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        with contextlib.suppress(ControlError):
            found = await client.descriptors()
        nursery.cancel_scope.cancel()
    fifos = {name: fd for name, fd in found.items() if name.endswith(records.FIFO_SUFFIX)}
    for name in found.keys() - fifos.keys():
        os.close(found[name])
    return fifos


async def _ask_to_end(client: TaskClient) -> bool:
    """Have a task process kill its container, and wait until it has ended with it."""
    with trio.move_on_after(END_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)  # which ends with the other process
            try:
                await client.stop(signal.SIGKILL, 0.0)
            except ControlError:
                nursery.cancel_scope.cancel()
                return False
        return True
    return False


async def end_supervisor(store: StateStore, state_dir: str) -> None:
    """Kill a task process that does not answer, if it lives: stopped, or stuck in the kernel."""
    with contextlib.suppress(StateError):
        record = store.read_task(state_dir)
        if record is None or not _runs(record.supervisor):
            return
        _log.error("the process of task %s does not answer and is killed", record.task_id)
        signal_process(record.supervisor.pid, record.supervisor.start_ticks, signal.SIGKILL)
        with trio.move_on_after(GONE_TIMEOUT_S):
            while _runs(record.supervisor):  # noqa: ASYNC110 - the kernel has no event for it
                await trio.sleep(LOOK_S)


def _runs(process: records.ProcessId) -> bool:
    return start_ticks(process.pid) == process.start_ticks


def _unlink_socket(state_dir: str) -> None:
    """Remove a socket whose server is gone; nobody else may come to serve it."""
    path = os.path.join(state_dir, records.CONTROL_SOCKET)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise StateError(path, f"{exc.strerror}") from exc
