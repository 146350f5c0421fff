"""Stops one task through its task process, or without it if it does not answer.

A task process can be stuck: its container may block inside a write of its own (the splice then
waits in the kernel too), or somebody may have stopped the process. The container must still be
stoppable. Its end also lets the task process continue.
"""

from __future__ import annotations

import logging
import os
import signal
from typing import Final

import trio

from milo.core.signals import NO_SIGNAL
from milo.errors import ControlError, StateError
from milo.host.managed import ManagedTask
from milo.host.state_store import StateStore
from milo.process_signals import signal_process

RETRY_S: Final = 0.2
PATIENCE_S: Final = 5.0
"""How long the task process may take to accept a stop, and to kill what has outlived its
kill timeout, before the driver sends the signal itself."""
GRACE_S: Final = 60.0
"""Beyond the kill timeout: 5 s of draining, 10 s for crun, and a host under load."""


_log = logging.getLogger(__name__)


async def stop_task(task: ManagedTask, number: int, timeout_s: float) -> None:
    """Send signal ``number``, then SIGKILL after ``timeout_s``; return when the task has ended.

    `NO_SIGNAL` sends nothing before the SIGKILL.

    Raises:
        ControlError: it has not ended within the kill timeout and `GRACE_S`.
    """
    task.request_stop()
    with trio.move_on_after(timeout_s + GRACE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ask, task, number, timeout_s)
            nursery.start_soon(_kill_overdue, task, timeout_s)
            await task.ended.wait()
            nursery.cancel_scope.cancel()
    if not task.ended.is_set():
        raise ControlError(
            f"Error: Task {task.task_id!r} has not ended {GRACE_S:g} s after its SIGKILL. "
            "Look at its task process with `ps` and at the agent's log"
        )


async def _ask(task: ManagedTask, number: int, timeout_s: float) -> None:
    """Ask until the task process has accepted; signal the application itself meanwhile."""
    impatient_at = trio.current_time() + PATIENCE_S
    while True:
        try:
            await task.connection.require().stop(number, timeout_s)
        except ControlError:
            # It is ending by itself, or the follower is connecting to it again.
            if trio.current_time() >= impatient_at:
                impatient_at = float("inf")
                _signal(task, number)
            await trio.sleep(RETRY_S)
        else:
            return


async def _kill_overdue(task: ManagedTask, timeout_s: float) -> None:
    await trio.sleep(timeout_s + PATIENCE_S)
    _signal(task, signal.SIGKILL)


def _signal(task: ManagedTask, number: int) -> None:
    """Signal the container's first process, if it lives; its end is the end of all.

    Which one that is stands in the state directory, which is root's: what a peer says names no
    process that is signalled.
    """
    state_dir = task.launch.state_dir
    try:
        record = StateStore(os.path.dirname(state_dir)).read_task(state_dir)
    except StateError as exc:
        _log.error("the container of task %s is not known: %s", task.task_id, exc)
        return
    if record is not None and record.container is not None and number != NO_SIGNAL:
        signal_process(record.container, number)
