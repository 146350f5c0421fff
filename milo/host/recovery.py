"""Finds a task that another driver process started: its process, its exit record, its container."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from milo.core.records import ProcessId, TaskRecord
from milo.errors import ControlError, TaskStartError
from milo.host.cleaner import Cleaner
from milo.host.managed import ManagedTask
from milo.host.state_store import StateStore
from milo.processes import start_ticks

GONE_TIMEOUT_S: Final = 10.0
"""How long a killed process may take to end: one in the kernel may take a while."""
LOOK_S: Final = 0.02

_log = logging.getLogger(__name__)


async def take_over(
    store: StateStore,
    task: ManagedTask,
    connect: Callable[[ManagedTask], Awaitable[None]],
    cleaner: Cleaner,
) -> None:
    """Connect ``task`` to its process or to a successor of it, or note how the task ended.

    Raises:
        ControlError: its container is gone, and nothing says how it ended.
        NewerVersionError: a newer Milo runs it. Nothing has been touched.
        StateError, TaskStartError: what there is of it cannot be used.
    """
    state_dir = task.launch.state_dir
    try:
        await connect(task)
        await task.wait_started()
        return
    except (ControlError, TaskStartError) as exc:
        _log.info("no task process answers for %s: %s", task.task_id, exc)
    record = store.read_exit(state_dir)
    if record is not None:
        task.finish(record)
        return
    old = store.read_task(state_dir)
    if old is None or old.container is None or not _runs(old.container):
        raise ControlError("Error: Its container is gone")
    # Its own process died while no driver was there to keep its descriptors.
    await _end_supervisor(old)
    await cleaner.adopt(state_dir, {})
    await connect(task)
    await task.wait_started()


async def _end_supervisor(record: TaskRecord) -> None:
    """End a task process that lives but does not answer: two may not serve one task."""
    if not _runs(record.supervisor):
        return
    _log.error("the process of task %s does not answer and is killed", record.task_id)
    with contextlib.suppress(ProcessLookupError):
        os.kill(record.supervisor.pid, signal.SIGKILL)
    with trio.move_on_after(GONE_TIMEOUT_S):
        while _runs(record.supervisor):  # noqa: ASYNC110 - the kernel has no event for it
            await trio.sleep(LOOK_S)


def _runs(process: ProcessId) -> bool:
    return start_ticks(process.pid) == process.start_ticks
