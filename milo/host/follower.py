"""Follows the tasks: reads what their processes send, and finds out how each task has ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import trio

from milo.core.describe import exit_sentence
from milo.errors import ControlError, MiloError, NoAnswerError
from milo.host.leftovers.removal import Leftovers
from milo.host.managed import ManagedTask
from milo.host.state_store import StateStore
from milo.host.task_client import TaskClient
from milo.host.task_processes import TaskProcesses, container_lives
from milo.host.task_state import FINAL, Ended, Phase
from milo.proc import lives
from milo.unix_sockets import close_all

FIRST_RECONNECT_PAUSE_S: Final = 0.001
RECONNECT_PAUSE_S: Final = 0.1
MAX_ADOPTIONS: Final = 10
ADOPTION_WINDOW_S: Final = 10.0
"""A task process that dies more often than that is not taken over once more."""

_log = logging.getLogger(__name__)


class Follower:
    """One `follow` runs for each task; ``tell`` gets the event of its success."""

    def __init__(
        self,
        processes: TaskProcesses,
        leftovers: Leftovers,
        tell: Callable[[ManagedTask, str, float], None],
    ) -> None:
        self._processes = processes
        self._leftovers = leftovers
        self._tell = tell

    async def follow(self, task: ManagedTask) -> None:
        """Read what the task process says until the task has ended. Raises nothing."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_keep_descriptors, task)
                await self._read_to_the_end(task)
                nursery.cancel_scope.cancel()
        except Exception as exc:
            _log.exception("following a task failed: %s", task.task_id)
            await self._leftovers.remove(task.launch.state_dir)
            task.lose(f"the driver failed to follow it: {exc!r}")
        state = task.state
        if isinstance(state, Ended) and state.record.successful:
            # Any other end is told by Nomad's own event, with the exit message.
            self._tell(task, exit_sentence(state.record), state.record.ended_at_s)

    async def _read_to_the_end(self, task: ManagedTask) -> None:
        adoptions = Adoptions()
        await task.connection.require().run()
        while task.state.phase not in FINAL:
            if not await self._reconnect(task):
                await self._after_silence(task, adoptions)
                if task.state.phase in FINAL:
                    return
            await task.connection.require().run()

    async def _reconnect(self, task: ManagedTask) -> bool:
        """Connect again to a task process that lives; False when it does not."""
        identity = task.connection.require().welcome.supervisor
        # A killed process closes its socket a moment before it is a zombie.
        pause_s = FIRST_RECONNECT_PAUSE_S
        while lives(identity):
            try:
                await connect(task)
            except ControlError:
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, RECONNECT_PAUSE_S)
            else:
                return True
        return False

    async def _after_silence(self, task: ManagedTask, adoptions: Adoptions) -> None:
        """Its process has gone without a word of its exit."""
        store = StateStore(task.launch.state_dir.rpartition("/")[0])
        record = store.read_exit(task.launch.state_dir)
        if record is not None:
            task.finish(record)
            return
        _log.error("the process of task %s has died; a successor takes over", task.task_id)
        try:
            if task.state.phase is Phase.STARTING:
                raise ControlError("it had not started")
            adoptions.count()
            await self._adopt(task)
            try:
                await connect(task)
            except NoAnswerError:
                raise
            except ControlError as exc:
                if not container_lives(task.launch.state_dir):
                    raise
                _log.error("the successor of task %s has died as well: %s", task.task_id, exc)
        except MiloError as exc:
            _log.error("task %s cannot be taken over: %s", task.task_id, exc)
            await self._leftovers.remove(task.launch.state_dir)
            task.lose(f"its task process was killed, and it could not be taken over: {exc}")

    async def _adopt(self, task: ManagedTask) -> None:
        lent = await task.descriptors.lend()
        try:
            await self._processes.adopt(task.launch.state_dir, lent)
        finally:
            close_all(lent.values())


async def connect(task: ManagedTask) -> None:
    """Connect ``task`` to the process that serves its state directory; see `TaskClient`."""
    task.connection.use(await TaskClient.connect(task.launch.state_dir, task.take))


class Adoptions:
    """How often a task was taken over of late."""

    def __init__(self) -> None:
        self._times_s: list[float] = []

    def count(self) -> None:
        """Note that a successor is needed.

        Raises:
            ControlError: it is so often that something must be wrong with the host.
        """
        now_s = time.monotonic()
        self._times_s = [at_s for at_s in self._times_s if now_s - at_s < ADOPTION_WINDOW_S]
        self._times_s.append(now_s)
        if len(self._times_s) > MAX_ADOPTIONS:
            raise ControlError(
                f"its process died {len(self._times_s)} times in {ADOPTION_WINDOW_S:g} s"
            )


async def _keep_descriptors(task: ManagedTask) -> None:
    """Hold duplicates of what a successor would need, and so keep the log's FIFOs open."""
    while True:
        await task.descriptors.stale.wait()
        try:
            await task.fetch_descriptors()
        except ControlError:
            # It is stopped, or gone: then a successor comes, or the task's end.
            await trio.sleep(RECONNECT_PAUSE_S)
            task.descriptors.stale.set()
