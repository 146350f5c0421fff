"""Commands in a running task: the two RPCs behind ``nomad alloc exec`` and script checks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from milo.core.exec_io import CommandEnd, ExecInput, ExecOutput, TerminalSize, Typed
from milo.host.exec_client import run_script, stream_command
from milo.plugin import convert
from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers

if TYPE_CHECKING:
    from milo.host.registry import Registry


async def exec_task(
    registry: Registry, request: drivers.ExecTaskRequest
) -> drivers.ExecTaskResponse:
    """Run a command to its end; both of its streams are in ``stdout``, as Nomad reads that."""
    _check(request.command)
    state_dir, _ = registry.place(request.task_id)
    timeout_s = convert.seconds(request.timeout)
    output, end = await run_script(state_dir, tuple(request.command), timeout_s)
    return task_response(output, end)


async def exec_task_streaming(
    registry: Registry, requests: AsyncIterator[drivers.ExecTaskStreamingRequest]
) -> AsyncIterator[drivers.ExecTaskStreamingResponse]:
    """Run a command; its first message says which. Nothing comes after how it ended."""
    first = await anext(requests, None)
    if first is None or not first.setup.task_id:
        raise GRPCError(Status.INVALID_ARGUMENT, "Error: The first message must be the set-up")
    setup = first.setup
    _check(setup.command)
    state_dir, nursery = registry.place(setup.task_id)
    outputs = stream_command(
        nursery, state_dir, tuple(setup.command), tty=setup.tty, inputs=_inputs(requests)
    )
    try:
        async for output in outputs:
            yield streaming_response(output)
    finally:
        await outputs.aclose()


async def _inputs(
    requests: AsyncIterable[drivers.ExecTaskStreamingRequest],
) -> AsyncGenerator[ExecInput, None]:
    async for request in requests:
        # A message with neither is a heartbeat.
        size, stdin = request.tty_size, request.stdin
        if size.height or size.width:
            yield TerminalSize(rows=size.height, columns=size.width)
        if stdin.data or stdin.close:
            yield Typed(data=stdin.data, closed=stdin.close)


def task_response(output: bytes, end: CommandEnd) -> drivers.ExecTaskResponse:
    """The answer to a script check."""
    return drivers.ExecTaskResponse(stdout=output, result=_result(end))


def streaming_response(output: ExecOutput) -> drivers.ExecTaskStreamingResponse:
    """A piece of a command's output, or how it ended."""
    if isinstance(output, CommandEnd):
        return drivers.ExecTaskStreamingResponse(exited=True, result=_result(output))
    operation = drivers.ExecTaskStreamingIoOperation(data=output.data, close=output.closed)
    if output.to_stderr:
        return drivers.ExecTaskStreamingResponse(stderr=operation)
    return drivers.ExecTaskStreamingResponse(stdout=operation)


def _result(end: CommandEnd) -> drivers.ExitResult:
    # Nomad's commands show the exit code alone.
    return drivers.ExitResult(exit_code=end.shell_code, signal=end.signal)


def _check(command: list[str]) -> None:
    if not command or not command[0]:
        raise GRPCError(Status.INVALID_ARGUMENT, "Error: A command is expected, and none was given")
