"""hashicorp.nomad.plugins.drivers.proto.Driver: the task driver's RPCs, each a few lines long."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from milo.core.config.task_options import TaskOptions
from milo.plugin import convert, exec_service, inspect_message, stats_message
from milo.plugin.recover_message import RecoverTaskRequest
from milo.plugin.schema import spec_of
from milo.plugin.start_message import StartTaskRequest, encode_response
from milo.plugin.task_messages import (
    DestroyTaskRequest,
    StopTaskRequest,
    TaskRequest,
    TaskStatsRequest,
)
from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers

if TYPE_CHECKING:
    from milo.core.report import TaskEvent
    from milo.host.registry import Registry

RESTORED_S: Final = 5.0
"""How long after a recovery nothing is told of tasks. While Nomad's client restores an allocation,
it drops the events of that with a warning, "no handler registered for event": it knows an
allocation once all its tasks are recovered."""
_NO_NETWORK = "Error: Milo does not make network namespaces; Nomad does"

_Report = TypeVar("_Report")
_Response = TypeVar("_Response")


async def _converted(
    reports: AsyncIterator[_Report], convert_one: Callable[[_Report], _Response]
) -> AsyncIterator[_Response]:
    """Each report as it comes. When the client goes, the source is closed at once."""
    try:
        async for report in reports:
            yield convert_one(report)
    finally:
        if isinstance(reports, AsyncGenerator):
            await reports.aclose()


class DriverService(drivers.DriverBase):
    """Each method converts, asks the registry, and converts back."""

    request_types = MappingProxyType(
        {
            "StartTask": StartTaskRequest,
            "RecoverTask": RecoverTaskRequest,
            "WaitTask": TaskRequest,
            "TaskStats": TaskStatsRequest,
            "InspectTask": TaskRequest,
            "StopTask": StopTaskRequest,
            "DestroyTask": DestroyTaskRequest,
        }
    )
    """What is decoded in place of the generated message, by the name of the call."""

    def __init__(self, registry: Registry, ended: trio.Event) -> None:
        self._registry = registry
        self._ended = ended
        self._recovering = 0
        self._recovered_at = -math.inf

    # ---- about the driver

    async def init(self, request: drivers.InitRequest) -> drivers.InitResponse:
        """Nothing is left to do after SetConfig."""
        return drivers.InitResponse()

    async def task_config_schema(
        self, request: drivers.TaskConfigSchemaRequest
    ) -> drivers.TaskConfigSchemaResponse:
        """What a job's config block may hold."""
        return drivers.TaskConfigSchemaResponse(spec=spec_of(TaskOptions))

    async def capabilities(
        self, request: drivers.CapabilitiesRequest
    ) -> drivers.CapabilitiesResponse:
        """What Milo can do."""
        return drivers.CapabilitiesResponse(capabilities=convert.capabilities())

    def fingerprint(
        self, request: drivers.FingerprintRequest
    ) -> AsyncIterator[drivers.FingerprintResponse]:
        """Health and attributes, at once and whenever they change."""
        return _converted(self._registry.fingerprints(), convert.fingerprint)

    async def shutdown(self, request: drivers.ShutdownRequest) -> drivers.ShutdownResponse:
        """Let the process end; tasks go on."""
        self._ended.set()
        return drivers.ShutdownResponse()

    # ---- the life of a task

    async def start_task(self, request: drivers.StartTaskRequest | StartTaskRequest) -> Any:
        """Start a task. Nomad learns of a failure by the error status alone; encoded already."""
        assert isinstance(request, StartTaskRequest)
        state = await self._registry.start(convert.request_from_task(request.task))
        return encode_response(request.task_data, state)

    async def recover_task(
        self, request: drivers.RecoverTaskRequest | RecoverTaskRequest
    ) -> drivers.RecoverTaskResponse:
        """Find a running task again. The request's own task_id is always empty."""
        self._recovering += 1
        try:
            await self._registry.recover(request.handle.config.id, request.handle.driver_state)
        finally:
            self._recovering -= 1
            self._recovered_at = trio.current_time()
        return drivers.RecoverTaskResponse()

    async def wait_task(
        self, request: drivers.WaitTaskRequest | TaskRequest
    ) -> drivers.WaitTaskResponse:
        """Answer when the task has ended; never because the driver ends."""
        return convert.wait_response(await self._registry.wait(request.task_id))

    async def stop_task(
        self, request: drivers.StopTaskRequest | StopTaskRequest
    ) -> drivers.StopTaskResponse:
        """Signal, wait, kill; answer when the task is gone."""
        timeout_s = convert.seconds(request.timeout)
        await self._registry.stop(request.task_id, request.signal, timeout_s)
        return drivers.StopTaskResponse()

    async def destroy_task(
        self, request: drivers.DestroyTaskRequest | DestroyTaskRequest
    ) -> drivers.DestroyTaskResponse:
        """Forget a task and what it left behind."""
        await self._registry.destroy(request.task_id, request.force)
        return drivers.DestroyTaskResponse()

    async def signal_task(self, request: drivers.SignalTaskRequest) -> drivers.SignalTaskResponse:
        """Send a signal to the application."""
        await self._registry.signal(request.task_id, request.signal)
        return drivers.SignalTaskResponse()

    # ---- looking at and into tasks

    async def inspect_task(self, request: drivers.InspectTaskRequest | TaskRequest) -> Any:
        """What is known of a task; encoded already."""
        return inspect_message.encode(await self._registry.inspect(request.task_id))

    def task_stats(
        self, request: drivers.TaskStatsRequest | TaskStatsRequest
    ) -> AsyncIterator[Any]:
        """A sample of resource use each interval, until the task ends; encoded already."""
        interval_s = convert.seconds(request.collection_interval)
        return _converted(self._registry.stats(request.task_id, interval_s), stats_message.encode)

    def task_events(
        self, request: drivers.TaskEventsRequest
    ) -> AsyncIterator[drivers.DriverTaskEvent]:
        """Every task's events as they happen, but none while tasks are recovered."""
        return _converted(self._events_heard(), convert.event)

    async def _events_heard(self) -> AsyncGenerator[TaskEvent, None]:
        async with aclosing(self._registry.events()) as events:
            async for event in events:
                while (wait_s := self._restoring_s()) > 0:  # noqa: ASYNC110
                    await trio.sleep(wait_s)
                yield event

    def _restoring_s(self) -> float:
        """Return how long Nomad's client is not to be told of events, at least."""
        if self._recovering:
            return RESTORED_S
        return self._recovered_at + RESTORED_S - trio.current_time()

    async def exec_task(self, request: drivers.ExecTaskRequest) -> drivers.ExecTaskResponse:
        """Run a command in the task: a script check."""
        return await exec_service.exec_task(self._registry, request)

    def exec_task_streaming(
        self, requests: AsyncIterator[drivers.ExecTaskStreamingRequest]
    ) -> AsyncIterator[drivers.ExecTaskStreamingResponse]:
        """Run a command in the task with its streams: ``nomad alloc exec``."""
        return exec_service.exec_task_streaming(self._registry, requests)

    # ---- network namespaces

    async def create_network(
        self, request: drivers.CreateNetworkRequest
    ) -> drivers.CreateNetworkResponse:
        """Not offered: must_create_network is not among the capabilities."""
        raise GRPCError(Status.UNIMPLEMENTED, _NO_NETWORK)

    async def destroy_network(
        self, request: drivers.DestroyNetworkRequest
    ) -> drivers.DestroyNetworkResponse:
        """Not offered: must_create_network is not among the capabilities."""
        raise GRPCError(Status.UNIMPLEMENTED, _NO_NETWORK)
