"""One task as the driver holds it: what is known of it, and the connection to its process."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from typing import Final

import trio

from milo.core import control, records
from milo.core.launch import Launch
from milo.core.report import ExitResult, TaskState, TaskStatus
from milo.errors import ControlError, TaskStartError
from milo.host.task_client import TaskClient

MAX_ADOPTIONS: Final = 10
ADOPTION_WINDOW_S: Final = 10.0
"""A task process that dies more often than that is not taken over once more."""


class ManagedTask:
    """What the driver knows of one task. All changes are made by synchronous methods.

    ``on_event`` and ``on_log`` receive what the task process says for people.
    """

    def __init__(
        self,
        launch: Launch,
        *,
        on_event: Callable[[ManagedTask, str, float], None],
        on_log: Callable[[ManagedTask, control.Log], None],
    ) -> None:
        self.launch = launch
        self.client: TaskClient | None = None
        self.started: control.Started | None = None
        self.failed: control.StartFailed | None = None
        self.exit: records.ExitRecord | None = None
        self.last_status: control.Status | None = None
        """What its process said when it was last asked."""
        self.last_status_at = -math.inf
        """trio.current_time() of that."""
        self.stop_requested = False
        self.has_started = False
        """Whether the application has once been started, by whatever driver."""
        self.decided = trio.Event()
        """Set when it is known whether the task has started."""
        self.ended = trio.Event()
        """Set when it is known how the task ended."""
        self.descriptors: dict[str, int] = {}
        """Duplicates of the pipes' read ends and the FIFOs' write ends: kept, never read."""
        self.descriptors_stale = trio.Event()
        """Set while what is kept may not be what the task process has."""
        self._fetching = trio.Lock()
        self._released = False
        self._adoptions: list[float] = []
        self._on_event = on_event
        self._on_log = on_log

    @property
    def task_id(self) -> str:
        """Nomad's id."""
        return self.launch.task_id

    def take(self, notice: control.Notice) -> None:
        """Take in what the task process says."""
        match notice:
            case control.Started():
                self.started = notice
                self.has_started = True
                self.decided.set()
                # It is also the first word after a reconnection, and of a successor.
                self.descriptors_stale.set()
            case control.DescriptorsChanged():
                self.descriptors_stale.set()
            case control.StartFailed():
                self.failed = notice
                self.decided.set()
            case control.Exited():
                self.finish(notice.record)
            case control.Event():
                self._on_event(self, notice.text, notice.at_s)
            case control.Log():
                self._on_log(self, notice)
            case _:
                pass

    def finish(self, record: records.ExitRecord) -> None:
        """Note how the task ended; the first word counts."""
        if self.exit is None:
            self.exit = record
        # The last writer's close is the end of file for Nomad's log collector.
        self.release()
        self.decided.set()
        self.ended.set()

    async def fetch_descriptors(self) -> None:
        """Get, and keep, what a successor of the task process would need.

        Raises:
            ControlError: the task process does not answer.
        """
        async with self._fetching:  # or the older of two answers could be the one that is kept
            if self.descriptors_stale.is_set():
                # Never one that somebody waits for: the next change would set another one.
                self.descriptors_stale = trio.Event()
            self.keep(await self.require_client().descriptors())

    def keep(self, descriptors: dict[str, int]) -> None:
        """Keep ``descriptors`` instead of those from before.

        A FIFO is held until there is another descriptor of it, even if its task process has
        not opened it yet: the last writer's close would end Nomad's log collection.
        """
        self.descriptors, before = descriptors, self.descriptors
        for name, fd in before.items():
            if name not in descriptors and name.endswith(records.FIFO_SUFFIX):
                descriptors[name] = fd
            else:
                os.close(fd)
        if self._released:
            self.release()

    def lend_fifos(self) -> dict[str, int]:
        """Return duplicates of the FIFOs' write ends, by name. The caller closes them."""
        return {
            name: os.dup(fd)
            for name, fd in self.descriptors.items()
            if name.endswith(records.FIFO_SUFFIX)
        }

    def release(self) -> None:
        """Keep no descriptors from now on, not even those that are on their way."""
        self._released = True
        for fd in self.descriptors.values():
            os.close(fd)
        self.descriptors = {}

    def count_adoption(self) -> None:
        """Note that a successor is needed.

        Raises:
            ControlError: it is so often that something must be wrong with the host.
        """
        now = time.monotonic()
        self._adoptions = [at for at in self._adoptions if now - at < ADOPTION_WINDOW_S]
        self._adoptions.append(now)
        if len(self._adoptions) > MAX_ADOPTIONS:
            raise ControlError(
                f"its process died {len(self._adoptions)} times in {ADOPTION_WINDOW_S:g} s"
            )

    def lose(self, why: str) -> None:
        """Note that the outcome can no longer be known."""
        self.finish(
            records.ExitRecord(
                exit_code=-1,
                error=why,
                ended_at_s=time.time(),
                task_id=self.task_id,
                alloc_dir=self.launch.alloc_dir,
            )
        )

    async def wait_started(self) -> control.Started:
        """Return once the application runs.

        Raises:
            TaskStartError: it did not start; with the task process's text.
        """
        await self.decided.wait()
        if self.started is not None:
            with contextlib.suppress(ControlError):  # an exit at once is told by `ended`
                await self.fetch_descriptors()
            return self.started
        if self.failed is not None:
            raise TaskStartError(self.failed.text, recoverable=self.failed.recoverable)
        raise TaskStartError(
            "Error: The task process ended before the application had started"
            + (f": {self.exit.error}" if self.exit is not None and self.exit.error else ""),
            recoverable=True,
        )

    def require_client(self) -> TaskClient:
        """Return the connection; raises `ControlError` when there is none."""
        if self.client is None:
            raise ControlError(f"Error: The process of task {self.task_id!r} does not answer")
        return self.client

    def status(self, attributes: dict[str, str]) -> TaskStatus:
        """Return the answer to InspectTask."""
        record = self.exit
        return TaskStatus(
            task_id=self.task_id,
            name=self.launch.task_name,
            state=TaskState.RUNNING if record is None else TaskState.EXITED,
            started_at_s=self.started.started_at_s if self.started else 0.0,
            completed_at_s=None if record is None else record.ended_at_s,
            result=None if record is None else exit_result(record),
            attributes=attributes,
        )

    def handle(self, started: control.Started) -> records.Handle:
        """Return what Nomad keeps for the recovery of this task."""
        client = self.require_client()
        return records.Handle(
            task_id=self.task_id,
            state_dir=self.launch.state_dir,
            supervisor=client.welcome.supervisor,
            container=started.container,
            container_id=started.container_id,
            started_at_s=started.started_at_s,
        )


def exit_result(record: records.ExitRecord) -> ExitResult:
    """Return what Nomad is told of an exit."""
    return ExitResult(
        exit_code=record.exit_code,
        signal=record.signal,
        oom_killed=record.oom_killed,
        error=record.error,
    )
