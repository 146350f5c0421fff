"""One task as the driver holds it: what is known of it, and the connection to its process."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from milo.core import control, records
from milo.core.launch import Launch
from milo.core.report import ExitResult, TaskState, TaskStatus
from milo.errors import ControlError, TaskStartError
from milo.host.task_client import TaskClient


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
        self.stop_requested = False
        self.decided = trio.Event()
        """Set when it is known whether the task has started."""
        self.ended = trio.Event()
        """Set when it is known how the task ended."""
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
                self.decided.set()
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
        self.decided.set()
        self.ended.set()

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
