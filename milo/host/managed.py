"""One task in the driver: what is known of it, and the connection to its task process."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

import attrs
import trio

from milo.core import control, lifecycle, records
from milo.core.describe import end_for_nomad
from milo.core.launch import Launch
from milo.core.report import ExitResult, TaskState, TaskStatus
from milo.errors import ControlError, TaskStartError
from milo.host import task_state
from milo.host.kept_descriptors import KeptDescriptors
from milo.host.stats.sampling import Sample
from milo.host.task_client import TaskClient
from milo.host.task_state import Ended, Failed, Pending, Running

FIRST_PATIENCE_S: Final = 1.0
PATIENCE_S: Final = 0.030
ENDING_PATIENCE_S: Final = 0.010
"""How long a task process may take to give its status, the first time and later, and while it is
being stopped: 1 ms on a busy host. One that is stuck in the kernel, or ends with a hundred others,
does not hold up InspectTask; what it said last is told then, and how long ago that was."""

_log = logging.getLogger(__name__)


@attrs.frozen
class LastStatus:
    """What a task process said when it was last asked."""

    status: control.Status
    at: float
    """trio.current_time() of that."""

    @property
    def age_s(self) -> float:
        """How long ago that was."""
        return trio.current_time() - self.at


class Connection:
    """The connection to the task process, which is another one after a loss."""

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._client: TaskClient | None = None
        self._last: LastStatus | None = None

    @property
    def is_made(self) -> bool:
        """Whether there was one, even if it has ended."""
        return self._client is not None

    def use(self, client: TaskClient) -> None:
        """Talk over ``client`` from now on."""
        self._client = client

    def require(self) -> TaskClient:
        """Return the connection; raises `ControlError` when there never was one."""
        if self._client is None:
            raise ControlError(f"Error: The process of task {self._task_id!r} does not answer")
        return self._client

    def close(self) -> None:
        """Close it, if there is one. The task is not touched."""
        if self._client is not None:
            self._client.close()

    async def ask_status(self, patience_s: float) -> LastStatus | None:
        """Return what the task process says of itself, now or the last time that it answered."""
        with trio.move_on_after(FIRST_PATIENCE_S if self._last is None else patience_s):
            # One that is ending at this moment does not answer: the rest still holds.
            with contextlib.suppress(ControlError):
                status = await self.require().status()
                self._last = LastStatus(status, trio.current_time())
        return self._last


class ManagedTask:
    """What the driver has of one task. Its state is changed by synchronous methods alone.

    ``on_event`` and ``on_log`` receive what the task process says for people.
    """

    def __init__(
        self,
        launch: Launch,
        *,
        on_event: Callable[[ManagedTask, str, float], None],
        on_log: Callable[[ManagedTask, control.Log], None],
        state: Pending | None = None,
    ) -> None:
        self.launch = launch
        self.connection = Connection(launch.task_id)
        self.descriptors = KeptDescriptors()
        self.decided = trio.Event()
        """Set when it is known whether the task has started."""
        self.ended = trio.Event()
        """Set when it is known how the task ended."""
        self.unkept = trio.Event()
        """Set when its process may have no keeper, or another than this driver's spawner."""
        self.last_sample: Sample | None = None
        """What Nomad was told last of its use of CPU and memory."""
        self.process_restarts = 0
        """How often another process has taken the task over."""
        self.start_s: dict[str, float] = {}
        """Seconds of each step of its start."""
        self._state: task_state.TaskState = state or Pending()
        self._recovered = self._state.phase is task_state.Phase.RECOVERING
        self._on_event = on_event
        self._on_log = on_log

    @property
    def task_id(self) -> str:
        """Nomad's id."""
        return self.launch.task_id

    @property
    def state(self) -> task_state.TaskState:
        """What is known of it now."""
        return self._state

    @property
    def started(self) -> control.Started | None:
        """What the task process has said of the start; None when this driver has not heard it."""
        return self._state.started if isinstance(self._state, Running | Ended) else None

    def take(self, notice: control.Notice) -> None:
        """Take in what the task process says. What makes no sense now is passed over."""
        try:
            self._take(notice)
        except lifecycle.IllegalTransitionError as exc:
            _log.error("the process of task %s said what makes no sense: %s", self.task_id, exc)

    def _take(self, notice: control.Notice) -> None:
        match notice:
            case control.Started():
                self.start_s = {**self.start_s, **notice.timings_s}
                self._set(task_state.started(self._state, notice))
                # It is also the first word after a reconnection, and of a successor.
                self.descriptors.stale.set()
            case control.DescriptorsChanged():
                self.descriptors.stale.set()
            case control.StartFailed():
                self._set(task_state.start_failed(self._state, notice))
            case control.Exited():
                self.finish(notice.record)
            case control.Event():
                self._on_event(self, notice.text, notice.at_s)
            case control.Log():
                self._on_log(self, notice)
            case _:
                pass

    def request_stop(self) -> None:
        """Note that Nomad has asked for the task's end."""
        self._set(task_state.stop_requested(self._state))

    def finish(self, record: records.ExitRecord) -> None:
        """Note how the task ended; the first word counts."""
        self._set(task_state.ended(self._state, record))

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

    def _set(self, state: task_state.TaskState) -> None:
        self._state = state
        if not isinstance(state, Pending):
            self.decided.set()
        if isinstance(state, Ended):
            # The last writer's close is the end of file for Nomad's log collector.
            self.descriptors.release()
            self.ended.set()

    async def fetch_descriptors(self) -> None:
        """Get, and keep, what a successor of the task process would need.

        Raises:
            ControlError: the task process does not answer.
        """
        await self.descriptors.fetch(self.connection.require().descriptors)

    @property
    def is_kept_already(self) -> bool:
        """Whether another driver has had it started, and that one's spawner still keeps it."""
        return (
            self._recovered and self.connection.is_made and bool(self.connection.require().keeper)
        )

    async def wait_started(self, *, fetch: bool = True) -> control.Started:
        """Return once the application runs, and, with ``fetch``, what a successor needs is kept.

        Raises:
            TaskStartError: it did not start; with the task process's text.
        """
        await self.decided.wait()
        state, started = self._state, self.started
        if started is not None:
            if not fetch:
                return started
            with contextlib.suppress(ControlError):  # an exit at once is told by `ended`
                await self.descriptors.fetch_first(self.connection.require().descriptors)
            return started
        if isinstance(state, Failed):
            raise TaskStartError(state.told.text, recoverable=state.told.recoverable)
        text = "Error: The task process ended before the application had started"
        if isinstance(state, Ended) and state.record.error:
            text = f"{text}: {state.record.error}"
        raise TaskStartError(text, recoverable=True)

    async def inspect(self) -> TaskStatus:
        """Return the answer to InspectTask; its process is asked for the streams' counters.

        The attribute ``status_age_seconds`` is there when it did not answer in time.
        """
        attributes = {"state_dir": self.launch.state_dir}
        if self.started is not None:
            attributes["container_id"] = self.started.container_id
            attributes["container_pid"] = str(self.started.container.pid)
        streams: dict[str, records.StreamCounters] = {}
        is_stopping = self._state.phase is task_state.Phase.STOPPING
        patience_s = ENDING_PATIENCE_S if is_stopping else PATIENCE_S
        if isinstance(self._state, Ended):
            record = self._state.record
            streams = {"stdout": record.stdout, "stderr": record.stderr}
            words = {"java_oom": record.java_oom, "crash": record.crash}
            attributes |= {name: text for name, text in words.items() if text}
        elif (last := await self.connection.ask_status(patience_s)) is not None:
            streams = {"stdout": last.status.stdout, "stderr": last.status.stderr}
            attributes["phase"] = last.status.phase
            if last.age_s >= patience_s:
                attributes["status_age_seconds"] = f"{last.age_s:.3f}"
        else:
            attributes["phase"] = lifecycle.Phase.RUNNING.value
        for name, counters in streams.items():
            attributes[f"{name}.bytes_moved"] = str(counters.bytes_moved)
            attributes[f"{name}.bytes_dropped"] = str(counters.bytes_dropped)
            attributes[f"{name}.stalled_seconds"] = f"{counters.stalled_s:.3f}"
        return self._status(attributes)

    def _status(self, attributes: dict[str, str]) -> TaskStatus:
        ended = self._state if isinstance(self._state, Ended) else None
        return TaskStatus(
            task_id=self.task_id,
            name=self.launch.task_name,
            state=TaskState.RUNNING if ended is None else TaskState.EXITED,
            started_at_s=self._state.started_at_s,
            completed_at_s=None if ended is None else ended.record.ended_at_s,
            result=None if ended is None else exit_result(ended),
            attributes=attributes,
        )

    def handle(self, started: control.Started) -> records.Handle:
        """Return what Nomad keeps for the recovery of this task."""
        return records.Handle(
            task_id=self.task_id,
            state_dir=self.launch.state_dir,
            supervisor=self.connection.require().welcome.supervisor,
            container=started.container,
            container_id=started.container_id,
            started_at_s=started.started_at_s,
        )


def exit_result(ended: Ended) -> ExitResult:
    """Return what Nomad is told of an exit."""
    record = ended.record
    return ExitResult(
        exit_code=record.exit_code,
        signal=record.signal,
        oom_killed=record.out_of_memory,
        error=record.error,
        message=end_for_nomad(record, stopped=ended.stop_requested),
    )
