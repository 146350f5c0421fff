"""Removes what a ``milo run`` has left that was killed, or that ran in the background."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

import trio

from milo.cli.run_place import remove_directory
from milo.core.records import ProcessId
from milo.errors import StateError
from milo.host import state_dirs
from milo.host.leftovers.removal import Leftovers
from milo.host.spawner_client import SpawnerClient
from milo.host.state_store import StateStore
from milo.host.task_processes import TaskProcesses
from milo.host.tasks import is_newer, list_tasks
from milo.proc import lives
from milo.process_signals import signal_process

GONE_S: Final = 5.0
"""For a process to go after SIGKILL."""
POLL_S: Final = 0.02


def is_run(base: str) -> bool:
    """Whether ``base`` is the directory of a ``milo run``, and not the driver's."""
    return os.path.dirname(base) in state_dirs.run_directories()


async def remove_run(base: str, *, ordinary: bool) -> bool:
    """End whatever still runs of a ``milo run``, and remove its directories.

    ``ordinary``: it is not root's. Returns whether nothing is left.
    """
    if is_newer(base):
        return False
    store = StateStore(base)
    data = {_data(store, path) for path in store.directories()} - {base}
    spawner = SpawnerClient()
    try:
        for path in store.directories():
            if ordinary:
                await _end_own(store, path)
            else:
                await Leftovers(TaskProcesses(spawner)).remove(path, keep_exit=False)
    finally:
        spawner.close()
    if not any(task.running for task in list_tasks([base])):
        for path in (*data, base):
            remove_directory(path)
    return not os.path.lexists(base)


async def _end_own(store: StateStore, state_dir: str) -> None:
    """Kill an ordinary user's application, with which its container ends, whatever is in it."""
    record = store.read_task(state_dir)
    if record is not None and record.container is not None:
        signal_process(record.container, signal.SIGKILL)
        await ends_within(record.container, GONE_S)


async def ends_within(process: ProcessId, patience_s: float) -> bool:
    """Wait for the end of a process that is no child; return whether it has come."""
    with trio.move_on_after(patience_s):
        while lives(process):  # noqa: ASYNC110 - the kernel has no event for it
            await trio.sleep(POLL_S)
        return True
    return False


def _data(store: StateStore, state_dir: str) -> str:
    """Return where a ``milo run`` has the task's own directories: its own, or one on a disk."""
    with contextlib.suppress(StateError):
        launch = store.read_launch(state_dir)
        if launch is not None:
            return os.path.dirname(launch.alloc_dir)
    return store.root
