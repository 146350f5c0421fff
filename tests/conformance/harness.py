"""The driver as Nomad's client calls it: its RPCs with their messages, over a rig's registry."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import Any

import attrs
import msgspec.msgpack
import trio

from milo.core.launch import TaskRequest
from milo.plugin.driver_service import DriverService
from milo.plugin.start_message import StartTaskRequest
from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.waiting import fail_after

COMMAND_S = 30.0
RUNNING, EXITED = (drivers.TaskState.from_string(name) for name in ("RUNNING", "EXITED"))


@attrs.define
class Session:
    """What has come of a command in a task."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None
    arrived_s: list[float] = attrs.field(factory=list)
    """When each piece of output came, by Trio's clock."""


class Harness:
    """The driver's RPCs, each with no more than what a test says about it."""

    def __init__(self, rig: DriverRig) -> None:
        self.rig = rig

    @property
    def service(self) -> DriverService:
        """The gRPC side of the driver that there is now."""
        return DriverService(self.rig.registry, trio.Event())

    async def start(self, task: Task, **more: Any) -> drivers.TaskHandle:
        """StartTask; ``more`` are fields of the message."""
        message = drivers.StartTaskRequest(task=task_config(task.request, **more))
        answer = await self.service.start_task(StartTaskRequest.FromString(bytes(message)))
        return drivers.StartTaskResponse().parse(answer).handle

    async def running(self, task: Task, line: bytes = b"running", **more: Any) -> None:
        """Start a task, and wait for a line of its stdout."""
        await self.start(task, **more)
        await trio.to_thread.run_sync(task.out.wait_for, line)

    async def recover(self, handle: drivers.TaskHandle) -> None:
        """RecoverTask."""
        await self.service.recover_task(drivers.RecoverTaskRequest(handle=handle))

    async def wait(self, task: Task) -> drivers.ExitResult:
        """WaitTask."""
        return (await self.service.wait_task(drivers.WaitTaskRequest(task.id))).result

    async def stop(self, task: Task, signal: str, timeout_s: float) -> None:
        """StopTask."""
        timeout = timedelta(seconds=timeout_s)
        await self.service.stop_task(drivers.StopTaskRequest(task.id, timeout, signal))

    async def inspect(self, task: Task) -> drivers.TaskStatus:
        """InspectTask."""
        answer = await self.service.inspect_task(drivers.InspectTaskRequest(task.id))
        return drivers.InspectTaskResponse().parse(answer).task

    async def stats(self, task: Task, interval_s: float) -> drivers.TaskStats:
        """Return the first sample of TaskStats."""
        request = drivers.TaskStatsRequest(task.id, timedelta(seconds=interval_s))
        async with aclosing(self.service.task_stats(request)) as samples:  # type: ignore[type-var]
            sample = await anext(samples)
        return drivers.TaskStatsResponse().parse(bytes(sample)).stats

    async def command(
        self,
        task: Task,
        *argv: str,
        tty: bool = False,
        sizes: Sequence[tuple[int, int]] = (),
        stdin: bytes = b"",
        ends: bool = True,
    ) -> Session:
        """ExecTaskStreaming to its end: terminal sizes, input, and whether the input ``ends``."""
        session = Session()
        with fail_after(COMMAND_S):
            async with aclosing(_requests(task.id, argv, tty, sizes, stdin, ends)) as requests:
                async for response in self.service.exec_task_streaming(requests):
                    if response.exited:
                        session.exit_code = response.result.exit_code
                    session.stdout += response.stdout.data
                    session.stderr += response.stderr.data
                    if response.stdout.data:
                        session.arrived_s.append(trio.current_time())
        return session

    async def shell(self, task: Task, script: str, **more: Any) -> Session:
        """As `command`, by a shell."""
        return await self.command(task, "/bin/sh", "-c", script, **more)


@asynccontextmanager
async def open_harness() -> AsyncIterator[Harness]:
    """As `tests.support.driver_rig.open_rig`."""
    async with open_rig() as rig:
        yield Harness(rig)


def task_config(request: TaskRequest, **more: Any) -> drivers.TaskConfig:
    """Return the message that Nomad sends for a request."""
    limits = drivers.LinuxResources(
        memory_limit_bytes=request.resources.memory_bytes,
        cpu_shares=request.resources.cpu_shares,
    )
    return drivers.TaskConfig(
        id=request.task_id,
        name=request.task_name,
        alloc_id=request.alloc_id,
        alloc_dir=request.alloc_dir,
        stdout_path=request.stdout_path,
        stderr_path=request.stderr_path,
        msgpack_driver_config=msgspec.msgpack.encode(request.config),
        env=dict(request.env),
        resources=drivers.Resources(linux_resources=limits),
        **more,
    )


async def _requests(
    task_id: str,
    argv: Sequence[str],
    tty: bool,
    sizes: Sequence[tuple[int, int]],
    stdin: bytes,
    ends: bool,
) -> AsyncGenerator[drivers.ExecTaskStreamingRequest, None]:
    setup = drivers.ExecTaskStreamingRequestSetup(task_id, list(argv), tty)
    yield drivers.ExecTaskStreamingRequest(setup=setup)
    for rows, columns in sizes:
        size = drivers.ExecTaskStreamingRequestTerminalSize(rows, columns)
        yield drivers.ExecTaskStreamingRequest(tty_size=size)
    operation = drivers.ExecTaskStreamingIoOperation(data=stdin, close=ends)
    if stdin or ends:
        yield drivers.ExecTaskStreamingRequest(stdin=operation)
    if not ends:
        await trio.sleep_forever()
