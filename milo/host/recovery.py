"""Finds a task that another driver process started: its process, its exit record, its container."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from milo.core.control import Started
from milo.core.records import Handle, TaskRecord
from milo.errors import (
    ControlError,
    MiloError,
    NewerVersionError,
    NoAnswerError,
    SpawnerError,
    TaskStartError,
)
from milo.host.follower import Adoptions
from milo.host.managed import ManagedTask
from milo.host.state_store import StateStore
from milo.host.task_processes import TaskProcesses, container_lives, end_is_seen, end_silent
from milo.host.task_state import Phase

_log = logging.getLogger(__name__)


async def take_over(
    store: StateStore,
    task: ManagedTask,
    connect: Callable[[ManagedTask], Awaitable[None]],
    processes: TaskProcesses,
    follow: Callable[[ManagedTask], None],
) -> None:
    """Connect ``task`` to its process or to a successor of it, or note how the task ended.

    Where no successor can be forked, ``follow`` gets a task that runs and has no process.

    Raises:
        ControlError: its container is gone, and nothing says how it ended.
        NewerVersionError: a newer Milo runs it. Nothing has been touched.
        StateError, TaskStartError: what there is of it cannot be used.
    """
    state_dir = task.launch.state_dir
    adoptions = Adoptions()
    silence: MiloError
    tried_again = False
    while True:
        try:
            await connect(task)
            # Who keeps the task has its descriptors: the follower fetches them, too, but later.
            await task.wait_started(fetch=not task.is_kept_already)
            return
        except (ControlError, TaskStartError) as exc:
            if task.state.phase is Phase.FAILED:
                raise
            _log.info("no task process answers for %s: %s", task.task_id, exc)
            silence = exc
        record = store.read_exit(state_dir)
        if record is not None:
            task.finish(record)
            return
        if task.state.phase is Phase.ENDED or not (
            container_lives(state_dir) or end_is_seen(state_dir)
        ):
            raise ControlError("Error: Its container is gone")
        # Its own process died while no driver was there to keep its descriptors, or a successor
        # did before it could say more. One that lives but does not answer is ended: two may not
        # serve one task.
        adoptions.count()
        await end_silent(state_dir, silence)
        if isinstance(silence, NoAnswerError) and not tried_again:
            tried_again = True  # a keeper has forked a successor by now
            continue
        tried_again = False
        try:
            await processes.adopt(state_dir, {})
        except SpawnerError as exc:
            found = store.read_task(state_dir)
            if found is None or found.container is None:
                raise
            _log.error("no process serves task %s: %s", task.task_id, exc)
            task.take(
                Started(found.container, found.container_id, found.cgroup_path, found.started_at_s)
            )
            follow(task)
            return
        task.process_restarts += 1


async def resume(
    store: StateStore,
    task: ManagedTask,
    connect: Callable[[ManagedTask], Awaitable[None]],
    processes: TaskProcesses,
    follow: Callable[[ManagedTask], None],
) -> TaskRecord | None:
    """Take over a task of which it is not known whether it was ever started; see `take_over`.

    Returns its record, or None when it was not started, or cannot be gone on with.
    Raises NewerVersionError.
    """
    try:
        await take_over(store, task, connect, processes, follow)
        return store.read_task(task.launch.state_dir)
    except NewerVersionError:
        raise
    except MiloError as exc:
        _log.info("task %s is started anew: %s", task.task_id, exc)
        return None


def handle_of(record: TaskRecord, state_dir: str) -> Handle:
    """Return what Nomad keeps for the recovery of a task that has been started."""
    return Handle(
        task_id=record.task_id,
        state_dir=state_dir,
        supervisor=record.supervisor,
        container=record.container,
        container_id=record.container_id,
        started_at_s=record.started_at_s,
    )
