"""Follows the tasks: reads what their processes send, and finds out how each task has ended."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

import trio

from milo.core.describe import exit_sentence
from milo.errors import ControlError, MiloError, NoAnswerError, SpawnerError, StateError
from milo.host.leftovers.removal import Leftovers
from milo.host.managed import ManagedTask
from milo.host.rush import Rush
from milo.host.state_store import StateStore
from milo.host.task_client import TaskClient
from milo.host.task_processes import TaskProcesses, container_lives
from milo.host.task_state import FINAL, Ended, Phase
from milo.proc import lives
from milo.unix_sockets import close_all

FIRST_RECONNECT_PAUSE_S: Final = 0.001
RECONNECT_PAUSE_S: Final = 0.1
FIRST_ADOPTION_PAUSE_S: Final = 1.0
MAX_ADOPTION_PAUSE_S: Final = 10.0
"""Between attempts to take a task over while no process can be forked."""
LOOK_S: Final = 0.2
KEEP_PAUSE_S: Final = 1.0
TURN_S: Final = 0.1
"""What a task process, which may be stopped, holds up others that are recovered."""
MAX_ADOPTIONS: Final = 10
ADOPTION_WINDOW_S: Final = 10.0
"""A task process that dies more often than that is not taken over once more."""

_log = logging.getLogger(__name__)


class Follower:
    """One `follow` runs for each task; ``tell`` gets the events that are not its process's own.

    ``rush`` is that of tasks that are recovered.
    """

    def __init__(
        self,
        processes: TaskProcesses,
        leftovers: Leftovers,
        tell: Callable[[ManagedTask, str, float], None],
        rush: Rush,
    ) -> None:
        self._rush = rush
        self._providing = trio.Lock()
        self._processes = processes
        self._leftovers = leftovers
        self._tell = tell

    async def follow(self, task: ManagedTask) -> None:
        """Read what the task process says until the task has ended. Raises nothing."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._provide, task)
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

    async def _provide(self, task: ManagedTask) -> None:
        """See to it that the task has a successor should its process die, until cancelled.

        One that somebody else keeps has that already. It waits for the end of a rush, and for its
        turn: a thousand at once would hold up every call.
        """
        if task.is_kept_already:
            await self._rush.over()
            fetched = False
            async with self._providing:
                with trio.move_on_after(TURN_S), contextlib.suppress(MiloError):
                    await task.fetch_descriptors()
                    fetched = True
                    await self._processes.keep(task.launch.state_dir, task.connection.require())
            if not fetched:
                task.descriptors.stale.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_descriptors, task)
            nursery.start_soon(self._have_kept, task)

    async def _read_to_the_end(self, task: ManagedTask) -> None:
        adoptions = Adoptions()
        while task.state.phase not in FINAL:
            if task.connection.is_made:
                await task.connection.require().run()
                if task.state.phase in FINAL or await self._reconnect(task, adoptions):
                    continue
            await self._after_silence(task, adoptions)

    async def _reconnect(self, task: ManagedTask, adoptions: Adoptions) -> bool:
        """Connect again to a task process that lives, or to a successor; False without either.

        A keeper holds the control socket, so that a connection waits there for its successor.
        """
        identity = task.connection.require().welcome.supervisor
        # A killed process closes its socket a moment before it is a zombie.
        pause_s = FIRST_RECONNECT_PAUSE_S
        while True:
            alive = lives(identity)
            try:
                await connect(task)
            except ControlError:
                if not alive:
                    return False
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, RECONNECT_PAUSE_S)
            else:
                break
        if task.connection.require().welcome.supervisor != identity:
            _log.error("the process of task %s has died; a successor has taken over", task.task_id)
            adoptions.note()
            task.process_restarts += 1
        return True

    async def _have_kept(self, task: ManagedTask) -> None:
        """Have this driver's spawner keep the task, whenever it may not."""
        while True:
            await task.unkept.wait()
            task.unkept = trio.Event()
            try:
                client = task.connection.require()
                await self._processes.keep(task.launch.state_dir, client)
            except SpawnerError as exc:
                # The next one is told by the registry. To ask for it, for each task, could keep
                # a processor busy with spawners that cannot live.
                _log.debug("task %s is not kept: %s", task.task_id, exc)
            except (ControlError, StateError) as exc:
                _log.debug("task %s is not kept yet: %s", task.task_id, exc)
                await trio.sleep(KEEP_PAUSE_S)
                task.unkept.set()

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
            task.process_restarts += 1
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
        """Have a successor forked. Where none can be, wait as long as the application runs.

        Raises:
            MiloError: as `TaskProcesses.adopt`, and the application does not run.
        """
        state_dir, pause_s, told = task.launch.state_dir, FIRST_ADOPTION_PAUSE_S, False
        while True:
            lent = await task.descriptors.lend()
            try:
                await self._processes.adopt(state_dir, lent)
                return
            except SpawnerError as exc:
                if not container_lives(state_dir):
                    raise
                if not told:
                    self._tell(task, without_process(exc), time.time())
                told = True
            finally:
                close_all(lent.values())
            with trio.move_on_after(pause_s):
                while container_lives(state_dir):  # noqa: ASYNC110 - the kernel has no event for it
                    await trio.sleep(LOOK_S)
            pause_s = min(2 * pause_s, MAX_ADOPTION_PAUSE_S)


def without_process(error: SpawnerError) -> str:
    """Return the event of a task that has lost its process and can be given no other."""
    return (
        "Milo can start no process for this task, and tries again. The application runs on, and "
        f"its output waits: {error.problem}"
    )


async def connect(task: ManagedTask) -> None:
    """Connect ``task`` to the process that serves its state directory; see `TaskClient`."""
    task.connection.use(await TaskClient.connect(task.launch.state_dir, task.take))
    task.unkept.set()


class Adoptions:
    """How often a task was taken over of late."""

    def __init__(self) -> None:
        self._times_s: list[float] = []

    def note(self) -> None:
        """Note that there is a successor, which nobody had to ask for."""
        now_s = time.monotonic()
        self._times_s = [at_s for at_s in self._times_s if now_s - at_s < ADOPTION_WINDOW_S]
        self._times_s.append(now_s)

    def count(self) -> None:
        """Note that a successor is needed.

        Raises:
            ControlError: it is so often that something must be wrong with the host.
        """
        self.note()
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
