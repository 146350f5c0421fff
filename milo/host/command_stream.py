"""A command's output as a stream, for the RPC that asks for one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import trio

from milo.core.exec_io import ExecInput, ExecOutput
from milo.host.exec_client import run_command

WAITING_CHUNKS = 4
"""Read from the command and not yet taken; then the command waits."""


async def stream_command(
    nursery: trio.Nursery,
    state_dir: str,
    argv: tuple[str, ...],
    *,
    tty: bool,
    inputs: AsyncIterator[ExecInput],
) -> AsyncGenerator[ExecOutput, None]:
    """Run a command and yield its output, then its end. Closing the generator kills it.

    The command runs in ``nursery``, which outlives the generator: one that yields may hold no
    nursery of its own. Raises what `run_command` does.
    """
    send, receive = trio.open_memory_channel[ExecOutput](WAITING_CHUNKS)
    scope = trio.CancelScope()
    failure: list[Exception] = []

    async def run() -> None:
        with scope, send:
            try:
                end = await run_command(state_dir, argv, tty=tty, inputs=inputs, emit=send.send)
                await send.send(end)
            except Exception as exc:
                failure.append(exc)

    nursery.start_soon(run)
    try:
        with receive:
            async for item in receive:
                yield item
    finally:
        scope.cancel()
    for error in failure:
        raise error
