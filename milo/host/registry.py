"""Every task of this driver, and the operations that Nomad asks for.

One nursery has a reader for each task process. A failure of one task is logged and reported to
whoever waits for that task. It does not affect other tasks.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Final

import attrs
import trio

from milo.core import cgroup, control, records
from milo.core.config.plugin_options import PluginOptions
from milo.core.container import exec_limits
from milo.core.launch import Launch, TaskRequest, check_task_name
from milo.core.report import ExitResult, Fingerprint, TaskEvent, TaskStatus, TaskUsage
from milo.core.signals import NO_SIGNAL, parse_signal
from milo.errors import (
    ConfigError,
    ControlError,
    MiloError,
    NewerVersionError,
    StateError,
    TaskEndedError,
    TaskNotFoundError,
    TaskRunningError,
)
from milo.host.events import Broadcast
from milo.host.figures import Figures, TaskFigures
from milo.host.fingerprint import Fingerprinter
from milo.host.follower import Follower, connect
from milo.host.leftovers.removal import Leftovers, join_fifos
from milo.host.managed import ManagedTask, exit_result
from milo.host.programs import trusted_crun
from milo.host.recovery import handle_of, resume, take_over
from milo.host.rush import Rush
from milo.host.spawner_client import SpawnerClient
from milo.host.state_dirs import announce
from milo.host.state_store import StateStore
from milo.host.stats.usage import Ticks, follow_usage
from milo.host.stopping import stop_task
from milo.host.task_processes import TaskProcesses
from milo.host.task_state import Ended, Pending
from milo.host.turns import Turns

DEFAULT_KILL_SIGNAL: Final = "SIGINT"
"""What Nomad documents as the default of ``kill_signal``."""

LEVELS: Final = {"trace": 10, "debug": 10, "info": 20, "warn": 30, "error": 40}
"""Python's number of a level of hclog's, which is what a task process gives its lines."""

START_S: Final = 1.0
"""What a start has before the next one may begin beside it; it usually takes a twentieth."""

_log = logging.getLogger(__name__)


class Registry:
    """The tasks of one driver process. Use within ``async with trio.open_nursery()``: see `run`."""

    def __init__(self, spawner: SpawnerClient, *, environ: Mapping[str, str] | None = None) -> None:
        self._options = PluginOptions()
        self._client_mhz = 0
        self._spawner = spawner
        self._processes = TaskProcesses(spawner)
        self._leftovers = Leftovers(self._processes)
        self._rush = Rush()
        self._follower = Follower(self._processes, self._leftovers, self._tell, self._rush)
        self._environ = dict(os.environ if environ is None else environ)
        self._tasks: dict[str, ManagedTask] = {}
        self._starting: set[str] = set()
        self._announced: set[str] = set()
        """State directories of which tasks have been recovered."""
        self._starts = Turns(START_S)
        self._events: Broadcast[TaskEvent] = Broadcast()
        self._ticks = Ticks()
        self._figures = Figures()
        self._fingerprinter = Fingerprinter(self._environ)
        self._store = StateStore(self._options.state_dir)
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the readers of all tasks until cancelled. Cancelling ends no task."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._spawner.attend)
            nursery.start_soon(self._have_kept)
            task_status.started()
            await trio.sleep_forever()

    async def _have_kept(self) -> None:
        """Have each new spawner keep the tasks that the one before it has kept."""
        while True:
            await self._spawner.changed.wait()
            for task in self._tasks.values():
                task.unkept.set()

    async def configure(self, options: PluginOptions, client_mhz: int = 0) -> None:
        """Use ``options`` from now on; tasks that run keep theirs.

        ``client_mhz`` is all that the client's processors can do, 0 where that is not known.
        """
        self._options = options
        self._client_mhz = client_mhz
        self._store = StateStore(options.state_dir)
        self._fingerprinter.configure(options)

    # ---- starting -----------------------------------------------------------------------

    async def start(self, request: TaskRequest) -> bytes:
        """Start a task and return the state that its recovery needs.

        Raises:
            MiloError: it did not start, and nothing of it is left.
        """
        check_task_name(request.task_name)
        exec_limits.check_request(request.config, request.env)
        task_id = request.task_id
        if task_id in self._tasks or task_id in self._starting:
            raise TaskRunningError(task_id, "it cannot be started a second time")
        self._starting.add(task_id)
        try:
            async with self._starts.taken():
                return await self._start(request)
        finally:
            self._starting.discard(task_id)

    async def _start(self, request: TaskRequest) -> bytes:
        begun_s = time.monotonic()
        announce(self._store.root)
        if (state := await self._resume(request)) is not None:
            return state
        fifos = await self._remove_earlier(request)
        shares = cgroup.kernel_shares(request.resources.cpu_shares, self._client_mhz)
        launch = Launch.of(
            attrs.evolve(request, resources=attrs.evolve(request.resources, cpu_shares=shares)),
            state_dir=self._store.task_dir(request.task_id),
            crun_path=trusted_crun(self._options.crun_path, self._environ),
            javas=await self._fingerprinter.javas(),
            plugin=self._options,
        )
        task = self._new_task(launch)
        task.descriptors.keep(fifos)
        found_s = time.monotonic()
        try:
            self._store.make(launch)
            await self._processes.start(launch.state_dir)
            forked_s = time.monotonic()
            try:
                await self._connect(task)
                started = await task.wait_started()
            except MiloError:
                if (state := self._ended_unheard(task)) is not None:
                    return state
                raise
        except BaseException:
            with trio.CancelScope(shield=True):
                task.connection.close()
                await self._leftovers.remove(launch.state_dir, keep_exit=False)
            task.descriptors.release()
            raise  # Nomad makes an event of it
        self._add(task)
        # What the task process does not time itself: its first steps, and the messages. It may have
        # begun before the spawner's answer was read here.
        boot_s = time.monotonic() - forked_s - sum(started.timings_s.values())
        own_s = {
            "look": found_s - begun_s,
            "fork": forked_s - found_s + min(0.0, boot_s),
            "boot": max(0.0, boot_s),
        }
        task.start_s = {**own_s, **started.timings_s}
        self._fingerprinter.note_start(task.start_s)
        return records.encode(task.handle(started))

    def _ended_unheard(self, task: ManagedTask) -> bytes | None:
        """Take in a task that has run to its end, and its process with it, before it was heard.

        On a host that is so busy its start has not failed: Nomad would start it a second time.
        Returns its state, or None when it was not so.
        """
        state_dir = task.launch.state_dir
        try:
            record, end = self._store.read_task(state_dir), self._store.read_exit(state_dir)
        except StateError:
            return None  # what the start failed with is told
        if record is None or end is None:
            return None
        task.finish(end)
        self._add(task)
        return records.encode(handle_of(record, state_dir))

    async def _resume(self, request: TaskRequest) -> bytes | None:
        """Go on with what an earlier StartTask of the same id has begun; None if there is nothing.

        When the plugin dies inside StartTask, Nomad repeats it with the same id, and does not
        start its log collector again, which ends with the first instance's FIFOs.
        """
        state_dir = self._store.task_dir(request.task_id)
        try:
            old = self._store.read_launch(state_dir)
        except StateError:
            old = None
        if old is None:
            return None
        task = self._new_task(old)
        record = await resume(self._store, task, self._connect, self._processes, self._follow)
        if record is None:
            return None
        _log.info("task %s has been started already", request.task_id)
        self._add(task)
        return records.encode(handle_of(record, state_dir))

    async def _remove_earlier(self, request: TaskRequest) -> dict[str, int]:
        """Remove every other instance of the same task; return FIFOs that must stay open.

        When the agent dies inside StartTask, it comes back with a new id, and may find the
        same driver process. Neither may leave a second JVM.
        """
        fifos: dict[str, int] = {}
        for task in list(self._tasks.values()):
            if task.launch.is_same_task(request) and not task.ended.is_set():
                _log.warning("removing an earlier instance of the task: %s", task.task_id)
                fifos = join_fifos(fifos, task.descriptors.lend_fifos())
                await self.destroy(task.task_id, force=True)
        claimed = self._claimed() - {self._store.task_dir(request.task_id)}
        found = await self._leftovers.remove_unclaimed(self._store, request, claimed)
        return join_fifos(fifos, found)

    async def _connect(self, task: ManagedTask) -> None:
        await connect(task)
        self._follow(task)

    def _follow(self, task: ManagedTask) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._follower.follow, task)

    # ---- recovering ---------------------------------------------------------------------

    async def recover(self, task_id: str, driver_state: bytes) -> None:
        """Take over a task that another driver process started.

        Raises:
            StateError: the state is not readable, or a newer Milo's (`NewerVersionError`):
                nothing has been touched.
            TaskNotFoundError: neither the task nor its exit record is there any more; what
                there was of it has been removed.
        """
        if task_id in self._tasks:
            return
        with self._rush.joined():
            await self._recover(task_id, driver_state)

    async def _recover(self, task_id: str, driver_state: bytes) -> None:
        handle = records.decode(driver_state, records.Handle, where="the task handle")
        store = StateStore(os.path.dirname(handle.state_dir))
        if store.root not in self._announced:
            announce(store.root)
            self._announced.add(store.root)
        launch = store.read_launch(handle.state_dir)
        if launch is None:
            # A reboot empties the state directory, and ends the container.
            raise TaskNotFoundError(task_id)
        task = self._new_task(launch, Pending(started_at_s=handle.started_at_s))
        try:
            await take_over(store, task, self._connect, self._processes, self._follow)
        except NewerVersionError:
            raise
        except MiloError as exc:
            await self._leftovers.remove(handle.state_dir)
            raise TaskNotFoundError(task_id) from exc
        self._add(task)

    # ---- asking -------------------------------------------------------------------------

    async def wait(self, task_id: str) -> ExitResult:
        """Return how the task ended, once it has. Raises `TaskNotFoundError`."""
        task = self._find(task_id)
        await task.ended.wait()
        assert isinstance(task.state, Ended)
        return exit_result(task.state)

    async def inspect(self, task_id: str) -> TaskStatus:
        """Return what is known of the task. Raises `TaskNotFoundError`."""
        return await self._find(task_id).inspect()

    async def stats(self, task_id: str, interval_s: float) -> AsyncGenerator[TaskUsage, None]:
        """Yield the task's resource use every ``interval_s`` until it has ended; see `Ticks`.

        While an agent's tasks are recovered no stream of samples begins.
        """
        task = self._find(task_id)
        await self._rush.over()
        if task.started is None:
            return
        samples = follow_usage(
            task_id,
            task.started.cgroup_path,
            interval_s,
            task.ended,
            self._ticks,
            keep=partial(setattr, task, "last_sample"),
        )
        async with aclosing(samples):
            async for usage in samples:
                yield usage

    async def figures(self) -> list[TaskFigures]:
        """Return what is counted of every task that runs."""
        return await self._figures.collect(list(self._tasks.values()))

    @property
    def spawner_restarts(self) -> int:
        """How often the spawner of task processes was replaced."""
        return self._spawner.restarts

    def events(self) -> AsyncGenerator[TaskEvent, None]:
        """Yield the events of all tasks as they happen."""
        return self._events.subscribe()

    def fingerprints(self) -> AsyncGenerator[Fingerprint, None]:
        """Yield the driver's health and attributes, at once and whenever they change."""
        return self._fingerprinter.watch()

    def place(self, task_id: str) -> tuple[str, trio.Nursery]:
        """Return a task's state directory, and where its commands run.

        Raises:
            TaskNotFoundError: see `_find`.
            TaskEndedError: no command runs in it any more.
        """
        assert self._nursery is not None
        task = self._find(task_id)
        if task.ended.is_set():
            raise TaskEndedError(task_id, "no command runs in it")
        return task.launch.state_dir, self._nursery

    # ---- stopping -----------------------------------------------------------------------

    async def stop(self, task_id: str, signal: str, timeout_s: float) -> None:
        """Stop a task: ``signal``, then SIGKILL after ``timeout_s``; return when it has ended.

        An unknown or ended task is a success: Nomad would repeat any other answer for minutes.
        So is a signal that cannot be sent (SIGNULL, or a name that is none): then nothing is
        sent before the SIGKILL, since Nomad would give a task up that refuses to be stopped.
        """
        task = self._tasks.get(task_id)
        if task is None or task.ended.is_set():
            return
        try:
            number = parse_signal(signal or DEFAULT_KILL_SIGNAL, "kill_signal")
        except ConfigError as exc:
            _log.warning("task %s gets no signal before its SIGKILL: %s", task_id, exc)
            number = NO_SIGNAL
        await stop_task(task, number, max(0.0, timeout_s))

    async def signal(self, task_id: str, signal: str) -> None:
        """Send a signal to the application; raises MiloError when that is not possible."""
        await self._find(task_id).connection.require().signal(parse_signal(signal))

    async def destroy(self, task_id: str, force: bool) -> None:
        """Forget a task and remove what is left of it, all but its exit record.

        An id that this process does not know is looked for on disk.

        Raises:
            TaskRunningError: it runs, and ``force`` is not set.
        """
        task = self._tasks.get(task_id)
        if task is None:
            await self._leftovers.remove(self._store.task_dir(task_id))
            return
        if not task.ended.is_set():
            if not force:
                raise TaskRunningError(task_id, "stop it first, or destroy it with force")
            try:
                await self.stop(task_id, "SIGKILL", 0.0)
            except ControlError as exc:
                _log.error("stopping task %s failed: %s", task_id, exc)
                await self._leftovers.remove(task.launch.state_dir)
        self._tasks.pop(task_id, None)
        task.descriptors.release()
        task.connection.close()
        StateStore(os.path.dirname(task.launch.state_dir)).remove(
            task.launch.state_dir, keep_exit=True
        )
        self._store.sweep(self._claimed)

    # ---- small things -------------------------------------------------------------------

    def _find(self, task_id: str) -> ManagedTask:
        try:
            return self._tasks[task_id]
        except KeyError:
            raise TaskNotFoundError(task_id) from None

    def _add(self, task: ManagedTask) -> None:
        self._tasks[task.task_id] = task
        task.unkept.set()  # the spawner may have been replaced before it was here

    def _claimed(self) -> set[str]:
        """Return the state directories that belong to a task of this driver."""
        return {task.launch.state_dir for task in self._tasks.values()} | {
            self._store.task_dir(task_id) for task_id in self._starting
        }

    def _new_task(self, launch: Launch, state: Pending | None = None) -> ManagedTask:
        return ManagedTask(launch, on_event=self._tell, on_log=self._relay, state=state)

    def _tell(self, task: ManagedTask, text: str, at_s: float) -> None:
        self._events.publish(
            TaskEvent(
                task_id=task.task_id,
                alloc_id=task.launch.alloc_id,
                task_name=task.launch.task_name,
                message=text,
                timestamp_s=at_s,
            )
        )

    def _relay(self, task: ManagedTask, line: control.Log) -> None:
        number = LEVELS.get(line.level, logging.INFO)
        fields = {"task_id": task.task_id, **line.fields}
        # A line may have waited for this driver.
        extra = {"fields": fields, "at_s": line.at_s or time.time()}
        _log.log(number, "%s", line.text, extra=extra)
