"""Removes what tasks left: containers, task processes, cgroups and state directories."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Container
from typing import Final

import trio

from milo.core import control, records
from milo.core.launch import TaskRequest
from milo.errors import ControlError, MiloError, NewerVersionError, NoAnswerError, StateError
from milo.host.state_store import StateStore
from milo.host.task_client import TaskClient
from milo.host.task_processes import TaskProcesses, end_silent
from milo.unix_sockets import close_all

REMOVAL_TIMEOUT_S: Final = 60.0
"""In all. crun's own bound is 10 s for a delete."""
END_TIMEOUT_S: Final = 30.0
"""What a task process may take: 5 s of draining, 10 s of crun, and a host under load."""

_log = logging.getLogger(__name__)


class Leftovers:
    """What is left of tasks that no living `ManagedTask` stands for."""

    def __init__(self, processes: TaskProcesses) -> None:
        self._processes = processes
        self._ended: set[str] = set()
        """Directories with no more than an exit record, as `remove_unclaimed` has found them."""

    async def remove_unclaimed(
        self, store: StateStore, request: TaskRequest, claimed: Container[str]
    ) -> dict[str, int]:
        """Remove what an earlier start of the same task left, but nothing in ``claimed``.

        Returns duplicates of the FIFOs that it had open, by name, for the caller to close: with
        their last writer Nomad's log collector ends, and is not always started again.
        """
        fifos: dict[str, int] = {}
        found = store.unclaimed(claimed)
        own = store.task_dir(request.task_id)
        self._ended.intersection_update(found)
        self._ended.discard(own)
        for path in sorted(set(found) - self._ended):
            try:
                old = store.read_launch(path)
            except StateError as exc:
                _log.warning("a state directory is not readable: %s", exc)
                old = None
            else:
                # A launch is written once, before there is an end: none comes to this one.
                if old is None and os.path.exists(os.path.join(path, records.EXIT_FILE)):
                    self._ended.add(path)
            same = old is not None and old.is_same_task(request)
            if same or path == own:
                _log.warning("removing an earlier instance of the task: %s", path)
                fifos = join_fifos(fifos, await _lend_fifos(path))
                await self.remove(path, keep_exit=False)
        return fifos

    async def remove(self, state_dir: str, *, keep_exit: bool = True) -> None:
        """Kill whatever runs for ``state_dir`` and remove it. Never raises a MiloError."""
        if not os.path.isdir(state_dir):
            return
        store = StateStore(os.path.dirname(state_dir))
        try:
            if os.path.exists(os.path.join(state_dir, records.LAUNCH_FILE)):
                await self._end(state_dir)
            store.remove(state_dir, keep_exit=keep_exit)
        except (MiloError, OSError) as exc:
            _log.error("cleaning up %s failed: %s", state_dir, exc)

    async def _end(self, state_dir: str) -> None:
        """Have the task's own process end it, or a new process if that one is gone or stuck.

        Raises:
            ControlError: neither did; everything is where it was, to be tried again.
        """
        with trio.move_on_after(REMOVAL_TIMEOUT_S) as scope:
            for _ in range(2):  # again, since a keeper may have forked a successor meanwhile
                try:
                    await _have_ended(state_dir)
                    return
                except NewerVersionError:
                    break  # a newer task process ends by itself with its container
                except ControlError as exc:
                    await end_silent(state_dir, exc)
            await self._processes.clean(state_dir)
        if scope.cancelled_caught:
            raise ControlError(f"Error: It took more than {REMOVAL_TIMEOUT_S:g} s")


def join_fifos(some: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    """Return both dictionaries of descriptors as one, and close what is there twice."""
    close_all(some[name] for name in some.keys() & more.keys())
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
    close_all(found[name] for name in found.keys() - fifos.keys())
    return fifos


async def _have_ended(state_dir: str) -> None:
    """Have a task process kill its container, and wait until it has ended with it.

    Raises:
        ControlError: there is none, it is ending by itself, or (`NoAnswerError`) it is stuck.
        NewerVersionError: it is a newer Milo's.
    """
    client = await TaskClient.connect(state_dir, lambda _: None)
    failure: ControlError | None = None
    with trio.move_on_after(END_TIMEOUT_S) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)  # which ends with the other process
            try:
                await client.stop(signal.SIGKILL, 0.0)
            except ControlError as exc:
                failure = exc  # raised outside, where no group wraps it
                nursery.cancel_scope.cancel()
    if scope.cancelled_caught:
        failure = NoAnswerError(f"Error: The task process did not answer in {END_TIMEOUT_S:g} s")
    if failure is not None:
        raise failure
